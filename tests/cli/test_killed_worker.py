"""Whoever comes back after a worker was killed, and only looks, finds the run going on."""

from __future__ import annotations

import pytest

from tests.cli.harness import Place, until


@pytest.mark.parametrize("command", [("show", "last"), ("runs",), ("approvals",)])
def test_looking_has_the_run_executed_again(project: Place, command: tuple[str, ...]) -> None:
    written = project.directory / "written"
    run = project.omium("run", "patient", "--input", f"path={written}", "--detach").out.strip()
    until(lambda: project.json("show", run)["nodes"][0]["status"] == "running")
    project.end_workers()
    written.write_text("quietly")
    looked = project.omium(*command)
    assert looked.code == 0, looked.err
    shown = project.settled(run)
    assert (shown["status"], shown["output"]) == ("completed", {"shout": "QUIETLY"})


def test_without_a_background_worker_it_says_who_would_go_on(project: Place) -> None:
    written = project.directory / "written"
    run = project.omium("run", "patient", "--input", f"path={written}", "--detach").out.strip()
    until(lambda: project.json("show", run)["nodes"][0]["status"] == "running")
    project.end_workers()
    looked = project.omium("show", run, env={"OMIUM_DETACH": "false"})
    assert looked.code == 0 and "omium worker" in looked.err
