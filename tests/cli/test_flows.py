"""The main flows, with processes as a user would start them."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import PATIENCE_S, Place, until


def request(number: int, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": parameters}


CLIENT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
INITIALIZE = request(1, "initialize", CLIENT)
INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def test_a_run_prints_its_id_first_and_its_progress_beside_it(project: Place) -> None:
    ended = project.omium("run", "hello", "-i", "name=ada")
    assert ended.code == 0, ended.err
    run = ended.out.strip()
    assert run.startswith("run_") and "\n" not in run
    assert [line.split()[1] for line in ended.err.splitlines()[:2]] == ["greet", "shout"]
    assert f"{run[-8:]} completed" in ended.err
    shown = project.json("show", run)
    assert (shown["status"], shown["output"], shown["progress"]) == ("completed", {"text": "HELLO ADA"}, 1.0)
    assert [node["status"] for node in shown["nodes"]] == ["completed", "completed"]


def test_with_json_a_run_prints_its_end_and_nothing_else(project: Place) -> None:
    ended = project.omium("run", "hello", "-i", "name=ada", "--json")
    assert (ended.code, ended.json["status"], ended.json["output"]) == (0, "completed", {"text": "HELLO ADA"})


def test_a_run_that_fails_says_why(project: Place) -> None:
    ended = project.omium("run", "failing")
    assert ended.code == 1
    assert "it broke" in ended.err and "\x1b" not in ended.err
    assert "Traceback" not in ended.err


def test_a_run_that_needs_a_decision_ends_with_3_and_goes_on_in_the_background_after_it(project: Place) -> None:
    ended = project.omium("run", "asking")
    assert ended.code == 3, ended.err
    question = project.json("approvals")[0]
    assert question["question"] == "Publish hello ada?"
    assert f"omium approve {question['id'][-8:]}" in ended.err
    decided = project.omium("approve", question["id"][-8:], "--feedback", "well done", "--json")
    assert decided.code == 0, decided.err
    assert (decided.json["decision"], decided.json["assurance"], decided.json["feedback"]) == (
        "approve",
        "elicited",
        "well done",
    )
    assert project.settled()["status"] == "completed"
    assert project.call("approve", question["id"]).exit_code == 5
    assert project.json("approvals") == []


def test_another_terminal_approves_what_the_first_waits_for(project: Place) -> None:
    first = project.start("run", "asking", "--follow")
    try:
        asked = until(lambda: project.json("approvals"))
        assert first.poll() is None
        assert project.omium("approve", asked[0]["id"]).code == 0
        code, out, err = finish(first)
    finally:
        first.kill()
    assert code == 0, err
    assert out.strip() == asked[0]["run_id"]
    assert "decided: approve" in err


def test_another_terminal_rejects_and_follows(project: Place) -> None:
    first = project.start("run", "asking", "--follow")
    follower: subprocess.Popen[str] | None = None
    try:
        asked = until(lambda: project.json("approvals"))
        follower = project.start("events", "last", "--follow", "--json")
        assert project.call("reject", asked[0]["id"], "--reason", "not yet").exit_code == 0
        code, _, err = finish(first)
        followed, out, _ = finish(follower)
    finally:
        first.kill()
        if follower is not None:
            follower.kill()
    assert code == 1, err
    assert followed == 0
    told = [json.loads(line) for line in out.splitlines()]
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert told[-1]["type"] == "run.failed"
    assert [e["data"]["feedback"] for e in told if e["type"] == "approval.decided"] == ["not yet"]


def test_another_terminal_pauses_resumes_and_cancels(project: Place) -> None:
    gate = project.directory / "gate"
    first = project.start("run", "patient", "--input", f"path={gate}", "--follow")
    try:
        until(lambda: project.json("runs")["runs"])
        until(lambda: project.json("show", "last")["current"] == ["wait"])
        assert project.call("pause", "last").exit_code == 0
        gate.write_text("open")
        until(lambda: project.json("show", "last")["nodes"][0]["status"] == "completed")
        shown = project.json("show", "last")
        assert (shown["status"], [node["status"] for node in shown["nodes"]]) == ("paused", ["completed", "pending"])
        assert project.call("resume", "last").exit_code == 0
        code, _, err = finish(first)
    finally:
        first.kill()
    assert code == 0, err
    assert "paused" in err and "resumed" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_run_goes_on_without_its_process(project: Place, number: signal.Signals) -> None:
    gate = project.directory / "gate"
    first = project.start("run", "patient", "--input", f"path={gate}")
    try:
        until(lambda: project.json("runs")["runs"])
        until(lambda: project.json("show", "last")["current"] == ["wait"])
        first.send_signal(number)
        code, out, err = finish(first)
    finally:
        first.kill()
    assert code == 130, err
    assert "goes on" in err
    gate.write_text("open")
    shown = project.settled(out.strip())
    assert (shown["status"], shown["nodes"][1]["output"] is not None) == ("completed", True)


def test_a_detached_run_is_executed_in_the_background(project: Place) -> None:
    ended = project.omium("run", "hello", "--input", "name=ada", "--detach", "--json")
    assert (ended.code, ended.json["status"]) == (0, "executing"), ended.err
    shown = project.settled(ended.json["id"])
    assert (shown["status"], shown["output"]) == ("completed", {"text": "HELLO ADA"})


def test_a_branch_and_a_play_from_are_executed_in_the_background(used_project: Place) -> None:
    hello = used_project.json("runs", "--workflow", "hello")["runs"][-1]["id"]
    branched = used_project.omium("branch", hello, "before:greet", "--name", "cy", "--input", "name=cy", "--json")
    assert branched.code == 0, branched.err
    child = branched.json["run"]["id"]
    shown = used_project.settled(child)
    assert (shown["status"], shown["output"]) == ("completed", {"text": "HELLO CY"})
    differing = used_project.json("compare", hello, child)
    assert (differing["first_divergence"], differing["outputs_equal"]) == ("greet", False)
    assert differing["inputs"] == [{"name": "name", "a": '"ada"', "b": '"cy"'}]
    assert 'inputs.name\t"ada"\t"cy"\n' in used_project.omium("compare", hello, child).out
    misspelt = used_project.omium("branch", hello, "before:greet", "--name", "cd", "--input", "nam=cy")
    assert misspelt.code == 2
    assert misspelt.err == "error: the workflow 'hello' has no input 'nam'.\nhint: Did you mean name?\n"
    replayed = [used_project.json("replay", child, "--exit-status") for _ in range(2)]
    assert replayed[0] == replayed[1]
    again = used_project.omium("play-from", child, "shout", "--with", "shout.text=quiet", "--yes", "--json")
    assert again.code == 0, again.err
    replayed_run = again.json["run"]["id"]
    shown = used_project.settled(replayed_run)
    assert (shown["status"], shown["output"]) == ("completed", {"text": "QUIET"})


@pytest.mark.parametrize("start", [("omium-mcp",), ("omium", "serve", "--read-only")])
def test_an_mcp_host_gets_a_server(project: Place, start: tuple[str, ...]) -> None:
    server = project.start(*start[1:], called=start[0], stdin=subprocess.PIPE)
    try:
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(INITIALIZE) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        assert answer["result"]["serverInfo"]["name"] == "omium"
        code, out, err = finish(server)
    finally:
        server.kill()
    assert (code, out) == (0, ""), err


def test_a_worker_executes_what_waits_and_ends_when_idle(project: Place) -> None:
    detached = {"OMIUM_DETACH": "false"}
    run = project.omium("run", "hello", "--input", "name=ada", "--detach", env=detached).out.strip()
    ended = project.omium("worker", "--idle", "0.2")
    assert ended.code == 0, ended.err
    assert project.json("show", run)["status"] == "completed"


def test_a_closed_pipe_is_no_error(used_project: Place) -> None:
    process = used_project.start("events", "last", "--json")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.wait(PATIENCE_S)
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_a_project_that_does_not_load_names_file_and_line(project: Place) -> None:
    path: Path = project.directory / "workflows" / "broken.yaml"
    path.write_text("name: broken\nnodes:\n- {id: a, kind: function, use: nonsense}\n")
    done = project.call("workflows")
    assert done.exit_code == 2
    assert f"{path}:3: " in done.stderr


@pytest.mark.parametrize(("options", "goes_on"), [((), True), (("--no-detach",), False)])
def test_a_run_outlives_the_server_that_started_it(project: Place, options: tuple[str, ...], goes_on: bool) -> None:
    gate = project.directory / "gate"
    server = project.start("serve", *options, "--session", "s1", called="omium-mcp", stdin=subprocess.PIPE)
    call = {"name": "run_workflow", "arguments": {"workflow": "patient", "inputs": {"path": str(gate)}}}
    try:
        assert server.stdin is not None and server.stdout is not None
        for message in (INITIALIZE, INITIALIZED, request(2, "tools/call", call)):
            server.stdin.write(json.dumps(message) + "\n")
        server.stdin.flush()
        until(lambda: project.json("runs", "--session", "s1")["runs"])
        until(lambda: project.json("show", "last")["current"] == ["wait"])
        code, _, err = finish(server)  # which closes its input
    finally:
        server.kill()
    assert code == 0, err
    assert project.json("show", "last")["status"] == "executing"
    gate.write_text("open")
    if goes_on:
        assert project.settled()["status"] == "completed"
    else:
        assert project.json("show", "last", "--wait", "1.5")["status"] == "executing"


@pytest.mark.parametrize("deadline", ["nan", "inf", "1e300", "0", "-1"])
def test_a_deadline_is_a_number_of_seconds(project: Place, deadline: str) -> None:
    done = project.call("run", "hello", "--input", "name=ada", "--deadline", deadline)
    assert done.exit_code == 2 and "a deadline of" in done.stderr, done.output
