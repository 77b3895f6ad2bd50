"""The event log: rotation loses no line, several writers do not disturb each other, and a failure stays its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from omium.clients.processes.counters import counters
from omium.clients.processes.event_log import EventLog

WRITER = """
import sys
from pathlib import Path
from omium.clients.processes.event_log import EventLog
log = EventLog(Path(sys.argv[1]), max_bytes=20_000, keep=60)
for number in range(2_000):
    log.write("tool_output", {"writer": sys.argv[2], "line": number})
"""


def events(path: Path) -> list[dict[str, object]]:
    """Of all files, oldest first."""
    number = lambda file: -int(file.suffix[1:]) if file.suffix[1:].isdigit() else 0  # noqa: E731
    files = sorted((f for f in path.parent.glob(f"{path.name}*") if f.suffix != ".lock"), key=number)
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_all_lines_are_there_across_rotated_files(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "commands.jsonl"
    log = EventLog(path, max_bytes=2_000, keep=100)
    for number in range(1_000):
        log.write("tool_output", {"line": f"n{number}"})
    log.close()
    assert [one["line"] for one in events(path)] == [f"n{number}" for number in range(1_000)]
    assert all(file.stat().st_size <= 2_000 for file in path.parent.iterdir())
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_so_many_files_are_kept_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "commands.jsonl"
    log = EventLog(path, max_bytes=500, keep=5)
    for number in range(1_000):
        log.write("tool_output", {"line": number})
    log.close()
    assert sorted(file.name for file in tmp_path.iterdir() if file.suffix != ".lock") == [
        "commands.jsonl",
        *(f"commands.jsonl.{n}" for n in range(1, 6)),
    ]
    lines = [one["line"] for one in events(path)]
    assert lines == list(range(1_000 - len(lines), 1_000))  # the oldest went, without a gap


def test_several_processes_write_to_one_log(tmp_path: Path) -> None:
    path = tmp_path / "commands.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(n)]) for n in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    found = events(path)
    for n in range(3):
        assert sorted(one["line"] for one in found if one["writer"] == str(n)) == list(range(2_000))  # type: ignore[type-var]


def test_secrets_do_not_get_into_it(tmp_path: Path) -> None:
    path = tmp_path / "commands.jsonl"
    log = EventLog(path, hide=lambda text: text.replace("hunter2", "[hidden]"))
    log.write("tool_output", {"line": 'password "hunter2"', "token": "proc_1"})
    log.close()
    (one,) = events(path)
    assert (one["line"], one["token"]) == ('password "[hidden]"', "proc_1")


def test_a_directory_that_goes_away_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "commands.jsonl"
    log = EventLog(path)
    log.write("tool_output", {"line": 1})
    path.unlink()
    path.parent.rmdir()
    log.write("tool_output", {"line": 2})
    log.close()
    assert [one["line"] for one in events(path)] == [2]


def test_a_full_disk_is_counted_and_disturbs_nobody(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.fail("this system has no /dev/full to be full")
    log = EventLog(tmp_path / "commands.jsonl")
    log.write("tool_output", {"line": 1})
    assert log._descriptor is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, log._descriptor)
    os.close(full)
    before = counters.log_failures
    log._current = lambda: log._descriptor  # type: ignore[method-assign, assignment, return-value]  # the full device
    log.write("tool_output", {"line": 2})
    log.close()
    assert counters.log_failures == before + 1
