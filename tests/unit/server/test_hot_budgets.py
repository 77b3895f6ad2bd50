"""Budgets that are changed while a process lives."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from omium.orchestration.gates.budgets import BudgetRule
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config
from omium.server.declared.hot_budgets import HotBudgets

LATER_NS = 10**19  # every file was changed long ago


def write(file: Path, text: str, at: int) -> None:
    file.write_text(f"project: p\n{text}")
    os.utime(file, ns=(at * 10**9, at * 10**9))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "omium.yaml"
    write(made, "budgets: {all: {calls: 1}}\n", 1)
    return made


def test_a_change_of_the_file_holds_for_what_comes_next(file: Path) -> None:
    budgets = HotBudgets([BudgetRule("all", calls=1)], file, now_ns=lambda: LATER_NS)
    assert budgets() == (BudgetRule("all", calls=1),)
    write(file, "budgets: {all: {calls: 5}, day: {period: day, usd: 2}}\n", 2)
    assert budgets() == (BudgetRule("all", calls=5), BudgetRule("day", period="day", usd=2))
    write(file, "workflows: []\n", 3)
    assert budgets() == ()


def test_a_file_changed_within_the_grain_of_the_clock_is_read_all_the_same(file: Path) -> None:
    budgets = HotBudgets([BudgetRule("all", calls=1)], file, now_ns=lambda: 10**9 + 1)
    write(file, "budgets: {all: {calls: 2}}\n", 1)
    assert budgets() == (BudgetRule("all", calls=2),)


@pytest.mark.parametrize("broken", ["budgets: {all: {calls: -1}}\n", "budgets: [", "nonsense: 1\n"])
def test_a_broken_file_changes_nothing_and_is_said_once(
    file: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    budgets = HotBudgets([BudgetRule("all", calls=1)], file, now_ns=lambda: LATER_NS)
    write(file, broken, 2)
    with caplog.at_level(logging.ERROR):
        assert budgets() == budgets() == (BudgetRule("all", calls=1),)
        os.utime(file, ns=(3 * 10**9, 3 * 10**9))
        assert budgets() == (BudgetRule("all", calls=1),)
    assert [record.message.partition(":")[0] for record in caplog.records] == ["the budgets stay as they were"]
    write(file, "budgets: {all: {calls: 3}}\n", 4)
    assert budgets() == (BudgetRule("all", calls=3),)


def test_a_file_that_is_gone_changes_nothing(file: Path) -> None:
    budgets = HotBudgets([BudgetRule("all", calls=1)], file, now_ns=lambda: LATER_NS)
    file.unlink()
    assert budgets() == (BudgetRule("all", calls=1),)


@pytest.mark.anyio
async def test_the_engine_and_whoever_looks_see_the_present_ones(file: Path, tmp_path: Path) -> None:
    environ = {"OMIUM_HOME": str(tmp_path / "home"), "OMIUM_DATABASE": str(tmp_path / "omium.db")}
    config = load_config(file, environ)
    async with open_omium(config) as core:
        assert core.engine is not None
        write(file, "budgets: {all: {calls: 7}}\n", 2)
        assert core.engine.budgets() == (BudgetRule("all", calls=7),)
        (view,) = await core.budgets(local_caller(config))
        assert view.limits == {"calls": 7}
