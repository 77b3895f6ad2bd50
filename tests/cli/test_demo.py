"""The demo as a command; what it plays has tests of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from omium.server.cli import cli
from tests.cli.harness import PATIENCE_S, PROGRAM


@pytest.mark.parametrize("code", [0, 1])
def test_what_it_says_is_printed_and_its_code_is_ours(
    code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def play(directory: Path | None = None, *, say: Callable[[str], None]) -> int:
        say(f"in {directory.name if directory else 'nowhere'}\x1b[2J")
        return code

    monkeypatch.setattr("omium.server.demo.run_demo", play)
    done = CliRunner().invoke(cli, ["demo", "--directory", str(tmp_path / "here")])
    assert (done.exit_code, done.stdout) == (code, "in here\\x1b[2J\n")
    told = json.loads(CliRunner().invoke(cli, ["demo", "--json"]).stdout)
    assert told == {"held": code == 0, "said": ["in nowhere\x1b[2J"]}


def test_a_directory_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    done = CliRunner().invoke(cli, ["demo", "--directory", str(tmp_path), "--json"])
    assert done.exit_code == 5
    assert json.loads(done.stderr)["error"]["code"] == "conflict"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_told_to_go_leaves_neither_its_directory_nor_its_workers(
    number: signal.Signals, tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", PROGRAM.format("omium"), "demo"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline().startswith(b"1. Start")
        assert b"run_" in demo.stdout.readline()
        workers: list[psutil.Process] = []
        until = time.monotonic() + PATIENCE_S
        while not workers and time.monotonic() < until:
            workers = psutil.Process(demo.pid).children()
        demo.send_signal(number)
        _, said = demo.communicate(timeout=PATIENCE_S)
    assert (demo.returncode, said) == (130, b"")
    assert list(tmp_path.iterdir()) == []
    assert workers and not any(worker.is_running() for worker in workers)
