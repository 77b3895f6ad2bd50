"""How often a client on stdio may call: what the HTTP server holds against every request, for a server without HTTP."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.views import Caller
from omium.server.identity.limits import RateLimits, kind_of
from omium.tools.failures import failure_result


class Limited:
    """Middleware: calls of tools draw on their caller's limits. reads: the tools that change nothing."""

    def __init__(
        self, limits: RateLimits, identify: Callable[[Context[Any, Any]], Caller], reads: Collection[str]
    ) -> None:
        self._limits = limits
        self._identify = identify
        self._reads = frozenset(reads)

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        name = ctx.params.get("name") if ctx.method == "tools/call" and ctx.params is not None else None
        if not isinstance(name, str):
            return await call_next(ctx)
        principal = self._identify(Context(request_context=ctx)).principal
        async with AsyncExitStack() as stack:
            try:
                kind = kind_of(name, reads_only=name in self._reads)
                await stack.enter_async_context(self._limits.call(principal, kind))
            except OmiumError as error:
                refused = ToolError(error.message)
                refused.__cause__ = error
                return failure_result(refused, name)
            return await call_next(ctx)
