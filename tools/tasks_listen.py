"""Tasks at the edge of the server: `notifications/tasks` on a client's subscription, and the routing header.

`taskIds` is a member of the filter of `subscriptions/listen` (tools/listening.py). A change is told however it came
about, in this process or another, because the sources watch the log; and how a task stands is told once at the
beginning, since it may have changed between its creation and the subscription.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from mcp_types import HEADER_MISMATCH, INVALID_PARAMS

from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.tools.subscriptions import Note
from omium.tools.tasks import Seen, TasksExtension, declared_visit
from omium.tools.tasks_source import Visit

MAX_LISTENED: Final = 256  # tasks of one subscription
_METHODS: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})

RequestContext = ServerRequestContext[Any, Any]


class TaskMember:
    """Has the tasks of an extension listened for."""

    name = "taskIds"

    def __init__(self, tasks: TasksExtension) -> None:
        self._tasks = tasks

    async def admit(self, ctx: RequestContext, core: Core, caller: Caller, ids: Sequence[str]) -> list[str]:
        """Raises `MCPError` -32021 for a client that does not take tasks, -32602 for too many."""
        visit = declared_visit(ctx)
        if len(ids) > MAX_LISTENED:
            raise MCPError(INVALID_PARAMS, f"taskIds has at most {MAX_LISTENED} ids")
        return [task_id for task_id in ids if await self._seen(visit, task_id) is not None]

    async def follow(
        self, ctx: RequestContext, core: Core, caller: Caller, ids: Sequence[str], changed: Callable[[str], None]
    ) -> None:
        visit = declared_visit(ctx)
        async with anyio.create_task_group() as following:
            for task_id in ids:
                following.start_soon(self._follow, visit, task_id, changed)

    async def _follow(self, visit: Visit, task_id: str, changed: Callable[[str], None]) -> None:
        seen = await self._seen(visit, task_id)
        if seen is None:
            return
        async with seen.source.watching(visit, seen.promise) as moved:
            while True:
                changed(task_id)
                now = await self._seen(visit, task_id)
                if now is None or now.over:
                    return
                await moved()

    async def note(self, ctx: RequestContext, core: Core, caller: Caller, id: str) -> Note | None:
        visit = declared_visit(ctx)
        seen = await self._seen(visit, id)
        return None if seen is None else Note("notifications/tasks", await self._tasks.detailed(visit, seen))

    async def _seen(self, visit: Visit, task_id: str) -> Seen | None:
        try:
            return await self._tasks.seen(visit, task_id)
        except MCPError as error:
            if error.code == INVALID_PARAMS:
                return None
            raise


class TaskNames:
    """Middleware: refuse a request whose routing header names another task than its body. Some clients send none."""

    async def __call__(self, ctx: RequestContext, call_next: CallNext) -> HandlerResult:
        if ctx.method in _METHODS:
            headers = getattr(ctx.request, "headers", None)
            name = headers.get(MCP_NAME_HEADER) if headers is not None else None
            if name is not None and decode_header_value(name) != (ctx.params or {}).get("taskId"):
                raise MCPError(HEADER_MISMATCH, f"the header {MCP_NAME_HEADER} does not match the request's taskId")
        return await call_next(ctx)
