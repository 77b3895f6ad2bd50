"""Whoever comes back after a worker was killed, or hangs, and only looks, finds the run going on."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import psutil
import pytest

from omium.clients.processes import liveness
from omium.server.commands import opening
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


@pytest.fixture
def hung(project: Place) -> Iterator[str]:
    """A run whose worker, no background worker, stands still and has not been heard of for 40 s."""
    path = project.directory / "written"
    left = {"OMIUM_DETACH": "false"}
    run = project.omium("run", "patient", "--input", f"path={path}", "--detach", env=left).out.strip()
    with project.start("worker") as worker:
        try:
            until(lambda: project.json("show", run)["nodes"][0]["status"] == "running")
            worker.send_signal(signal.SIGSTOP)
            until(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
            with closing(sqlite3.connect(project.directory / "data" / "omium.db")) as db, db:
                db.execute("UPDATE workers SET beat = ?", (int((time.time() - 40) * 1e6),))
            yield run
        finally:
            project.end_workers()


def _workers(project: Place) -> list[int]:
    with closing(sqlite3.connect(project.directory / "data" / "omium.db")) as db:
        return [row[0] for row in db.execute("SELECT pid FROM workers")]


def test_one_that_hangs_is_told_and_a_background_worker_watches_it(project: Place, hung: str) -> None:
    pid = _workers(project)[0]
    health = project.call("health")
    assert health.exit_code == 1 and f"(pid {pid}) has been silent since" in health.stdout
    found = project.call("doctor")
    assert found.exit_code == 1 and f"(pid {pid}) has been silent since" in found.stdout
    looked = project.omium("pause", hung)
    assert looked.code == 0 and f"(pid {pid}) has been silent since" in looked.err and "watches" in looked.err
    until(lambda: len(_workers(project)) == 2)
    assert "silent" not in project.omium("show", hung).err  # somebody is there now, who judges for himself


def test_whoever_waits_notices_one_that_begins_to_hang(
    project: Place, hung: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_first = iter([None])
    monkeypatch.setattr(liveness, "silent_since", lambda worker, _: next(at_first, worker.beat))
    monkeypatch.setattr(opening, "_LOOK_S", 0.01)
    waited = project.call("show", hung, "--wait", "1", "--exit-status")
    assert waited.exit_code == 6 and waited.stderr.count("has been silent since") == 1
    assert "omium worker" in waited.stderr


def test_looking_at_a_copy_leaves_the_worker_of_the_original_alone(project: Place, hung: str) -> None:
    copy = shutil.copytree(project.directory / "data", project.directory / "copy") / "omium.db"
    looked = project.omium("show", hung, "--database", str(copy))
    assert (looked.code, looked.err) == (0, "")
    assert not list(copy.parent.glob("*.worker"))
