"""Real clients behind one face: FastMCP's, the TypeScript SDK's and the Inspector's command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream
from fastmcp import Client
from fastmcp.client.elicitation import ElicitResult
from fastmcp.client.transports import StdioTransport

from tests import nodejs
from tests.protocol.project import Project
from tests.protocol.tour import Called

Era = Literal["auto", "legacy"]
_LINE = 1 << 20
_TYPESCRIPT = Path(__file__).with_name("typescript.mjs")


def called(result: Mapping[str, Any]) -> Called:
    """A `tools/call` result as it is on the wire."""
    if result.get("isError"):
        return Called(json.loads(result["content"][0]["text"]), failed=True)
    return Called(result["structuredContent"], failed=False)


# --- FastMCP ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FastMcp:
    client: Client[Any]
    shows_forms: bool

    async def tools(self) -> set[str]:
        return {tool.name for tool in await self.client.list_tools()}

    async def call(self, tool: str, **arguments: Any) -> Called:
        result = await self.client.call_tool(tool, arguments, raise_on_error=False)
        if result.is_error:
            return Called(json.loads(result.content[0].text), failed=True)
        assert result.structured_content is not None
        return Called(result.structured_content, failed=False)

    async def read(self, uri: str) -> str:
        return "\n".join(content.text for content in await self.client.read_resource(uri))


@asynccontextmanager
async def fast_mcp(project: Project, era: Era, *, forms: bool, url: str | None = None) -> AsyncIterator[FastMcp]:
    async def accept(message: str, kind: Any, params: Any, context: Any) -> ElicitResult[Any]:
        fields = params.requested_schema["properties"].items()
        content = {name: of["default"] for name, of in fields if of.get("default") is not None}
        return ElicitResult(action="accept", content=content)

    command, *arguments = project.server
    transport: Any = url or StdioTransport(command, arguments, env=project.environment, keep_alive=False)
    async with Client(transport, mode=era, elicitation_handler=accept if forms else None) as client:
        yield FastMcp(client, forms)


# --- TypeScript -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TypeScript:
    process: anyio.abc.Process
    lines: BufferedByteReceiveStream
    shows_forms: bool

    async def _ask(self, method: str, **params: Any) -> Any:
        assert self.process.stdin is not None
        await self.process.stdin.send(json.dumps({"method": method, "params": params}).encode() + b"\n")
        said = json.loads(await self.lines.receive_until(b"\n", _LINE))
        assert "result" in said, said
        return said["result"]

    async def tools(self) -> set[str]:
        return set(await self._ask("tools"))

    async def call(self, tool: str, **arguments: Any) -> Called:
        return called(await self._ask("call", name=tool, arguments=arguments))

    async def read(self, uri: str) -> str:
        return "\n".join(content["text"] for content in (await self._ask("read", uri=uri))["contents"])


@asynccontextmanager
async def type_script(project: Project, era: Era, *, forms: bool, url: str | None = None) -> AsyncIterator[TypeScript]:
    command, *arguments = project.server
    where = {"http": url} if url else {"stdio": {"command": command, "args": arguments, "env": project.environment}}
    modules = await anyio.to_thread.run_sync(nodejs.modules)
    wanted = {"modules": str(modules), "era": era, "forms": forms, **where}
    node = [str(nodejs.node()), str(_TYPESCRIPT), json.dumps(wanted)]
    async with await anyio.open_process(node, stderr=None) as process:
        assert process.stdout is not None and process.stdin is not None
        lines = BufferedByteReceiveStream(process.stdout)
        hello = json.loads(await lines.receive_until(b"\n", _LINE))
        assert hello["protocol"] == ("2025-11-25" if era == "legacy" else "2026-07-28"), hello
        yield TypeScript(process, lines, forms)
        await process.stdin.aclose()
        assert await process.wait() == 0


# --- the Inspector's command line -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inspector:
    """Every call is a process of its own, and on stdio a server of its own: nothing is left of one for the next."""

    project: Project
    era: Literal["legacy", "modern"]
    url: str | None = None
    shows_forms: bool = False

    async def _ask(self, method: str, *options: str) -> Any:
        modules = await anyio.to_thread.run_sync(nodejs.modules)
        program = modules / "@modelcontextprotocol/inspector/clients/launcher/build/index.js"
        target = ["--config", str(self._configuration()), "--server", "omium"]
        if self.url:
            target = ["--server-url", self.url]
        command = [str(nodejs.node()), str(program), "--cli", *target, "--protocol-era", self.era]
        command += ["--method", method, "--format", "json", "--quiet", *options]
        done = await anyio.run_process(
            command,
            env={**self.project.environment, "PATH": nodejs.search_path()},
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.stdout, (done.returncode, done.stderr.decode()[-2_000:])
        return json.loads(done.stdout)["result"]

    def _configuration(self) -> Path:
        return self.project.client_configuration(self.project.directory.with_name("inspector.json"))

    async def tools(self) -> set[str]:
        return {tool["name"] for tool in (await self._ask("tools/list"))["tools"]}

    async def call(self, tool: str, **arguments: Any) -> Called:
        return called(await self._ask("tools/call", "--tool-name", tool, "--tool-args-json", json.dumps(arguments)))

    async def read(self, uri: str) -> str:
        contents = (await self._ask("resources/read", "--uri", uri))["contents"]
        return "\n".join(content["text"] for content in contents)
