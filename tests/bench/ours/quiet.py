"""What it costs to supervise programs that say nothing: CPU and memory of the supervisor alone, theirs not counted."""

from __future__ import annotations

import os
import resource
import time

import anyio

from omium.clients.processes.supervisor import Command, Running, run_process
from tests.bench.figures import Figure
from tests.bench.ours.work import Work

_SETTLE_S = 2.0
_WATCHED_S = 30.0


async def quiet(work: Work) -> list[Figure]:
    """`times` programs under every limit of time that a command has unless it says otherwise."""
    begun: list[Running] = []

    async def note(running: Running) -> None:
        begun.append(running)

    async def supervise() -> None:
        command = Command(
            ("sleep", "3600"),
            work.directory,
            hard_timeout_s=1800.0,
            idle_timeout_s=300.0,
            stall_after_s=120.0,
            heartbeat_timeout_s=90.0,
            progress="activity",
            grace_s=0.5,
        )
        await run_process(command, on_start=note)

    before = _resident()
    async with anyio.create_task_group() as tasks:
        for _ in range(work.times):
            tasks.start_soon(supervise)
        while len(begun) < work.times:
            await anyio.sleep(0.05)
        await anyio.sleep(_SETTLE_S)
        cpu, since = _cpu(), time.monotonic()
        await anyio.sleep(_WATCHED_S)
        share = 100 * (_cpu() - cpu) / (time.monotonic() - since)
        more = _resident() - before
        for running in begun:
            running.stop()
    return [Figure("quiet_cpu", round(share, 3), "%"), Figure("quiet_mb", round(more / 1e6, 1), "MB")]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
