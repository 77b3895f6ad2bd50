"""Who is told of what, and when: streams of today's protocol, subscriptions of the older one, other processes."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.subscriptions import Subscription
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from mcp_types import INVALID_PARAMS, ResourceListChangedNotification, ResourceUpdatedNotification

from omium.orchestration.ids import Principal, RunId
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.mcp import build_server
from omium.storage.sqlite.store import SqliteStore
from omium.tools import subscriptions
from omium.tools.subscriptions import Hub, MemberChanged
from tests.interaction.studio import ADA, Studio, open_studio
from tests.interaction.test_stdio import connected, environment  # noqa: F401  (a fixture)

pytestmark = pytest.mark.anyio

BOB = Caller(Principal("user:bob"), sees="own")
RUNS = "omium://runs"
APPROVALS = "omium://approvals"


@asynccontextmanager
async def listening(
    studio: Studio, *uris: str, caller: Caller = ADA, lists: bool = False
) -> AsyncIterator[tuple[Subscription, Hub]]:
    """A stream of today's protocol."""
    server = build_server(studio.core, caller)
    hub = server._subscriptions
    assert isinstance(hub, Hub)
    async with (
        Client(server) as client,
        client.listen(resource_subscriptions=uris, resources_list_changed=lists) as stream,
    ):
        yield stream, hub


