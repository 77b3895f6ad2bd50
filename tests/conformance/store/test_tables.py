"""Idempotency keys, plans, claims and workers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from omium.orchestration.ids import Fence, PlanToken, Principal, ProjectId, Seq, WorkerId
from omium.orchestration.log.commands import CancelRun, CompleteRun, PauseRun, ResumeRun, Signal, StartNode
from omium.orchestration.ports import Claimed, IdempotencyKey, PlanRow, Write
from tests.conformance.store.acting import (
    INPUTS,
    OUTPUT,
    USER,
    WORKER,
    A,
    Run,
    creation,
    digest_of,
    draft,
    executing,
    new_run,
    refused,
    worker_row,
)
from tests.conformance.store.databases import START_US, AnyStore, Database, TestClock

pytestmark = pytest.mark.anyio

DEFAULT = [ProjectId("default")]
OTHER = WorkerId("worker_2")


async def test_a_repeated_request_gets_the_first_result(database: Database) -> None:
    store = await database.open()
    run_id = new_run()
    key = IdempotencyKey(
        "default/ada/run_workflow", "k1", digest_of({"a": 1}), {"run_id": run_id, "n": [1, {"x": None}]}
    )
    first = await store.write(Write(run_id, [creation()], USER, idempotency=key))
    assert first.replayed is None and first.seq == 1
    again = replace(key, result={"run_id": "another"})
    repeat = await store.write(Write(new_run(), [creation()], USER, idempotency=again))
    assert (repeat.replayed, repeat.events, repeat.seq) == (key.result, (), 0)
    await refused(
        "conflict", store.write(Write(new_run(), [creation()], USER, idempotency=replace(key, arguments=digest_of(2))))
    )
    assert (
        await store.write(Write(new_run(), [creation()], USER, idempotency=replace(key, scope="x")))
    ).replayed is None
    assert await store.recall("default/ada/run_workflow", "k1") == (key.arguments, key.result)
    assert await store.recall("default/ada/run_workflow", "k2") is None
    await store.close()
    reopened = await database.open()
    repeat = await reopened.write(Write(new_run(), [creation()], USER, idempotency=again))
    assert repeat.replayed == key.result


async def test_a_refused_request_leaves_its_key_unused(store: AnyStore) -> None:
    run = await executing(store)
    key = IdempotencyKey("s", "k", digest_of(1), {"ok": True})
    await refused("not_allowed", store.write(Write(run.id, [ResumeRun()], USER, idempotency=key)))
    assert await store.recall("s", "k") is None
    assert (await store.write(Write(run.id, [PauseRun()], USER, idempotency=key))).replayed is None
    # The repeat is answered although the state would refuse it by now.
    assert (await store.write(Write(run.id, [PauseRun()], USER, idempotency=key))).replayed == {"ok": True}


def plan(clock: TestClock, token: str = "plan_1", caller: Principal = USER) -> PlanRow:
    return PlanRow(
        PlanToken(token),
        caller,
        new_run(),
        "rollback",
        digest_of("binding"),
        clock.us + 600_000_000,
        {"to": 5, "n": ["a"]},
    )


async def test_a_plan_is_used_once_by_its_caller_in_time(store: AnyStore, clock: TestClock) -> None:
    row = plan(clock)
    await store.put_plan(row)
    assert await store.take_plan(row.token, Principal("user:eve"), clock.us) is None
    assert await store.take_plan(PlanToken("plan_0"), USER, clock.us) is None
    assert await store.take_plan(row.token, USER, row.expires_at) is None
    assert await store.take_plan(row.token, USER, clock.us) == row
    assert await store.take_plan(row.token, USER, clock.us) is None
    await store.put_plan(row)
    await refused("conflict", store.put_plan(row))


async def test_racing_uses_of_a_plan_have_one_winner(store: AnyStore, clock: TestClock) -> None:
    row = plan(clock)
    await store.put_plan(row)
    found = await asyncio.gather(*(store.take_plan(row.token, USER, clock.us) for _ in range(10)))
    assert [use for use in found if use is not None] == [row]


async def test_plans_that_expired_are_forgotten(store: AnyStore, database: Database) -> None:
    await store.put_plan(plan(database.clock))
    database.clock.advance(601)
    await store.put_plan(plan(database.clock, "plan_2"))
    assert [row[0] for row in database.execute("SELECT token FROM plans")] == ["plan_2"]


async def test_claims_come_by_priority_and_then_by_due_time(store: AnyStore, clock: TestClock) -> None:
    late = await executing(store, worker=None)
    clock.advance(-10)
    early = await executing(store, worker=None)
    urgent = await executing(store, worker=None, priority=5)
    elsewhere = await executing(store, worker=None, project="elsewhere")
    await draft(store)
    assert await store.claim(WORKER, DEFAULT, 10, clock.us - 1) == []
    assert await store.claim(WORKER, [], 10, clock.us) == []
    assert await store.queued(DEFAULT, clock.us) == 2  # the first is not due
    clock.advance(10)
    assert await store.queued(DEFAULT, clock.us) == 3
    assert await store.claim(WORKER, DEFAULT, 1, clock.us) == [Claimed(urgent.id, Fence(1))]
    assert [found.run_id for found in await store.claim(WORKER, DEFAULT, 10, clock.us)] == [early.id, late.id]
    assert await store.claim(OTHER, DEFAULT, 10, clock.us) == []
    assert await store.queued(DEFAULT, clock.us) == 0
    both = await store.claim(OTHER, [ProjectId("elsewhere"), *DEFAULT], 10, clock.us)
    assert both == [Claimed(elsewhere.id, Fence(1))]
    await Run(store, early.id, Fence(1)).do(StartNode(A, 0))


async def test_a_run_that_was_created_claimed_is_owned(store: AnyStore, clock: TestClock) -> None:
    run = await executing(store)
    assert run.fence == 1
    assert await store.claim(OTHER, DEFAULT, 10, clock.us) == []
    assert await store.take(OTHER, run.id) is None
    assert await store.next_wake(DEFAULT) is None


async def test_what_a_worker_owns_is_told_with_its_tokens(store: AnyStore, clock: TestClock) -> None:
    assert await store.claimed_by(WORKER) == []
    created, free = await executing(store), await executing(store, worker=None)
    assert created.fence is not None
    assert await store.claimed_by(WORKER) == [Claimed(created.id, Fence(1))]
    assert await store.take(OTHER, free.id) == Fence(1)
    assert await store.release(created.id, created.fence, Seq(3), clock.us)
    assert await store.claimed_by(WORKER) == []
    await store.claim(OTHER, DEFAULT, 10, clock.us)
    found = await store.claimed_by(OTHER)
    assert {(one.run_id, one.fence) for one in found} == {(created.id, 2), (free.id, 1)}


async def test_a_release_is_refused_when_the_log_has_grown(store: AnyStore, clock: TestClock) -> None:
    run = await executing(store)
    assert run.fence is not None
    await run.ask(Signal("go", INPUTS.digest, INPUTS.size))
    assert await store.release(run.id, run.fence, Seq(3), None) is False
    assert await store.release(run.id, Fence(9), Seq(4), None) is False
    assert await store.release(new_run(), Fence(1), Seq(1), None) is False
    await run.do(StartNode(A, 0))  # still the owner
    due = clock.us + 5_000_000
    assert await store.release(run.id, run.fence, Seq(5), due) is True
    assert await store.release(run.id, run.fence, Seq(5), due) is False
    await refused("fenced", run.do(StartNode(A, 0)))
    assert await store.next_wake(DEFAULT) == due
    assert await store.claim(WORKER, DEFAULT, 1, due - 1) == []
    assert await store.claim(WORKER, DEFAULT, 1, due) == [Claimed(run.id, Fence(2))]


async def test_a_parked_run_sleeps_until_something_happens(store: AnyStore, clock: TestClock) -> None:
    run = await executing(store)
    assert run.fence is not None
    assert await store.release(run.id, run.fence, Seq(3), None)
    assert await store.next_wake(DEFAULT) is None and await store.queued(DEFAULT, clock.us) == 0
    clock.advance(1)
    await run.ask(Signal("go", INPUTS.digest, INPUTS.size))
    assert await store.next_wake(DEFAULT) == clock.us
    # What pauses a run that nobody owns leaves nothing to do; what resumes it does.
    await run.ask(PauseRun())
    assert await store.next_wake(DEFAULT) is None
    await run.ask(ResumeRun())
    assert await store.next_wake(DEFAULT) == clock.us
    await run.ask(CancelRun())
    assert await store.next_wake(DEFAULT) is None


async def test_the_earliest_run_wakes_first(store: AnyStore, clock: TestClock) -> None:
    dues = {}
    for seconds in (30, 10, 20):
        run = await executing(store)
        assert run.fence is not None
        dues[seconds] = run.id
        assert await store.release(run.id, run.fence, Seq(3), clock.us + seconds * 1_000_000)
    assert await store.next_wake(DEFAULT) == clock.us + 10_000_000
    assert await store.next_wake([ProjectId("elsewhere")]) is None and await store.next_wake([]) is None
    found = await store.claim(WORKER, DEFAULT, 10, clock.us + 25_000_000)
    assert [claimed.run_id for claimed in found] == [dues[10], dues[20]]


async def test_runs_are_woken_by_name(store: AnyStore, clock: TestClock) -> None:
    parked, due, owned = [await executing(store) for _ in range(3)]
    for run, wake_at in ((parked, None), (due, clock.us + 5)):
        assert run.fence is not None and await store.release(run.id, run.fence, Seq(3), wake_at)
    await store.wake([parked.id, due.id, owned.id, new_run()], clock.us + 7)
    found = await store.claim(WORKER, DEFAULT, 10, clock.us + 6)
    assert [claimed.run_id for claimed in found] == [due.id]  # woken no later than it was to be
    found = await store.claim(WORKER, DEFAULT, 10, clock.us + 7)
    assert [claimed.run_id for claimed in found] == [parked.id]
    assert await store.queued(DEFAULT, clock.us) == 0
    await owned.do(StartNode(A, 0))
    await store.wake([], 1)


async def test_a_run_that_is_called_while_it_is_owned_is_due_once_it_is_given_up(
    store: AnyStore, clock: TestClock
) -> None:
    called, later, parked, taken = [await executing(store) for _ in range(4)]
    await store.wake([called.id, parked.id, taken.id], clock.us + 7)
    await store.wake([later.id], clock.us + 70_000_000)
    assert await store.next_wake(DEFAULT) is None and await store.queued(DEFAULT, clock.us) == 0
    for run, wake_at in ((called, 60), (later, 60), (parked, None), (taken, 60)):
        due = None if wake_at is None else clock.us + wake_at * 1_000_000
        assert run.fence is not None and await store.release(run.id, run.fence, Seq(3), due)
    found = await store.claim(WORKER, DEFAULT, 10, clock.us + 7)
    assert {claimed.run_id for claimed in found} == {called.id, taken.id}
    assert await store.next_wake(DEFAULT) == clock.us + 60_000_000
    again = next(claimed for claimed in found if claimed.run_id == taken.id)
    assert await store.release(
        again.run_id, again.fence, Seq(3), clock.us + 90_000_000
    )  # what it was called for is over
    due_then = await store.claim(WORKER, DEFAULT, 10, clock.us + 80_000_000)
    assert [claimed.run_id for claimed in due_then] == [later.id]


async def test_a_free_run_is_taken_by_name(store: AnyStore) -> None:
    run = await draft(store)
    assert await store.take(WORKER, run.id) == 1
    assert await store.take(WORKER, run.id) is None
    assert await store.take(WORKER, new_run()) is None


async def test_workers_are_known_beat_and_retire(store: AnyStore, clock: TestClock) -> None:
    row = worker_row(WORKER, "default", "other")
    await store.register(row)
    await store.register(worker_row(OTHER))
    await store.beat(WORKER)
    await store.beat(WORKER)
    await store.beat(WorkerId("worker_unknown"))
    known = {worker.id: worker for worker in await store.workers()}
    assert known == {WORKER: replace(row, beat=START_US + 2), OTHER: replace(worker_row(OTHER), beat=START_US)}
    clock.advance(5)
    await store.beat(WORKER)
    clock.advance(-3)  # a clock that is set back; whoever observes must see it grow
    await store.beat(WORKER)
    assert {row.id: row.beat for row in await store.workers()}[WORKER] == START_US + 5_000_001
    mine = [await executing(store) for _ in range(3)]
    other = await executing(store, worker=OTHER)
    clock.advance(1)
    assert await store.retire(WORKER) == 3
    assert [worker.id for worker in await store.workers()] == [OTHER]
    assert await store.next_wake(DEFAULT) == clock.us
    found = await store.claim(OTHER, DEFAULT, 10, clock.us)
    assert found == [Claimed(run.id, Fence(2)) for run in mine]
    assert await store.retire(WORKER) == 0
    await other.do(CompleteRun(OUTPUT.digest, OUTPUT.size))
    await store.register(replace(row, pid=7))
    await store.register(replace(row, pid=8))
    assert {worker.pid for worker in await store.workers()} == {1, 8}
