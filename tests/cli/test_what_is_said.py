"""What commands say of failures, refusals and waits: enough to go on from, in one spelling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.core import Core
from omium.orchestration.service.failing import FailureView
from omium.orchestration.service.recounting import RollbackView
from tests.cli.harness import Place, Terminal
from tests.cli.shapes import misshapen

FUNCTIONS = """
import sys


def noisy(n: int) -> int:
    print("printed by", n)
    print("on stderr", file=sys.stderr)
    return {1: "one"}[n]


def pair():
    return 1, 2


def publish(ctx):
    return ctx.effect("publish", lambda: "published")
"""

WORKFLOWS = {
    "noisy": "{id: n, kind: function, use: noisy, with: {n: '${{ inputs.n }}'}}",
    "pair": "{id: n, kind: function, use: pair}",
    "publish": "{id: n, kind: function, use: publish}",
    "missing": "{id: n, kind: cli, use: missing}",
    "signal": "{id: w, kind: wait, wait: {signal: go}}",
}


@pytest.fixture
def talking(project: Place) -> Place:
    """A project whose functions run in worker processes."""
    (project.directory / "omium.yaml").write_text(
        "project: greetings\ndatabase: data/omium.db\nfunctions:\n"
        + "".join(f"  {name}: talk:{name}\n" for name in ("noisy", "pair", "publish"))
        + "commands:\n  missing: {argv: [ls, /no/such/file], stdin: none, output: text, cwd: project}\n"
    )
    (project.directory / "talk.py").write_text(FUNCTIONS)
    for old in (project.directory / "workflows").iterdir():
        old.unlink()
    for name, node in WORKFLOWS.items():
        inputs = "inputs: {type: object, properties: {n: {type: integer}}}\n" if name == "noisy" else ""
        (project.directory / "workflows" / f"{name}.yaml").write_text(f"name: {name}\n{inputs}nodes:\n- {node}\n")
    return project


def test_a_failure_shows_where_to_look_and_is_told_once(talking: Place) -> None:
    failed = talking.omium("run", "noisy", "-i", "n=2")
    assert failed.code == 1
    assert "talk.py:8 in noisy" in failed.err
    assert failed.err.count("failed: ") == 1
    shown = talking.call("show", "last", "--node", "n").stdout
    assert "talk.py" in shown and 'return {1: "one"}[n]' in shown
    assert "omium/clients" not in shown  # how it was called is nobody's business
    assert "printed by 2" in shown and "on stderr" in shown
    printed = talking.json("show", "last", "--node", "n")["printed"]
    assert printed == {"stdout": "printed by 2\n", "stderr": "on stderr\n"}
    tupled = talking.omium("run", "pair")
    assert "Make it a list." in tupled.err
    missing = talking.omium("run", "missing")
    assert "No such file or directory" in missing.err
    assert "No such file or directory" in talking.call("show", "last").stdout


def test_a_run_that_was_too_late_is_branched_and_not_played_again(talking: Place) -> None:
    late = talking.omium("run", "signal", "--deadline", "0.3")
    assert late.code == 1
    assert "deadline has passed" in late.err
    assert f"omium branch {late.out.strip()[-8:]} --name again" in late.err
    assert "play-from" not in late.err


def test_what_repeats_a_call_is_refused_with_its_plan_and_the_ways_on(talking: Place) -> None:
    run = talking.omium("run", "publish").out.strip()
    for arguments in (
        ("play-from", run, "n"),
        ("branch", run, "before:n", "--name", "again"),
        ("rollback", run, "start"),
    ):
        refused = talking.call(*arguments)
        assert refused.exit_code == 5
        assert "would repeat 1 call(s) that have happened: n: publish" in refused.stderr
        assert "--preview" in refused.stderr and "--plan plan_" in refused.stderr and "--yes" in refused.stderr
        told = json.loads(talking.call(*arguments, "--json").stderr)["error"]["data"]["plan"]
        planned = talking.json(*arguments, "--preview")
        assert set(told) == set(planned)  # one spelling
        assert told["expires_at"].endswith("Z") and planned["expires_at"].endswith("Z")
        token = planned["plan_token"]
        assert talking.call(*arguments, "--plan", f"{token[:-4]}0000").exit_code == 5
        assert talking.call(*arguments, "--plan", token).exit_code == 0, arguments


@pytest.mark.parametrize("busy", [3, 1000])
def test_yes_goes_by_the_newest_plan_and_a_plan_that_was_given_by_itself(
    talking: Place, monkeypatch: pytest.MonkeyPatch, busy: int
) -> None:
    """A run that works makes other calls between the plan and the deed."""
    run = talking.omium("run", "publish").out.strip()
    tokens: list[str] = []
    rollback = Core.rollback

    async def overtaken(self: Core, *arguments: Any, plan_token: str, **more: Any) -> Any:
        tokens.append(plan_token)
        if len(tokens) <= busy:
            raise OmiumError("plan_expired", "1 call(s) that it did not show would be repeated or undone.")
        return await rollback(self, *arguments, plan_token=plan_token, **more)

    monkeypatch.setattr(Core, "rollback", overtaken)
    token = talking.json("rollback", run, "start", "--preview")["plan_token"]
    strict = talking.call("rollback", run, "start", "--yes", "--plan", token)
    assert (strict.exit_code, tokens) == (5, [token])
    unseen = talking.call("rollback", run, "start", "--yes")
    assert len(set(tokens)) == len(tokens)
    if busy == 3:
        assert (unseen.exit_code, len(tokens)) == (0, 4)
    else:
        assert (unseen.exit_code, len(tokens)) == (5, 21)
        assert "omium pause" in unseen.stderr and "plan_" not in unseen.stderr


def test_a_wait_that_is_over_too_early_has_a_code_of_its_own(talking: Place) -> None:
    run = talking.call("run", "signal", "--detach").stdout.strip()
    assert talking.call("show", run, "--wait", "0.01", "--exit-status").exit_code == 6
    assert talking.call("show", run, "--exit-status").exit_code == 0
    unknown = talking.call("signal", run, "went")
    assert (unknown.exit_code, "waits for a signal 'went'. It has: go." in unknown.stderr) == (0, True)
    assert "warning" not in talking.call("signal", run, "go").stderr
    assert talking.call("cancel", run).exit_code == talking.call("cancel", run).exit_code == 0
    (listed,) = talking.json("runs")["runs"]
    assert listed["progress"] == talking.json("show", run)["progress"] == 0.0


@pytest.mark.parametrize("text", ["nan", "inf", "1e300", "-1"])
@pytest.mark.parametrize(
    "command", [("show", "last", "--wait"), ("sweep", "--keep-hours"), ("worker", "--idle"), ("run", "x", "--deadline")]
)
def test_what_is_no_time_is_refused_in_a_line(talking: Place, command: tuple[str, ...], text: str) -> None:
    done = talking.call(*command, text, "--json")
    assert done.exit_code in (2, 4)
    assert "error" in json.loads(done.stderr)


def test_options_stand_behind_the_command(project: Place) -> None:
    told = project.call("--json", "runs")
    assert told.exit_code == 2
    assert "behind the command" in told.stderr and "--version" not in told.stderr


@pytest.mark.parametrize("title", ["two\nlines", "x" * 201, "\udc80"])
def test_a_title_is_one_short_line(project: Place, title: str) -> None:
    assert project.call("run", "hello", "-i", "name=a", "--detach", "--title", title).exit_code == 2
    assert project.json("runs")["runs"] == []


def test_a_workspace_without_its_source_is_a_problem_of_the_file(project: Place) -> None:
    path = project.directory / "omium.yaml"
    path.write_text(path.read_text() + "workspaces:\n  tree: {source: not/there}\n")
    refused = project.call("workflows")
    assert refused.exit_code == 2
    assert "workspaces.tree.source" in refused.stderr and "there is nothing there" in refused.stderr
    assert project.call("runs").exit_code == 0


def test_problems_of_form_and_of_the_graph_are_reported_together(project: Place, tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(
        "name: w\nnodes:\n- {id: a, kind: function, use: f, needs: zz}\n- {id: b, kind: function}\n"
        "- {id: c, kind: fonction, use: f}\n- {id: d, kind: function, use: f, needs: c}\n"
    )
    told = json.loads(project.call("workflow", "validate", str(path), "--json").stdout)[0]["problems"]
    assert [one["line"] for one in told] == [3, 4, 5]
    assert "'zz'" in told[0]["message"] and told[2]["path"] == "nodes[2].kind"


def test_a_question_is_answered_where_the_run_is_followed(project: Place) -> None:
    terminal = Terminal(project, "run", "asking")
    terminal.until("Enter leaves it open>")
    terminal.type("maybe\n")
    terminal.until("'maybe' is not offered")
    terminal.type("approve looks good\n")
    ended = terminal.end()
    assert ended.code == 0, ended.out
    (decided,) = project.json("approvals", "--all")
    assert (decided["decision"], decided["assurance"], decided["feedback"]) == ("approve", "elicited", "looks good")


def test_a_question_that_is_decided_elsewhere_lets_the_follower_go_on(project: Place) -> None:
    terminal = Terminal(project, "run", "asking")
    terminal.until("Enter leaves it open>")
    assert project.omium("approve", "last").code == 0
    assert terminal.end().code == 0


def test_from_where_a_run_can_be_played_what_was_tried_again_and_what_was_done(project: Place) -> None:
    assert project.omium("run", "failing").code == 1
    nodes = {one["node"]: one for one in project.json("show", "last", "--resumable")}
    assert (nodes["boom"]["can_resume"], nodes["boom"]["reruns"]) == (True, 2)
    stats = project.json("show", "last", "--retries")
    assert (stats["attempts"], stats["failed"], stats["categories"]) == (1, 1, {"value_error": 1})
    assert "no experience yet" in project.call("show", "last", "--failures").stdout  # and no figure made of nothing
    assert project.call("rollback", "last", "start", "--reason", "from the top", "--yes").exit_code == 0
    deeds = project.json("show", "last", "--history")
    assert [one["type"] for one in deeds] == ["run.created", "run.failed", "run.rolled_back"]
    assert deeds[-1]["data"]["reason"] == "from the top"
    (back,) = project.json("show", "last", "--rollbacks")
    assert (back["to"], back["outcome"], back["trigger"]) == (3, "done", "manual")
    assert back["began_at"].endswith("Z") and "from the top" in project.call("show", "last", "--rollbacks").stdout
    (failure,) = project.json("show", "last", "--failures")
    assert (failure["node"], failure["status"], failure["attempts"]) == ("boom", "reset", 1)
    assert misshapen(back, RollbackView) == misshapen(failure, FailureView) == []
    told = project.call("show", "last", "--failures").stdout
    assert "boom" in told and "value_error" in told
    assert project.call("show", "last", "--history", "--retries").exit_code == 2
    assert project.call("show", "last", "--failures", "--output").exit_code == 2
