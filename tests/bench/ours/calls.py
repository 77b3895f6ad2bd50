"""What the protocol adds: a tool's call on stdio beside the same verb of the core, on one database."""

from __future__ import annotations

import subprocess
import time
from typing import IO, Any

import anyio

from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config
from tests.bench.figures import Figure, percentile
from tests.bench.ours.commands import INITIALIZE, ask, environment, program, send
from tests.bench.ours.work import Work

_WARMING = 5  # the first calls load what all later ones find
_FILES = {
    "omium.yaml": "project: bench\nworkflows: [asking.yaml]\n",
    "asking.yaml": 'name: asking\nnodes:\n- {id: ask, kind: approval, approval: {prompt: "Go on?"}}\n',
}


async def calls(work: Work) -> list[Figure]:
    """`get_run` of a run that waits, `times` times each way: the slow end of the calls less what the core takes."""
    for name, text in _FILES.items():
        (work.directory / name).write_text(text)
    called, run_id = await anyio.to_thread.run_sync(_called, work)
    config = load_config(work.directory, environment(work))
    async with open_omium(config, engine=False) as core:
        caller = local_caller(config)
        found = await core.find_run(caller, run_id)
        own = []
        for _ in range(work.times + _WARMING):
            began = time.perf_counter()
            await core.get_run(caller, found)
            own.append(time.perf_counter() - began)
    core_ms = (percentile(own[_WARMING:], 50) or 0.0) * 1000
    added_ms = max((percentile(called, 95) or 0.0) * 1000 - core_ms, 0.0)
    return [
        Figure("call_overhead_ms", round(added_ms, 3), "ms"),
        Figure("call_core_ms", round(core_ms, 3), "ms"),
    ]


def _called(work: Work) -> tuple[list[float], str]:
    """Seconds of each call, and the run that was asked for."""
    command = [*program("omium-mcp"), "serve", "--no-detach"]
    with subprocess.Popen(
        command, cwd=work.directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(work)
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        ask(server.stdin, server.stdout, 1, "initialize", INITIALIZE)
        send(server.stdin, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        run = _call(server.stdin, server.stdout, 2, "run_workflow", workflow="asking", wait_seconds=30)
        assert run["status"] == "waiting_approval", run
        seconds = []
        for number in range(work.times + _WARMING):
            began = time.perf_counter()
            _call(server.stdin, server.stdout, 10 + number, "get_run", run_id=run["run_id"])
            seconds.append(time.perf_counter() - began)
        server.stdin.close()
        assert server.wait(timeout=30) == 0
    return seconds[_WARMING:], str(run["run_id"])


def _call(write: IO[bytes], read: IO[bytes], number: int, tool: str, **arguments: Any) -> dict[str, Any]:
    result = ask(write, read, number, "tools/call", {"name": tool, "arguments": arguments})
    assert not result.get("isError"), result
    answer: dict[str, Any] = result["structuredContent"]
    return answer
