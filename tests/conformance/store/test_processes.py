"""Several stores on one database, as several processes have them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import anyio
import pytest

from omium.orchestration.ids import ApprovalId, ProjectId, Seq, WorkerId
from omium.orchestration.log.commands import (
    CancelRun,
    Decide,
    EndUndoing,
    FailRun,
    Label,
    PauseRun,
    ResumeRun,
    RollBack,
    Signal,
    StartNode,
)
from omium.orchestration.ports import IdempotencyKey, Subscription, Write
from tests.conformance.store.acting import (
    INPUTS,
    USER,
    WORKER,
    A,
    B,
    Run,
    blob,
    completion,
    creation,
    digest_of,
    document,
    executing,
    new_run,
    refused,
    request,
    worker_row,
)
from tests.conformance.store.databases import AnyStore, Database

pytestmark = pytest.mark.anyio

DEFAULT = [ProjectId("default")]
OTHER = WorkerId("worker_2")


@pytest.fixture
async def two(database: Database) -> tuple[AnyStore, AnyStore]:
    return await database.open(), await database.open()


def seen_by(store: AnyStore, run: Run) -> Run:
    return Run(store, run.id, run.fence)


async def test_a_control_event_of_another_process_counts_at_once(two: tuple[AnyStore, AnyStore]) -> None:
    mine, theirs = two
    run = await executing(mine)
    await run.do(StartNode(A, 0))
    await seen_by(theirs, run).ask(PauseRun())
    await refused("not_allowed", run.do(StartNode(B, 0)))
    await run.do(completion(A))
    await seen_by(theirs, run).ask(ResumeRun())
    await run.do(StartNode(B, 0))
    events = await mine.events(run.id)
    assert [event.seq for event in events] == list(range(1, 9)) and mine.chain.breaks(events) == []
    assert document(await mine.state(run.id)) == document(await theirs.state(run.id))


async def test_a_refusal_never_rests_on_an_old_state(two: tuple[AnyStore, AnyStore]) -> None:
    mine, theirs = two
    run = await executing(mine)
    other = seen_by(theirs, run)
    await run.ask(PauseRun())
    await other.ask(ResumeRun())
    await run.ask(PauseRun())  # allowed again, though this process saw the run paused last
    await other.ask(ResumeRun())
    await run.do(StartNode(A, 0))
    await run.do(request("ap_1", B))
    await other.ask(Decide(ApprovalId("ap_1"), "approve", "user:bob", "elicited"))
    refusal = await refused("already_decided", run.ask(Decide(ApprovalId("ap_1"), "reject", "user:ada", "elicited")))
    assert refusal.data["by"] == "user:bob"
    await other.ask(CancelRun())
    assert (await refused("not_allowed", run.do(completion(A)))).data["state"] == "cancelled"


async def test_a_rollback_by_another_process_starts_a_new_generation(two: tuple[AnyStore, AnyStore]) -> None:
    mine, theirs = two
    run = await executing(mine)
    await run.complete(A)
    await run.do(StartNode(B, 0))
    await seen_by(theirs, run).ask(RollBack(Seq(5)))
    await refused("conflict", run.do(completion(B)))
    await seen_by(theirs, run).ask(ResumeRun())
    await run.do(StartNode(B, 1), completion(B, 1))
    assert (await theirs.state(run.id)).completed_nodes == 2


async def test_a_takeover_fences_the_old_owner_off(two: tuple[AnyStore, AnyStore]) -> None:
    mine, theirs = two
    await mine.register(worker_row(WORKER))
    run = await executing(mine)
    await run.do(StartNode(A, 0))
    assert await theirs.take(OTHER, run.id) is None
    assert await theirs.retire(WORKER) == 1
    await refused("fenced", run.do(completion(A)))
    fence = await theirs.take(OTHER, run.id)
    assert fence is not None and run.fence is not None and fence > run.fence
    assert (await refused("fenced", run.do(completion(A)))).data["fence"] == fence
    await refused("fenced", run.do(EndUndoing(0)))  # which writes nothing, and asks just this
    await refused("fenced", run.do(FailRun({"category": "x"})))
    assert await mine.release(run.id, run.fence, Seq(4), None) is False
    await Run(theirs, run.id, fence).do(completion(A))
    assert [event.seq for event in await mine.events(run.id)] == [1, 2, 3, 4, 5]


async def test_two_processes_write_one_run_at_the_same_time(two: tuple[AnyStore, AnyStore]) -> None:
    mine, theirs = two
    run = await executing(mine)
    other = seen_by(theirs, run)

    async def signal(as_: Run, name: str) -> None:
        for n in range(10):
            await as_.ask(Signal(f"{name}{n}", INPUTS.digest, INPUTS.size))

    with anyio.fail_after(60):
        await asyncio.gather(
            signal(run, "a"), signal(run, "b"), signal(other, "c"), signal(other, "d"), run.complete(A, B)
        )
    events = await mine.events(run.id)
    assert [event.seq for event in events] == list(range(1, 48)) and mine.chain.breaks(events) == []
    state = await theirs.state(run.id)
    assert len(state.signals) == 40 and state.completed_nodes == 2


async def test_two_processes_write_many_runs_in_batches(two: tuple[AnyStore, AnyStore]) -> None:
    mine, theirs = two
    runs = [await executing(mine) for _ in range(20)]
    with anyio.fail_after(60):
        await asyncio.gather(
            *(run.ask(Label(Seq(1), "mine")) for run in runs),
            *(seen_by(theirs, run).ask(Label(Seq(1), "theirs")) for run in reversed(runs)),
            *(run.do(StartNode(A, 0)) for run in runs),
        )
    for run in runs:
        assert [event.seq for event in await mine.events(run.id)] == [1, 2, 3, 4, 5, 6]
        assert {row.label for row in await theirs.labels(run.id)} == {"mine", "theirs"}


async def test_fifty_decisions_from_two_processes_have_one_winner(two: tuple[AnyStore, AnyStore]) -> None:
    mine, theirs = two
    run = await executing(mine)
    await run.do(request("ap_1", A))
    outcomes = await asyncio.gather(
        *(
            seen_by(two[n % 2], run).ask(Decide(ApprovalId("ap_1"), "approve", f"user:{n}", "elicited"))
            for n in range(50)
        ),
        return_exceptions=True,
    )
    codes = Counter(getattr(outcome, "code", "written") for outcome in outcomes)
    assert codes == {"written": 1, "already_decided": 49}
    assert (await mine.approval(ApprovalId("ap_1"))) == (await theirs.approval(ApprovalId("ap_1")))


async def test_one_idempotency_key_in_two_processes_is_one_request(two: tuple[AnyStore, AnyStore]) -> None:
    async def ask(store: AnyStore) -> str:
        run_id = new_run()
        key = IdempotencyKey("scope", "key", digest_of("same"), {"run": run_id})
        written = await store.write(Write(run_id, [creation()], USER, idempotency=key, blobs=[blob({"n": 1})]))
        return str(written.replayed["run"]) if written.replayed is not None else run_id

    with anyio.fail_after(60):
        assert len(set(await asyncio.gather(*(ask(two[n % 2]) for n in range(10))))) == 1


async def test_two_processes_create_the_same_run(two: tuple[AnyStore, AnyStore]) -> None:
    run_id = new_run()
    outcomes = await asyncio.gather(
        *(store.write(Write(run_id, [creation(title=str(n))], USER)) for n, store in enumerate(two)),
        return_exceptions=True,
    )
    assert sorted(getattr(outcome, "code", "written") for outcome in outcomes) == ["conflict", "written"]
    assert len(await two[0].events(run_id)) == 1


async def test_claims_are_given_once(two: tuple[AnyStore, AnyStore], database: Database) -> None:
    runs = [await executing(two[0], worker=None) for _ in range(30)]
    batches = await asyncio.gather(
        *(two[n % 2].claim(WorkerId(f"worker_{n}"), DEFAULT, 10, database.clock.us) for n in range(6))
    )
    claimed = [found.run_id for batch in batches for found in batch]
    assert len(claimed) == len(set(claimed)) and set(claimed) <= {run.id for run in runs}
    while more := await two[0].claim(WORKER, DEFAULT, 10, database.clock.us):
        claimed += [found.run_id for found in more]
    assert sorted(claimed) == sorted(run.id for run in runs)


async def test_no_control_event_is_lost_to_a_release(two: tuple[AnyStore, AnyStore], database: Database) -> None:
    """Whichever comes first: the release is refused, or the run is woken."""
    mine, theirs = two
    for _ in range(15):
        run = await executing(mine)
        assert run.fence is not None
        released, _ = await asyncio.gather(
            mine.release(run.id, run.fence, Seq(3), None),
            seen_by(theirs, run).ask(Signal("go", INPUTS.digest, INPUTS.size)),
        )
        if released:
            found = await theirs.claim(OTHER, DEFAULT, 10, database.clock.us)
            assert [claimed.run_id for claimed in found] == [run.id]
        else:
            await run.do(StartNode(A, 0))
            assert await mine.release(run.id, run.fence, Seq(5), None)


async def wake(subscription: Subscription, until: Callable[[], Awaitable[bool]]) -> None:
    """Wait, for a second at most, for the wake after which `until` holds."""
    with anyio.fail_after(1):
        async for _ in subscription:
            if await until():
                return


async def test_changes_of_others_wake_within_a_second(two: tuple[AnyStore, AnyStore]) -> None:
    mine, theirs = two
    run = await executing(mine)
    subscription = theirs.changes()
    for command in (PauseRun(), ResumeRun(), PauseRun()):
        written = await run.ask(command)

        async def seen(seq: int = written.seq) -> bool:
            row = await theirs.run(run.id)
            return row is not None and row.seq == seq

        await wake(subscription, seen)
    await subscription.aclose()


async def test_a_release_wakes_others(two: tuple[AnyStore, AnyStore], database: Database) -> None:
    mine, theirs = two
    run = await executing(mine)
    assert run.fence is not None
    subscription = theirs.changes()
    assert await mine.release(run.id, run.fence, Seq(3), database.clock.us)

    async def due() -> bool:
        return await theirs.next_wake(DEFAULT) == database.clock.us

    await wake(subscription, due)
    await subscription.aclose()


async def test_a_subscription_may_be_to_others_only(
    two: tuple[AnyStore, AnyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omium.storage.postgres.tail.POLL_S", 3600.0)  # a poll cannot tell whose commits it sees
    mine, theirs = two
    run = await executing(mine)
    subscription, every = mine.changes(own=False), mine.changes()
    seen: list[str] = []

    async def listen(name: str, to: Subscription) -> None:
        async for _ in to:
            seen.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen, "others", subscription)
        tasks.start_soon(listen, "every", every)
        with anyio.fail_after(10):
            while seen.count("every") < 20:
                await run.ask(Label(Seq(1), "mine"))
        before = seen.count("others")
        assert before <= 2  # what was under way when it began
        await seen_by(theirs, run).ask(Label(Seq(1), "theirs"))
        with anyio.fail_after(5):
            while seen.count("others") == before:
                await run.ask(Label(Seq(1), "mine"))
        tasks.cancel_scope.cancel()


async def test_own_changes_wake_every_subscription(store: AnyStore) -> None:
    subscriptions = [store.changes() for _ in range(3)]
    run = await executing(store)

    async def seen() -> bool:
        return await store.run(run.id) is not None

    for subscription in subscriptions:
        await wake(subscription, seen)
        await subscription.aclose()


async def test_who_is_called_on_changes_is_called_until_that_is_ended(two: tuple[AnyStore, AnyStore]) -> None:
    """Of this process's commits at once, before the writer goes on; of others' within a second."""
    mine, theirs = two
    run, called, of_others = await executing(mine), [0], anyio.Event()

    def call() -> None:
        called[0] += 1

    ends = [mine.on_change(call), mine.on_change(call)]  # the same twice is two
    end_of_others = mine.on_change(of_others.set, own=False)
    before = called[0]
    await run.ask(Label(Seq(1), "mine"))
    assert called[0] - before >= 2
    ends.pop()()
    before = called[0]
    await run.ask(Label(Seq(1), "mine"))
    assert called[0] > before
    ends.pop()()
    before = called[0]
    of_others = anyio.Event()
    end_of_others()
    end_of_others()
    others = mine.on_change(lambda: of_others.set(), own=False)
    await seen_by(theirs, run).ask(Label(Seq(1), "theirs"))
    with anyio.fail_after(5):
        await of_others.wait()
    others()
    assert called[0] == before


async def test_a_closed_subscription_ends(store: AnyStore) -> None:
    subscription = store.changes()

    async def listen() -> None:
        async for _ in subscription:
            pass

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.lowlevel.checkpoint()
            await subscription.aclose()
            await subscription.aclose()
