"""At a terminal: live progress, colours, questions, and walking away."""

from __future__ import annotations

import re

from tests.cli.harness import HOSTILE, Place, Terminal

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\n\r]")


def plain(text: str) -> str:
    """What is left without the colours and movements that are ours."""
    return CONTROL.sub("", text)


def test_a_run_shows_live_progress_and_how_to_go_on(project: Place) -> None:
    ended = Terminal(project, "run", "hello", "--input", "name=ada").end()
    assert ended.code == 0, ended.out
    assert ended.out.startswith("run_")
    assert "greet" in ended.out and "shout" in ended.out and "completed" in ended.out
    assert "\x1b[" in ended.out
    assert "Ctrl-C leaves it running" in ended.out


def test_nothing_is_coloured_for_who_wants_no_colour(used_project: Place) -> None:
    coloured = Terminal(used_project, "runs").end().out
    assert "\x1b[32mcompleted" in coloured
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in Terminal(used_project, "runs", env=environment).end().out


def test_lists_at_a_terminal_have_a_heading_and_short_ids(used_project: Place) -> None:
    run = used_project.json("runs", "--workflow", "hello")["runs"][-1]["id"]
    lines = plain(Terminal(used_project, "runs", "--workflow", "hello").end().out.replace("\n", "|")).split("|")
    assert lines[0].split() == ["RUN", "STATUS", "WORKFLOW", "CREATED", "TOOK", "COST", "BELOW", "TITLE"]
    assert any(line.startswith(run[-8:]) for line in lines)
    assert run not in "".join(lines)


def test_hostile_text_reaches_no_terminal(project: Place) -> None:
    ended = Terminal(project, "run", "hello", "--input", f"name={HOSTILE}", "--title", HOSTILE).end()
    assert ended.code == 0
    for arguments in (["show", "last"], ["runs"], ["events", "last"], ["show", "last", "--node", "greet", "--output"]):
        shown = Terminal(project, *arguments).end()
        assert shown.code == 0
        assert plain(shown.out).isprintable(), arguments
    assert plain(ended.out).isprintable()


def test_ctrl_c_ends_the_following_and_not_the_run(project: Place) -> None:
    gate = project.directory / "gate"
    terminal = Terminal(project, "run", "patient", "--input", f"path={gate}")
    terminal.until("now: wait")
    terminal.type("\x03")
    ended = terminal.end()
    assert ended.code == 130, ended.out
    assert "the run goes on" in ended.out
    gate.write_text("open")
    run = ended.out.split()[0]
    assert project.settled(run)["status"] == "completed"


def test_at_a_terminal_a_run_stays_through_a_question(project: Place) -> None:
    terminal = Terminal(project, "run", "asking")
    terminal.until("waits for a decision")
    assert "omium approve" in terminal.out
    assert project.call("approve", project.json("approvals")[0]["id"]).exit_code == 0
    ended = terminal.end()
    assert ended.code == 0, ended.out
    assert "decided: approve" in ended.out


def test_a_rollback_is_shown_and_asked_before_it_is_done(project: Place) -> None:
    assert project.omium("run", "hello", "--input", "name=ada").code == 0
    refused = Terminal(project, "rollback", "last", "node:greet")
    refused.until("Do it?")
    assert "runs again" in refused.out and "shout" in refused.out
    refused.type("n\n")
    assert refused.end().code == 130
    assert project.json("show", "last")["status"] == "completed"
    agreed = Terminal(project, "rollback", "last", "node:greet")
    agreed.until("Do it?")
    agreed.type("y\n")
    ended = agreed.end()
    assert ended.code == 0, ended.out
    assert "omium resume" in ended.out
    assert project.json("show", "last")["status"] == "paused"
