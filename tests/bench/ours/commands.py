"""What a user's first seconds are made of: `omium --help`, and a server on stdio that answers and goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import anyio

from tests.bench.figures import Figure, percentile
from tests.bench.ours.work import Work

INITIALIZE: dict[str, Any] = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "0"},
}


def program(name: str) -> list[str]:
    """The console script beside this Python, or what it would run."""
    script = Path(sys.executable).with_name(name)
    return [str(script)] if script.exists() else [sys.executable, "-m", "omium.server.cli"]


def environment(work: Work) -> dict[str, str]:
    place = str(work.directory)
    return {**os.environ, "OMIUM_HOME": place, "OMIUM_PROJECT": place, "OMIUM_DATABASE": str(work.database)}


async def commands(work: Work) -> list[Figure]:
    """Medians of `times` new processes each."""
    return await anyio.to_thread.run_sync(_commands, work)


def _commands(work: Work) -> list[Figure]:
    helps, firsts, exits = [], [], []
    for _ in range(work.times):
        began = time.perf_counter()
        subprocess.run([*program("omium"), "--help"], check=True, stdout=subprocess.DEVNULL, env=environment(work))
        helps.append(time.perf_counter() - began)
    for _ in range(max(1, work.times // 2)):
        first, exit_ = _serve_once(work)
        firsts.append(first)
        exits.append(exit_)
    return [
        Figure("help", round(percentile(helps, 50) or 0.0, 3), "s"),
        Figure("stdio_first_answer", round(percentile(firsts, 50) or 0.0, 3), "s"),
        Figure("stdio_exit", round(percentile(exits, 50) or 0.0, 3), "s"),
    ]


def _serve_once(work: Work) -> tuple[float, float]:
    """Seconds to the list of tools, from the start of the process, and to its end, from closing its input."""
    command = [*program("omium-mcp"), "serve", "--no-detach"]
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=work.directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(work)
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        ask(server.stdin, server.stdout, 1, "initialize", INITIALIZE)
        send(server.stdin, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        tools = ask(server.stdin, server.stdout, 2, "tools/list", {})["tools"]
        first = time.perf_counter() - began
        assert any(tool["name"] == "run_workflow" for tool in tools)
        began = time.perf_counter()
        server.stdin.close()
        if server.wait(timeout=30) != 0:
            raise RuntimeError(f"the server ended with {server.returncode}")
        return first, time.perf_counter() - began


def send(stream: IO[bytes], message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def ask(write: IO[bytes], read: IO[bytes], number: int, method: str, params: dict[str, Any]) -> dict[str, Any]:
    send(write, {"jsonrpc": "2.0", "id": number, "method": method, "params": params})
    for line in read:
        message = json.loads(line)
        if message.get("id") == number:
            result: dict[str, Any] = message["result"]
            return result
    raise RuntimeError(f"the server ended before it answered {method}")
