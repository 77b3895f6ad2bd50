"""Stalls: heartbeats prove life and nothing else; output and work prove progress."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.commands import CommandSpec, run_command
from omium.clients.processes.counters import counters
from omium.clients.processes.supervisor import Command, Exit, Running, Status, run_process
from omium.orchestration.errors import OmiumError

pytestmark = pytest.mark.anyio

BEATS = """
import sys, time
from omium.clients.processes.heartbeat import HeartbeatEmitter
HeartbeatEmitter(interval_s=0.05, stream=sys.stderr).start()
print("ready", flush=True)
time.sleep(600)
"""
BEATS_AND_WORKS = BEATS.replace("time.sleep(600)", "end = time.monotonic() + 2.5\nwhile time.monotonic() < end: pass")
WRITES = """
import os, time
print("ready", flush=True)
file = open(os.devnull, "wb", buffering=0)
end = time.monotonic() + 2.5
while time.monotonic() < end:
    file.write(bytes(100_000))
    time.sleep(0.02)
"""
CHILD_WORKS = """
import subprocess, sys
print("ready", flush=True)
subprocess.run([sys.executable, "-c", "import time; e = time.monotonic() + 2.5\\nwhile time.monotonic() < e: pass"])
"""


async def run(code: str, cwd: Path, **options: Any) -> tuple[Exit, list[Status], Running]:
    told: list[Status] = []
    seen: list[Running] = []

    async def note(running: Running) -> None:
        seen.append(running)

    with anyio.fail_after(30):
        command = Command((sys.executable, "-c", code), cwd, grace_s=0.1, **options)
        ended = await run_process(command, on_status=told.append, on_start=note)
    return ended, told, seen[0]


@pytest.mark.parametrize("progress", ["output", "activity"])
async def test_a_child_that_only_sends_heartbeats_stalls_and_is_ended(tmp_path: Path, progress: str) -> None:
    before = counters.stalled
    ended, told, running = await run(BEATS, tmp_path, idle_timeout_s=3.0, stall_after_s=1.5, progress=progress)
    assert (ended.reason, told) == ("idle_timeout", ["stalled"])
    assert running.heartbeats > 10
    assert running.stalled
    assert counters.stalled == before + 1


@pytest.mark.parametrize("code", [BEATS_AND_WORKS, WRITES, CHILD_WORKS], ids=["cpu", "io", "child"])
async def test_work_without_output_is_progress_where_activity_counts(tmp_path: Path, code: str) -> None:
    ended, told, _ = await run(code, tmp_path, idle_timeout_s=1.2, stall_after_s=1.2, progress="activity")
    assert (ended.reason, ended.code, told) == ("exited", 0, [])


async def test_and_is_none_where_only_output_counts(tmp_path: Path) -> None:
    ended, _, _ = await run(BEATS_AND_WORKS, tmp_path, idle_timeout_s=1.2)
    assert ended.reason == "idle_timeout"


async def test_one_that_moves_again_is_no_longer_stalled(tmp_path: Path) -> None:
    code = "import time\nfor _ in range(2): time.sleep(0.6); print('x', flush=True)"
    ended, told, running = await run(code, tmp_path, stall_after_s=0.3)
    assert ended.code == 0
    assert told == ["stalled", "running", "stalled", "running"]
    assert not running.stalled


async def test_heartbeats_that_cease_end_a_program_that_has_begun_to_send_them(tmp_path: Path) -> None:
    code = 'import sys, time; print(\'{"event": "heartbeat"}\', file=sys.stderr, flush=True); time.sleep(600)'
    ended, _, running = await run(code, tmp_path, heartbeat_timeout_s=0.3)
    assert (ended.reason, running.heartbeats) == ("heartbeat_timeout", 1)
    spec = CommandSpec("beats", (sys.executable, "-c", code), heartbeat_timeout_s=0.3, grace_s=0.1)
    with pytest.raises(OmiumError) as late:
        await run_command(spec, None, workspace=tmp_path, marker={})
    assert (late.value.code, late.value.data["reason"]) == ("timeout", "heartbeat_timeout")


async def test_one_that_never_sent_any_owes_none(tmp_path: Path) -> None:
    ended, _, _ = await run("import time; time.sleep(0.6)", tmp_path, heartbeat_timeout_s=0.2)
    assert ended.code == 0


async def test_a_stopped_process_is_found_and_gets_the_chance_to_end_itself(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), os._exit(5)))\n"
        'print(\'{"event": "heartbeat"}\', file=sys.stderr, flush=True)\n'
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        "signal.pause()\n"
    )
    with anyio.fail_after(20):
        command = Command((sys.executable, "-c", code), tmp_path, heartbeat_timeout_s=0.3, grace_s=10.0)
        ended = await run_process(command)
    assert (ended.reason, ended.code, ended.stdout.text()) == ("heartbeat_timeout", 5, "bye\n")


async def test_one_that_is_stopped_and_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True: os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    with anyio.fail_after(20):
        ended = await run_process(Command((sys.executable, "-c", code), tmp_path, idle_timeout_s=1.0, grace_s=0.3))
    assert (ended.reason, ended.signal) == ("idle_timeout", signal.SIGKILL)


async def test_a_clock_that_jumps_ends_nothing_early(tmp_path: Path) -> None:
    times = iter([0.0, 1.0, -500.0, -499.0])
    last = -499.0

    def clock() -> float:
        nonlocal last
        last = next(times, last)
        return last

    with anyio.fail_after(20):
        command = Command((sys.executable, "-c", "print(1)"), tmp_path, hard_timeout_s=60, idle_timeout_s=60)
        ended = await run_process(command, clock=clock)
    assert (ended.reason, ended.code) == ("exited", 0)
