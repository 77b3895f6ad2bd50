"""How far a budget is used up is told in the run that brings it there: at each share once, whoever sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.ids import ProjectId, RunId
from omium.orchestration.log.events import EventType
from omium.orchestration.ports_gates import Amounts
from tests.integration.engine.test_engine_calls import FLOW, spend, start
from tests.integration.engine.worlds import ME, World, world

pytestmark = pytest.mark.anyio


async def reached(w: World, run: RunId) -> list[tuple[str, int, float, float]]:
    told = [event.data for event in await w.events(run) if event.type is EventType.BUDGET_REACHED]
    return [(one["budget"], one["percent"], one["spent"], one["limit"]) for one in told]


async def test_each_share_of_a_budget_is_told_once_by_whatever_process(tmp_path: Path) -> None:
    rules = [BudgetRule("all", tokens=100), BudgetRule("each", scope="run", calls=10), BudgetRule("counted", usd=None)]
    async with world(tmp_path, FLOW, functions={"work": spend}, budgets=rules) as w:

        async def one(amount: str, status: str = "completed") -> list[tuple[str, int, float, float]]:
            run = await start(w, "m", amount)
            await w.finished(run, status)
            return await reached(w, run)

        assert await one("40") == []
        assert await one("20") == [("all", 50, 60, 100)]
        assert await one("10") == []
        old = w.machine
        await w.start()  # another process, which remembers nothing
        await w.crash(old)
        assert await one("21") == [("all", 75, 91, 100), ("all", 90, 91, 100)]
        assert await one("20", "failed") == [("all", 100, 91, 100)]
        assert await one("20", "failed") == []
        await w.machine.store.raise_budget(ProjectId("default"), "all", Amounts(tokens=100), ME.principal)
        assert await one("109") == []  # each once, also after it was raised


async def test_budgets_of_runs_and_periods_are_told_each_for_itself(tmp_path: Path) -> None:
    rules = [BudgetRule("each", scope="run", tokens=10), BudgetRule("daily", period="day", usd=1)]
    async with world(tmp_path, FLOW, functions={"work": spend}, budgets=rules) as w:
        for _ in range(2):
            run = await start(w, "m", "6")
            await w.finished(run)
            assert await reached(w, run) == [(f"each:{run}", 50, 6, 10)]
        assert await w.machine.store.budgets(ProjectId("default"), ["nothing"]) == []
