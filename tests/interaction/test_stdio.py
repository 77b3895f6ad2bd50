"""The stdio server as a process: what it writes, how it starts and ends, and that runs outlive clients."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import psutil
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from omium.server.mcp import Lines
from omium.server.unreadable import TOO_LONG
from omium.storage.sqlite.store import SqliteStore
from tests.interaction.studio import MODES, Mode, Visitor

pytestmark = pytest.mark.anyio

SERVE = ["-c", "from omium.server.cli import main; main()", "serve"]

PROJECT = """
project: stdio-tests
functions:
  hold: {ref: "steps:hold", host: process}
  shout: {ref: "steps:shout", host: async}
workflows: [holding.yaml, shouting.yaml]
"""
HOLDING = """
name: holding
inputs: {type: object, required: [path], properties: {path: {type: string}}}
nodes:
- {id: hold, kind: function, use: hold, with: {path: "${{ inputs.path }}"}}
outputs: "${{ nodes.hold.output }}"
"""
SHOUTING = """
name: shouting
nodes:
- {id: shout, kind: function, use: shout}
"""
STEPS = """
import os, pathlib, sys, time

def hold(path):
    pathlib.Path(path + ".held").touch()
    while not os.path.exists(path):
        time.sleep(0.02)
    return "released"

async def shout():
    print("a stray line on standard output")
    os.write(1, b"another one\\\\n")
    sys.stdout.flush()
    return sys.stdin.read()
"""

# A client of its own process: it starts a run and waits to be killed.
CLIENT = """
import anyio, json, sys
from mcp import Client
from mcp.client.stdio import StdioServerParameters

async def main(mode, command, arguments, environment, inputs):
    server = StdioServerParameters(command=command, args=arguments, env=environment)
    async with Client(server, mode=mode) as client:
        result = await client.call_tool("run_workflow", {"workflow": "holding", "inputs": inputs})
        print(result.structured_content["run_id"], flush=True)
        await client.call_tool("get_run", {"run_id": result.structured_content["run_id"], "wait_seconds": 45})
        await anyio.sleep_forever()

anyio.run(main, *json.loads(sys.argv[1]))
"""


@pytest.fixture
async def environment(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """The environment of a project on disk; what it has left running in the background ends with the test."""
    project = tmp_path / "project"
    project.mkdir()
    for name, text in (("omium.yaml", PROJECT), ("holding.yaml", HOLDING), ("shouting.yaml", SHOUTING)):
        (project / name).write_text(text)
    (project / "steps.py").write_text(STEPS)
    home = tmp_path / "home"
    inherited = {name: os.environ[name] for name in ("PATH", "VIRTUAL_ENV") if name in os.environ}
    yield {**inherited, "HOME": str(tmp_path), "OMIUM_HOME": str(home), "OMIUM_PROJECT": str(project)}
    if (home / "omium.db").exists():
        await end_workers(home / "omium.db")


async def end_workers(database: Path) -> None:
    store = await SqliteStore.open(database)
    try:
        left = [psutil.Process(worker.pid) for worker in await store.workers() if psutil.pid_exists(worker.pid)]
    finally:
        await store.close()
    for process in left:
        process.terminate()
    _, stubborn = await anyio.to_thread.run_sync(lambda: psutil.wait_procs(left, timeout=20))
    assert stubborn == []


@asynccontextmanager
async def connected(environment: dict[str, str], mode: Mode, *options: str) -> AsyncIterator[Visitor]:
    server = StdioServerParameters(command=sys.executable, args=[*SERVE, *options], env=environment)
    async with Client(server, mode=mode) as client:
        yield Visitor(client)


async def appears(path: Path) -> None:
    while not path.exists():
        await anyio.sleep(0.02)


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_lists_and_runs_over_stdio(environment: dict[str, str], mode: Mode, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with anyio.fail_after(60):
        async with connected(environment, mode) as visitor:
            assert len((await visitor.client.list_tools()).tools) == 14
            run = await visitor.ok("run_workflow", workflow="holding", inputs={"path": str(gate)})
            await appears(tmp_path / "gate.held")
            gate.touch()
            ended = await visitor.ok("get_run", run_id=run["run_id"], wait_seconds=45, detail=True)
            assert ended["output"]["value"] == "released"


async def test_read_only_and_unknown_toolsets(environment: dict[str, str]) -> None:
    with anyio.fail_after(60):
        async with connected(environment, "auto", "--read-only") as visitor:
            tools = (await visitor.client.list_tools()).tools
            assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
        refused = await anyio.run_process(
            [sys.executable, *SERVE, "--toolsets", "default,magic"], env=environment, check=False
        )
    assert refused.returncode != 0
    assert refused.stdout == b""
    assert b"magic" in refused.stderr


async def test_a_killed_client_takes_no_run_along(environment: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    told = json.dumps(["auto", sys.executable, SERVE, environment, {"path": str(gate)}])
    with anyio.fail_after(90):
        async with await anyio.open_process([sys.executable, "-c", CLIENT, told], stderr=None) as client:
            assert client.stdout is not None
            run_id = (await client.stdout.receive()).decode().strip()
            await appears(tmp_path / "gate.held")
            server = psutil.Process(client.pid).children()
            client.send_signal(signal.SIGKILL)
            await client.wait()
        gone, _ = await anyio.to_thread.run_sync(lambda: psutil.wait_procs(server, timeout=30))
        assert len(gone) == len(server) == 1
        async with connected(environment, "legacy") as visitor:
            seen = await visitor.ok("get_run", run_id=run_id)
            assert seen["status"] == "executing"
            gate.touch()
            while (ended := await visitor.ok("get_run", run_id=run_id, wait_seconds=45))["status"] == "executing":
                pass
    assert ended["status"] == "completed"


def envelope(number: int, method: str, **params: Any) -> bytes:
    """A request of today's protocol."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": meta}}
    return json.dumps(message).encode() + b"\n"


