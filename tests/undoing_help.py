"""What the tests of undoing share: a run with a compensated call, and who looks at it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from omium.orchestration.definition import WorkflowDef
from omium.orchestration.history import rollback
from omium.orchestration.ids import RunId
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import Attempt
from omium.orchestration.service.views import HistoryResult
from tests.history_core import ME, Hand, HistoryCore
from tests.history_help import node

PAID = WorkflowDef("paid", (node("a"), node("b", "a", compensate="undo"), node("c", "b"), node("d", "b")))


class World:
    """What was undone, newest last."""

    def __init__(self) -> None:
        self.undone: list[str] = []

    async def undo(self, inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        self.undone.append(inputs["call"])


class Slow(World):
    """Of which each undoing waits until it may end."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.on = anyio.Event(), anyio.Event()

    async def undo(self, inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        await super().undo(inputs, attempt)
        self.began.set()
        await self.on.wait()


async def forward_while_undoing(
    core: HistoryCore, run_id: RunId, world: Slow, to: int, forward: int
) -> dict[int, HistoryResult]:
    """What a rollback says, and one to a later position that comes while the first effect is being undone."""
    told: dict[int, HistoryResult] = {}

    async def go(to: int) -> None:
        plan = await core.preview_rollback(ME, run_id, to)
        told[to] = await core.rollback(ME, run_id, to, plan_token=plan.plan_token)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(go, to)
            await world.began.wait()
            tasks.start_soon(go, forward)
            while sum(one.type is E.RUN_ROLLED_BACK for one in await events(core, run_id)) < 2:
                await anyio.sleep(0.01)
            world.on.set()
    return told


async def events(core: HistoryCore, run_id: RunId) -> list[Event]:
    return list(await core.store.events(run_id, limit=1000))


async def settled(core: HistoryCore, run_id: RunId) -> None:
    """Once nothing is left to be undone."""
    with anyio.fail_after(20):
        while (await core.store.state(run_id)).undoing is not None:
            await anyio.sleep(0.01)


async def crashed_rollback(core: HistoryCore, hand: Hand, to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose process dies once the log says that the run went back."""

    async def dies(*args: Any) -> Any:
        raise KeyboardInterrupt

    plan = await core.preview_rollback(ME, hand.run_id, to)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rollback, "land", dies)
        await core.rollback(ME, hand.run_id, to, plan_token=plan.plan_token)
