"""A server that behaves: its arguments choose among a few ways of being slow, failing or large."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

server = MCPServer(os.environ.get("SERVER_NAME", "good"), log_level="ERROR")
made: list[str] = []


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: Annotated[int, Field(ge=0)], b: int) -> dict[str, int]:
    """Add two numbers."""
    return {"sum": a + b}


@server.tool(structured_output=False)
def echo(text: str) -> str:
    """Say it back."""
    return text


@server.tool(structured_output=False)
def fail(text: str) -> str:
    """Fail."""
    raise ToolError(text)


@server.tool(structured_output=False)
async def slow(seconds: float) -> str:
    """Take a while."""
    await anyio.sleep(seconds)  # real time: a tool that takes it, in a process of its own
    return "done"


@server.tool(structured_output=False)
def long(characters: int) -> str:
    """A long text."""
    return "x" * characters


@server.tool()
def wide(items: int) -> dict[str, list[int]]:
    """Much structured content."""
    return {"items": list(range(items))}


@server.tool(structured_output=False)
def environment() -> str:
    """Every variable of this process, a line each."""
    return "\n".join(f"{name}={value}" for name, value in os.environ.items())


@server.tool(structured_output=False)
def count(name: str) -> str:
    """How often this was called with this name, by everybody."""
    made.append(name)
    return str(made.count(name))


@server.tool(structured_output=False)
def die(code: int = 7) -> str:
    """End the process in the middle of the call."""
    print("the last words", file=sys.stderr, flush=True)
    os._exit(code)


@server.tool()
async def meta(ctx: Context[Any]) -> dict[str, Any]:
    """What came beside the arguments."""
    sent = ctx.request_context.meta or {}
    headers = ctx.headers or {}
    return {"meta": {str(key): str(value) for key, value in sent.items()}, "headers": dict(headers)}


if __name__ == "__main__":
    transport = sys.argv[1] if len(sys.argv) > 1 else "stdio"
    if transport == "stdio":
        server.run()
    else:
        server.run(transport, port=int(sys.argv[2]))  # type: ignore[call-overload]