@dataclass
class Told:
    """What a client of the older protocol was told, in order."""

    uris: list[str] = field(default_factory=list)
    lists: int = 0
    _bell: anyio.Event = field(default_factory=anyio.Event)

    async def __call__(self, message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.uris.append(str(message.params.uri))
        elif isinstance(message, ResourceListChangedNotification):
            self.lists += 1
        self._bell.set()

    async def until(self, uri: str) -> None:
        while uri not in self.uris:
            self._bell = anyio.Event()
            await self._bell.wait()

    async def until_listed(self, times: int) -> None:
        while self.lists < times:
            self._bell = anyio.Event()
            await self._bell.wait()


@asynccontextmanager
async def legacy(studio: Studio, caller: Caller = ADA) -> AsyncIterator[tuple[Client, Told, Hub]]:
    told = Told()
    server = build_server(studio.core, caller)
    hub = server._subscriptions
    assert isinstance(hub, Hub)
    async with Client(server, mode="legacy", message_handler=told) as client:
        yield client, told, hub


async def subscribe(client: Client, uri: str) -> None:
    with pytest.warns(MCPDeprecationWarning):
        await client.subscribe_resource(uri)


async def draft(studio: Studio, caller: Caller = ADA) -> RunId:
    """A run that does nothing by itself."""
    return (await studio.core.run_workflow(caller, "greet", {"name": "Ada"}, start=False)).id


async def waiting(studio: Studio) -> RunId:
    """A run under way that does nothing until it is released; signals can be sent to it."""
    run = (await studio.core.run_workflow(ADA, "held")).id
    await studio.holding.wait()
    return run


async def label(core: Core, run: RunId, name: str, caller: Caller = ADA) -> None:
    await core.checkpoint(caller, run, name)


async def nothing_more(stream: Subscription) -> None:
    """Nothing is there although everything had its chance to arrive."""
    with anyio.move_on_after(0.15):  # real time: that nothing comes shows only by waiting
        raise AssertionError(await anext(stream))


# --- today's protocol ------------------------------------------------------------------------------------------------


async def test_a_run_that_changes_is_told_of(studio: Studio) -> None:
    run = await draft(studio)
    uri = f"{RUNS}/{run}"
    with anyio.fail_after(10):
        async with listening(studio, uri) as (stream, _):
            assert stream.honored.resource_subscriptions == [uri]
            await label(studio.core, run, "one")
            assert await anext(stream) == ResourceUpdated(uri)


async def test_nothing_is_replayed(studio: Studio) -> None:
    run = await draft(studio)
    await label(studio.core, run, "before")
    async with listening(studio, f"{RUNS}/{run}") as (stream, _):
        await nothing_more(stream)


async def test_only_what_an_event_may_have_changed_is_told(studio: Studio) -> None:
    run = await draft(studio)
    parts = {part: f"{RUNS}/{run}/{part}" for part in ("graph", "timeline", "checkpoints", "artifacts", "branches")}
    with anyio.fail_after(10):
        async with listening(studio, *parts.values()) as (stream, _):
            await label(studio.core, run, "a label")
            assert await anext(stream) == ResourceUpdated(parts["checkpoints"])
            await nothing_more(stream)
            await studio.core.cancel(ADA, run)
            found = {await anext(stream) for _ in range(4)}
            assert found == {ResourceUpdated(parts[part]) for part in ("graph", "timeline", "checkpoints", "branches")}


async def test_a_node_is_told_of_by_its_own_events(studio: Studio) -> None:
    with anyio.fail_after(20):
        run = (await studio.core.run_workflow(ADA, "held")).id
        await studio.holding.wait()
        nodes = {name: f"{RUNS}/{run}/nodes/{name}" for name in ("first", "second", "third")}
        async with listening(studio, *nodes.values()) as (stream, _):
            studio.release.set()
            assert {await anext(stream), await anext(stream)} == {
                ResourceUpdated(nodes["second"]),
                ResourceUpdated(nodes["third"]),
            }
            await studio.core.wait(ADA, run, 10)
            assert ResourceUpdated(nodes["first"]) not in await drained(stream)


async def drained(stream: Subscription) -> list[object]:
    found: list[object] = []
    with anyio.move_on_after(0.15):  # real time: what else comes shows only by waiting
        async for event in stream:
            found.append(event)
    return found


async def test_lists_are_told_of_when_they_change(studio: Studio) -> None:
    with anyio.fail_after(20):
        async with listening(studio, RUNS, APPROVALS, lists=True) as (stream, _):
            run = await draft(studio)
            assert {await anext(stream), await anext(stream)} == {ResourceUpdated(RUNS), ResourcesListChanged()}
            await label(studio.core, run, "a label changes no list")
            await nothing_more(stream)
            await studio.core.run_workflow(ADA, "gated")
            found: set[object] = set()
            while ResourceUpdated(APPROVALS) not in found:
                found.add(await anext(stream))


async def test_a_decision_is_told_to_who_looks_at_approvals(studio: Studio) -> None:
    with anyio.fail_after(20):
        run = await studio.core.run_workflow(ADA, "gated")
        await studio.core.wait(ADA, run.id, 10)
        (approval,) = await studio.core.list_approvals(ADA)
        async with listening(studio, APPROVALS) as (stream, _):
            await studio.core.decide(ADA, approval.id, "approve", assurance="elicited")
            assert await anext(stream) == ResourceUpdated(APPROVALS)


async def test_what_is_somebody_elses_is_not_listened_for(studio: Studio) -> None:
    """It is missing from the acknowledgement like a run that there is not."""
    run = await draft(studio)
    missing = f"{RUNS}/run_{'0' * 26}"
    with anyio.fail_after(10):
        async with listening(studio, f"{RUNS}/{run}", missing, RUNS, caller=BOB, lists=True) as (stream, _):
            assert stream.honored.resource_subscriptions == [RUNS]
            await label(studio.core, run, "one")
            await draft(studio)
            await nothing_more(stream)
            own = await draft(studio, BOB)
            assert {await anext(stream), await anext(stream)} == {ResourceUpdated(RUNS), ResourcesListChanged()}
            assert own


async def test_nonsense_is_not_listened_for(studio: Studio) -> None:
    nonsense = ["omium://", "omium://nothing", "file:///etc/passwd", f"{RUNS}/..", "omium://workflows/missing", ""]
    async with listening(studio, *nonsense, "omium://workflows/greet") as (stream, hub):
        assert stream.honored.resource_subscriptions == ["omium://workflows/greet"]
        assert hub._runs == {}


async def test_what_a_server_publishes_itself_is_told(studio: Studio) -> None:
    server = build_server(studio.core, ADA)
    with anyio.fail_after(10):
        async with (
            Client(server) as client,
            client.listen(tools_list_changed=True, prompts_list_changed=True) as stream,
        ):
            await server._subscriptions.publish(ToolsListChanged())
            await server._subscriptions.publish(ResourcesListChanged())
            await server._subscriptions.publish(PromptsListChanged())
            assert [await anext(stream), await anext(stream)] == [ToolsListChanged(), PromptsListChanged()]


async def test_a_burst_is_one_notification_and_a_slow_reader_costs_nothing(studio: Studio) -> None:
    run = await waiting(studio)
    hub = Hub(studio.store)
    mailbox = hub.open(ADA)
    uris = [f"{RUNS}/{run}", f"{RUNS}/{run}/events"]
    await hub.want(studio.core, mailbox, [ResourceUpdated(uri) for uri in uris])
    for number in range(300):
        await studio.core.signal(ADA, run, f"signal {number}")
    assert len(mailbox) == 2
    assert {await mailbox.take(), await mailbox.take()} == {ResourceUpdated(uri) for uri in uris}
    await hub.leave(mailbox)
    assert len(hub) == 0


async def test_nothing_runs_while_nobody_listens(studio: Studio) -> None:
    run = await draft(studio)
    with anyio.fail_after(10):
        async with listening(studio, f"{RUNS}/{run}", RUNS, lists=True) as (_, hub):
            assert hub._runs and hub._scopes and hub._unhear is not None
    assert (hub._runs, hub._scopes, hub._wanting, hub._unhear, hub._unlisten, len(hub)) == ({}, {}, {}, None, None, 0)
    assert studio.store._listeners._by_run.get(run) is None


async def test_the_server_can_end_its_streams(studio: Studio) -> None:
    run = await draft(studio)
    with anyio.fail_after(10):
        async with listening(studio, f"{RUNS}/{run}") as (stream, hub):
            hub.end()
            assert [event async for event in stream] == []


async def test_too_much_is_refused(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "MAX_WANTED", 3)
    monkeypatch.setattr(subscriptions, "MAX_LISTENERS_EACH", 2)
    server = build_server(studio.core, ADA)
    with anyio.fail_after(10):
        async with Client(server) as client:
            uris = [f"omium://workflows/{name}" for name in ("greet", "gated", "held", "chain")]
            with pytest.raises(MCPError) as refused:
                async with client.listen(resource_subscriptions=uris):
                    raise AssertionError("four things were accepted")
            assert refused.value.code == INVALID_PARAMS
            async with client.listen(resource_subscriptions=uris[:1]), client.listen(resource_subscriptions=uris[:1]):
                with pytest.raises(MCPError, match="listeners"):
                    async with client.listen(resource_subscriptions=uris[:1]):
                        raise AssertionError("a third listener was accepted")
        assert len(server._subscriptions) == 0  # type: ignore[arg-type]


async def test_a_member_of_an_extension_is_told_once_for_each_change() -> None:
    """The hub holds an id at most once, and lets go of it when it is taken."""
    hub = Hub(None)  # type: ignore[arg-type]  # nothing of the log is wanted
    mailbox = hub.open(ADA)
    hub.add(mailbox, MemberChanged("taskIds", "tsk_1"))
    for _ in range(3):
        await hub.publish(MemberChanged("taskIds", "tsk_1"))
        await hub.publish(MemberChanged("taskIds", "tsk_2"))
    assert await mailbox.take() == MemberChanged("taskIds", "tsk_1")
    assert len(mailbox) == 0
    await hub.leave(mailbox)
    assert await mailbox.take() is None


# --- the older protocol ----------------------------------------------------------------------------------------------


async def test_a_legacy_client_subscribes_and_unsubscribes(studio: Studio) -> None:
    run = await draft(studio)
    uri, other = f"{RUNS}/{run}", f"{RUNS}/{run}/events"
    with anyio.fail_after(10):
        async with legacy(studio) as (client, told, hub):
            assert client.server_capabilities.resources is not None
            assert client.server_capabilities.resources.subscribe
            assert client.server_capabilities.resources.list_changed
            await subscribe(client, uri)
            await subscribe(client, other)
            await label(studio.core, run, "one")
            await told.until(uri)
            await told.until(other)
            with pytest.warns(MCPDeprecationWarning):
                await client.unsubscribe_resource(uri)
            told.uris.clear()
            await label(studio.core, run, "two")
            await told.until(other)
            assert told.uris == [other]
    assert (len(hub), hub._runs, hub._scopes) == (0, {}, {})


async def test_a_legacy_client_hears_of_new_runs_without_asking(studio: Studio) -> None:
    with anyio.fail_after(10):
        async with legacy(studio) as (client, told, _):
            await client.list_resources()
            await draft(studio)
            await told.until_listed(1)


async def test_a_legacy_client_is_not_told_whether_a_run_is_somebody_elses(studio: Studio) -> None:
    run = await draft(studio)
    refusals = []
    with anyio.fail_after(10):
        async with legacy(studio, BOB) as (client, _, _):
            for uri in (f"{RUNS}/{run}", f"{RUNS}/run_{'0' * 26}", "omium://nothing", "test://nothing"):
                with pytest.raises(MCPError) as refused:
                    await subscribe(client, uri)
                refusals.append((refused.value.code, refused.value.message.replace(uri, "URI")))
    assert set(refusals) == {(INVALID_PARAMS, "Unknown resource: URI")}


# --- other processes -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def another(studio: Studio, path: Path) -> AsyncIterator[Core]:
    """The core of what is to the first one another process: it shares nothing but the database."""
    store = await SqliteStore.open(path / "omium.db", durability="normal")
    try:
        yield Core(store, studio.core.catalog)
    finally:
        await store.close()


async def test_what_another_process_commits_is_told(studio: Studio, tmp_path: Path) -> None:
    run = await draft(studio)
    uris = {part: f"{RUNS}/{run}/{part}" for part in ("events", "checkpoints", "graph")}
    with anyio.fail_after(20):
        async with (
            another(studio, tmp_path) as elsewhere,
            listening(studio, *uris.values(), RUNS, lists=True) as (stream, _),
        ):
            await label(elsewhere, run, "from elsewhere")
            found = {await anext(stream), await anext(stream)}
            assert found == {ResourceUpdated(uris["events"]), ResourceUpdated(uris["checkpoints"])}
            await nothing_more(stream)
            await elsewhere.run_workflow(ADA, "greet", {"name": "x"}, start=False)
            assert {await anext(stream), await anext(stream)} == {ResourceUpdated(RUNS), ResourcesListChanged()}


async def test_news_of_both_sides_arrive_when_they_write_in_turns(studio: Studio, tmp_path: Path) -> None:
    run = await draft(studio)
    graph = f"{RUNS}/{run}/graph"
    with anyio.fail_after(30):
        async with another(studio, tmp_path) as elsewhere, listening(studio, graph) as (stream, hub):
            for turn in range(3):
                await label(studio.core, run, f"here {turn}")
                await label(elsewhere, run, f"there {turn}")
            await elsewhere.cancel(ADA, run)
            await anext(stream)  # though a label changes no graph, a gap may have
            while hub._runs[run].known < (await studio.core.get_run(ADA, run)).seq:
                await anext(stream)


async def test_a_database_that_cannot_be_read_for_a_while_loses_no_news(
    studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "_TROUBLE_S", 0.01)
    run = await draft(studio)
    moody = Moody(studio.store)
    hub = Hub(moody)  # type: ignore[arg-type]
    mailbox = hub.open(ADA)
    await hub.want(studio.core, mailbox, [ResourceUpdated(f"{RUNS}/{run}")])
    with anyio.fail_after(20):
        async with another(studio, tmp_path) as elsewhere:
            await label(elsewhere, run, "one")
            assert await mailbox.take() == ResourceUpdated(f"{RUNS}/{run}")
    assert moody.failures == 0
    await hub.leave(mailbox)


class Moody:
    """A store whose heads cannot be read three times."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.failures = 3

    async def heads(self, runs: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise OSError("the disk is away")
        return await self._store.heads(runs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_server_process_hears_of_a_commit_by_this_one(
    environment: dict[str, str],  # noqa: F811
    mode: Any,
    tmp_path: Path,
) -> None:
    from omium.server.app import open_omium
    from omium.server.config import load_config

    told = Told()
    config = load_config(Path(environment["OMIUM_PROJECT"]), {**os.environ, **environment})
    with anyio.fail_after(60):
        async with open_omium(config, engine=False) as core, connected(environment, mode) as visitor:
            shown = await visitor.ok("run_workflow", workflow="shouting", wait_seconds=45)
            run, uri = RunId(shown["run_id"]), f"{RUNS}/{shown['run_id']}"
            row = await core.store.run(run)
            assert row is not None
            caller = replace(ADA, principal=Principal(row.owner), project=row.project)
            if mode == "auto":
                async with visitor.client.listen(resource_subscriptions=[uri]) as stream:
                    await core.checkpoint(caller, run, "from another process")
                    assert await anext(stream) == ResourceUpdated(uri)
            else:
                visitor.client.session._message_handler = told
                await subscribe(visitor.client, uri)
                await core.checkpoint(caller, run, "from another process")
                await told.until(uri)


# --- how soon --------------------------------------------------------------------------------------------------------


def p95(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) * 95 // 100]


async def test_a_thousand_events_arrive_soon(studio: Studio) -> None:
    run = await waiting(studio)
    took: list[float] = []
    with anyio.fail_after(60):
        async with listening(studio, f"{RUNS}/{run}") as (stream, _):
            gc.collect()
            for number in range(1_000):
                began = time.perf_counter()  # real time: this is what is promised
                await studio.core.signal(ADA, run, f"signal {number}")
                await anext(stream)
                took.append(time.perf_counter() - began)
    assert p95(took) < 0.1


async def test_events_of_another_process_arrive_soon(tmp_path: Path) -> None:
    took: list[float] = []
    with anyio.fail_after(60):
        async with open_studio(tmp_path) as studio, another(studio, tmp_path) as elsewhere:
            run = await waiting(studio)
            async with listening(studio, f"{RUNS}/{run}") as (stream, _):
                for number in range(60):
                    began = time.perf_counter()  # real time: this is what is promised
                    await elsewhere.signal(ADA, run, f"signal {number}")
                    await anext(stream)
                    took.append(time.perf_counter() - began)
    assert p95(took) < 0.1
