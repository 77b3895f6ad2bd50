"""Which tools a caller sees: those that their role may use. The core refuses the others all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import Context
from mcp_types import ListToolsResult, ToolAnnotations

from omium.orchestration.service.roles import DECIDERS, OPERATORS, READERS
from omium.orchestration.service.views import Caller

DECIDING = frozenset({"approve", "decide_in_view"})


def permitted(name: str, annotations: ToolAnnotations | None, role: str) -> bool:
    """Whether a role may use a tool: everybody what only reads, deciders what decides, operators the rest."""
    if name in DECIDING:
        return role in DECIDERS
    if annotations is not None and annotations.read_only_hint:
        return role in READERS
    return role in OPERATORS


class OnlyPermitted:
    """Middleware: `tools/list` names what the caller of the request may use."""

    def __init__(self, identify: Callable[[Context[Any, Any]], Caller]) -> None:
        self._identify = identify

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        result = await call_next(ctx)
        if ctx.method != "tools/list" or result is None:
            return result
        role = self._identify(Context(request_context=ctx)).role
        if isinstance(result, ListToolsResult):
            tools = [tool for tool in result.tools if permitted(tool.name, tool.annotations, role)]
            return result.model_copy(update={"tools": tools})
        if isinstance(result, Mapping):  # as it goes over the wire
            listed = [tool for tool in result.get("tools", ()) if _permitted(tool, role)]
            return {**result, "tools": listed}
        raise TypeError(f"tools/list gave {type(result).__name__}")  # showing all of it would be the wrong way to fail


def _permitted(tool: Mapping[str, Any], role: str) -> bool:
    said = tool.get("annotations")
    annotations = ToolAnnotations.model_validate(said) if said is not None else None
    return permitted(str(tool.get("name")), annotations, role)
