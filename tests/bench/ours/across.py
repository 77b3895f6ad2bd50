"""Two processes on one database: how soon the one hears of what the other did.

The other process is `python -m tests.bench.ours.across ROLE WORK`. Both read the monotonic clock, which is one for the
machine on Linux.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from omium.orchestration.definition.build import workflow
from omium.orchestration.ids import ApprovalId, RunId
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import EventView
from tests.bench.figures import Figure
from tests.bench.ours.waiting import gated
from tests.bench.ours.work import CALLER, Work, as_json, chain_of, ended, from_json, latency, opened, step
from tests.bench.peers import workload
from tests.bench.peers.workload import State

MODULE = "tests.bench.ours.across"

Line = Callable[[], Awaitable[str]]


@asynccontextmanager
async def _other(role: str, work: Work) -> AsyncIterator[tuple[Process, Line]]:
    """The other process, and a function that gives the next line that it writes."""
    async with await anyio.open_process([sys.executable, "-m", MODULE, role, as_json(work)], stderr=None) as process:
        assert process.stdin is not None and process.stdout is not None
        text, kept = TextReceiveStream(process.stdout), ""

        async def line() -> str:
            nonlocal kept
            while "\n" not in kept:
                kept += await text.receive()
            found, _, kept = kept.partition("\n")
            return found

        assert await line() == "ready"
        yield process, line
        await process.stdin.aclose()
        await process.wait()


async def _tell(process: Process, text: str) -> None:
    assert process.stdin is not None
    await process.stdin.send(f"{text}\n".encode())


async def approval(work: Work) -> list[Figure]:
    """From a decision in another process to the beginning of the node that waited for it here."""
    begun: dict[str, float] = {}
    rung = anyio.Event()

    async def noting(ctx: object, state: State) -> State:
        begun[f"{ctx.run_id} {ctx.node_id}"] = time.monotonic()  # type: ignore[attr-defined]
        rung.set()
        return state

    async with opened(work, {"step": noting}, [gated()]) as core, _other("decide", work) as (process, line):
        latencies = []
        for _ in range(work.times):
            run = await core.run_workflow(CALLER, "gated", {"state": workload.initial_state(work)})
            view = await ended(core, run.id, status="waiting_approval")
            await _tell(process, view.approvals[0].id)
            decided = float(await line())
            while f"{run.id} go" not in begun:
                rung = anyio.Event()
                await rung.wait()
            latencies.append(begun[f"{run.id} go"] - decided)
    return [latency("approval_ms", latencies)]


async def decide(work: Work, core: Core) -> None:
    """Decides what its input names, and says when it began to."""
    while question := await _input():
        began = time.monotonic()
        await core.decide(CALLER, ApprovalId(question), "approve", assurance="out_of_band")
        _say(str(began))


async def events(work: Work) -> list[Figure]:
    """From the time in an event, which is that of its commit's beginning, to its arrival at a follower: one of this
    process, and one of another. The run is a chain that works as fast as it can, two events a node."""
    local: list[float] = []

    async def follow_here(core: Core, run_id: RunId) -> None:
        async for event in core.follow(CALLER, run_id):
            local.append(_age(event))

    chain = chain_of(work.steps)
    async with opened(work, {"step": step()}, [chain]) as core, _other("follow", work) as (process, line):
        run = await core.run_workflow(CALLER, "chain", {"state": workload.initial_state(work)}, start=False)
        await _tell(process, run.id)
        assert await line() == "following"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(follow_here, core, run.id)
            await core.resume(CALLER, run.id)
        remote = [float(age) for age in (await line()).split()]
        assert len(remote) == len(local) >= 2 * work.steps
    return [latency("event_local_ms", local), latency("event_ms", remote)]


def _age(event: EventView) -> float:
    return time.time() - event.at / 1e6


async def follow(work: Work, core: Core) -> None:
    """Follows what its input names, and says how old each event was when it came."""
    ages: list[str] = []
    run_id = RunId(await _input())
    _say("following")
    async for event in core.follow(CALLER, run_id):
        ages.append(f"{_age(event):.6f}")
    _say(" ".join(ages))


async def cancelling(work: Work) -> list[Figure]:
    """From a cancellation in another process to the end of the node in flight here."""
    stopped: dict[str, float] = {}
    rung = anyio.Event()

    async def slow(ctx: object, state: State) -> State:
        rung.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped[ctx.run_id] = time.monotonic()  # type: ignore[attr-defined]
            rung.set()
        return state

    built = workflow("slow")
    built.function("slow", use="slow", with_={"state": built.inputs.state})
    async with opened(work, {"slow": slow}, [built.build()]) as core, _other("cancel", work) as (process, line):
        latencies = []
        for _ in range(work.times):
            rung = anyio.Event()
            run = await core.run_workflow(CALLER, "slow", {"state": workload.initial_state(work)})
            await rung.wait()
            await _tell(process, run.id)
            asked = float(await line())
            while run.id not in stopped:
                rung = anyio.Event()
                await rung.wait()
            latencies.append(stopped[run.id] - asked)
    return [latency("cancel_ms", latencies)]


async def cancel(work: Work, core: Core) -> None:
    """Cancels what its input names, and says when it began to."""
    while run_id := await _input():
        began = time.monotonic()
        await core.cancel(CALLER, RunId(run_id))
        _say(str(began))


async def _input() -> str:
    line: str = await anyio.to_thread.run_sync(sys.stdin.readline)
    return line.strip()


def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())


ROLES: dict[str, Callable[[Work, Core], Awaitable[None]]] = {"decide": decide, "follow": follow, "cancel": cancel}


async def _play(role: str, work: Work) -> None:
    async with opened(work, {"step": step(), "slow": step()}, [], engine=False) as core:
        _say("ready")
        await ROLES[role](work, core)


if __name__ == "__main__":
    anyio.run(_play, sys.argv[1], from_json(sys.argv[2]))
