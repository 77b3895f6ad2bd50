"""That the benchmark's own measures do the work that they say, and that its table is put together rightly.

Nothing here looks at how long anything took.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench.figures import Figure
from tests.bench.ours import across, calls, clients, history, measure, policies, runs, tools, waiting
from tests.bench.ours.__main__ import MEASURES
from tests.bench.ours.work import Work, as_json, from_json
from tests.bench.peers.workload import MEASURES as THEIRS
from tests.bench.plan import PLAN, Line, Measure, Room

ROOT = Path(__file__).parents[2]


def test_the_sizes_of_a_work_reach_its_process() -> None:
    work = Work("rollback", "postgres", Path("/x"), "postgresql://h/d", steps=5, files=7, file_kb=9)
    assert from_json(as_json(work)) == work


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("make", "work", "names"),
    [
        (runs.chain, {"steps": 5}, {"chain"}),
        (runs.runs, {"runs": 4, "nodes": 3}, {"runs"}),
        (runs.fanout, {"branches": 6}, {"fanout", "us_per_branch"}),
        (runs.storage, {"steps": 5, "state_kb": 100}, {"storage"}),
        (
            history.branch,
            {"steps": 6, "times": 2},
            {"branch_ms", "branch_by_node_ms", "branch_kb", "branch_wal_kb"},
        ),
        (history.checkpoint, {"times": 3, "state_kb": 300}, {"save_ms", "label_ms"}),
        (history.rollback, {"steps": 14, "files": 20, "file_kb": 1}, {"rollback", "workspace_setup"}),
        (waiting.waiting, {"runs": 3}, {"waiting_mb", "idle_cpu_ms", "list_ms", "start_ms"}),
        (across.events, {"steps": 4}, {"event_ms", "event_local_ms"}),
        (across.approval, {"times": 1}, {"approval_ms"}),
        (across.cancelling, {"times": 1}, {"cancel_ms"}),
        (calls.calls, {"times": 3}, {"call_overhead_ms", "call_core_ms"}),
        (clients.http_clients, {"runs": 4}, {"http_call_ms", "http_calls"}),
        (policies.policies, {"times": 5}, {"policy_us", "policy_cel_us", "policy_1000_p95_us"}),
        (tools.tools, {"times": 5}, {"tool_call_ms", "tool_held_ms", "tool_policy", "tool_overhead", "tool_node_ms"}),
    ],
)
async def test_a_measure_does_its_work_and_gives_its_figures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Work], Awaitable[list[Figure]]],
    work: dict[str, int],
    names: set[str],
) -> None:
    monkeypatch.setattr(waiting, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(waiting, "SETTLE_SECONDS", 0.0)
    figures = await make(Work("any", "sqlite", tmp_path, None, **work))  # type: ignore[arg-type]
    assert {figure.measure for figure in figures} == names
    assert all(figure.value >= 0 for figure in figures)


def test_a_measure_on_postgresql_in_a_process_of_its_own(postgres_url: str, tmp_path: Path) -> None:
    figures = measure("chain", store="postgres", url=postgres_url, directory=tmp_path, steps=3)
    assert figures["chain"].detail["count"] == 3
    assert not any(tmp_path.iterdir())


def test_a_kill_in_the_middle_is_survived(tmp_path: Path) -> None:
    figure = measure("kill", directory=tmp_path, steps=20)["kill"]
    assert figure.unit == "s" and 10 <= figure.detail["killed_at"] < 20
    assert figure.detail["repeated_steps"] <= 1


def test_a_measure_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="chain failed with 1"):
        measure("chain", store="postgres", url="postgresql://127.0.0.1:1/nowhere", directory=tmp_path)


def test_the_plan_is_whole() -> None:
    names = [line.name for made in PLAN for line in made.lines]
    assert len(names) == len(set(names))
    without = set() if shutil.which("chromium") else {"screens"}  # which needs a browser
    assert {made.work for made in PLAN} == set(MEASURES) - without
    assert {made.peer for made in PLAN} - {None} == set(THEIRS)
    with_targets = [line for made in PLAN for line in made.lines if line.target]
    assert len(with_targets) >= 14
    assert all(line.below or line.of_floor or line.most_of_floor or line.of_peers for line in with_targets)
    # A rate is to come close to its floor, a time to stay near it: the other way round, worse would be better.
    assert all(line.unit.endswith("/s") for line in with_targets if line.of_floor)
    assert not any(line.unit.endswith("/s") for line in with_targets if line.most_of_floor)


LINE = Line("a", "nodes/s", "chain", "both", of_floor=0.5, of_peers=3, peer="value")
TIMES = Line("t", "s", "checkout", "at most 1.3 times the floor", most_of_floor=1.3)
BELOW = Line("b", "ms", "branch_ms", "under 5", below=5, peer="stored_kb")


@pytest.mark.parametrize(
    ("line", "value", "ratio", "peers", "full", "holds"),
    [
        (LINE, 30.0, 0.6, {"langgraph": 10.0, "dbos": 9.0}, True, True),
        (LINE, 29.0, 0.6, {"langgraph": 10.0, "dbos": 9.0}, True, False),
        (LINE, 30.0, 0.4, {"langgraph": 10.0, "dbos": 9.0}, True, False),
        (LINE, 30.0, 0.6, {"langgraph": 10.0}, True, None),
        (LINE, 30.0, 0.6, {}, True, None),
        (LINE, 30.0, 0.4, {}, True, False),
        (LINE, 30.0, 0.4, {"langgraph": 10.0, "dbos": 9.0}, False, None),
        (TIMES, 4.0, 1.2, {}, True, True),
        (TIMES, 4.0, 1.31, {}, True, False),
        (TIMES, 4.0, None, {}, True, None),
        (BELOW, 4.9, None, {}, True, True),
        (BELOW, 5.0, None, {}, True, False),
        (BELOW, 1.0, None, {}, False, None),
        (Line("c", "KB", "x"), 1.0, None, {}, True, None),
    ],
)
def test_a_target_holds_is_missed_or_cannot_be_told(
    line: Line, value: float, ratio: float | None, peers: dict[str, float], full: bool, holds: bool | None
) -> None:
    assert bench._holds(line, value, ratio, peers, full=full) is holds


def test_rows_are_medians_of_rounds_that_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    ours = iter([100.0, 300.0, 200.0])
    floors = iter([1000.0, 400.0, 500.0, 400.0])

    def floor(room: Room, sizes: dict[str, int]) -> float:
        order.append(f"floor {sizes['steps']}")
        return next(floors)

    def made(work: str, **_: object) -> dict[str, Figure]:
        order.append("ours")
        return {"chain": Figure("chain", next(ours), "nodes/s")}

    def peer(name: str, *_: object, **__: object) -> dict[str, object]:
        order.append(name)
        return {"measure": "chain", "value": 20.0, "unit": "nodes/s", "detail": {"stored_kb": 3.0}}

    monkeypatch.setattr(bench.ours, "measure", made)
    monkeypatch.setattr(bench.peers, "measure", peer)
    line = Line("chain_sqlite", "nodes/s", "chain", "3x", of_floor=0.4, of_peers=3, floor=floor, peer="value")
    kilobytes = Line("kb", "KB", lambda of: of["chain"] / 100, peer="stored_kb")
    plan = Measure("chain", (line, kilobytes), {"steps": 9}, rounds=3, peer="chain")
    rows = bench.make(plan, plan.lines, Room(tmp_path, None), quick=False, with_peers=True)
    turn = ["floor 9", "ours"]
    assert order == [*turn, "langgraph", "dbos", *turn, *turn, "floor 9"]
    assert (rows[0].ours, rows[0].floor, rows[0].ratio, rows[0].holds) == (200.0, 450.0, 0.444, True)
    assert (rows[1].ours, rows[1].floor, rows[1].peers) == (2.0, None, {"langgraph": 3.0, "dbos": 3.0})


def test_a_measure_that_fails_is_a_row_without_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(work: str, **_: object) -> dict[str, Figure]:
        raise RuntimeError("no room")

    monkeypatch.setattr(bench.ours, "measure", failing)
    plan = Measure("chain", (LINE,), {"steps": 1})
    (row,) = bench.make(plan, plan.lines, Room(tmp_path, None), quick=False, with_peers=False)
    assert (row.ours, row.ratio, row.holds) == (None, None, None)
    assert "no room" in capsys.readouterr().err


def test_the_command_prints_the_rows_that_were_asked_for(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    command = [sys.executable, "-m", "tests.bench", "--quick", "--json", "--only", "help_s", "--write", str(page)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (row,) = json.loads(result.stdout)
    assert (row["measure"], row["unit"]) == ("help_s", "s") and row["ours"] > 0 and row["floor"] > 0
    assert "--quick --only help_s" in page.read_text() and "| help_s | s |" in page.read_text()


def test_a_row_that_there_is_not_is_refused() -> None:
    command = [sys.executable, "-m", "tests.bench", "--only", "help_s,speed"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "no row speed; there are: approval_wake_p95" in result.stderr
