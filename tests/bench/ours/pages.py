"""What a person waits for: the server's time for a page, with many runs in the list and with many nodes in a run."""

from __future__ import annotations

import time
from functools import partial

import anyio
import httpx2

from omium.orchestration.service.core import Core
from omium.server.http.access import identify
from omium.server.http.app import build_app
from omium.server.identity.authority import OpenLoopback
from omium.server.identity.limits import RateLimits, RequestLimits
from omium.server.mcp import build_server
from tests.bench.figures import Figure, percentile
from tests.bench.ours.work import CALLER, Work, chain_of, ended, opened, step
from tests.bench.peers import workload

_WARMING = 2  # the first page reads the templates
_AT_ONCE = 100


async def pages(work: Work) -> list[Figure]:
    """95th percentiles of `times` loads each: the list with `runs` runs in it, a search in it, the page of a run of
    `steps` nodes, and the drawing that a script gets of that."""
    async with opened(work, {"step": step(lambda _: None)}, [chain_of(work.steps)]) as core:
        state = {"state": workload.initial_state(work)}
        large = await core.run_workflow(CALLER, "chain", state)
        await ended(core, large.id)
        start = partial(core.run_workflow, CALLER, "chain", state, title="one of many", start=False)
        for _ in range(0, work.runs, _AT_ONCE):
            async with anyio.create_task_group() as tasks:
                for _ in range(_AT_ONCE):
                    tasks.start_soon(start)
        paths = {
            "list": "/",
            "search": "/?q=nothing+is+called+so",
            "run": f"/runs/{large.id}",
            "graph": f"/runs/{large.id}/graph.json",
        }
        return [Figure(f"{name}_ms", await _p95(core, path, work.times), "ms") for name, path in paths.items()]


async def _p95(core: Core, path: str, times: int) -> float:
    """Milliseconds from the request to the whole answer, without a network between."""
    limits = RateLimits(RequestLimits(), core.clock.monotonic)
    app = build_app(core, build_server(core, identify), OpenLoopback(CALLER), limits)
    took = []
    transport = httpx2.ASGITransport(app.asgi)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for _ in range(times + _WARMING):
            began = time.perf_counter()
            answer = await client.get(path)
            took.append(time.perf_counter() - began)
            assert answer.status_code == 200, answer.text[:300]
    return round((percentile(took[_WARMING:], 95) or 0.0) * 1000, 1)
