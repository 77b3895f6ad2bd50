"""Writing and reading a run's log."""

from __future__ import annotations

import asyncio

import pytest

from omium.orchestration.ids import EffectId, Principal, Seq
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.commands import (
    CancelRun,
    CompleteRun,
    DrawValue,
    FailAttempt,
    IntendEffect,
    Label,
    PauseRun,
    PlanRun,
    ResumeRun,
    RollBack,
    SettleEffect,
    Signal,
    StartNode,
    StartRun,
)
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.state import NodeStatus, RunStatus
from omium.orchestration.ports import NewBlob, Write
from tests.conformance.store.acting import (
    ENGINE,
    INPUTS,
    OUTPUT,
    USER,
    A,
    B,
    Run,
    completion,
    creation,
    document,
    draft,
    executing,
    new_run,
    refused,
    request,
)
from tests.conformance.store.databases import AnyStore, Database, TestClock

pytestmark = pytest.mark.anyio


async def test_what_is_written_is_read(store: AnyStore, clock: TestClock) -> None:
    run_id = new_run()
    created = creation(
        title="Otters", priority=3, deadline_at=clock.us + 5, session="s1", overrides={"inputs": {"topic": 1}}
    )
    written = await store.write(Write(run_id, [created, PlanRun()], USER, blobs=[NewBlob(INPUTS)]))
    assert (written.seq, written.fence, written.replayed) == (2, None, None)
    assert [event.type for event in written.events] == [EventType.RUN_CREATED, EventType.RUN_PLANNING]
    assert await store.events(run_id) == list(written.events)
    assert all(event.at == clock.us and event.actor == USER for event in written.events)
    state = await store.state(run_id)
    assert (state.status, state.title, state.priority, state.session) == (RunStatus.PLANNING, "Otters", 3, "s1")
    assert state.overrides == {"inputs": {"topic": 1}} and state.created_at == clock.us
    row = await store.run(run_id)
    assert row is not None
    assert (row.status, row.seq, row.head, row.title) == ("planning", 2, written.events[-1].hash, "Otters")
    assert await store.value(INPUTS.digest) == {"topic": "otters"}
    assert await store.heads([run_id, new_run()]) == {run_id: 2}


