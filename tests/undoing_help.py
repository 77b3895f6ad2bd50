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
from omium.orchestration.ports import Attempt
from tests.history_core import ME, Hand, HistoryCore
from tests.history_help import node

PAID = WorkflowDef("paid", (node("a"), node("b", "a", compensate="undo"), node("c", "b"), node("d", "b")))


class World:
    """What was undone, newest last."""

    def __init__(self) -> None:
        self.undone: list[str] = []

    async def undo(self, inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        self.undone.append(inputs["call"])


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
