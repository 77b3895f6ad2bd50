"""The MCP server: one factory for every transport, and the stdio transport.

A server holds nothing of a run: it may end at any moment, and another one answers the next request.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, cast

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.request_state import RequestStateSecurity
from mcp.server.stdio import stdio_server

from omium.orchestration.service.views import Caller
from omium.server.identity.limits import RateLimits
from omium.server.limited import Limited
from omium.server.unreadable import MAX_MESSAGE, TOO_LONG, Readable
from omium.tools.app.deciding import VIEW_TOOLS
from omium.tools.app.view import AppTools, run_app
from omium.tools.completion import offer_completion
from omium.tools.desk import Desk
from omium.tools.listening import offer_subscriptions
from omium.tools.permitted import OnlyPermitted
from omium.tools.prompts import offer_prompts
from omium.tools.resources import CACHE_HINTS, offer_resources
from omium.tools.subscriptions import Hub
from omium.tools.tasks import TasksExtension
from omium.tools.tasks_listen import TaskMember, TaskNames
from omium.tools.tasks_runs import RunTasks
from omium.tools.tool import UnknownTools, build_tool
from omium.tools.toolsets import DEFAULT, instructions, select

if TYPE_CHECKING:
    from mcp.server.mcpserver.tools import Tool

    from omium.orchestration.ids import RunId
    from omium.orchestration.ports import Damage
    from omium.orchestration.service.core import Core
    from omium.tools.tasks_source import TaskSource

ANSWER_WITHIN_S = 86_400.0  # a form may lie open as long as an approval; the approval itself is in the store

Identify = Callable[[Context[Any, Any]], Caller]


def build_server(
    core: Core,
    caller: Caller | Identify,
    *,
    toolsets: Sequence[str] = (DEFAULT,),
    read_only: bool = False,
    more_tools: Sequence[Tool] = (),
    task_sources: Sequence[TaskSource] = (),
    limits: RateLimits | None = None,
    form_key: bytes | None = None,
) -> MCPServer[Desk]:
    """The server for one core, on any transport and for both protocol eras.

    caller: who all requests come from, or a function that says it for each request from its authentication. more_tools:
    offered besides those of the toolsets, as they are. task_sources: what makes tasks of their calls. limits: how often
    a caller may call tools, where nothing before this server sees to that. form_key: servers with the same take the
    answers to each other's forms; without one, forms end with the server. Raises `invalid_argument` for an unknown
    toolset.
    """
    specs = select(toolsets, read_only=read_only)
    behind_the_view = [spec for spec in VIEW_TOOLS if spec.reads_only or not read_only]
    tools = [*(build_tool(spec) for spec in (*specs, *behind_the_view)), *more_tools]
    identify: Identify = (lambda _: caller) if isinstance(caller, Caller) else caller
    tasks = TasksExtension([RunTasks(read_only=read_only), *task_sources])

    @asynccontextmanager
    async def desk(_: MCPServer[Desk]) -> AsyncIterator[Desk]:
        yield Desk(core, identify, partial(_verified, core))

    hub = Hub(core.store)
    server = MCPServer(
        "omium",
        title="Omium",
        description="Durable, reversible and accountable agent workflows.",
        instructions=instructions(specs),
        version=_version(),
        tools=tools,
        lifespan=desk,
        extensions=[tasks, run_app()],
        middleware=[
            UnknownTools([tool.name for tool in tools], read_only=read_only),
            AppTools([spec.name for spec in VIEW_TOOLS]),
            OnlyPermitted(identify),
            TaskNames(),
            *([] if limits is None else [Limited(limits, identify, [spec.name for spec in specs if spec.reads_only])]),
        ],
        request_state_security=RequestStateSecurity(keys=[form_key or os.urandom(32)], ttl=ANSWER_WITHIN_S),
        subscriptions=hub,
        cache_hints=CACHE_HINTS,
        log_level="WARNING",
    )
    offer_subscriptions(server, hub, members=[TaskMember(tasks)])
    offer_resources(server)
    offer_prompts(server)
    offer_completion(server)
    return server


async def _verified(core: Core, run_id: RunId) -> list[Damage]:
    """What is wrong with a run, as `omium verify` would find it; nothing is quarantined."""
    from omium.storage.maintenance import keeper
    from omium.storage.maintenance.verify import check

    keeping = keeper(core.store)
    return await keeping.read(lambda tables: list(check(tables, keeping.files, keeping.chain, [run_id])))


def _version() -> str:
    try:
        return version("omium-mcp")
    except PackageNotFoundError:  # a checkout on the path, without metadata
        return "0"


async def serve_stdio(
    core: Core,
    caller: Caller,
    *,
    toolsets: Sequence[str] = (DEFAULT,),
    read_only: bool = False,
    limits: RateLimits | None = None,
    form_key: bytes | None = None,
) -> None:
    """Serve one client on standard input and output until it closes our input; then calls in flight are cancelled and
    this returns. What the runs become is the business of whoever opened the core.

    Standard output carries the protocol only: while serving, descriptor 1 is standard error, for this process and its
    children, and descriptor 0 is empty. Cancelling ends it at once, also while the client is silent."""
    server = build_server(core, caller, toolsets=toolsets, read_only=read_only, limits=limits, form_key=form_key)
    lowlevel = server._lowlevel_server  # the SDK's own `run_stdio_async` reaches it the same way and takes no streams
    with _taken_input() as descriptor:
        lines = Lines(descriptor)
        async with stdio_server(stdin=cast("anyio.AsyncFile[str]", lines)) as (read_stream, write_stream):
            messages = Readable(read_stream, write_stream)
            lines.seen = messages.taken
            await lowlevel.run(messages, write_stream, lowlevel.create_initialization_options())


@contextmanager
def _taken_input() -> Iterator[int]:
    """Standard input under another descriptor, and nothing but its end under its own."""
    private = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    try:
        yield private
    finally:
        os.dup2(private, 0)
        os.close(private)


class Lines:
    """The lines of a descriptor, as the SDK's stdio transport iterates over them.

    The SDK reads in a thread that nothing can interrupt: a cancelled server would hang until its client says something.
    Here the event loop waits for the descriptor. A line over the limit is dropped; `TOO_LONG` stands for it. seen: told
    of each line before it is given.
    """

    seen: Callable[[str], None] | None = None

    def __init__(self, descriptor: int, limit: int = MAX_MESSAGE) -> None:
        self._descriptor = descriptor
        self._limit = limit
        self._buffer = bytearray()
        self._scanned = 0  # no line ends before this place
        self._dropping = False
        self._ended = False

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> str:
        while True:
            end = self._buffer.find(b"\n", self._scanned)
            if end >= 0 or (self._ended and (self._buffer or self._dropping)):
                line = self._take(end if end >= 0 else len(self._buffer))
                if self.seen is not None:
                    self.seen(line)
                return line
            if self._ended:
                raise StopAsyncIteration
            self._scanned = len(self._buffer)
            if self._scanned > self._limit:
                self._dropping = True
                self._buffer.clear()
                self._scanned = 0
            await self._read()

    def _take(self, end: int) -> str:
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        if self._dropping or len(line) > self._limit:
            self._dropping = False
            return TOO_LONG
        return line.decode("utf-8", "replace")

    async def _read(self) -> None:
        try:
            await anyio.wait_readable(self._descriptor)
        except PermissionError:  # a regular file cannot be waited for, and need not be
            await anyio.lowlevel.checkpoint()
        data = os.read(self._descriptor, 1 << 16)
        if data:
            self._buffer += data
        else:
            self._ended = True