async def test_positions_are_contiguous_and_the_chain_holds(store: AnyStore) -> None:
    run = await executing(store)
    await run.complete(A, B)
    await run.do(CompleteRun(OUTPUT.digest, OUTPUT.size))
    events = await store.events(run.id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert store.chain.breaks(events) == []
    assert Chain(b"another key").breaks(events) != []
    assert (await run.state()).head == events[-1].hash


async def test_a_key_makes_the_chain_unforgeable(database: Database) -> None:
    store = await database.open(chain_key=b"secret")
    run = await executing(store)
    events = await store.events(run.id)
    assert Chain(b"secret").breaks(events) == []
    assert len(Chain().breaks(events)) == len(events)


async def test_events_are_paged(store: AnyStore) -> None:
    run = await executing(store)
    await run.complete(A, B)
    every = await store.events(run.id)
    paged: list[Event] = []
    while page := await store.events(run.id, paged[-1].seq if paged else Seq(0), limit=2):
        assert len(page) <= 2
        paged += page
    assert paged == every
    assert await store.events(new_run()) == []


async def test_a_state_is_had_at_any_position(store: AnyStore) -> None:
    run = await executing(store)
    await run.complete(A, B)
    assert (await store.state(run.id, Seq(3))).nodes == {}
    middle = await store.state(run.id, Seq(5))
    assert (middle.seq, middle.nodes[A].status, B in middle.nodes) == (5, NodeStatus.COMPLETED, False)
    await refused("not_found", store.state(new_run()))
    mine = await run.state()
    mine.nodes.clear()  # the caller's own
    assert set((await run.state()).nodes) == {A, B}


async def test_a_refused_write_changes_nothing(store: AnyStore) -> None:
    run = await executing(store)
    before = (await store.events(run.id), document(await run.state()), await store.run(run.id))
    refusal = await refused("not_allowed", run.ask(ResumeRun()))
    assert refusal.data["allowed"] == [
        "pause",
        "cancel",
        "rollback",
        "play_from_node",
        "branch",
        "checkpoint",
        "signal",
    ]
    # The first command of the write would have been fine.
    await refused("not_allowed", run.ask(PauseRun(), StartRun()))
    await refused("not_allowed", run.do(completion(A)))
    assert (await store.events(run.id), document(await run.state()), await store.run(run.id)) == before


async def test_a_refused_write_does_not_disturb_its_batch(store: AnyStore) -> None:
    good = [await executing(store) for _ in range(5)]
    bad = [await executing(store) for _ in range(5)]
    outcomes = await asyncio.gather(
        *(run.do(StartNode(A, 0)) for run in good),
        *(run.do(StartNode(A, 0), StartNode(A, 0)) for run in bad),  # refused half way
        *(run.do(StartNode(B, 7)) for run in bad),
        *(run.do(StartNode(B, 0)) for run in bad),
        return_exceptions=True,
    )
    codes = [getattr(outcome, "code", "written") for outcome in outcomes]
    assert codes == ["written"] * 5 + ["not_allowed"] * 5 + ["conflict"] * 5 + ["written"] * 5
    for run in good:
        assert set((await run.state()).nodes) == {A}
    for run in bad:
        assert set((await run.state()).nodes) == {B}
        assert store.chain.breaks(await store.events(run.id)) == []


async def test_what_cannot_be_stored_hurts_nobody_else(store: AnyStore) -> None:
    run, other = await executing(store), await executing(store)
    await asyncio.gather(run.do(StartNode(A, 0)), other.do(StartNode(A, 0)))
    outcomes = await asyncio.gather(
        run.do(DrawValue(A, 0, 1, "id", "\ud800")),
        run.do(DrawValue(A, 0, 1, "number", 2**70)),
        run.do(request("ap_1", B, expires_at=2**63)),
        other.do(completion(A)),
        return_exceptions=True,
    )
    assert [getattr(outcome, "code", "written") for outcome in outcomes[:3]] == ["invalid_value"] * 3
    assert getattr(outcomes[3], "seq", None) == 5
    assert len(await store.events(run.id)) == 4


async def test_a_run_is_created_once(store: AnyStore) -> None:
    run = await executing(store)
    before = await store.events(run.id)
    await refused("conflict", store.write(Write(run.id, [creation()], USER)))
    twin = new_run()
    outcomes = await asyncio.gather(
        *(store.write(Write(twin, [creation(title=str(n)), PlanRun(), StartRun()], USER)) for n in range(4)),
        return_exceptions=True,
    )
    assert sorted(getattr(outcome, "code", "written") for outcome in outcomes) == ["conflict"] * 3 + ["written"]
    assert len(await store.events(twin)) == 3
    assert await store.events(run.id) == before


async def test_a_run_that_was_never_created_takes_nothing(store: AnyStore) -> None:
    run = Run(store, new_run(), None)
    await refused("not_found", run.ask(PlanRun()))
    await refused("invalid_argument", run.ask(creation(definition="")))
    for command in (PlanRun(), CancelRun(), Label(Seq(1), "x")):
        await refused("not_found", run.ask(command))
    assert await store.run(run.id) is None and await store.events(run.id) == []
    await run.ask(creation())
    assert (await run.state()).seq == 1


async def test_only_the_owner_executes(store: AnyStore) -> None:
    run = await executing(store)
    assert run.fence is not None
    await refused("fenced", run.ask(StartNode(A, 0)))
    await refused("fenced", Run(store, run.id, type(run.fence)(run.fence + 1)).do(StartNode(A, 0)))
    await refused("fenced", Run(store, run.id, type(run.fence)(run.fence - 1)).do(StartNode(A, 0)))
    # A control command with a stale token is the owner's, who is to learn that it is none.
    await refused("fenced", Run(store, run.id, type(run.fence)(run.fence + 1)).do(PauseRun()))
    assert len(await store.events(run.id)) == 3
    await run.ask(Signal("go", INPUTS.digest, INPUTS.size))
    free = await executing(store, worker=None)
    await refused("fenced", Run(store, free.id, run.fence).do(StartNode(A, 0)))
    assert len(await store.events(free.id)) == 3


async def test_results_of_older_attempts_and_generations_change_nothing(store: AnyStore) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    await run.do(FailAttempt(A, 0, 1, {"category": "network"}, retry_at=1))
    await run.do(StartNode(A, 0))
    await refused("conflict", run.do(completion(A, 0, attempt=1)))
    await run.ask(RollBack(Seq(3)))
    await run.ask(ResumeRun())
    await refused("conflict", run.do(completion(A, 0, attempt=2)))
    await refused("conflict", run.do(StartNode(A, 0)))
    await run.do(StartNode(A, 1), completion(A, 1, attempt=1))
    assert (await run.state()).nodes[A].status is NodeStatus.COMPLETED


async def test_a_rollback_may_go_to_a_position_of_its_own_batch(store: AnyStore) -> None:
    run = await executing(store)
    await asyncio.gather(
        run.do(StartNode(A, 0), completion(A)),
        run.do(StartNode(B, 0), completion(B)),
        run.ask(PauseRun()),
        run.ask(RollBack(Seq(7))),
    )
    await run.do(RollBack(Seq(5)), RollBack(Seq(9)))
    events = await store.events(run.id)
    assert [event.type for event in events[7:]] == [EventType.RUN_PAUSED] + [EventType.RUN_ROLLED_BACK] * 3
    state = await run.state()
    assert {name: node.status for name, node in state.nodes.items()} == dict.fromkeys((A, B), NodeStatus.COMPLETED)
    assert state.completed_nodes == 2 and state.generation == 3


async def test_the_ledger_keeps_what_one_batch_intends_settles_and_completes(store: AnyStore) -> None:
    run = await executing(store)
    await run.do(
        StartNode(A, 0),
        IntendEffect(EffectId("e2"), A, 0, 1, "second", "tool", "ask"),
        IntendEffect(EffectId("e1"), A, 0, 1, "first", "tool", "ask", detail={"to": "x"}),
        SettleEffect(EffectId("e1"), "done", OUTPUT.digest, OUTPUT.size),
        SettleEffect(EffectId("e2"), "failed", error={"category": "network"}),
        completion(A),
    )
    rows = await store.effects(run.id)
    assert [(row.id, row.outcome, row.result) for row in rows] == [
        ("e2", "failed", None),
        ("e1", "done", OUTPUT.digest),
    ]
    assert rows[1].detail == {"to": "x"} and rows[0].error == {"category": "network"}
    assert set((await run.state()).effects) == {"e2"}
    await refused("conflict", run.ask(SettleEffect(EffectId("e1"), "unknown")))


async def test_the_ledger_keeps_what_several_writes_of_one_batch_do(store: AnyStore) -> None:
    run, other = await executing(store), await executing(store)
    for owner in (run, other):
        await owner.do(StartNode(A, 0), IntendEffect(EffectId(f"{owner.id}/e"), A, 0, 1, "call", "tool", "ask"))
    settled = [SettleEffect(EffectId(f"{owner.id}/e"), "done", OUTPUT.digest, OUTPUT.size) for owner in (run, other)]
    await asyncio.gather(run.ask(settled[0]), run.do(completion(A)), other.ask(settled[1]), other.ask(RollBack(Seq(3))))
    for owner in (run, other):
        assert [(row.outcome, row.result) for row in await store.effects(owner.id)] == [("done", OUTPUT.digest)]
        assert (await owner.state()).effects == {}


async def test_listeners_hear_every_event_in_order_before_the_caller(store: AnyStore) -> None:
    heard: list[tuple[str, int]] = []
    end = store.listen(lambda run_id, events: heard.extend((run_id, event.seq) for event in events))

    async def act(run: Run) -> None:
        for node in (A, B):
            written = await run.do(StartNode(node, 0), completion(node))
            assert (run.id, written.seq) in heard
        await refused("not_allowed", run.do(StartNode(A, 0)))

    runs = [await executing(store) for _ in range(10)]
    await asyncio.gather(*(act(run) for run in runs))
    for run in runs:
        assert [seq for run_id, seq in heard if run_id == run.id] == list(range(1, 8))
    end()
    count = len(heard)
    await runs[0].ask(PauseRun())
    assert len(heard) == count


async def test_a_listener_that_fails_hurts_nobody(store: AnyStore, caplog: pytest.LogCaptureFixture) -> None:
    def broken(run_id: str, events: object) -> None:
        raise RuntimeError("the listener's own fault")

    store.listen(broken)
    run = await executing(store)
    assert (await run.state()).seq == 3
    assert "the listener's own fault" in caplog.text


async def test_everything_survives_reopening(database: Database) -> None:
    first = await database.open()
    run = await executing(first)
    await run.complete(A)
    await run.do(StartNode(B, 0), request("ap_1", B))
    before = document(await run.state())
    await first.close()
    second = await database.open()
    assert document(await second.state(run.id)) == before
    await Run(second, run.id, run.fence).do(CompleteRun(OUTPUT.digest, 1))
    assert (await second.state(run.id)).seq == before["seq"] + 1


async def test_a_closed_store_says_so(store: AnyStore) -> None:
    run = await executing(store)
    await store.close()
    await refused("storage_unavailable", run.ask(PauseRun()))
    await refused("storage_unavailable", store.beat("worker_1"))  # type: ignore[arg-type]


async def test_what_was_submitted_is_committed_before_closing(database: Database) -> None:
    store = await database.open()
    runs = [await executing(store) for _ in range(20)]
    writes = [asyncio.ensure_future(run.do(StartNode(A, 0))) for run in runs]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    again = await database.open()
    assert set((await again.heads([run.id for run in runs])).values()) == {4}


async def test_a_caller_that_is_cancelled_leaves_the_others_alone(store: AnyStore) -> None:
    run, other = await executing(store), await executing(store)
    gone = asyncio.ensure_future(run.do(StartNode(A, 0)))
    stays = asyncio.ensure_future(other.do(StartNode(A, 0)))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    await other.do(completion(A))
    state = await run.state()
    assert state.seq in (3, 4)
    await run.do(StartNode(B, 0))
    assert (await run.state()).seq == state.seq + 1
    assert store.chain.breaks(await store.events(run.id)) == []


async def test_a_draft_is_planned_and_cancelled(store: AnyStore) -> None:
    run = await draft(store)
    await run.ask(CancelRun("changed my mind"))
    row = await store.run(run.id)
    assert row is not None and (row.status, row.reason) == ("cancelled", "changed my mind")
    actor = Principal("user:bob")
    await refused("not_allowed", store.write(Write(run.id, [PlanRun()], actor)))
    assert (await store.events(run.id))[-1].actor == USER and ENGINE != USER