async def answers(stream: anyio.abc.ByteReceiveStream) -> AsyncIterator[dict[str, Any]]:
    """Every line of the server's standard output, each of which must be a message."""
    buffer = b""
    async for data in stream:
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            assert message["jsonrpc"] == "2.0"
            yield message
    assert buffer == b""


@asynccontextmanager
async def raw(environment: dict[str, str], directory: Path) -> AsyncIterator[anyio.abc.Process]:
    process = await anyio.open_process(
        [sys.executable, *SERVE], env=environment, cwd=directory, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.aclose()


async def test_standard_output_carries_the_protocol_only(environment: dict[str, str], tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with raw(environment, tmp_path) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            await server.stdin.send(b"this is no message\n\n{\n")
            arguments = {"workflow": "shouting", "wait_seconds": 45}
            await server.stdin.send(envelope(1, "tools/call", name="run_workflow", arguments=arguments))
            async for message in answers(server.stdout):
                if message.get("id") == 1:
                    assert message["result"]["structuredContent"]["status"] == "completed", message
                    await server.stdin.aclose()
            assert await server.wait() == 0


async def test_a_request_that_cannot_be_read_is_answered(environment: dict[str, str], tmp_path: Path) -> None:
    """Several lines at once, so that each answer has to be about its own line."""
    lines = [
        b"this is no message",
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"list_runs","arguments":{"text":"\\ud800"}}}',
        b"",
        b'{"jsonrpc":"2.0","method":"notifications/initialized","params":3}',
        b'{"jsonrpc":"1.0","id":"eight","method":"ping"}',
        envelope(9, "tools/list").strip(),
    ]
    with anyio.fail_after(60):
        async with raw(environment, tmp_path) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            await server.stdin.send(b"\n".join(lines) + b"\n")
            said: list[tuple[Any, Any]] = []
            async for message in answers(server.stdout):
                said.append((message["id"], message.get("error", {}).get("code")))
                if len(said) == 4:
                    await server.stdin.aclose()
            assert sorted(said, key=repr) == [("eight", -32600), (7, -32700), (9, None), (None, -32700)]
            assert await server.wait() == 0


async def test_the_end_of_input_ends_the_server(environment: dict[str, str], tmp_path: Path) -> None:
    with anyio.fail_after(60):
        begun = processor_seconds()
        await anyio.run_process([sys.executable, "-c", "import mcp.server.mcpserver"], env=environment)
        sdk = processor_seconds() - begun
        async with raw(environment, tmp_path) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            await server.stdin.send(envelope(1, "tools/list"))
            message = await anext(aiter(answers(server.stdout)))
            assert len(message["result"]["tools"]) == 14
            await server.stdin.aclose()
            assert await server.wait() == 0
        life = processor_seconds() - begun - sdk
    # Its whole life takes little more than the protocol's own library takes to load. In processor time, and beside each
    # other, because what the clock shows depends on what else the machine does.
    assert life < 3.5 * sdk


def processor_seconds() -> float:
    """What this process's ended children have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


async def test_a_signal_ends_the_server_although_the_client_is_silent(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with anyio.fail_after(60):
        async with raw(environment, tmp_path) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            await server.stdin.send(envelope(1, "tools/list"))
            await anext(aiter(answers(server.stdout)))
            server.terminate()
            with anyio.fail_after(10):
                assert await server.wait() == 0


# --- lines -----------------------------------------------------------------------------------------------------------


async def lines_of(data: bytes, limit: int = 1_000) -> list[str]:
    read, write = os.pipe()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, send_all, write, data)
            return [line async for line in Lines(read, limit)]
    finally:
        os.close(read)


def send_all(write: int, data: bytes) -> None:
    with os.fdopen(write, "wb") as pipe:
        pipe.write(data)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"\n\n", ["", ""]),
        ("grüße\n".encode(), ["grüße"]),
        (b"\xff\n", ["\ufffd"]),
        (b"x" * 1_000 + b"\ny\n", ["x" * 1_000, "y"]),
        (b"x" * 1_001 + b"\ny\n", [TOO_LONG, "y"]),
        (b"x" * 500_000 + b"\ny\n" + b"z" * 500_000, [TOO_LONG, "y", TOO_LONG]),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_lines_of_a_pipe(data: bytes, lines: list[str]) -> None:
    with anyio.fail_after(10):
        assert await lines_of(data) == lines


async def test_lines_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"one\ntwo\n")
    with path.open("rb") as file, anyio.fail_after(10):
        assert [line async for line in Lines(file.fileno())] == ["one", "two"]


async def test_waiting_for_a_line_can_be_cancelled() -> None:
    read, write = os.pipe()
    try:
        with anyio.fail_after(10):
            with anyio.move_on_after(0.05) as waited:
                await anext(Lines(read))
            assert waited.cancelled_caught
    finally:
        os.close(read)
        os.close(write)
