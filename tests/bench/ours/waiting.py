"""What rests: many runs that wait for a decision, and the list of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio
import psutil

from omium.orchestration.definition.build import workflow
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.service.core import Core
from tests.bench.figures import Figure
from tests.bench.ours.work import CALLER, Work, latency, opened, step
from tests.bench.peers import workload

IDLE_SECONDS = 5.0
SETTLE_SECONDS = 1.0
AT_ONCE = 200  # clients that ask for runs at the same time
PAGES = 40


def gated() -> WorkflowDef:
    """A node, a question, a node."""
    built = workflow("gated")
    draft = built.function("draft", use="step", with_={"state": built.inputs.state})
    ask = built.approval("ask", prompt="Go on?", needs=draft)
    built.function("go", use="step", with_={"state": draft.output}, needs=[draft, ask])
    return built.build()


async def waiting(work: Work) -> list[Figure]:
    """`runs` runs that each wait for an approval: the memory of the process, and what it does while they wait."""
    async with opened(work, {"step": step()}, [gated()]) as core:
        state = workload.initial_state(work)
        began = time.perf_counter()
        await _start_all(core, work, state)
        while not await _all_wait(core, work.runs):
            await anyio.sleep(0.1)
        seconds = time.perf_counter() - began
        await anyio.sleep(SETTLE_SECONDS)  # what begins only now, such as a checkpoint of the log, is not waiting
        memory = psutil.Process().memory_info().rss / 1024**2
        worked = time.process_time()
        await anyio.sleep(IDLE_SECONDS)
        idle = time.process_time() - worked
        pages = await _timed(PAGES, lambda: core.list_runs(CALLER, statuses=["waiting_approval"], limit=50))
        found = await core.list_runs(CALLER, statuses=["waiting_approval"], limit=50)
        assert len(found.runs) == min(50, work.runs)
        started = await _timed(PAGES, lambda: core.run_workflow(CALLER, "gated", {"state": state}))
    detail = {"runs": work.runs, "peak_mb": workload.peak_mb(), "seconds_to_wait": round(seconds, 1)}
    return [
        Figure("waiting_mb", round(memory, 1), "MB", detail=detail),
        Figure("idle_cpu_ms", round(idle * 1000 / IDLE_SECONDS, 2), "ms/s"),
        latency("list_ms", pages),
        latency("start_ms", started),
    ]


async def _start_all(core: Core, work: Work, state: workload.State) -> None:
    numbers = iter(range(work.runs))

    async def client() -> None:
        for _ in numbers:
            await core.run_workflow(CALLER, "gated", {"state": state})

    async with anyio.create_task_group() as tasks:
        for _ in range(min(AT_ONCE, work.runs)):
            tasks.start_soon(client)


async def _all_wait(core: Core, runs: int) -> bool:
    """Whether nothing is in any other state: the cheap question comes first."""
    for status in ("executing", "planning", "failed"):
        page = await core.list_runs(CALLER, statuses=[status], limit=1)
        if status == "failed" and page.runs:
            raise RuntimeError(f"run {page.runs[0].id} failed: {page.runs[0].error}")
        if page.runs:
            return False
    assert core.engine is not None
    return core.engine.busy == 0


async def _timed(times: int, call: Callable[[], Awaitable[object]]) -> list[float]:
    latencies = []
    for _ in range(times):
        began = time.perf_counter()
        await call()
        latencies.append(time.perf_counter() - began)
    return latencies
