"""Undoing behind a rollback where sub-runs still work: they are stopped first, and go on where nothing comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.definition import Need, NodeDef, WorkflowDef
from omium.orchestration.definition.model import FailureRule
from omium.orchestration.definition.schema import to_document
from omium.orchestration.engine import execution
from omium.orchestration.engine.attempt import effect_id
from omium.orchestration.engine.stopping import HELD
from omium.orchestration.errors import OmiumError
from omium.orchestration.history import compensating, rollback
from omium.orchestration.history.compensating import undo
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.ledger import Deed
from omium.orchestration.history.recorded import Recorded
from omium.orchestration.ids import EffectId, Fence, NodeId, Principal, RunId, Seq, WorkerId, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import Attempt, NewBlob, RunQuery, Write
from omium.orchestration.values import encode
from tests.history_core import ME, Hand, HistoryCore, by_hand, opened
from tests.history_help import node
from tests.undoing_help import Slow, World, crashed_rollback, events, forward_while_undoing, settled

pytestmark = pytest.mark.anyio


class Shop(World):
    """A sub-run that pays, and then makes a call until it is stopped; beside it a node that fails meanwhile."""

    def __init__(self, on_failure: tuple[FailureRule, ...] = (), *, compensate: str | None = "undo") -> None:
        super().__init__()
        self.paid, self.stopped = anyio.Event(), anyio.Event()
        self.failed = False
        below = NodeDef("pay", "function", use="pay", compensate=compensate)
        beside = NodeDef("beside", "function", use="fails", needs=(Need("a"),))
        top = (node("a"), NodeDef("s", "workflow", use="below", needs=(Need("a"),)), *([beside] if on_failure else []))
        self.flows = (WorkflowDef("below", (below,)), WorkflowDef("top", top, on_failure=on_failure))
        self.functions = {"pay": self.pay, "fails": self.fails, "undo": self.undo}

    async def pay(self, inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        async def action() -> Any:
            return "paid"

        async def last() -> Any:
            if not self.paid.is_set():
                self.paid.set()
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():  # it has happened all the same
                    self.stopped.set()
            return "made"

        await attempt.effect("pay", action, kind="command", on_unknown="ask")
        return await attempt.effect("last", last, kind="command", on_unknown="ask")

    async def fails(self, inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        await self.paid.wait()
        if not self.failed:
            self.failed = True
            raise ConnectionError("refused")

    async def undo(self, inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        assert self.stopped.is_set()
        await super().undo(inputs, attempt)


async def sub_runs(core: HistoryCore, run_id: RunId) -> list[Any]:
    """Newest first."""
    return list(await core.store.runs(RunQuery(caller=run_id)))


async def test_a_sub_run_is_stopped_before_what_it_did_is_undone(tmp_path: Path) -> None:
    shop = Shop()
    async with opened(tmp_path, *shop.flows, functions=shop.functions, executing=True) as (core, _):
        run = (await core.run_workflow(ME, "top")).id
        with anyio.fail_after(20):
            await shop.paid.wait()
            plan = await core.preview_rollback(ME, run, "node:a")
            done = await core.rollback(ME, run, "node:a", plan_token=plan.plan_token)
        [below] = await sub_runs(core, run)
        assert [(one.node, one.call) for one in done.undone] == [
            ("s", f"{below.id}/pay/{one}") for one in ("pay", "last")
        ]
        assert (shop.undone, below.status) == (["last", "pay"], "cancelled")


async def test_a_run_that_goes_back_by_itself_stops_its_sub_runs_first(tmp_path: Path) -> None:
    shop = Shop((FailureRule("rollback", to="node:a"),))
    async with opened(tmp_path, *shop.flows, functions=shop.functions, executing=True) as (core, _):
        run = (await core.run_workflow(ME, "top")).id
        with anyio.fail_after(20):
            assert (await core.wait(ME, run, 20)).status == "completed"
        assert [one.status for one in await sub_runs(core, run)] == ["completed", "cancelled"]
        assert shop.undone == ["last", "pay"]


async def test_a_sub_run_that_was_stopped_goes_on_where_a_person_has_to_be_asked(tmp_path: Path) -> None:
    shop = Shop((FailureRule("rollback", to="node:a"),), compensate="breaks")

    async def breaks(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        raise ValueError("it does not want to be undone")

    functions = {**shop.functions, "breaks": breaks}
    async with opened(tmp_path, *shop.flows, functions=functions, executing=True) as (core, _):
        run = (await core.run_workflow(ME, "top")).id
        with anyio.fail_after(20):
            await core.wait(ME, run, 20)
            [asked] = await core.list_approvals(ME, run_id=run)
            assert shop.stopped.is_set() and "could not be undone" in asked.question
            await core.decide(ME, asked.id, "retry", assurance="out_of_band")
            assert (await core.wait(ME, run, 20)).status == "completed"
        assert [one.status for one in await sub_runs(core, run)] == ["completed"]


async def test_a_sub_run_goes_on_when_who_stopped_it_died_and_the_next_one_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop((FailureRule("rollback", to="node:a"),))

    async def dies(
        ground: Ground, recorded: Recorded, deed: Deed, run_id: RunId, actor: Principal, fence: Fence, owed: Seq | None
    ) -> bool:
        """In the middle of a compensation."""
        await ground.store.write(Write(run_id, [c.NoteCompensation(deed.id, "started")], actor, fence))
        assert ground.engine is not None
        await ground.store.retire(ground.engine.worker)
        raise OmiumError("fenced", "dead")

    monkeypatch.setattr(compensating, "_undo", dies)
    async with opened(tmp_path, *shop.flows, functions=shop.functions, executing=True) as (core, _):
        run = (await core.run_workflow(ME, "top")).id
        with anyio.fail_after(20):
            await core.wait(ME, run, 20)
            [asked] = await core.list_approvals(ME, run_id=run)
            assert "nothing undoes" in asked.question
            await core.decide(ME, asked.id, "retry", assurance="out_of_band")
            assert (await core.wait(ME, run, 20)).status == "completed"
        assert [one.status for one in await sub_runs(core, run)] == ["completed"]


async def test_a_sub_run_goes_on_when_somebody_has_its_parent_go_another_way_meanwhile(tmp_path: Path) -> None:
    shop = Shop((FailureRule("rollback", to="node:a"),))
    undoing, on = anyio.Event(), anyio.Event()

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        undoing.set()
        await on.wait()

    functions = {**shop.functions, "undo": undo}
    async with opened(tmp_path, *shop.flows, functions=functions, executing=True) as (core, _):
        run = (await core.run_workflow(ME, "top")).id
        with anyio.fail_after(20):
            await undoing.wait()
            assert [one.reason for one in await sub_runs(core, run)] == [HELD]
            await core.play_from_node(ME, run, "beside")
            on.set()
            assert (await core.wait(ME, run, 20)).status == "completed"
        assert [one.status for one in await sub_runs(core, run)] == ["completed"]


@pytest.mark.parametrize("by_itself", [False, True])
async def test_a_worker_that_stops_begins_no_more_undoing_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_itself: bool
) -> None:
    rules = (FailureRule("rollback", to="node:a"),) if by_itself else ()
    pays = NodeDef("b", "function", use="pays", needs=(Need("a"),), compensate="undo")
    flow, world = WorkflowDef("w", (node("a"), pays), on_failure=rules), World()
    begun, on = anyio.Event(), anyio.Event()

    async def pay(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        async def action() -> Any:
            return "paid"

        if not on.is_set():
            for n in range(3):
                await attempt.effect(f"pay{n}", action, kind="command", on_unknown="ask")
            raise ConnectionError("refused")

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        begun.set()
        await on.wait()
        await world.undo(inputs, attempt)

    async def ends_late(core: HistoryCore) -> None:
        while not (core.engine and core.engine.is_stopping):
            await anyio.sleep(0.01)
        on.set()

    functions = {"undo": undo, "pays": pay}
    async with opened(tmp_path, flow, functions=functions) as (core, _):
        hand = await by_hand(core, flow)
        run = hand.run_id
        if by_itself:
            await hand.let_go()
            await core.store.wake([run], core.clock.now_us())
        else:
            first = await hand.run("a")
            await hand.start("b")
            for n in range(3):
                await hand.effect("b", f"pay{n}", compensate="undo")
            await crashed_rollback(core, hand, first, monkeypatch)
            await core.store.retire(WorkerId("hand"))
    async with (
        anyio.create_task_group() as tasks,
        opened(tmp_path, flow, functions=functions, executing=True) as (core, _),
    ):
        with anyio.fail_after(20):
            await begun.wait()
        tasks.start_soon(ends_late, core)
    async with opened(tmp_path, flow) as (core, _):
        state = await core.store.state(run)
        assert (world.undone, state.undoing is None, bool(state.setbacks)) == (["pay2"], by_itself, by_itself)
    async with opened(tmp_path, flow, functions=functions, executing=True) as (core, _):
        if by_itself:
            assert (await core.wait(ME, run, 20)).status == "completed"
            assert await core.list_approvals(ME, run_id=run) == []
        await settled(core, run)
        assert world.undone == ["pay2", "pay1", "pay0"]


async def with_sub_run(core: HistoryCore, shop: Shop, outcome: str | None = "done") -> tuple[Hand, Hand, int]:
    """A run whose sub-run, which another worker owns, has paid, or is just paying; and the position before that."""
    flow, top = shop.flows
    hand = await by_hand(core, top)
    first = await hand.run("a")
    await hand.start("s")
    child = RunId(new_id("run"))
    await hand.do(c.WaitNode(NodeId("s"), 0, child=child))
    document, given = encode(to_document(flow)), encode({})
    caller = {"run": hand.run_id, "node": "s", "generation": 0, "depth": 1}
    create = c.CreateRun(document.digest, flow.name, given.digest, ME.project, caller=caller)
    blobs, started = [NewBlob(document), NewBlob(given)], [create, c.PlanRun(), c.StartRun()]
    write = Write(child, started, Principal("engine"), blobs=blobs, claim=WorkerId("another"))
    fence = (await core.store.write(write)).fence
    assert fence is not None
    below = Hand(core, child, fence)
    await below.start("pay")
    await below.effect("pay", "pay", compensate="undo", outcome=outcome)
    return hand, below, first


@pytest.mark.parametrize("known", [True, False])
async def test_what_a_sub_run_did_that_cannot_be_had_yet_is_undone_later(tmp_path: Path, known: bool) -> None:
    shop = Shop()
    shop.stopped.set()
    shop.paid.set()  # the second one comes to its end
    async with opened(tmp_path, *shop.flows, functions=shop.functions) as (core, _):
        hand, below, first = await with_sub_run(core, shop)
        if not known:
            call = await below.effect("pay", "last", compensate="undo", outcome=None)
        await hand.let_go()
        core._ground._claim_wait_s = 0.0
        plan = await core.preview_rollback(ME, hand.run_id, first)
        done = await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        (told,) = await core.rollbacks(ME, hand.run_id)
        assert (shop.undone, done.undone, told.outcome) == ([], [], "unfinished")
        assert any("not finished" in note for note in done.notes)
        await core.resume(ME, hand.run_id)
    async with opened(tmp_path, *shop.flows, functions=shop.functions, executing=True) as (core, _):
        core._ground._claim_wait_s = 0.0
        assert core.engine is not None
        with anyio.fail_after(20):
            while core.engine.busy or (await core.store.next_wake([ME.project]) or 0) < core.clock.now_us() + 1e6:
                await anyio.sleep(0.01)  # until it has been tried, and given up for a moment
            await core.pause(ME, hand.run_id)
            await core.resume(ME, hand.run_id)
            below.core = core
            if not known:
                stored = encode("made")
                settle = c.SettleEffect(EffectId(call), "done", stored.digest, stored.size)
                await below.do(settle, blobs=[NewBlob(stored)])
            await core.store.retire(WorkerId("another"))
            assert (await core.wait(ME, hand.run_id, 20)).status == "completed"
        kinds = [one.type for one in await events(core, hand.run_id)]
        again = len(kinds) - 1 - kinds[::-1].index(E.NODE_STARTED)
        assert kinds.index(E.RUN_ROLLED_BACK) < kinds.index(E.RUN_UNDONE) < again
        assert kinds[kinds.index(E.RUN_ROLLED_BACK) : kinds.index(E.RUN_UNDONE)].count(E.NODE_STARTED) == 0
        assert shop.undone == (["pay"] if known else ["last", "pay"])
        (told,) = await core.rollbacks(ME, hand.run_id)
        assert told.outcome == "done"


async def test_a_call_that_a_sub_run_ends_after_the_run_above_it_has_failed_is_undone_too(tmp_path: Path) -> None:
    shop = Shop()
    shop.stopped.set()
    async with opened(tmp_path, *shop.flows, functions=shop.functions) as (core, _):
        hand, below, first = await with_sub_run(core, shop, outcome=None)
        await hand.do(c.FailRun({"message": "too late"}))
        await hand.let_go()
        await core.store.write(Write(below.run_id, [c.CancelRun("too late")], Principal("engine")))
        core._ground._claim_wait_s = 0.0
        plan = await core.preview_rollback(ME, hand.run_id, first)
        done = await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        assert (shop.undone, any("not finished" in note for note in done.notes)) == ([], True)
        stored = encode("made")
        settle = c.SettleEffect(effect_id(below.run_id, "pay", 0, "pay"), "done", stored.digest, stored.size)
        await below.do(settle, blobs=[NewBlob(stored)])
        await core.store.retire(WorkerId("another"))
    async with opened(tmp_path, *shop.flows, functions=shop.functions, executing=True) as (core, _):
        await settled(core, hand.run_id)
        assert shop.undone == ["pay"]


async def test_a_sub_run_that_is_lost_to_another_worker_is_not_taken_for_the_loss_of_the_run_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop()
    shop.stopped.set()
    async with opened(tmp_path, *shop.flows, functions=shop.functions) as (core, _):
        hand, below, first = await with_sub_run(core, shop)
        await below.end("pay")
        await below.complete()
        await below.let_go()
        await crashed_rollback(core, hand, first, monkeypatch)
        looked = core.store.events_among

        async def losing(run_ids: Any, *args: Any) -> Any:
            """As it does to one that was taken for dead: who holds the sub-run does not any more."""
            if list(run_ids) == [below.run_id]:
                assert core.engine is not None
                for one in await core.store.claimed_by(core.engine.worker):
                    row = await core.store.run(one.run_id)
                    assert row is not None and await core.store.release(one.run_id, one.fence, row.seq, None)
            return await looked(run_ids, *args)

        with monkeypatch.context() as patch:
            patch.setattr(core.store, "events_among", losing)
            await core.finish_undoing(hand.run_id, hand.fence)
        assert (shop.undone, (await hand.state()).undoing is None) == ([], False)
        await core.finish_undoing(hand.run_id, hand.fence)
        assert (shop.undone, (await hand.state()).undoing) == (["pay"], None)


async def test_nothing_more_of_a_sub_run_is_undone_once_its_result_stands_again(tmp_path: Path) -> None:
    shop, world = Shop(), Slow()
    async with opened(tmp_path, *shop.flows, functions={**shop.functions, "undo": world.undo}) as (core, _):
        hand, below, first = await with_sub_run(core, shop)
        await below.effect("pay", "last", compensate="undo")
        await below.end("pay")
        await below.complete()
        await below.let_go()
        last = await hand.end("s")
        await hand.let_go()
        told = await forward_while_undoing(core, hand.run_id, world, first, last)
        assert (world.undone, (await hand.state()).owed) == (["last"], [])
        assert ["were undone" in note and "/last)" in note for note in told[last].notes] == [True]
        assert ["taken elsewhere" in note for note in told[first].notes] == [True]


async def test_a_run_that_goes_back_by_itself_undoes_a_call_that_its_sub_run_ends_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop((FailureRule("rollback", to="node:a"),))
    tried, end = anyio.Event(), anyio.Event()

    async def pay(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        async def slow() -> Any:
            shop.paid.set()
            with anyio.CancelScope(shield=True):
                await end.wait()
            shop.stopped.set()

        await attempt.effect("slow", slow, kind="command", on_unknown="rerun")

    tries = rollback.settled_behind

    async def trying(*args: Any) -> Any:
        found = await tries(*args)
        tried.set()
        return found

    monkeypatch.setattr(rollback, "settled_behind", trying)
    monkeypatch.setattr(execution, "_UNDO_AGAIN_US", 10_000)
    async with opened(tmp_path, *shop.flows, functions={**shop.functions, "pay": pay}, executing=True) as (core, _):
        core._ground._claim_wait_s = 0.0
        run = (await core.run_workflow(ME, "top")).id
        with anyio.fail_after(20):
            await tried.wait()
            assert (shop.undone, (await core.store.state(run)).undoing is None) == ([], False)
            end.set()
            assert (await core.wait(ME, run, 20)).status == "completed"
        assert shop.undone == ["slow"]


@pytest.mark.parametrize("below_is", ["held", "paused by a person"])
async def test_what_is_held_below_a_sub_run_goes_on_too(tmp_path: Path, below_is: str) -> None:
    """Whoever held them has died, and the parent is not to be taken back."""
    flows = (
        WorkflowDef("lowest", (node("x"),)),
        WorkflowDef("below", (NodeDef("t", "workflow", use="lowest"),)),
        WorkflowDef("top", (NodeDef("s", "workflow", use="below"),)),
    )
    going, again = anyio.Event(), anyio.Event()

    async def slow(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        if going.is_set():
            again.set()
            return
        going.set()
        await anyio.sleep_forever()

    async with opened(tmp_path, *flows, functions={"f": slow}, executing=True) as (core, _):
        top = (await core.run_workflow(ME, "top")).id
        with anyio.fail_after(20):
            await going.wait()
            [below] = await sub_runs(core, top)
            [lowest] = await sub_runs(core, below.id)
            for one, why in ((lowest, HELD), (below, HELD if below_is == "held" else "wait")):
                await core.store.write(Write(one.id, [c.PauseRun(why, True)], Principal("engine")))
            await core.pause(ME, top)
            await core.resume(ME, top)
            await again.wait()
            if below_is == "held":
                assert (await core.wait(ME, top, 20)).status == "completed"
            else:
                assert [one.reason for one in await sub_runs(core, top)] == ["wait"]


async def test_who_no_longer_owns_a_run_undoes_nothing_in_its_sub_runs(tmp_path: Path) -> None:
    shop = Shop()
    shop.stopped.set()
    async with opened(tmp_path, *shop.flows, functions=shop.functions) as (core, _):
        hand, below = await by_hand(core, shop.flows[1]), await by_hand(core, shop.flows[0])
        await below.start("pay")
        call = await below.effect("pay", "pay", compensate="undo")
        await below.end("pay")
        await below.complete()
        await below.let_go()
        deed = Deed(
            EffectId(call), NodeId("s"), 0, "pay", "tool", "ask", "done", compensate="undo",
            below=(below.run_id, NodeId("pay"), "pay"),
        )  # fmt: skip
        recorded = await core._ground.recorded(await hand.state())
        await core.store.retire(WorkerId("hand"))
        now = await core.store.take(WorkerId("another"), hand.run_id)
        assert now is not None
        with pytest.raises(OmiumError) as refused:
            await undo(core._ground, recorded, [deed], ME.principal, hand.fence)
        assert (refused.value.code, shop.undone) == ("fenced", [])
        again = replace(deed)
        await undo(core._ground, recorded, [deed], ME.principal, now)
        await undo(core._ground, recorded, [again], ME.principal, now)  # listed before the first was through
        assert (shop.undone, deed.compensated, again.compensated) == (["pay"], "done", "done")
