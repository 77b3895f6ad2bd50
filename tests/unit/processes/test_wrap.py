"""`omium wrap`: everything of the program goes through, and heartbeats come besides."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.processes.identity import identity, is_alive
from omium.clients.processes.stream import is_heartbeat
from omium.clients.processes.supervisor import Command, run_process

pytestmark = pytest.mark.anyio

WRAP = (sys.executable, "-m", "omium.server.cli", "wrap", "--tool", "X", "--interval", "0.1", "--")
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def wrapped(*argv: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, **options}
    return subprocess.run([*WRAP, *argv], capture_output=True, env=ENVIRONMENT, timeout=30, check=False, **options)


def begun(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*WRAP, *argv], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=ENVIRONMENT)


def beats(stderr: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stderr.splitlines() if is_heartbeat(line)]


def rest(stderr: bytes) -> bytes:
    return b"".join(line for line in stderr.splitlines(keepends=True) if not is_heartbeat(line))


@pytest.mark.parametrize("code", [0, 7, 90, 255])
def test_the_exit_code_is_the_programs(code: int) -> None:
    assert wrapped("sh", "-c", f"exit {code}").returncode == code


def test_a_signal_that_ended_the_program_ends_the_wrapper() -> None:
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGABRT):
        assert wrapped("sh", "-c", f"kill -{int(number)} $$").returncode == -number


def test_what_cannot_be_started_is_said_as_a_shell_says_it(tmp_path: Path) -> None:
    assert wrapped("no-such-program").returncode == 127
    (tmp_path / "plain").write_text("")
    assert wrapped(str(tmp_path / "plain")).returncode == 126
    assert b"plain" in wrapped(str(tmp_path / "plain")).stderr


def test_the_heartbeats_call_it_by_its_name_unless_told_otherwise() -> None:
    own = (sys.executable, "-m", "omium.server.cli", "wrap", "--interval", "0.1", "--", "/bin/sh", "-c", "sleep 0.3")
    done = subprocess.run(own, capture_output=True, env=ENVIRONMENT, timeout=30, check=False)
    assert {beat["tool"] for beat in beats(done.stderr)} == {"sh"}
    assert {beat["tool"] for beat in beats(wrapped("/bin/sh", "-c", "sleep 0.3").stderr)} == {"X"}


def test_the_streams_go_through_byte_for_byte() -> None:
    data = bytes(range(256)) * 20_000
    done = wrapped("sh", "-c", "tee /dev/stderr", input=data, stdin=None)
    assert done.stdout == data
    assert rest(done.stderr).replace(b"\n", b"") == data.replace(b"\n", b"")


def test_options_behind_the_dashes_are_the_programs() -> None:
    assert wrapped("echo", "--tool", "--help", "--", "-x").stdout == b"--tool --help -- -x\n"


def test_the_heartbeats_carry_what_the_program_has_used_and_written() -> None:
    code = (
        "import sys, time\nprint('x' * 5000, flush=True); print('y' * 100, file=sys.stderr, flush=True)\n"
        "end = time.monotonic() + 0.8\nwhile time.monotonic() < end or time.process_time() < 0.3: pass"
    )
    found = beats(wrapped(sys.executable, "-c", code).stderr)
    last = found[-1]
    assert [one["number"] for one in found] == list(range(1, len(found) + 1))
    assert len(found) >= 4
    assert (last["tool"], last["stdout_bytes"], last["stderr_bytes"]) == ("X", 5001, 101)
    assert last["cpu_s"] > 0.1
    assert not any("progress" in one for one in found)


def test_a_heartbeat_never_stands_in_the_middle_of_a_line() -> None:
    code = "import sys, time\nfor _ in range(40): sys.stderr.write('.'); sys.stderr.flush(); time.sleep(0.02)"
    done = wrapped(sys.executable, "-c", code)
    assert rest(done.stderr).replace(b"\n", b"") == b"." * 40
    assert len(beats(done.stderr)) >= 2  # a line without an end is ended after a while


async def test_a_signal_reaches_the_grandchildren(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print(child.pid, flush=True)\ntime.sleep(600)\n"
    )
    wrapper = begun(sys.executable, "-c", code)
    assert wrapper.stdout is not None
    grandchild = identity(int(wrapper.stdout.readline()))
    assert grandchild is not None
    wrapper.send_signal(signal.SIGTERM)
    assert wrapper.wait(20) == -signal.SIGTERM
    with anyio.fail_after(10):
        while is_alive(grandchild):
            await anyio.sleep(0.02)
    wrapper.stdout.close()


async def test_under_the_supervisor_its_heartbeats_prove_no_progress(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        command = Command(
            (*WRAP, "sleep", "600"), tmp_path, env=ENVIRONMENT, idle_timeout_s=3.0, progress="activity", grace_s=2.0
        )
        ended = await run_process(command)
    assert ended.reason == "idle_timeout"
    assert len(beats(ended.stderr.head + ended.stderr.tail)) >= 3
