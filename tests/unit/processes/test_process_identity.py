"""Which process was meant, and cleaning up after an owner that died."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from omium.clients.processes.identity import (
    ProcessIdentity,
    identity,
    is_alive,
    same_host,
    this_process,
)
from omium.clients.processes.reconcile import Record, kill_marked, reconcile
from omium.clients.processes.tree import send_signal
from omium.orchestration.ids import new_id

pytestmark = pytest.mark.anyio

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts what an owner left behind; ends it after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(token: str, *argv: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OMIUM_PROCESS": token}
        process = subprocess.Popen(
            argv or ("sleep", "600"), env=environment, stdout=subprocess.PIPE, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def known(pid: int) -> ProcessIdentity:
    found = identity(pid)
    assert found is not None
    return found


def test_an_identity_is_alive_as_long_as_its_process(start: Start) -> None:
    process = start("t")
    mine = known(process.pid)
    assert mine == known(process.pid)
    assert is_alive(mine)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert identity(process.pid) is not None  # a zombie still has its pid
    assert not is_alive(mine)
    process.wait()
    assert not is_alive(mine)
    assert identity(process.pid) is None


def test_the_own_process_is_alive_and_there_is_none_without_a_pid() -> None:
    assert is_alive(this_process())
    assert identity(0) is None
    assert identity(-1) is None


def test_another_start_time_is_another_process() -> None:
    reused = dataclasses.replace(this_process(), start_time=this_process().start_time - 1)
    assert same_host(reused)
    assert not is_alive(reused)


def test_another_boot_or_container_is_not_judged() -> None:
    elsewhere = dataclasses.replace(this_process(), boot_id="other")
    assert not same_host(elsewhere)
    assert not is_alive(elsewhere)


def test_a_signal_never_reaches_a_stranger_with_the_same_pid(start: Start) -> None:
    process = start("t")
    stranger = known(process.pid)
    send_signal([dataclasses.replace(stranger, start_time=stranger.start_time + 1)], signal.SIGKILL)
    assert is_alive(stranger)
    send_signal([stranger], signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    send_signal([stranger], signal.SIGKILL)  # gone: nothing happens


async def test_reconciliation_tells_dead_alive_reused_and_elsewhere(start: Start) -> None:
    dead_token, alive_token, reused_token, elsewhere_token = (new_id("proc") for _ in range(4))
    dead = start(dead_token)
    gone = known(dead.pid)
    dead.kill()
    dead.wait()
    alive = start(alive_token)
    stranger = start("somebody-else")
    reused = dataclasses.replace(known(stranger.pid), start_time=1.0)
    elsewhere = dataclasses.replace(known(stranger.pid), boot_id="other")
    with anyio.fail_after(10):
        outcomes = await reconcile(
            [
                Record(dead_token, gone),
                Record(alive_token, known(alive.pid)),
                Record(reused_token, reused),
                Record(elsewhere_token, elsewhere),
            ]
        )
    assert outcomes == ("gone", "killed", "gone", "elsewhere")
    assert alive.wait() == -signal.SIGTERM
    assert stranger.poll() is None


async def test_what_a_dead_leader_left_behind_is_found_by_its_marker(start: Start, tmp_path: Path) -> None:
    token = new_id("proc")
    code = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid, flush=True)"
    leader = start(f"outer/{token}", sys.executable, "-c", code)
    assert leader.stdout is not None
    orphan = known(int(leader.stdout.readline()))
    leader.wait()
    assert is_alive(orphan)
    with anyio.fail_after(10):
        assert await kill_marked(token)
        assert not is_alive(orphan)
        assert not await kill_marked(token)


async def test_what_ignores_the_polite_signal_is_killed(start: Start) -> None:
    token = new_id("proc")
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    process = start(token, sys.executable, "-c", code)
    assert process.stdout is not None
    process.stdout.readline()
    with anyio.fail_after(10):
        assert await reconcile([Record(token, known(process.pid))], grace_s=0.1) == ("killed",)
    assert process.wait() == -signal.SIGKILL
