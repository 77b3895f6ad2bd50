"""Undoing behind a rollback of a run that works: finished after a crash, whoever owns the run then."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.engine import execution
from omium.orchestration.errors import OmiumError, Unheard
from omium.orchestration.history import compensating
from omium.orchestration.history.ground import Ground
from omium.orchestration.ids import Fence, NodeId, RunId, Seq, WorkerId
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import Attempt, Write, Written
from tests.history_core import ME, Hand, HistoryCore, by_hand, opened
from tests.undoing_help import PAID, Slow, World, crashed_rollback, events, forward_while_undoing, settled

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("left", ["in flight", "waiting", "paused"])
async def test_what_a_rollback_that_dies_has_left_is_undone_by_the_next_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    world = World()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "pay", compensate="undo")
        await hand.end("b")
        await hand.start("c")
        if left == "waiting":
            await hand.do(c.WaitNode(NodeId("c"), 0, signal="s"))
            await hand.let_go()
        elif left == "paused":
            await core.pause(ME, hand.run_id)
        await crashed_rollback(core, hand, first, monkeypatch)
        assert (world.undone, (await hand.state()).status) == ([], "paused")
        (told,) = await core.rollbacks(ME, hand.run_id)
        assert told.outcome == "unfinished"
        await core.store.retire(WorkerId("hand"))
    async with opened(tmp_path, PAID, functions={"undo": world.undo}, executing=True) as (core, functions):
        await settled(core, hand.run_id)
        assert (world.undone, functions.calls) == (["pay"], ["b"])  # the compensation, for b, and no node
        view = await core.get_run(ME, hand.run_id)
        (told,) = await core.rollbacks(ME, hand.run_id)
        assert (view.status, told.outcome, told.compensated) == ("paused", "done", {"done": 1})
        plan = await core.preview_rollback(ME, hand.run_id, first)
        assert [one.compensated for one in plan.undone_effects] == ["done"]


async def test_a_run_that_is_resumed_before_everything_is_undone_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "pay", compensate="undo")
        await crashed_rollback(core, hand, first, monkeypatch)
        await core.resume(ME, hand.run_id)
        await core.store.retire(WorkerId("hand"))
    async with opened(tmp_path, PAID, functions={"undo": world.undo}, executing=True) as (core, _):
        with anyio.fail_after(20):
            assert (await core.wait(ME, hand.run_id, 20)).status == "completed"
        kinds = [one.type for one in await events(core, hand.run_id)]
        begins = [place for place, kind in enumerate(kinds) if kind is E.NODE_STARTED]
        undone = [place for place, kind in enumerate(kinds) if kind is E.EFFECT_COMPENSATED]
        assert (world.undone, len(undone)) == (["pay"], 2)
        assert kinds.index(E.RUN_ROLLED_BACK) < undone[0] < undone[1] < kinds.index(E.RUN_UNDONE)
        assert sum(place > kinds.index(E.RUN_UNDONE) for place in begins) == 3  # all but the first, again


async def test_another_rollback_takes_over_what_one_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "pay", compensate="undo")
        paid = await hand.end("b")
        await hand.start("c")
        await crashed_rollback(core, hand, first, monkeypatch)
        core._ground._claim_wait_s = 0.0
        forward = await core.rollback(ME, hand.run_id, paid)  # where what was paid for stands
        assert (world.undone, forward.undone) == ([], [])
        await core.finish_undoing(hand.run_id, hand.fence)
        assert (world.undone, (await hand.state()).owed) == ([], [])
        await core.store.retire(WorkerId("hand"))
        plan = await core.preview_rollback(ME, hand.run_id, first)
        done = await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        assert (world.undone, [one.call for one in done.undone]) == (["pay"], ["pay"])


@pytest.mark.parametrize("calls", [0, 1])
async def test_what_a_rollback_has_left_stays_so_where_another_goes_to_a_place_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    world = World()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "pay", compensate="undo")
        await crashed_rollback(core, hand, first, monkeypatch)
        behind = (await core.checkpoint(ME, hand.run_id, "behind")).seq
        if calls:  # and what the second leaves, too
            await core.resume(ME, hand.run_id)
            await hand.start("b")
            await hand.effect("b", "again", compensate="undo")
        await crashed_rollback(core, hand, behind, monkeypatch)
        assert len((await hand.state()).owed) == 1 + calls
        assert [one.outcome for one in await core.rollbacks(ME, hand.run_id)] == [
            "unfinished",
            ("done", "unfinished")[calls],
        ]
        await core.store.retire(WorkerId("hand"))
    async with opened(tmp_path, PAID, functions={"undo": world.undo}, executing=True) as (core, _):
        await settled(core, hand.run_id)
        assert world.undone == ["again", "pay"][1 - calls :]
        assert {one.outcome for one in await core.rollbacks(ME, hand.run_id)} == {"done"}


@pytest.mark.parametrize("left", ["working", "at rest"])
async def test_nothing_more_is_undone_once_its_results_stand_again(tmp_path: Path, left: str) -> None:
    world = Slow()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        for call in ("order", "pay"):
            await hand.effect("b", call, compensate="undo")
        last = await hand.end("b")
        if left == "working":
            await hand.start("c")
            await core.store.retire(WorkerId("hand"))
        else:
            await core.pause(ME, hand.run_id)
            await hand.let_go()
        told = await forward_while_undoing(core, hand.run_id, world, first, last)
        assert (world.undone, (await hand.state()).owed) == (["pay"], [])
        assert told[last].notes == ("1 effect(s) were undone although their results stand again: b (pay).",)
        assert [one.call for one in told[first].undone] == ["pay"]
        assert [(one.call, one.compensated) for one in told[first].not_undone] == [("order", None)]
        assert ["taken elsewhere" in note for note in told[first].notes] == [True]


async def test_what_is_being_undone_while_its_results_stand_again_is_told_at_once(tmp_path: Path) -> None:
    world = Slow()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "pay", compensate="undo")
        last = await hand.end("b")
        await hand.let_go()
        plan = await core.preview_rollback(ME, hand.run_id, first)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(core.rollback, ME, hand.run_id, first, plan_token=plan.plan_token))
                await world.began.wait()
                plan = await core.preview_rollback(ME, hand.run_id, last)
                core._ground._claim_wait_s = 0.0
                done = await core.rollback(ME, hand.run_id, last, plan_token=plan.plan_token)
                world.on.set()
        for notes in (plan.notes, done.notes):
            assert "1 effect(s) are being undone" in notes[0] and "stand again: b (pay)." in notes[0]


async def cancelled_with_something_owed(core: HistoryCore, monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = await by_hand(core, PAID)
    first = await hand.run("a")
    await hand.start("b")
    await hand.effect("b", "pay", compensate="undo")
    await crashed_rollback(core, hand, first, monkeypatch)
    await core.cancel(ME, hand.run_id)
    await core.store.retire(WorkerId("hand"))
    return hand


async def test_a_cancelled_run_is_due_after_a_claim_that_nobody_heard_of_until_all_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await cancelled_with_something_owed(core, monkeypatch)
        assert core.engine is not None
        for owed in (True, False):
            fence: Fence | None = await core.store.take(core.engine.worker, hand.run_id)
            assert fence is not None
            if not owed:
                await core.finish_undoing(hand.run_id, fence)
            await core.engine._give_back_what_is_unknown()
            assert not await core.store.claimed_by(core.engine.worker)
            assert (await core.store.next_wake([ME.project]) is not None) == owed


async def test_an_ended_run_of_which_the_undoing_met_a_bug_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, met, really = World(), [0], HistoryCore.finish_undoing

    async def buggy(core: HistoryCore, run_id: RunId, fence: Fence) -> None:
        met[0] += 1
        if met[0] == 1:
            raise ValueError("a bug")
        await really(core, run_id, fence)

    monkeypatch.setattr(HistoryCore, "finish_undoing", buggy)
    monkeypatch.setattr(execution, "_LATER_US", 0)
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await cancelled_with_something_owed(core, monkeypatch)
    async with opened(tmp_path, PAID, functions={"undo": world.undo}, executing=True) as (core, _):
        await settled(core, hand.run_id)
        assert (met[0], world.undone) == (2, ["pay"])


async def test_what_overlapping_rollbacks_undid_is_told_with_the_one_that_began_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, on = anyio.Event(), anyio.Event()

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> None:
        began.set()
        await on.wait()

    async with opened(tmp_path, PAID, functions={"undo": undo}) as (core, _):
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        for number in range(3):
            await hand.effect("b", f"pay {number}", compensate="undo")
        await crashed_rollback(core, hand, first, monkeypatch)
        await core.store.retire(WorkerId("hand"))
    async with opened(tmp_path, PAID, functions={"undo": undo}, executing=True) as (core, _):
        with anyio.fail_after(20):
            await began.wait()
        await crashed_rollback(core, hand, 1, monkeypatch)
        told = [(one.outcome, one.compensated) for one in await core.rollbacks(ME, hand.run_id)]
        assert told == [("unfinished", {"unknown": 1}), ("unfinished", {})]
        on.set()
        await settled(core, hand.run_id)
        told = [(one.outcome, one.compensated) for one in await core.rollbacks(ME, hand.run_id)]
        assert told == [("done", {"done": 1}), ("done", {"done": 2})]


async def test_a_rollback_finishes_what_one_before_it_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "pay", compensate="undo")
        await crashed_rollback(core, hand, first, monkeypatch)
        await core.store.retire(WorkerId("hand"))
        await core.rollback(ME, hand.run_id, (await hand.state()).seq)
        assert (world.undone, (await hand.state()).owed) == (["pay"], [])


async def test_what_cannot_be_undone_at_all_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, PAID) as (core, _):  # no function "undo" is there any more
        hand = await by_hand(core, PAID)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "pay", compensate="undo")
        await crashed_rollback(core, hand, first, monkeypatch)
        await core.store.retire(WorkerId("hand"))
        assert core.engine is not None
        fence: Fence | None = await core.store.take(core.engine.worker, hand.run_id)
        assert fence is not None
        await core.finish_undoing(hand.run_id, fence)
        await core.finish_undoing(hand.run_id, fence)
        tries = [one.data["outcome"] for one in await events(core, hand.run_id) if one.type is E.EFFECT_COMPENSATED]
        assert (tries, (await hand.state()).undoing) == (["started", "failed"], None)


class Away:
    """A store of which the first `times` notes of this outcome of a compensation fail; `lost`: the first of them takes
    place, and only its answer does not come."""

    def __init__(
        self, core: HistoryCore, monkeypatch: pytest.MonkeyPatch, outcome: str, times: float, *, lost: bool = False
    ) -> None:
        self.left, self._lost, self._outcome, self._really = times, lost, outcome, core.store.write
        monkeypatch.setattr(core.store, "write", self.write)
        monkeypatch.setattr(compensating, "PAUSE_S", 0.001)

    async def write(self, write: Write) -> Written:
        [first, *_] = write.commands
        if self.left and isinstance(first, c.NoteCompensation) and first.outcome == self._outcome:
            self.left -= 1
            if self._lost:
                self._lost = False
                raise Unheard("the line was cut.", "", (await self._really(write)).events)
            raise OmiumError("storage_unavailable", "the disk is full.")
        return await self._really(write)


async def away(call: Awaitable[Any]) -> None:
    with pytest.raises(OmiumError) as caught:
        await call
    assert caught.value.code == "storage_unavailable"


async def paid(core: HistoryCore) -> tuple[Hand, Seq]:
    """A run at rest that has paid, and the position before that."""
    hand = await by_hand(core, PAID)
    first = await hand.run("a")
    await hand.start("b")
    await hand.effect("b", "pay", compensate="undo")
    await hand.end("b")
    await hand.let_go()
    return hand, first


@pytest.mark.parametrize(("outcome", "lost"), [("started", True), ("done", True), ("done", False)])
async def test_an_undoing_outlasts_a_moment_without_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: str, lost: bool
) -> None:
    world = World()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand, first = await paid(core)
        store = Away(core, monkeypatch, outcome, 2, lost=lost)
        plan = await core.preview_rollback(ME, hand.run_id, first)
        with anyio.fail_after(20):
            done = await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        noted = [one.data["outcome"] for one in await events(core, hand.run_id) if one.type is E.EFFECT_COMPENSATED]
        assert (store.left, world.undone, noted) == (0, ["pay"], ["started", "done"])
        assert [(one.call, one.compensated) for one in done.undone] == [("pay", "done")]


async def test_an_undoing_that_cannot_be_noted_is_not_begun_and_stays_owed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    async with opened(tmp_path, PAID, functions={"undo": world.undo}) as (core, _):
        hand, first = await paid(core)
        Away(core, monkeypatch, "started", 1)
        plan = await core.preview_rollback(ME, hand.run_id, first)
        await away(core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token))
        assert (world.undone, (await hand.state()).sleeps) == ([], False)
    async with opened(tmp_path, PAID, functions={"undo": world.undo}, executing=True) as (core, _):
        await settled(core, hand.run_id)
        assert world.undone == ["pay"]


async def test_a_worker_that_stops_does_not_wait_for_the_database_to_note_what_it_undid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> None:
        await world.undo(inputs, attempt)
        monkeypatch.setattr(Ground, "is_stopping", True)

    async with opened(tmp_path, PAID, functions={"undo": undo}) as (core, _):
        hand, first = await paid(core)
        Away(core, monkeypatch, "done", float("inf"))
        plan = await core.preview_rollback(ME, hand.run_id, first)
        with anyio.fail_after(20):
            await away(core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token))
        assert world.undone == ["pay"]
