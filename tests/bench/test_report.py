"""What the benchmark prints and writes, and that its floors and peers measure what they say."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.bench import floors, peers
from tests.bench.figures import Figure, gaps, payload, percentile, rate
from tests.bench.peers import environment, workload
from tests.bench.report import Row, machine, markdown, print_table, ratio, to_json

ROWS = [
    Row("chain", "nodes/s", 2100.4, 4391.0, ratio(2100.4, 4391.0), {"langgraph": 328.0, "dbos": 484.0}, "3x", True),
    Row("fork", "ms", 7.25, target="under 5 ms", holds=False),
    Row("approvals", "MB", None),
]


def test_the_ratio_is_ours_over_the_floor() -> None:
    assert ratio(50.0, 200.0) == 0.25
    assert ratio(None, 200.0) is None
    assert ratio(50.0, None) is None


def test_json_has_the_promised_keys() -> None:
    rows = json.loads(to_json(ROWS))
    assert [sorted(row) for row in rows] == [
        ["floor", "holds", "measure", "ours", "peers", "ratio", "target", "unit"] for _ in ROWS
    ]
    assert rows[0]["peers"] == {"langgraph": 328.0, "dbos": 484.0}
    assert rows[1]["holds"] is False


def test_the_table_shows_every_row_and_every_peer() -> None:
    output = io.StringIO()
    print_table(ROWS, output, note="two cores")
    text = output.getvalue()
    assert all(word in text for word in ("chain", "fork", "approvals", "langgraph", "dbos", "2,100", "0.478", "NO"))
    assert "two cores" in text


def test_the_page_names_its_command_machine_and_shortfalls(tmp_path: Path) -> None:
    page = markdown(ROWS, command="python -m tests.bench", machine=machine(tmp_path, postgres="18.4"), notes=["a note"])
    assert "python -m tests.bench" in page
    assert "PostgreSQL 18.4" in page
    assert "| chain | nodes/s | 2,100 | 4,391 | 0.478 | 328 | 484 | 3x | yes |" in page
    assert "- fork: 7.25 ms; the target is under 5 ms" in page
    assert "chain:" not in page.split("## Shortfalls")[1]


def test_a_page_without_shortfalls_says_so() -> None:
    assert "None in this run." in markdown(ROWS[:1], command="x", machine={})


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 95), percentile([3.0], 95)) == (50.0, 95.0, 3.0)
    assert percentile([], 50) is None
    assert gaps([1.0, 1.5, 3.5]) == [0.5, 2.0]


def test_a_rate_is_operations_per_second() -> None:
    figure = rate("chain", "steps/s", 10, 2.0, [0.1, 0.3], state_kb=1)
    assert figure == Figure("chain", 5.0, "steps/s", 100.0, 300.0, {"count": 10, "seconds": 2.0, "state_kb": 1})


def test_a_payload_has_its_size_and_does_not_repeat() -> None:
    assert len(payload(3).encode()) == 3 * 1024
    assert payload(1, seed=1) != payload(1, seed=2)


def test_the_floors_of_sqlite_commit_every_row(tmp_path: Path) -> None:
    figures = [
        floors.sqlite_chain(tmp_path, steps=5),
        floors.sqlite_chain(tmp_path, steps=5, state_kb=100, synchronous="NORMAL"),
        floors.sqlite_group_commit(tmp_path, runs=20, nodes=3),
    ]
    assert [figure.measure for figure in figures] == [
        "sqlite_chain_full_1kb",
        "sqlite_chain_normal_100kb",
        "sqlite_group_commit",
    ]
    assert all(figure.value > 0 for figure in figures)
    assert 3 <= figures[2].detail["batches"] < 60


def test_the_floors_of_postgresql_insert_every_row(postgres_url: str) -> None:
    assert floors.postgres_chain(postgres_url, steps=5).detail["count"] == 5
    assert floors.postgres_connections(postgres_url, runs=4, nodes=3, connections=2).detail["count"] == 4
    assert floors.postgres_group_commit(postgres_url, runs=20, nodes=3).detail["batches"] < 60


def test_the_peers_command_line_reads_back_as_the_same_work() -> None:
    work = workload.Work("chain", "postgres", Path("/x"), "postgresql://h/d", steps=7, state_kb=100, looped=True)
    assert workload.parse("peer", workload.arguments(work)) == (work, "measure")


def test_a_hundredth_of_the_state_changes_at_a_step() -> None:
    work = workload.Work("storage", "sqlite", Path("/x"), None, state_kb=100)
    state = workload.pieces(work)
    assert sum(map(len, state.values())) == 100 * 1024
    name, text = workload.change(work, 41)
    assert len(text) == 1024
    assert state[name] != text


def test_peers_that_cannot_be_installed_are_reported_with_what_to_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no directory can be made below a file
    reason = peers.unavailable()
    assert reason is not None
    assert "-m pip install" in reason
    with pytest.raises(RuntimeError, match="could not be installed"):
        peers.measure("langgraph", "chain")


def test_the_environment_of_the_peers_changes_with_its_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environment.location()
    monkeypatch.setattr(environment, "REQUIREMENTS", ("langgraph==0.1",))
    assert environment.location() != before
