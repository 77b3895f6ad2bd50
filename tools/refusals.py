"""Refusals of requests that are no tool calls: protocol errors that say what to do, and never whether something exists
for somebody else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS

from omium.orchestration.errors import OmiumError
from omium.tools.desk import Ctx, Desk
from omium.tools.failures import RETRYABLE
from omium.tools.present import line

_log = logging.getLogger(__name__)

P = TypeVar("P")

_CALLERS_FAULT = frozenset(
    {"invalid_argument", "invalid_value", "not_found", "forbidden", "unauthenticated", "not_allowed"}
)


def context_of(server: MCPServer[Desk], ctx: ServerRequestContext[Any, Any], params: Any = None) -> Ctx:
    """The context that the SDK would give a tool for this request."""
    return Context(request_context=ctx, mcp_server=server, input_params=params, subscriptions=server._subscriptions)


def unknown_resource(uri: str) -> MCPError:
    """There is none, or none for this caller: it reads the same."""
    hint = "resources/list and resources/templates/list name what there is."
    return MCPError(INVALID_PARAMS, f"Unknown resource: {line(uri)}", {"uri": uri, "code": "not_found", "hint": hint})


def refused(error: OmiumError, **data: Any) -> MCPError:
    """The protocol error of an anticipated failure."""
    code = INVALID_PARAMS if error.code in _CALLERS_FAULT else INTERNAL_ERROR
    told = {"code": error.code, "hint": error.hint, "retryable": error.code in RETRYABLE, **data}
    return MCPError(code, line(error.message, 600), told)


Handler = Callable[[ServerRequestContext[Any, Any], P], Awaitable[HandlerResult]]


def answering(handle: Handler[P]) -> Handler[P]:
    """A handler whose anticipated failures are protocol errors."""

    async def answer(ctx: ServerRequestContext[Any, Any], params: P) -> HandlerResult:
        try:
            return await handle(ctx, params)
        except OmiumError as error:
            _log.info("%s: %s", ctx.method, error.code)
            await ctx.lifespan_context.core.refusals.role(error)
            raise refused(error) from error

    return answer
