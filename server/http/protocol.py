"""MCP over HTTP: Streamable HTTP at `/mcp` for both protocol eras, and the older SSE transport at `/sse`.

The SDK speaks the protocol. What is ours is who a request comes from (`access`), how often one may come, and how all of
it ends.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from mcp.server.mcpserver import MCPServer
from mcp.server.sse import SseServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Message, Receive, Scope, Send

from omium.orchestration.errors import OmiumError
from omium.server.http.access import caller_in
from omium.server.http.failures import JSON, STATUS, error_response
from omium.server.identity.limits import Kind, RateLimits, kind_of
from omium.tools.desk import Desk

MAX_SESSIONS: Final = 1_000  # of clients that speak an older protocol
IDLE_SESSION_S: Final = 1_800.0
_STREAM: Final = "subscriptions/listen"
_CHANGING: Final = ("tasks/cancel", "tasks/update")
_REFUSED: Final = -32000  # JSON-RPC: an error of the server's own


class McpEndpoints:
    """The MCP endpoints of one server, between `async with endpoints.running()`."""

    def __init__(self, server: MCPServer[Desk], limits: RateLimits, *, max_body: int) -> None:
        self._server = server
        self._lowlevel = server._lowlevel_server  # the SDK's own applications reach it the same way
        self._limits = limits
        # Host, Origin and the size of bodies were looked at before; what is checked twice is explained twice.
        self._manager = StreamableHTTPSessionManager(
            self._lowlevel,
            max_sessions=MAX_SESSIONS,
            session_idle_timeout=IDLE_SESSION_S,
            max_request_body_size=max_body,
        )
        self._sse = SseServerTransport("/messages/", max_request_body_size=max_body)
        self._reads: frozenset[str] = frozenset()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as requests are answered; what is still open at the end is cut."""
        tools = await self._server.list_tools()
        self._reads = frozenset(
            tool.name for tool in tools if tool.annotations is not None and tool.annotations.read_only_hint
        )
        async with self._manager.run():
            yield

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/mcp", _Asgi(self._streamable), methods=None),
            Route("/sse", _Asgi(self._listening), methods=["GET"]),
            Mount("/messages/", app=_Asgi(self._message)),
        ]

    async def _streamable(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._limited(self._manager.handle_request, scope, receive, send)

    async def _message(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._limited(self._sse.handle_post_message, scope, receive, send)

    async def _listening(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._limited(self._session, scope, receive, send)

    async def _session(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._sse.connect_sse(scope, receive, send) as (read, write):
            await self._lowlevel.run(read, write, self._lowlevel.create_initialization_options())

    async def _limited(self, app: _App, scope: Scope, receive: Receive, send: Send) -> None:
        principal = caller_in(scope).principal
        request_id: Any = None
        kind: Kind = "read"
        if scope["method"] == "POST":
            message = await receive()
            kind, request_id = self._kind(message.get("body", b""))
            receive = _first(message, receive)
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._limits.call(principal, kind))
            except OmiumError as error:
                await _refused(error, request_id)(scope, receive, send)
                return
            await app(scope, receive, send)

    def _kind(self, body: bytes) -> tuple[Kind, Any]:
        """How a message counts, and its id. What is no message counts as a read; the SDK says what is wrong with it."""
        try:
            message = json.loads(body)
        except (ValueError, RecursionError):
            return "read", None
        if not isinstance(message, dict):
            return "read", None
        method, params = message.get("method"), message.get("params")
        name = params.get("name") if isinstance(params, dict) else None
        if method == "tools/call" and isinstance(name, str):
            return kind_of(name, reads_only=name in self._reads), message.get("id")
        return kind_of(str(method), reads_only=method not in _CHANGING), message.get("id")


_App = Callable[[Scope, Receive, Send], Any]


class _Asgi:
    """An application as an object: Starlette takes a plain function or method for a handler of requests."""

    def __init__(self, app: _App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _first(message: Message, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return message

    return replay


def _refused(error: OmiumError, request_id: Any) -> JSON:
    """A refusal as JSON-RPC has it, with the status and headers that HTTP has."""
    told = {"jsonrpc": "2.0", "id": request_id if isinstance(request_id, str | int) else None}
    body = {"code": _REFUSED, "message": error.message, "data": error.as_dict()}
    headers = {
        name: value for name, value in error_response(error).headers.items() if name in ("retry-after", "cache-control")
    }
    return JSON({**told, "error": body}, STATUS[error.code], headers)
