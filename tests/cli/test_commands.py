"""Every command on a project that has been used: what it prints, in which form, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from omium.orchestration.service.views import (
    ApprovalView,
    BranchView,
    CheckpointPage,
    ComparisonView,
    EventView,
    HistoryResult,
    PlanView,
    ReplayView,
    RunPage,
    RunView,
    SimulationView,
    WorkflowView,
)
from omium.server.cli import cli
from tests.cli.harness import FUNCTIONS, HOSTILE, PROGRAM, Place
from tests.cli.shapes import misshapen


def call(place: Place, *arguments: str, given: str | None = None) -> Result:
    return place.call(*arguments, given=given)


def ok(place: Place, *arguments: str) -> Any:
    return place.json(*arguments)


def runs(place: Place) -> dict[str, dict[str, Any]]:
    """The oldest run of each workflow."""
    return {run["workflow"]: run for run in ok(place, "runs")["runs"]}


def draft(place: Place, *arguments: str) -> str:
    """A new run that nobody executes."""
    done = call(place, "run", "hello", "--input", "name=bo", "--detach", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def test_json_has_the_shape_of_the_views(used_project: Place) -> None:
    hello, asking = runs(used_project)["hello"]["id"], runs(used_project)["asking"]["id"]
    for arguments, kind in (
        (["runs"], RunPage),
        (["show", hello], RunView),
        (["show", asking], RunView),
        (["approvals"], list[ApprovalView]),
        (["workflows"], list[WorkflowView]),
        (["checkpoints", hello], CheckpointPage),
        (["compare", hello, asking], ComparisonView),
        (["branch-tree", hello], BranchView),
        (["replay", hello], ReplayView),
        (["rollback", hello, "node:greet", "--preview"], PlanView),
    ):
        assert misshapen(ok(used_project, *arguments), kind) == [], arguments
    lines = call(used_project, "events", hello, "--json").stdout.splitlines()
    assert call(used_project, "events", hello, "--after", "9" * 20).exit_code == 2
    assert [misshapen(json.loads(line), EventView) for line in lines] == [[]] * len(lines)
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(lines) + 1))


def test_the_shape_test_can_fail(used_project: Place) -> None:
    view = runs(used_project)["hello"]
    assert misshapen({**view, "created_at": 1}, RunView)
    assert misshapen({**view, "seq": "1"}, RunView)
    assert misshapen({**view, "more": 1}, RunView)
    assert misshapen({**view, "nodes": [{}]}, RunView)


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (0, "show {hello} --exit-status"),
        (0, "show {failing}"),
        (1, "show {failing} --exit-status"),
        (3, "show {asking} --exit-status"),
        (3, "show {asking} --wait 0.01 --exit-status"),
        (0, "show {hello} --node shout --output"),
        (0, "show last"),
        (0, "compare {hello} {hello} --exit-status"),
        (0, "compare {hello} {failing}"),
        (1, "compare {hello} {failing} --exit-status"),
        (1, "diff {hello} {failing} --exit-status"),
        (0, "replay {hello} --exit-status"),
        (0, "verify"),
        (0, "verify {hello}"),
        (0, "approvals --all"),
        (0, "runs --status failed --workflow failing --limit 1"),
        (2, "runs --status nonsense"),
        (2, "runs --limit 0"),
        (2, "runs --nonsense"),
        (2, "show"),
        (2, "run hello"),
        (2, "run hello --input name"),
        (2, "run hello --input nonsense=1 --input name=x"),
        (2, "run hello --input name=x --workspace nonsense"),
        (2, "approve {question} --choice nonsense"),
        (2, "rollback {hello} start --preview --yes"),
        (2, "events {hello} --after -1"),
        (4, "run nonsense"),
        (4, "simulate nonsense"),
        (4, "show nonsense"),
        (4, "show {hello} --node nonsense"),
        (4, "show {failing} --output"),
        (4, "show {failing} --node boom --output"),
        (4, "rollback {hello} no-such-label"),
        (4, "approve apr_00000000000000000000000000"),
        (4, "reject nonsense"),
        (4, "verify --anchor nonsense.json"),
        (4, "restore nonsense --database nonsense.db"),
        (5, "pause {hello}"),
        (5, "resume {failing}"),
        (5, "cancel {hello}"),
        (5, "signal {hello} go"),
    ],
)  # fmt: skip
def test_exit_codes(used_project: Place, code: int, arguments: str) -> None:
    known = {name: run["id"] for name, run in runs(used_project).items()}
    question = ok(used_project, "approvals")[0]["id"]
    done = call(used_project, *arguments.format(question=question, **known).split())
    assert done.exit_code == code, done.output
    assert ("error: " in done.stderr) == (code in (2, 4, 5))
    assert "Traceback" not in done.output


def test_a_run_is_found_by_part_of_its_id(used_project: Place) -> None:
    hello = runs(used_project)["hello"]["id"]
    for text in (hello, hello[-8:], hello[-8:].lower(), hello[-12:], "last"):
        assert call(used_project, "show", text).exit_code == 0, text
    assert call(used_project, "show", hello[:8]).exit_code == 4  # the time, which other runs share


def test_an_output_is_printed_alone(used_project: Place) -> None:
    hello = runs(used_project)["hello"]["id"]
    assert json.loads(call(used_project, "show", hello, "--output").stdout) == {"text": "HELLO ADA"}
    assert call(used_project, "show", hello, "--node", "shout", "--output").stdout == "HELLO ADA\n"
    assert call(used_project, "show", hello, "--node", "shout", "--output", "--json").stdout == '"HELLO ADA"\n'
    node = ok(used_project, "show", hello, "--node", "shout")
    assert (node["status"], node["value"]) == ("completed", "HELLO ADA")


def test_lists_in_a_pipe_are_tab_separated(used_project: Place) -> None:
    rows = [line.split("\t") for line in call(used_project, "runs").stdout.splitlines()]
    by_workflow = {row[2]: row for row in rows}  # the oldest of each
    assert {len(row) for row in rows} == {8}
    assert (by_workflow["hello"][1], by_workflow["hello"][7]) == ("completed", "first")
    assert by_workflow["hello"][0] == runs(used_project)["hello"]["id"]
    events = [line.split("\t") for line in call(used_project, "events", by_workflow["hello"][0]).stdout.splitlines()]
    assert {len(row) for row in events} == {6}
    assert (events[0][2], events[-1][2]) == ("run.created", "run.completed")


def test_a_page_says_how_to_get_the_next(used_project: Place) -> None:
    first = ok(used_project, "runs", "--limit", "1")
    second = ok(used_project, "runs", "--limit", "1", "--before", first["next"])
    assert first["runs"][0]["id"] == first["next"] > second["runs"][0]["id"]
    assert first["next"] in call(used_project, "runs", "--limit", "1").stderr


def test_hostile_text_is_shown_harmlessly(used_project: Place) -> None:
    done = call(used_project, "run", "hello", "--input", f"name={HOSTILE}", "--title", HOSTILE, "--detach")
    assert done.exit_code == 0, done.output
    run = done.stdout.strip()
    failing = runs(used_project)["failing"]["id"]
    commands = (["runs"], ["show", run], ["events", run], ["show", failing], ["events", failing])
    for arguments in (*commands, *([*one, "--json"] for one in commands)):
        shown = call(used_project, *arguments)
        assert shown.exit_code == 0
        assert shown.output.replace("\n", "").replace("\t", "").isprintable(), arguments
    assert call(used_project, "cancel", run).exit_code == 0
    assert ok(used_project, "show", run)["title"] == HOSTILE


def test_steering_a_run_that_nobody_executes(project: Place) -> None:
    run = draft(project)
    assert ok(project, "pause", run, "--reason", "wait")["status"] == "paused"
    assert call(project, "show", run, "--exit-status").exit_code == 3
    assert ok(project, "pause", run)["status"] == "paused"  # a repeat is answered with the state
    assert ok(project, "signal", run, "go", "--payload", '{"n": 1}')["id"] == run
    assert ok(project, "resume", run)["status"] == "executing"
    assert call(project, "cancel", run[-8:], "--reason", "enough").stdout == f"{run}\tcancelled\n"
    assert call(project, "cancel", run).stdout == f"{run}\tcancelled\n"
    assert call(project, "resume", run).exit_code == 5
    told = [json.loads(line) for line in call(project, "events", run, "--json").stdout.splitlines()]
    kinds = [event["type"] for event in told]
    assert kinds[-4:] == ["run.paused", "signal.received", "run.resumed", "run.cancelled"]
    assert told[-1]["data"]["reason"] == "enough"
    assert told[-1]["actor"].startswith("user:")


def test_without_a_background_worker_somebody_is_asked_for(project: Place) -> None:
    done = call(project, "run", "hello", "--input", "name=bo", "--detach")
    assert "omium worker" in done.stderr


def test_the_same_key_gives_the_same_run(project: Place) -> None:
    first = draft(project, "--idempotency-key", "k1")
    assert draft(project, "--idempotency-key", "k1") == first
    assert call(project, "run", "hello", "--input", "name=other", "--detach", "--idempotency-key", "k1").exit_code == 5


def test_inputs_come_from_a_file_from_standard_input_and_from_options(project: Place) -> None:
    (project.directory / "inputs.yaml").write_text("name: file\n")
    path = str(project.directory / "inputs.yaml")
    assert call(project, "run", "hello", "--inputs", path, "--detach").exit_code == 0
    assert call(project, "run", "hello", "--inputs", path, "--input", "name=x", "--detach").exit_code == 0
    assert call(project, "run", "hello", "--inputs", "-", "--detach", given="name: stdin\n").exit_code == 0
    assert call(project, "run", "hello", "--inputs", "-", "--detach", given="name: [1\n").exit_code == 2
    assert call(project, "run", "hello", "--inputs", "-", "--detach", given="- 1\n").exit_code == 2


def test_an_empty_project_says_what_to_do(project: Place) -> None:
    assert "omium run" in call(project, "runs").stderr
    assert call(project, "show", "last").exit_code == 4
    assert "nothing waits" in call(project, "approvals").stderr
    assert ok(project, "runs") == {"runs": [], "next": None, "hidden": False}
    assert ok(project, "approvals") == []


def test_a_first_run_that_is_refused_leaves_no_database(project: Place) -> None:
    for words, code in (
        (["nosuch"], 4),
        (["hello"], 2),
        (["hello", "-i", "name=x", "--workspace", "nosuch"], 2),
        (["hello", "-i", "name=x", "--deadline", "0"], 2),
        (["hello", "--inputs", "nosuch.yaml"], 4),
    ):
        for how in ("--detach", "--follow"):
            done = call(project, "run", *words, how)
            assert done.exit_code == code, (words, done.output)
    assert not (project.directory / "data").exists()
    assert call(project, "run", "hello", "--inputs", "-", "--detach", given="name: stdin\n").exit_code == 0


def test_what_looks_makes_no_database_and_says_that_there_is_none(project: Place) -> None:
    database = project.directory / "data" / "omium.db"
    told = f"there is no database at {database}"

    def look() -> None:
        for words in (["show", "last"], ["cancel", "last"], ["verify"], ["sweep"], ["upkeep"], ["health"]):
            done = call(project, *words)
            assert done.exit_code == 4 and told in done.stderr and "omium restore" in done.stderr, words
        for words in (["runs"], ["approvals"], ["runs", "--json"]):
            assert told in call(project, *words).stderr, words
        assert {one["name"] for one in ok(project, "workflows")} >= {"hello"}
        assert not database.exists()

    look()
    draft(project)
    assert database.exists()
    assert told not in call(project, "runs").stderr
    for path in database.parent.glob("omium.db*"):
        path.unlink()
    look()


def test_project_and_database_can_be_given(project: Place, tmp_path: Path) -> None:
    run = draft(project)
    other = {**project.environment, "OMIUM_PROJECT": ""}
    database = str(project.directory / "data" / "omium.db")
    found = CliRunner().invoke(cli, ["show", run, "--project", str(project.directory)], env=other)
    assert found.exit_code == 0, found.output
    elsewhere = str(tmp_path / "other.db")
    assert call(project, "show", run, "--database", elsewhere).exit_code == 4
    assert call(project, "show", run, "--database", f"sqlite:///{database}").exit_code == 0
    assert call(project, "show", run, "--project", str(tmp_path / "nowhere")).exit_code == 4


def test_validating_files_names_file_and_line(project: Place, tmp_path: Path) -> None:
    good = str(project.directory / "workflows" / "hello.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: bad\nnodes:\n- {id: a, kind: function, use: x, needs: [b]}\n- {id: a, kind: nonsense}\n")
    assert call(project, "workflow", "validate", good).exit_code == 0
    done = call(project, "workflow", "validate", good, str(bad))
    assert done.exit_code == 2
    assert f"{bad}:4: " in done.stderr
    told = json.loads(call(project, "workflow", "validate", good, str(bad), "--json").stdout)
    assert [one["valid"] for one in told] == [True, False]
    assert told[1]["problems"][0]["line"] in (3, 4)
    assert call(project, "workflow", "validate", str(tmp_path / "none.yaml")).exit_code == 4
    assert call(project, "workflow", "validate").exit_code == 2


def test_simulating_stores_nothing_and_says_the_same_twice(used_project: Place) -> None:
    before = len(ok(used_project, "runs")["runs"])
    first = ok(used_project, "simulate", "asking")
    assert misshapen(first, SimulationView) == []
    assert first == ok(used_project, "simulate", "asking")
    assert [one["node"] for one in first["order"]] == ["greet", "ok", "shout"]
    assert first["approvals"] == 1
    assert len(ok(used_project, "runs")["runs"]) == before


def test_checkpoints_rollback_branch_and_compare(used_project: Place) -> None:
    hello = runs(used_project)["hello"]["id"]
    made = call(used_project, "checkpoint", hello, "greeted", "--at", "node:greet", "--note", "halfway")
    assert made.exit_code == 0, made.output
    assert call(used_project, "checkpoint", hello, "greeted").exit_code == 5
    assert call(used_project, "checkpoint", hello, "never", "--requires", "false").exit_code == 1
    assert call(used_project, "compare", f"{hello[-8:]}@1", hello, "--exit-status").exit_code == 1
    branched = ok(used_project, "branch", hello, "before:greet", "--name", "bo", "--input", "name=bo", "--no-start")
    assert misshapen(branched, HistoryResult) == []
    assert (branched["run"]["status"], branched["run"]["parent_run"]) == ("draft", hello)
    assert ok(used_project, "abandon", branched["run"]["id"][-8:], "--reason", "no")["closed"] == "abandoned"
    assert call(used_project, "adopt", branched["run"]["id"]).exit_code == 5
    assert call(used_project, "adopt", hello).exit_code == 5
    tree = ok(used_project, "branch-tree", hello)
    assert [child["run"]["branch"] for child in tree["children"]] == ["bo"]
    assert "bo" in call(used_project, "branch-tree", hello).stdout
    plan = ok(used_project, "rollback", hello, "greeted", "--preview")
    assert plan["reruns"] == ["shout"]
    assert call(used_project, "rollback", hello, "start", "--plan", plan["plan_token"]).exit_code == 5
    plan = ok(used_project, "rollback", hello, "greeted", "--preview")
    result = ok(used_project, "rollback", hello, "greeted", "--plan", plan["plan_token"])
    assert (result["run"]["status"], result["reset"]) == ("paused", ["shout"])
    assert call(used_project, "rollback", hello, "greeted", "--plan", plan["plan_token"]).exit_code == 5
    page = ok(used_project, "checkpoints", hello)["checkpoints"]
    assert {one["label"] for one in page} >= {"greeted"}
    assert any(one["superseded"] for one in page)
    assert "superseded" in call(used_project, "checkpoints", hello).stdout


def test_backup_sweep_and_restore(used_project: Place, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    made = ok(used_project, "backup", str(target))
    assert (made["runs"] >= 3, made["damages"]) == (True, [])
    assert call(used_project, "backup", str(target)).exit_code == 5
    assert set(ok(used_project, "sweep")) == {"blobs", "orphans", "temporaries", "erasures"}
    elsewhere = str(tmp_path / "back" / "omium.db")
    (tmp_path / "back").mkdir()
    assert ok(used_project, "restore", str(target), "--database", elsewhere)["runs"] == made["runs"]
    assert call(used_project, "restore", str(target), "--database", elsewhere).exit_code == 5
    assert call(used_project, "verify", "--database", elsewhere).exit_code == 0
    absent = tmp_path / "back" / "typo.db"
    for words in (["verify"], ["backup", str(tmp_path / "copy")], ["runs"], ["show", "last"], ["cancel", "last"]):
        done = call(used_project, *words, "--database", str(absent))
        assert done.exit_code == 4 and f"there is no database at {absent}" in done.output
    assert not absent.exists()


def test_a_backup_brings_the_files_of_runs_to_another_machine(project: Place, tmp_path: Path) -> None:
    (project.directory / "steps.py").write_text(
        FUNCTIONS + "\n\nasync def write(ctx, text):\n    (ctx.workspace / text).write_text(text)\n    return text\n"
    )
    with (project.directory / "omium.yaml").open("a") as declared:
        declared.write('  write: {ref: "steps:write", host: async}\n')
    steps = [
        f"- {{id: {name}, kind: function, use: write, workspace: write, with: {{text: {name}}}, needs: [{needs}]}}"
        for name, needs in (("one", ""), ("two", "one"))
    ]
    (project.directory / "workflows" / "writing.yaml").write_text("name: writing\nnodes:\n" + "\n".join(steps))
    assert project.omium("run", "writing").code == 0
    assert project.omium("run", "hello", "--input", "name=ada").code == 0  # it has no files
    backup = str(tmp_path / "backup")
    assert ok(project, "backup", backup)["with_files"] == 1

    project.environment["OMIUM_HOME"] = str(tmp_path / "other machine")
    elsewhere = str(tmp_path / "back" / "omium.db")
    assert ok(project, "restore", backup, "--database", elsewhere)["with_files"] == 1
    run = next(
        one["id"] for one in ok(project, "runs", "--database", elsewhere)["runs"] if one["workflow"] == "writing"
    )
    plan = ok(project, "rollback", run, "node:one", "--preview", "--database", elsewhere)
    assert [(one["path"], one["status"]) for one in plan["files"]] == [("two", "removed")]
    assert ok(project, "rollback", run, "node:one", "--yes", "--database", elsewhere)["run"]["status"] == "paused"
    assert (tmp_path / "other machine" / "workspaces" / "trees" / run / "one").read_text() == "one"
    assert not (tmp_path / "other machine" / "workspaces" / "trees" / run / "two").exists()


def test_adopting_a_branch_brings_its_files_and_says_which(project: Place) -> None:
    (project.directory / "steps.py").write_text(
        FUNCTIONS + "\n\nasync def write(ctx, text):\n    (ctx.workspace / 'text').write_text(text)\n    return text\n"
    )
    with (project.directory / "omium.yaml").open("a") as declared:
        declared.write('  write: {ref: "steps:write", host: async}\n')
    (project.directory / "workflows" / "writing.yaml").write_text(
        "name: writing\ninputs: {type: object, properties: {text: {type: string}}}\nnodes:\n"
        "- {id: one, kind: function, use: write, workspace: write, with: {text: '${{ inputs.text }}'}}\n"
    )
    assert project.omium("run", "writing", "-i", "text=mine").code == 0
    run = ok(project, "runs")["runs"][0]["id"]
    made = project.omium("branch", run, "before:one", "--name", "b", "--input", "text=theirs", "--json")
    branch = made.json["run"]["id"]
    assert project.omium("events", branch, "--follow").code == 0
    adopted = ok(project, "adopt", branch, "--reason", "better")
    assert (adopted["id"], adopted["closed"], adopted["back_to"]) == (branch, "adopted", "before-adopted/b")
    assert adopted["files"] == [{"path": "text", "status": "modified", "old_size": 4, "new_size": 6}]
    home = Path(project.environment["OMIUM_HOME"]) / "workspaces" / "trees" / run / "text"
    assert f"files\t{home.parent}\n" in project.call("show", run).stdout
    assert home.read_text() == "theirs"
    assert "run.adopted" in call(project, "show", run, "--history").stdout
    assert call(project, "adopt", branch).exit_code == 5
    assert ok(project, "rollback", run, "before-adopted/b", "--yes")["files_changed"] == 1
    assert home.read_text() == "mine"


@pytest.mark.parametrize("command", ["audit --all", "audit --all --format csv", "events last", "runs --json"])
def test_output_that_cannot_be_written_is_said_and_blames_nothing_else(used_project: Place, command: str) -> None:
    def told(sink: int) -> tuple[int, str]:
        environment = {**os.environ, **used_project.environment}
        program = [sys.executable, "-c", PROGRAM.format("omium"), *command.split()]
        done = subprocess.run(program, env=environment, stdout=sink, stderr=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stderr

    reader, writer = os.pipe()
    os.close(reader)  # as `omium ... | head -1` does once it has its line
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert told(writer) == (1, "")
        assert told(full) == (1, "error: what was asked for cannot be written: No space left on device.\n")
    finally:
        os.close(writer)
        os.close(full)


def test_verifying_against_an_anchor(project: Place, tmp_path: Path) -> None:
    import sqlite3

    run = draft(project)
    anchor = str(tmp_path / "heads.json")
    assert ok(project, "verify", "--export", anchor)["exported"] == anchor
    assert call(project, "verify", "--export", anchor).exit_code == 5
    assert call(project, "verify", "--anchor", anchor).exit_code == 0
    with sqlite3.connect(project.directory / "data" / "omium.db") as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {trigger}")  # whoever tampers does not ask
        database.execute("DELETE FROM events WHERE run_id = ? AND seq = 3", (run,))
    done = call(project, "verify", run, "--anchor", anchor, "--export", str(tmp_path / "new.json"))
    assert done.exit_code == 1
    assert "anchor" in done.stdout
    assert not (tmp_path / "new.json").exists()
    told = json.loads(call(project, "verify", "--json").stdout)
    assert not told["sound"] and told["damages"]
