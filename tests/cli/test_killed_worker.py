"""Whoever comes back after a worker was killed, and only looks, finds the run going on."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

from tests.cli.harness import Place, until
from tests.postgres import PostgresServer


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


def test_what_another_project_has_freed_goes_on_as_well(project: Place) -> None:
    """Processes of all projects on a database look after its dead, and execute their own runs only."""
    written = project.directory / "written"
    run = project.omium("run", "patient", "--input", f"path={written}", "--detach").out.strip()
    until(lambda: project.json("show", run)["nodes"][0]["status"] == "running")
    project.end_workers()
    with closing(sqlite3.connect(project.directory / "data" / "omium.db")) as db, db:
        due = int(time.time() - 60) * 1_000_000
        assert db.execute("UPDATE claims SET worker = NULL, wake_at = ?", (due,)).rowcount == 1
        db.execute("DELETE FROM workers")
    written.write_text("quietly")
    assert project.omium("show", "last").code == 0
    assert project.settled(run)["status"] == "completed"


def test_without_a_background_worker_it_says_who_would_go_on(project: Place) -> None:
    written = project.directory / "written"
    run = project.omium("run", "patient", "--input", f"path={written}", "--detach").out.strip()
    until(lambda: project.json("show", run)["nodes"][0]["status"] == "running")
    project.end_workers()
    looked = project.omium("show", run, env={"OMIUM_DETACH": "false"})
    assert looked.code == 0 and "omium worker" in looked.err


def test_on_a_server_it_is_said_that_nobody_is_there(project: Place, postgres: PostgresServer) -> None:
    """Other machines may work on such a database, so that looking at it starts nothing."""
    name = "nobody_there"
    project.environment["OMIUM_DATABASE"] = postgres.create_database(name)
    left = {"OMIUM_DETACH": "false"}
    try:
        run = project.omium("run", "hello", "--input", "name=ada", "--detach", env=left).out.strip()
        postgres.execute("UPDATE claims SET wake_at = wake_at - 60000000", name)
        looked = project.omium("show", run)
        assert looked.code == 0 and "omium worker" in looked.err
        assert not postgres.execute("SELECT 1 FROM workers", name)
        assert "omium worker" not in project.omium("resume", run).err  # which starts one
        assert project.settled(run)["status"] == "completed"
    finally:
        project.end_workers()
        postgres.drop_database(name)
