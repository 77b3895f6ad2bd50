"""The outbox: what is found in the logs, once; and what is carried out, until it is done or given up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from omium.orchestration.ids import ProjectId, Seq, new_id
from omium.orchestration.log.commands import PauseRun
from omium.orchestration.ports import Write
from omium.orchestration.ports_notices import NoticeRow, Unannounced
from omium.storage.maintenance import Policy, keeper, retain
from tests.conformance.store.acting import USER, Run, executing
from tests.conformance.store.databases import AnyStore, Database, TestClock

pytestmark = pytest.mark.anyio

P = ProjectId("default")
S = 1_000_000


def notice(run: Run, seq: int = 1, endpoint: str = "ops", due: int = 0) -> NoticeRow:
    return NoticeRow(new_id("ntc"), P, endpoint, run.id, Seq(seq), "run.paused", "waiting", 0, due, 0)


async def test_what_was_there_when_an_endpoint_was_first_named_counts_as_looked_at(database: Database) -> None:
    store = await database.open()
    run = await executing(store)
    assert await store.endpoint_since(ProjectId("q"), "ops") == 0
    assert len(await store.unannounced(P, "ops", 0, 10)) == 1
    assert await store.endpoint_since(P, "ops") == 0
    assert await store.unannounced(P, "ops", 0, 10) == []
    await store.write(Write(run.id, [PauseRun()], USER))
    await store.close()
    again = await database.open()
    assert await again.endpoint_since(P, "ops") == 0  # that it is named again passes nothing
    assert [one.run_id for one in await again.unannounced(P, "ops", 0, 10)] == [run.id]


async def test_what_was_not_looked_at_is_found_whoever_wrote_it(database: Database) -> None:
    store, other = await database.open(), await database.open()
    run = await executing(store)
    head = (await store.heads([run.id]))[run.id]
    assert await other.unannounced(P, "ops", 0, 10) == [Unannounced(run.id, Seq(0), head)]
    await store.announce("ops", [], {run.id: head})
    assert await other.unannounced(P, "ops", 0, 10) == []
    assert [one.run_id for one in await other.unannounced(P, "pager", 0, 10)] == [run.id]
    await other.write(Write(run.id, [PauseRun()], USER))
    (found,) = await store.unannounced(P, "ops", 0, 10)
    assert found == Unannounced(run.id, head, Seq(head + 1))
    (event,) = await store.events_of(run.id, found.seen, found.head, ["run.paused"])
    assert (event.seq, event.type.value) == (head + 1, "run.paused")
    assert await store.events_of(run.id, found.seen, found.head, ["run.failed"]) == []
    assert await store.events_of(run.id, found.head, found.head, ["run.paused"]) == []


async def test_runs_that_did_not_change_since_are_not_looked_at(store: AnyStore, clock: TestClock) -> None:
    await executing(store)
    assert await store.unannounced(P, "ops", clock.now_us() + S, 10) == []
    assert await store.unannounced(ProjectId("q"), "ops", 0, 10) == []


async def test_how_far_was_looked_never_goes_back(store: AnyStore) -> None:
    run = await executing(store)
    head = (await store.heads([run.id]))[run.id]
    await store.announce("ops", [], {run.id: head})
    await store.announce("ops", [], {run.id: Seq(1)})
    assert await store.unannounced(P, "ops", 0, 10) == []


async def test_an_event_gives_an_endpoint_one_notice(store: AnyStore) -> None:
    run = await executing(store)
    first = notice(run)
    await store.announce("ops", [first], {run.id: Seq(1)})
    await store.announce("ops", [notice(run), notice(run, 2)], {run.id: Seq(2)})
    await store.announce("pager", [notice(run, endpoint="pager")], {run.id: Seq(1)})
    assert [one.seq for one in await store.notices(P, endpoint="ops")].count(1) == 1
    assert len(await store.notices(P)) == 3
    assert first in await store.notices(P)
    assert await store.notice_counts(P) == {("ops", "waiting"): 2, ("pager", "waiting"): 1}
    assert len(await store.notices(P, limit=1)) == 1
    assert await store.notices(ProjectId("q")) == []


async def test_what_is_due_is_taken_once_and_comes_back_when_nobody_settles_it(database: Database) -> None:
    store, other = await database.open(), await database.open()
    run = await executing(store)
    await store.announce("ops", [notice(run, 1), notice(run, 2), notice(run, 3, due=9 * S)], {run.id: Seq(3)})
    assert await store.next_notice(P, ["ops"]) == 0
    assert await store.next_notice(P, ["pager"]) is None
    assert await store.take_notices(P, "pager", S, 5 * S, 10) == []
    (one,) = await store.take_notices(P, "ops", S, 5 * S, 1)
    assert (one.attempts, one.due_at, one.status) == (1, 5 * S, "waiting")
    (two,) = await other.take_notices(P, "ops", S, 5 * S, 10)
    assert {one.seq, two.seq} == {1, 2}
    assert await other.take_notices(P, "ops", S, 5 * S, 10) == []
    assert await store.next_notice(P, ["ops"]) == 5 * S
    again = await other.take_notices(P, "ops", 5 * S, 9 * S, 10)
    assert {found.id for found in again} == {one.id, two.id}
    assert {found.attempts for found in again} == {2}


async def test_only_the_last_attempt_settles(store: AnyStore) -> None:
    run = await executing(store)
    await store.announce("ops", [notice(run)], {run.id: Seq(1)})
    (taken,) = await store.take_notices(P, "ops", S, 2 * S, 10)
    assert await store.settle_notice(taken.id, 1, "waiting", due_us=3 * S, problem="500")
    assert await store.take_notices(P, "ops", 2 * S, 9 * S, 10) == []
    (taken,) = await store.take_notices(P, "ops", 3 * S, 4 * S, 10)
    assert taken.attempts == 2 and taken.problem == "500"
    assert not await store.settle_notice(taken.id, 1, "delivered", due_us=3 * S, ended_us=3 * S)
    assert await store.settle_notice(taken.id, 2, "delivered", due_us=3 * S, ended_us=3 * S)
    assert not await store.settle_notice(taken.id, 2, "dead", due_us=3 * S)
    (kept,) = await store.notices(P, status="delivered")
    assert (kept.ended_at, kept.problem) == (3 * S, None)
    assert await store.notices(P, status="waiting") == []
    assert await store.next_notice(P, ["ops"]) is None


async def test_what_is_dead_can_be_tried_again(store: AnyStore) -> None:
    run = await executing(store)
    rows = [notice(run, seq) for seq in (1, 2, 3)]
    await store.announce("ops", rows, {run.id: Seq(3)})
    for taken in await store.take_notices(P, "ops", S, 2 * S, 2):
        assert await store.settle_notice(taken.id, 1, "dead", due_us=S, ended_us=S, problem="no")
    dead = [one.id for one in await store.notices(P, status="dead")]
    assert len(dead) == 2
    assert await store.retry_notices(ProjectId("q"), None, 7 * S) == 0
    assert await store.retry_notices(P, [dead[0], "ntc_0"], 7 * S) == 1
    (again,) = [one for one in await store.notices(P) if one.id == dead[0]]
    assert again == replace(again, **{"status": "waiting"}, attempts=0, due_at=7 * S, ended_at=None)
    assert await store.retry_notices(P, None, 7 * S) == 1
    assert await store.notices(P, status="dead") == []


async def test_notices_go_with_their_run(store: AnyStore, clock: TestClock) -> None:
    run = await executing(store)
    await store.announce("ops", [notice(run)], {run.id: Seq(1)})
    from omium.orchestration.log.commands import CancelRun

    await store.write(Write(run.id, [CancelRun()], USER))
    gone = await retain(keeper(store), Policy(1.0), clock.now_us() + 10 * S)
    assert list(gone.dropped) == [run.id]
    assert await store.notices(P) == []
