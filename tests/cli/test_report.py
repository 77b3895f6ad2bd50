"""Reports: the same sums by whatever runs are grouped, equal to what was done, and the same in every form."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.service.figures import percentile
from omium.orchestration.service.figures_view import Figures
from omium.orchestration.service.hints import hints
from tests.cli.harness import Place

PRICE = "price: {input_per_million: 1000, output_per_million: 2000}"
AGENTS = f"""
agents:
- {{name: writer, model: {{provider: scripted, name: big, script: writer.json, {PRICE}}}}}
- {{name: checker, model: {{provider: scripted, name: small, script: checker.json, {PRICE}}}}}
- {{name: guesser, model: {{provider: scripted, name: mystery, script: checker.json}}}}
"""
WORKFLOW = """
name: write
inputs: {type: object, properties: {what: {type: string}}}
nodes:
- id: write
  kind: agent
  use: writer
  workspace: none
  with: {task: "${{ inputs.what }}"}
  retry: {max_attempts: 2, initial: 1ms}
- {id: check, kind: agent, use: checker, workspace: none, needs: write, with: {task: "${{ nodes.write.output }}"}}
"""
GUESS = """
name: guess
nodes:
- {id: guess, kind: agent, use: guesser, workspace: none, with: {task: guess}}
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two runs of `write` in one session, in each of which the first answer fails once; one of `guess`, whose model
    costs nothing; one that has failed; and one for which a person was asked."""
    from tests.cli.harness import place

    with place(tmp_path_factory.mktemp("report") / "project") as made:
        project = made.directory / "omium.yaml"
        project.write_text(project.read_text() + AGENTS)
        usage = {"input": 1_000, "output": 500}
        writer = [{"error": {"status": 429, "attempts": 1}}, {"text": "text", "usage": usage}]
        for name, turns in (
            ("writer", writer),
            ("checker", [{"text": "good", "usage": {"input": 2_000, "output": 0}}]),
        ):
            (made.directory / f"{name}.json").write_text(json.dumps({"turns": turns}))
        for name, text in (("write", WORKFLOW), ("guess", GUESS)):
            (made.directory / "workflows" / f"{name}.yaml").write_text(text)
        for code, arguments in (
            (0, ("run", "write", "--session", "=demo", "--input", "what=a")),
            (0, ("run", "write", "--session", "=demo", "--input", "what=b")),
            (0, ("run", "guess")),
            (1, ("run", "failing")),
            (3, ("run", "asking")),
        ):
            ended = made.omium(*arguments)
            assert ended.code == code, ended
        assert made.omium("approve", "last").code == 0
        assert made.settled()["status"] == "completed"
        made.end_workers()
        yield made


EACH = 1.0 + 1.0 + 2.0  # writer: 1000 * 0.001 + 500 * 0.002; checker: 2000 * 0.001


def test_by_workflow(used: Place) -> None:
    found = used.json("report")
    lines = {one["key"]: one for one in found["groups"]}
    assert next(iter(lines)) == "write"  # the most expensive first
    write = lines["write"]
    assert (write["runs"], write["completed"], write["success"], write["retries"]) == (2, 2, 1.0, 2)
    assert (write["calls"], write["tokens"], write["cost_usd"]) == (4, 7_000, 2 * EACH)
    assert 0 < write["p50_ms"] <= write["p95_ms"]
    assert (lines["failing"]["failed"], lines["failing"]["success"]) == (1, 0.0)
    asking = lines["asking"]
    assert (asking["questions"], asking["completed"]) == (1, 1) and asking["wait_p50_ms"] > 0
    assert (lines["guess"]["cost_usd"], lines["guess"]["tokens"]) == (0.0, 2_000)
    assert found["whole"] is True and found["total"]["runs"] == 5


def test_by_session_agent_and_model(used: Place) -> None:
    sessions = {one["key"]: one for one in used.json("report", "--by", "session")["groups"]}
    assert {key: (one["runs"], one["cost_usd"]) for key, one in sessions.items()} == {
        "=demo": (2, 2 * EACH),
        "(none)": (3, 0),
    }
    agents = {one["key"]: one for one in used.json("report", "--by", "agent")["groups"]}
    assert {key: (one["runs"], one["calls"], one["cost_usd"]) for key, one in agents.items() if key != "(none)"} == {
        "writer": (2, 2, 4.0),
        "checker": (2, 2, 4.0),
        "guesser": (1, 1, 0.0),
    }
    assert agents["(none)"]["runs"] == 2
    models = {one["key"]: one for one in used.json("report", "--by", "model")["groups"]}
    assert (models["small"]["cost_usd"], models["mystery"]["tokens"]) == (4.0, 2_000) and "big" in models


@pytest.mark.parametrize("by", ["workflow", "session", "owner", "day", "hour", "agent", "model"])
def test_sums_are_the_same_by_whatever(used: Place, by: str) -> None:
    found = used.json("report", "--by", by)
    for name in ("calls", "tokens", "cost_usd", "unpriced"):
        assert sum(one[name] for one in found["groups"]) == pytest.approx(found["total"][name]), name
    assert found["total"]["cost_usd"] == pytest.approx(sum(run["cost_usd"] for run in used.json("runs")["runs"]))


def test_csv_reads_back_and_starts_no_formula(used: Place, tmp_path: Path) -> None:
    file = tmp_path / "report.csv"
    done = used.call("report", "--by", "session", "--format", "csv", "--output", str(file))
    assert done.exit_code == 0 and done.stdout == ""
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert {row["session"] for row in rows} == {"'=demo", "(none)", "total"}
    total = used.json("report", "--by", "session")["total"]
    last = rows[-1]
    assert (float(last["cost_usd"]), int(last["tokens"]), int(last["runs"])) == (
        total["cost_usd"],
        total["tokens"],
        total["runs"],
    )
    assert used.call("report", "--format", "csv", "--output", str(file)).exit_code == 5


def test_html_is_whole_and_only_text(used: Place, tmp_path: Path) -> None:
    used.omium("run", "hello", "--input", "name=x", "--session", "<script>alert(1)</script>\u202e")
    told = used.call("report", "--by", "session", "--format", "html")
    assert told.exit_code == 0 and "<script" not in told.stdout and "\u202e" not in told.stdout
    assert "&lt;script&gt;" in told.stdout and "http" not in told.stdout and "$8.00" in told.stdout


def test_what_is_asked_wrongly_is_refused_and_nothing_is_said_of_nothing(used: Place, project: Place) -> None:
    assert used.call("report", "--since", "soon").exit_code == 2
    assert used.call("report", "--output", "x.txt").exit_code == 2
    assert project.call("report").stderr.endswith("there were no runs in this time.\n")
    assert used.json("report", "--workflow", "guess")["total"]["runs"] == 1
    assert used.json("report", "--since", "1ms")["groups"] == []


def figures(**changes: Any) -> Figures:
    plain = Figures("w", 20, 20, 0, 0, 0, 1.0, 1_000, 2_000, 0, 0, None, 0, 0, 0.0, 0)
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"completed": 15, "failed": 5, "success": 0.75}, "5 of 20 runs failed"),
        ({"completed": 1, "failed": 2, "success": 0.33, "runs": 3}, ""),  # too few to conclude anything
        ({"retries": 30}, "1.5 retries a run"),
        ({"questions": 9, "wait_p50_ms": 7_200_000}, "wait 2.0 h"),
        ({"p95_ms": 10_000}, "ten times as long"),
        ({"unpriced": 3}, "3 calls"),
    ],
)
def test_hints_follow_from_the_figures(changes: dict[str, Any], words: str) -> None:
    found = hints("workflow", [figures(**changes)])
    assert len(found) == (1 if words else 0) and words in "".join(found)


def test_percentiles_are_values_that_there_were() -> None:
    assert [percentile([1, 2, 3, 4], at) for at in (25, 50, 95, 100)] == [1, 2, 4, 4]
    assert percentile([], 50) is None and percentile([7], 5) == 7
