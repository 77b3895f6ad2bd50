"""Many clients of one server at once: MCP over HTTP to the product's own process, by the SDK's client."""

from __future__ import annotations

import time
from typing import Any

import anyio
from mcp import Client

from tests.bench.figures import Figure, percentile
from tests.bench.ours.work import PATIENCE_S, Work
from tests.protocol.processes import http_server
from tests.protocol.project import make_project

_READS = 5  # of the run that a client has started


async def http_clients(work: Work) -> list[Figure]:
    """95th percentile of a call's time, and calls in a second, while `runs` clients, each with a connection of its own
    and all of one principal, begin at once: each lists the tools, starts a run and looks at it again and again. Raises
    for any answer that is an error."""
    project = make_project(work.directory)
    took: list[float] = []

    async def call(client: Client, name: str, **arguments: Any) -> dict[str, Any]:
        began = time.perf_counter()
        result = await client.call_tool(name, arguments)
        took.append(time.perf_counter() - began)
        if result.is_error or result.structured_content is None:
            raise RuntimeError(f"{name} failed: {result.content}")
        return result.structured_content

    async def visit(url: str, number: int) -> None:
        async with Client(url) as client:
            began = time.perf_counter()
            await client.list_tools()
            took.append(time.perf_counter() - began)
            run = await call(client, "run_workflow", workflow="release", inputs={"topic": str(number)})
            for _ in range(_READS):
                seen = await call(client, "get_run", run_id=run["run_id"])
                if seen["run_id"] != run["run_id"]:
                    raise RuntimeError(f"a client got the run of another: {seen['run_id']}")

    log = work.directory / "server.log"
    command = [*project.http_server, "--no-detach"]  # nothing of it is to be left behind
    with anyio.fail_after(PATIENCE_S):
        async with http_server(command, project.environment, log, project.directory) as url:
            began = time.perf_counter()
            async with anyio.create_task_group() as tasks:
                for number in range(work.runs):
                    tasks.start_soon(visit, url, number)
            lasted = time.perf_counter() - began
    p95 = percentile(took, 95) or 0.0
    return [
        Figure("http_call_ms", round(p95 * 1000, 1), "ms"),
        Figure("http_calls", round(len(took) / lasted, 1), "calls/s"),
    ]
