"""Rollbacks in any order, which die anywhere: whatever lies behind one of them in the end is undone, once."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.definition import WorkflowDef
from omium.orchestration.history import compensating
from omium.orchestration.ids import EffectId, NodeId, WorkerId
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from tests.history_core import ME, Hand, HistoryCore, by_hand, opened
from tests.history_help import node
from tests.integration.history.test_history_undoing import World, crashed_rollback, events

pytestmark = pytest.mark.anyio

CHAIN = WorkflowDef("chain", (node("a"), node("b", "a"), node("c", "b")))


class Fate:
    """Works, goes back and dies as the dice fall."""

    def __init__(self, core: HistoryCore, hand: Hand, draw: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.core, self.hand, self.draw, self.monkeypatch = core, hand, draw, monkeypatch
        self.unsettled: list[EffectId] = []
        self.calls = 0

    async def maybe_dying(self, what: Any, *args: Any, **more: Any) -> None:
        """Do it, or die before one of the compensations that it makes."""
        really = compensating._undo

        async def undo(*args: Any) -> bool:
            if self.draw.random() < 0.4:
                raise KeyboardInterrupt
            return await really(*args)

        with self.monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(compensating, "_undo", undo)
            await what(*args, **more)

    async def settle(self) -> None:
        """As an owner that has stopped what was in flight."""
        for one in self.unsettled:
            await self.hand.do(c.SettleEffect(one, "done"))
        self.unsettled.clear()

    async def work(self) -> None:
        """Make a call, and end the node or not. Nothing starts before everything is undone."""
        await self.settle()
        await self.maybe_dying(self.core.finish_undoing, self.hand.run_id, self.hand.fence)
        state = await self.hand.state()
        left = [one for one in "abc" if state.node(NodeId(one)).ended_at is None]
        if state.owed or not left:
            return
        if state.status == "paused":
            await self.core.resume(ME, self.hand.run_id)
        if not state.node(NodeId(left[0])).in_flight:
            await self.hand.start(left[0])
        self.calls += 1
        outcome = self.draw.choice(["done", "done", None])
        identity = await self.hand.effect(left[0], f"call {self.calls}", compensate="undo", outcome=outcome)
        if outcome is None:
            self.unsettled.append(EffectId(identity))
        elif self.draw.random() < 0.6:
            await self.hand.end(left[0])

    async def back(self, start: int) -> None:
        run_id, to = self.hand.run_id, self.draw.randint(start, (await self.hand.state()).seq)
        if self.draw.random() < 0.5:
            await crashed_rollback(self.core, self.hand, to, self.monkeypatch)
            return
        free = not self.unsettled and self.draw.random() < 0.6
        if free:
            await self.hand.let_go()
        plan = await self.core.preview_rollback(ME, run_id, to)
        await self.maybe_dying(self.core.rollback, ME, run_id, to, plan_token=plan.plan_token)
        if free:
            fence = await self.core.store.take(WorkerId("hand"), run_id)
            assert fence is not None
            self.hand.fence = fence


def behind(log: Sequence[Event]) -> set[str]:
    """The calls that count no more, by the log alone."""
    stands: dict[str, str] = {}
    ended: frozenset[str] = frozenset()
    at: dict[int, tuple[dict[str, str], frozenset[str]]] = {}
    calls = {one.data["effect"]: one.data["call"] for one in log if one.type is E.EFFECT_INTENDED}
    for event in log:
        if event.type is E.EFFECT_INTENDED:
            stands = {**stands, event.data["effect"]: event.data["node"]}
        elif event.type is E.NODE_COMPLETED:
            ended |= {event.data["node"]}
        elif event.type is E.RUN_ROLLED_BACK:
            stands, ended = at[event.data["to"]]
            stands = {one: node_id for one, node_id in stands.items() if node_id in ended}
        at[event.seq] = stands, ended
    return {call for one, call in calls.items() if one not in stands}


@pytest.mark.parametrize("seed", range(12))
async def test_each_call_behind_a_rollback_is_undone_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    world, draw = World(), random.Random(seed)
    async with opened(tmp_path, CHAIN, functions={"undo": world.undo}) as (core, _):
        core._ground._claim_wait_s = 0.0
        hand = await by_hand(core, CHAIN)
        start = (await hand.state()).seq
        fate = Fate(core, hand, draw, monkeypatch)
        for _ in range(30):
            await (fate.work() if draw.random() < 0.6 else fate.back(start))
        await fate.settle()
        await core.finish_undoing(hand.run_id, hand.fence)
        undone = Counter(world.undone)
        assert undone.keys() >= behind(await events(core, hand.run_id))
        assert set(undone.values()) == {1} and not (await hand.state()).owed
