"""Processes that do not want to end, say too much, or look for what is not theirs."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from pathlib import Path

import anyio
import psutil
import pytest

from omium.clients.processes.identity import ProcessIdentity, identity, is_alive
from omium.clients.processes.supervisor import Command, Running, run_process

pytestmark = pytest.mark.anyio

STUBBORN = "trap '' TERM INT HUP; echo ready; while :; do sleep 1; done"

# A grandchild in a session of its own whose parent is gone, as the shells of coding CLIs are after a SIGKILL.
DAEMON = """
import os, subprocess, sys, time
middle = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
subprocess.run([sys.executable, "-c", middle])
print("ready", flush=True)
time.sleep(600 if sys.argv[1] == "stay" else 0)
"""


class Watched:
    """Collects lines, and the processes whose pids are among them."""

    def __init__(self) -> None:
        self.ready = anyio.Event()
        self.descendants: list[ProcessIdentity] = []

    def on_line(self, _stream: str, line: str) -> None:
        if line.isdigit():
            found = identity(int(line))
            assert found is not None
            self.descendants.append(found)
        elif line == "ready":
            self.ready.set()


async def test_a_child_that_ignores_the_polite_signal_is_dead_after_the_grace(tmp_path: Path) -> None:
    began = time.monotonic()
    with anyio.fail_after(20):
        ended = await run_process(Command(("sh", "-c", STUBBORN), tmp_path, hard_timeout_s=0.5, grace_s=0.5))
    assert (ended.reason, ended.signal) == ("hard_timeout", signal.SIGKILL)
    assert 1.0 <= time.monotonic() - began < 5.0


@pytest.mark.parametrize("how", ["hard_timeout", "idle_timeout", "cancelled", "exited"])
async def test_a_grandchild_in_a_session_of_its_own_dies_too(tmp_path: Path, how: str) -> None:
    watched = Watched()
    argv = (sys.executable, "-c", DAEMON, "leave" if how == "exited" else "stay")
    limits = {
        "hard_timeout": Command(argv, tmp_path, hard_timeout_s=1.5),
        "idle_timeout": Command(argv, tmp_path, idle_timeout_s=1.5),
    }
    command = limits.get(how, Command(argv, tmp_path))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:

            async def supervise() -> None:
                ended = await run_process(command, on_line=watched.on_line)
                assert ended.reason == how

            tasks.start_soon(supervise)
            if how == "cancelled":
                await watched.ready.wait()
                assert all(is_alive(each) for each in watched.descendants)
                tasks.cancel_scope.cancel()
    assert len(watched.descendants) == 1
    assert not is_alive(watched.descendants[0])


async def test_cancelling_takes_less_than_five_seconds_whatever_the_grace(tmp_path: Path) -> None:
    watched = Watched()
    command = Command(("sh", "-c", STUBBORN), tmp_path, grace_s=600.0)
    seen: list[Running] = []

    async def note(running: Running) -> None:
        seen.append(running)

    async with anyio.create_task_group() as tasks:

        async def supervise() -> None:
            await run_process(command, on_line=watched.on_line, on_start=note)

        tasks.start_soon(supervise)
        await watched.ready.wait()
        began = time.monotonic()
        tasks.cancel_scope.cancel()
    assert time.monotonic() - began < 5.0
    assert not is_alive(seen[0].identity)
    assert seen[0].exit is not None
    assert seen[0].exit.reason == "cancelled"


async def test_a_background_child_that_holds_the_output_open_does_not_hang_the_supervisor(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        ended = await run_process(Command(("sh", "-c", "sleep 600 & echo done"), tmp_path))
    assert (ended.reason, ended.code, ended.stdout.text()) == ("exited", 0, "done\n")


async def test_processes_that_keep_forking_are_all_caught(tmp_path: Path) -> None:
    # Each generation starts the next in a new session and ends: nobody is ever anybody's living child.
    chain = (
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-S', sys.argv[0]], start_new_session=True,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
    )
    script = tmp_path / "chain.py"
    script.write_text(chain)
    command = Command((sys.executable, str(script)), tmp_path, grace_s=0.0)
    with anyio.fail_after(30):
        await run_process(command)
    marker = f"OMIUM_PROCESS={command.token}".encode()
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                left += [entry.name] if marker in (entry / "environ").read_bytes() else []
            except OSError:
                continue
    assert left == []


async def test_a_flood_without_line_ends_takes_bounded_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with anyio.fail_after(60):
        ended = await run_process(
            Command(("head", "-c", "400000000", "/dev/zero"), tmp_path, keep_bytes=64 * 1024),
            on_line=lambda _stream, _line: None,
        )
    assert ended.stdout.total == 400_000_000
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < 64 * 1024  # one line of 8 MB, a few copies of it, and chunks


async def test_secrets_and_injections_of_the_parent_do_not_reach_a_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_SECRET", "canary-value")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-value")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with anyio.fail_after(20):
        ended = await run_process(Command(("sh", "-c", "env; cat /proc/$$/environ"), tmp_path))
    text = ended.stdout.text()
    assert "OMIUM_PROCESS=" in text
    for forbidden in ("canary", "CANARY", "API_KEY", "LD_PRELOAD", "PYTHONPATH"):
        assert forbidden not in text


async def test_no_descriptor_of_the_parent_is_inherited(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        with anyio.fail_after(20):
            ended = await run_process(Command(("ls", "-l", "/proc/self/fd"), tmp_path))
    assert "secret" not in ended.stdout.text()


async def test_arguments_are_never_read_by_a_shell(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        ended = await run_process(Command(("echo", "$(touch hacked); `touch hacked` && touch hacked"), tmp_path))
    assert ended.stdout.text() == "$(touch hacked); `touch hacked` && touch hacked\n"
    assert not (tmp_path / "hacked").exists()


async def test_many_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    results: list[int | None] = []

    async def one(number: int) -> None:
        ended = await run_process(Command(("sh", "-c", f"echo {number}; exit {number % 5}"), tmp_path))
        assert ended.stdout.text() == f"{number}\n"
        results.append(ended.code)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(one, number)
    assert sorted(code or 0 for code in results) == sorted(number % 5 for number in range(40))
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before
    assert psutil.STATUS_ZOMBIE not in [child.status() for child in psutil.Process().children()]
