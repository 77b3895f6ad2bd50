"""SIGHUP at a process that serves: settings are read anew, and a terminal that hangs up is left as ever."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cli.harness import PATIENCE_S, PROGRAM, PROJECT, Place, until

SAID = 'commands: {{build: {{argv: ["true"]}}}}\nsupervision: {{timeouts: {{hard: {hard}}}}}\n'
SERVERS = [("serve",), ("serve", "--transport", "http", "--port", "0"), ("worker",)]


def write(place: Place, hard: str) -> None:
    (place.directory / "omium.yaml").write_text(PROJECT + SAID.format(hard=hard))


def held(place: Place) -> list[tuple[Any, str]]:
    """What is shown of the limit: as the file has it, then as processes that run have it otherwise."""
    return [(one["value"], one["source"]) for one in place.json("config", "supervision.timeouts.hard")]


@contextmanager
def serving(place: Place, *arguments: str, terminal: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves, once it says which settings it holds. Its input stays open. terminal: a terminal that it
    shall have, its only sign of life."""

    def take_terminal() -> None:
        if terminal is not None:
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    folder = place.directory / "home" / "held"
    with (place.directory / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format("omium"), *arguments],
            cwd=place.directory,
            env={**os.environ, **place.environment, "OMIUM_LOG_LEVEL": "info"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
    try:
        until(lambda: list(folder.glob(f"{process.pid}-*.json")) or process.poll() is not None)
        assert process.poll() is None, (place.directory / "server.log").read_text()
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def said(place: Place) -> str:
    return (place.directory / "server.log").read_text()


@pytest.mark.parametrize("arguments", SERVERS, ids=["stdio", "http", "worker"])
def test_settings_are_read_anew(project: Place, arguments: tuple[str, ...]) -> None:
    write(project, "1h")
    with serving(project, *arguments) as process:
        assert held(project) == [(3_600, "omium.yaml")]
        write(project, "2h")
        assert held(project) == [(7_200, "omium.yaml"), (3_600, f"process {process.pid}, until it gets SIGHUP")]
        process.send_signal(signal.SIGHUP)
        until(lambda: len(held(project)) == 1)
        assert "timeouts.hard 3600.0 -> 7200.0" in said(project)
        write(project, "soon")
        process.send_signal(signal.SIGHUP)
        until(lambda: "stay as they are" in said(project))
        assert "omium.yaml:" in said(project) and "supervision.timeouts.hard" in said(project)
        write(project, "2h")
        assert held(project) == [(7_200, "omium.yaml")]
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert list((project.directory / "home" / "held").iterdir()) == []


def test_without_a_file_a_hang_up_is_one(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with serving(place, "worker") as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(PATIENCE_S) == 0
    assert "handed over" in said(place)


@pytest.mark.parametrize("arguments", [("serve",), ("worker",)], ids=["stdio", "worker"])
def test_a_terminal_that_hangs_up_is_left_and_runs_go_on(project: Place, arguments: tuple[str, ...]) -> None:
    write(project, "1h")
    gate = project.directory / "gate"
    ours, theirs = os.openpty()
    try:
        with serving(project, *arguments, terminal=theirs) as process:
            os.close(theirs)
            started = project.call("run", "patient", "--input", f"path={gate}", "--detach", "--json")
            assert started.exit_code == 0, started.output
            until(lambda: project.json("show", "last")["current"] == ["wait"])
            process.send_signal(signal.SIGHUP)  # of somebody: the terminal is there
            until(lambda: "read anew" in said(project))
            assert process.poll() is None
            os.close(ours)
            ours = -1
            assert process.wait(PATIENCE_S) == 0
    finally:
        if ours >= 0:
            os.close(ours)
    gate.write_text("open")
    if arguments == ("worker",):  # it parks its runs, for the next process
        project.omium("resume", "last")
    assert project.settled()["status"] == "completed"
