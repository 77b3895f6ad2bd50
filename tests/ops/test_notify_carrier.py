"""Telling others: what is found, how it is signed, how often it is tried, and what survives a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, ProjectId
from omium.orchestration.log.commands import CancelRun, FailRun
from omium.orchestration.ports_notices import Notifier
from omium.server.identity.fetching import Fetch
from omium.server.notify import carrier as carrying_out
from omium.server.notify.carrier import ATTEMPTS, DELAYS_S, Carrier, carrying
from omium.server.notify.endpoints import Endpoint, Secret
from omium.server.notify.notifiers import Posting, notifier_of
from omium.server.notify.signing import TOLERANCE_S, key_of, verify
from omium.storage.sqlite.store import SqliteStore
from tests.conformance.store.acting import Run, executing, request
from tests.conformance.store.databases import TestClock
from tests.ops.receiver import receiving

pytestmark = pytest.mark.anyio

P = ProjectId("default")
SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"
KEY = Secret(variable="OMIUM_TEST_SECRET")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    clock = TestClock()
    store = await SqliteStore.open(tmp_path / "omium.db", clock=clock)
    yield store
    await store.close()


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMIUM_TEST_SECRET", SECRET)


def hook(url: str, **changes: Any) -> Endpoint:
    return Endpoint(**{"name": "ops", "kind": "webhook", "url": url, "key": KEY, "private": True, **changes})


def carrier(store: SqliteStore, *endpoints: Endpoint) -> Carrier:
    return Carrier(store, P, endpoints, lambda one: notifier_of(one, store.clock), store.clock, lambda: 0.0)


def clock_of(store: SqliteStore) -> TestClock:
    assert isinstance(store.clock, TestClock)
    return store.clock


async def asked(store: SqliteStore, **changes: Any) -> Run:
    run = await executing(store, **changes)
    await run.do(request(f"apr_{run.id}", NodeId("a")))
    return run


async def test_a_question_reaches_the_receiver_signed(store: SqliteStore) -> None:
    async with receiving() as receiver:
        carrying = carrier(store, hook(receiver.url))
        await carrying.look()  # the endpoint is known from now on
        run = await asked(store, title="Release 1.2")
        await carrying.once()
        (one,) = receiver.received
        verify(SECRET, one.headers, one.body, clock_of(store).us / 1e6)
        told: Any = one.json
        assert told["type"] == "approval.requested"
        assert told["data"]["run"]["id"] == run.id and told["data"]["run"]["title"] == "Release 1.2"
        assert told["data"]["event"]["data"]["question"] == "Publish?"
        assert told["data"]["event"]["position"].startswith(f"{run.id}@")
        assert one.headers["webhook-id"] == (await store.notices(P, status="delivered"))[0].id
        await carrying.once()
        assert len(receiver.received) == 1


async def test_a_signature_holds_for_this_body_this_time_and_this_key_only(store: SqliteStore) -> None:
    async with receiving() as receiver:
        carrying = carrier(store, hook(receiver.url))
        await carrying.look()
        await asked(store)
        await carrying.once()
        (one,) = receiver.received
    now = clock_of(store).us / 1e6
    other = "whsec_" + "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI="
    for given, headers, body, at in (
        (SECRET, one.headers, one.body + b" ", now),
        (SECRET, {**one.headers, "webhook-id": "ntc_2"}, one.body, now),
        (SECRET, {**one.headers, "webhook-timestamp": str(int(now) + 1)}, one.body, now),
        (SECRET, {**one.headers, "webhook-signature": "v1,AAAA"}, one.body, now),
        (SECRET, {}, one.body, now),
        (SECRET, one.headers, one.body, now + TOLERANCE_S + 2),
        (other, one.headers, one.body, now),
    ):
        with pytest.raises(OmiumError) as refusal:
            verify(given, headers, body, at)
        assert refusal.value.code == "unauthenticated"
    rotating = {**one.headers, "webhook-signature": f"v1,AAAA {one.headers['webhook-signature']}"}
    verify(SECRET, rotating, one.body, now)


@pytest.mark.parametrize("secret", ["short", "whsec_c2hvcnQ=", "whsec_no base64 at all, and long enough"])
def test_a_weak_secret_is_refused(secret: str) -> None:
    with pytest.raises(OmiumError):
        key_of(secret)
    assert len(key_of(SECRET)) >= 24


async def test_failures_are_retried_with_backoff_and_the_fifth_is_the_last(store: SqliteStore) -> None:
    async with receiving([500]) as receiver:
        carrying = carrier(store, hook(receiver.url))
        await carrying.look()
        await asked(store)
        await carrying.once()
        for number, delay in enumerate(DELAYS_S, start=2):
            (waiting,) = await store.notices(P, status="waiting")
            assert waiting.due_at == clock_of(store).us + int(delay * 1e6)
            clock_of(store).advance(delay - 0.001)
            await carrying.once()
            assert len(receiver.received) == number - 1
            clock_of(store).advance(0.001)
            await carrying.once()
            assert len(receiver.received) == number
        assert len(receiver.received) == ATTEMPTS == 5
        (dead,) = await store.notices(P, status="dead")
        assert dead.problem is not None and "500" in dead.problem
        assert len({one.headers["webhook-id"] for one in receiver.received}) == 1
        clock_of(store).advance(1e6)
        await carrying.once()
        assert len(receiver.received) == ATTEMPTS
        receiver.answers = [204]
        assert await store.retry_notices(P, [dead.id], clock_of(store).us) == 1
        await carrying.once()
        assert await store.notices(P, status="dead") == []


async def test_a_receiver_that_comes_back_gets_what_waited(store: SqliteStore) -> None:
    async with receiving([503, 302, 200]) as receiver:
        carrying = carrier(store, hook(receiver.url))
        await carrying.look()
        await asked(store)
        for delay in (0, *DELAYS_S[:2]):
            clock_of(store).advance(delay)
            await carrying.once()
        assert len(receiver.received) == 3
        assert len(await store.notices(P, status="delivered")) == 1


async def test_filters_of_events_and_workflows_hold_for_each_endpoint(store: SqliteStore) -> None:
    async with receiving() as first, receiving() as second:
        carrying = carrier(
            store,
            hook(first.url, events=["approval.*"]),
            hook(second.url, name="releases", events=["run.failed", "run.cancelled"], workflows=["release-*"]),
        )
        await carrying.look()
        asking = await asked(store)
        await asking.ask(CancelRun())
        failed = await executing(store, workflow="release-docs")
        await failed.do(FailRun({"type": "E", "message": "it broke"}))
        await carrying.once()
        kinds = [one.json["type"] for one in first.received]
        assert kinds.count("approval.requested") == 1 and all(str(one).startswith("approval.") for one in kinds)
        assert [one.json["type"] for one in second.received] == ["run.failed"]


async def test_what_happened_before_the_endpoint_was_named_is_not_told(store: SqliteStore) -> None:
    async with receiving() as receiver:
        await asked(store)
        clock_of(store).advance(1)
        carrying = carrier(store, hook(receiver.url))
        await carrying.once()
        assert receiver.received == []


async def test_what_happens_after_the_clock_was_set_back_is_told(store: SqliteStore) -> None:
    async with receiving() as receiver:
        await asked(store)  # before the endpoint is named, though at a later time than what it is to hear of
        carrying = carrier(store, hook(receiver.url))
        await carrying.look()
        clock_of(store).advance(-3_600)
        run = await asked(store)
        await carrying.once()
        assert [(one.json["type"], one.json["data"]["run"]["id"]) for one in receiver.received] == [
            ("approval.requested", run.id)
        ]


async def test_nothing_is_lost_when_the_process_dies_between_the_event_and_the_look(
    store: SqliteStore, tmp_path: Path
) -> None:
    async with receiving() as receiver:
        await carrier(store, hook(receiver.url)).look()
        await asked(store)
        await store.close()  # nobody looked
        again = await SqliteStore.open(tmp_path / "omium.db", clock=store.clock)
        await carrier(again, hook(receiver.url)).once()
        assert [one.json["type"] for one in receiver.received] == ["approval.requested"]
        await again.close()


async def test_a_delivery_that_was_broken_off_is_made_again_with_the_same_id(store: SqliteStore) -> None:
    sent: list[str] = []

    class Dying:
        async def send(self, notice_id: str, document: Mapping[str, object]) -> None:
            sent.append(notice_id)
            raise Killed

    class Killed(BaseException):
        pass

    endpoint = hook("http://127.0.0.1:1/")
    dying: Notifier = Dying()
    first = Carrier(store, P, [endpoint], lambda _: dying, store.clock)
    await first.look()
    await asked(store)
    with pytest.raises(BaseExceptionGroup):
        await first.once()
    async with receiving() as receiver:
        second = carrier(store, hook(receiver.url))
        await second.once()
        assert receiver.received == []  # it may still be under way
        clock_of(store).advance(endpoint.timeout_s + 31)
        await second.once()
        assert [one.headers["webhook-id"] for one in receiver.received] == sent


async def test_two_processes_deliver_an_event_once(store: SqliteStore, tmp_path: Path) -> None:
    other = await SqliteStore.open(tmp_path / "omium.db", clock=store.clock)
    async with receiving() as receiver:
        one, two = carrier(store, hook(receiver.url)), carrier(other, hook(receiver.url))
        await one.look()
        for _ in range(5):
            await asked(store)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.once)
            tasks.start_soon(two.once)
        assert len(receiver.received) == 5
        assert len({found.headers["webhook-id"] for found in receiver.received}) == 5
    await other.close()


async def test_an_endpoint_that_hangs_does_not_keep_the_others_waiting(store: SqliteStore) -> None:
    told = anyio.Event()

    class Hanging:
        async def send(self, notice_id: str, document: Mapping[str, object]) -> None:
            await told.wait()

    class Prompt:
        async def send(self, notice_id: str, document: Mapping[str, object]) -> None:
            told.set()

    notifiers: dict[str, Notifier] = {"slow": Hanging(), "quick": Prompt()}
    endpoints = [hook("http://127.0.0.1:1/", name=name) for name in notifiers]
    carrying = Carrier(store, P, endpoints, lambda one: notifiers[one.name], store.clock)
    await carrying.look()
    await asked(store)
    with anyio.fail_after(10):
        await carrying.once()
    assert len(await store.notices(P, status="delivered")) == 2


async def test_what_happens_while_an_endpoint_hangs_is_told_to_the_others(tmp_path: Path) -> None:
    heard, hanging = anyio.Event(), anyio.Event()
    told: list[str] = []

    class Hanging:
        async def send(self, notice_id: str, document: Mapping[str, object]) -> None:
            hanging.set()
            await anyio.sleep_forever()

    class Prompt:
        async def send(self, notice_id: str, document: Mapping[str, object]) -> None:
            told.append(notice_id)
            if len(told) == 2:
                heard.set()

    store = await SqliteStore.open(tmp_path / "own.db")
    notifiers: dict[str, Notifier] = {"slow": Hanging(), "quick": Prompt()}
    endpoints = [hook("http://127.0.0.1:1/", name=name) for name in notifiers]
    serving = Carrier(store, P, endpoints, lambda one: notifiers[one.name], store.clock)
    await serving.look()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serving.serve)
            await asked(store)
            await hanging.wait()
            await asked(store)
            await heard.wait()
            tasks.cancel_scope.cancel()
    await store.close()


async def test_what_happens_in_this_process_is_told_at_once(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "own.db")
    async with receiving() as receiver:
        serving = Carrier(store, P, [hook(receiver.url)], lambda one: notifier_of(one, store.clock), store.clock)
        await serving.look()
        with anyio.fail_after(10):
            async with carrying(serving):
                await asked(store)
                while not receiver.received:
                    await anyio.sleep(0.01)
    await store.close()


async def test_what_happens_at_the_end_is_still_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying_out, "_GATHER_S", 3600.0)
    store = await SqliteStore.open(tmp_path / "own.db")
    async with receiving() as receiver:
        serving = Carrier(store, P, [hook(receiver.url)], lambda one: notifier_of(one, store.clock), store.clock)
        await serving.look()
        with anyio.fail_after(10):
            async with carrying(serving):
                await asked(store)
        assert len(receiver.received) == 1
    await store.close()


# --- where it may go --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.com/",
        "https://127.0.0.1/",
        "https://10.0.0.7/",
        "https://169.254.169.254/latest",
        "https://[::1]/",
        "https://2130706433/",
        "file:///etc/passwd",
        "https://user:pass@hooks.example.com/",
    ],
)
async def test_private_addresses_are_not_reached(store: SqliteStore, url: str) -> None:
    with pytest.raises(OmiumError) as refusal:
        await notifier_of(hook(url, private=False), store.clock).send("ntc_1", {"type": "x"})
    assert refusal.value.code == "forbidden"


async def test_a_name_that_resolves_inwards_is_not_reached(store: SqliteStore) -> None:
    async def inwards(host: str, port: int) -> list[str]:
        return ["93.184.215.14", "10.0.0.1"]

    posting = Posting(hook("https://hooks.example.com/"), Fetch(resolve=inwards), store.clock)
    with pytest.raises(OmiumError) as refusal:
        await posting.send("ntc_1", {"type": "x"})
    assert refusal.value.code == "forbidden"


async def test_even_with_leave_no_link_local_address_is_reached(store: SqliteStore) -> None:
    with pytest.raises(OmiumError) as refusal:
        await notifier_of(hook("http://169.254.169.254/latest"), store.clock).send("ntc_1", {"type": "x"})
    assert refusal.value.code == "forbidden"


async def test_a_secret_that_is_not_there_is_a_failure_that_says_so(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OMIUM_TEST_SECRET")
    carrying = carrier(store, hook("http://127.0.0.1:1/"))
    await carrying.look()
    await asked(store)
    await carrying.once()
    (waiting,) = await store.notices(P)
    assert waiting.problem is not None and "OMIUM_TEST_SECRET" in waiting.problem
    for absent in (Secret(file=tmp_path / "none"), Secret(file=tmp_path)):
        with pytest.raises(OmiumError):
            absent.read()
    (tmp_path / "key").write_text(" value \n")
    assert Secret(file=tmp_path / "key").read() == "value"


async def test_the_secret_is_in_no_row_and_no_request(store: SqliteStore, tmp_path: Path) -> None:
    async with receiving([500]) as receiver:
        carrying = carrier(store, hook(receiver.url))
        await carrying.look()
        await asked(store)
        await carrying.once()
        sent = b"".join(repr(one.headers).encode() + one.body for one in receiver.received)
    held = b"".join(path.read_bytes() for path in tmp_path.glob("omium.db*"))
    for text in (SECRET.encode(), key_of(SECRET)):
        assert text not in sent and text not in held
