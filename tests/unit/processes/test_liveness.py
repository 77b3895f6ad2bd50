"""Workers as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from omium.clients.processes.identity import identity
from omium.clients.processes.liveness import HostProcesses, host_id, marked, unmarked
from omium.clients.processes.tree import MARKER, find_members, kill_members
from omium.orchestration.ids import WorkerId
from omium.orchestration.ports import WorkerRow

SLEEP = "import time; print(flush=True); time.sleep(600)"
# A worker that has started something in a session of its own.
WORKER = f"""
import subprocess, sys
from omium.clients.processes.liveness import marked
with marked():
    child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], stdout=subprocess.PIPE,
                             start_new_session=True)
    child.stdout.readline()
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    row = row_of(process.pid)
    yield process
    process.kill()
    process.communicate()
    kill_members(token_of(row))


def row_of(pid: int) -> WorkerRow:
    found = identity(pid)
    assert found is not None
    return WorkerRow(WorkerId("wrk_1"), host_id(), found.boot_id, pid, found.start_time, 0, ("default",))


def token_of(row: WorkerRow) -> str:
    return f"worker-{row.pid}-{row.start_time:.2f}"


def line_of(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


def test_this_process_lives() -> None:
    host, boot, pid, start_time = HostProcesses().this()
    assert pid == os.getpid()
    assert HostProcesses().alive(WorkerRow(WorkerId("wrk_1"), host, boot, pid, start_time, 0, ())) is True


def test_a_pid_that_was_used_again_is_another_process() -> None:
    row = row_of(os.getpid())
    assert HostProcesses().alive(replace(row, start_time=row.start_time - 1)) is False


def test_a_process_that_has_ended_is_dead(child: subprocess.Popen[bytes]) -> None:
    row = row_of(child.pid)
    line_of(child)
    assert HostProcesses().alive(row) is True
    child.kill()
    child.wait()
    assert HostProcesses().alive(row) is False


def test_another_host_cannot_be_asked() -> None:
    row = row_of(os.getpid())
    assert HostProcesses().alive(replace(row, host="elsewhere", boot="0000/pid:[1]")) is None


def test_another_container_of_this_boot_cannot_be_asked() -> None:
    row = row_of(os.getpid())
    boot, _, _ = row.boot.partition("/")
    assert HostProcesses().alive(replace(row, boot=f"{boot}/pid:[1]")) is None


def test_a_worker_of_an_earlier_boot_of_this_host_is_dead() -> None:
    row = row_of(os.getpid())
    assert HostProcesses().alive(replace(row, boot="00000000-0000-0000-0000-000000000000/pid:[1]")) is False


def test_killing_ends_the_worker_and_what_it_has_started(child: subprocess.Popen[bytes]) -> None:
    row = row_of(child.pid)
    below = identity(line_of(child))
    assert below is not None
    HostProcesses().kill(row)
    assert child.wait(10) == -signal.SIGKILL
    assert find_members(token_of(row)) == []


def test_what_a_dead_worker_left_is_ended(child: subprocess.Popen[bytes]) -> None:
    row = row_of(child.pid)
    line_of(child)
    child.kill()
    child.wait()
    assert find_members(token_of(row))
    HostProcesses().kill(row)
    assert find_members(token_of(row)) == []


def test_a_process_does_not_kill_itself_or_strangers(child: subprocess.Popen[bytes]) -> None:
    line_of(child)
    HostProcesses().kill(row_of(os.getpid()))
    HostProcesses().kill(replace(row_of(child.pid), boot="0000/pid:[1]"))
    HostProcesses().kill(replace(row_of(child.pid), start_time=1.0))
    assert child.poll() is None


def test_the_mark_is_there_within_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MARKER, "outer")
    with marked():
        own = os.environ[MARKER]
        assert own.startswith("outer/worker-")
        assert unmarked() == {MARKER: "outer"}
        with marked():
            assert os.environ[MARKER] == own
        assert os.environ[MARKER] == own
    assert os.environ[MARKER] == "outer"
    monkeypatch.delenv(MARKER)
    with marked():
        assert unmarked() == {MARKER: None}
    assert MARKER not in os.environ
