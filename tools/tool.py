"""How a plain async function becomes an MCP tool with our border around it.

On the way in: unknown arguments are refused and JSON given as text is parsed only where an object is expected. On the
way out: the answer model as structured content and the same content as text, together bounded; every failure as one
typed object. The schemas are published without what only costs tokens.
"""

from __future__ import annotations

import inspect
import json
import logging
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

import orjson
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.tools import Tool
from mcp.server.mcpserver.utilities.func_metadata import ArgModelBase, FuncMetadata
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import ConfigDict

from omium.orchestration.errors import OmiumError
from omium.tools.failures import failure_result
from omium.tools.models import Answer
from omium.tools.present import ANSWER, as_text, line

_log = logging.getLogger(__name__)

READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
# A workflow may reach the world outside, so whatever sets one going may.
STARTS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)
STEERS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True)
# A signal sets a node going; closing a branch may end its run, the same again changes nothing more.
SIGNALS = STARTS
CLOSES = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
# A memory takes the place of the one under its key, which is gone then; either way the same call again changes nothing.
REMEMBERS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False)
FORGETS = REMEMBERS
RESETS = ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool of a toolset. Its name is the function's, its description the function's docstring."""

    function: Callable[..., Awaitable[Answer]]
    title: str
    annotations: ToolAnnotations
    meta: Mapping[str, Any] | None = None  # its `_meta` in lists

    @property
    def name(self) -> str:
        return self.function.__name__

    @property
    def reads_only(self) -> bool:
        return bool(self.annotations.read_only_hint)


class _Border(FuncMetadata):
    """Argument parsing as the SDK does it, but for one thing: it takes every text that parses as JSON for JSON unless
    the parameter is plainly `str`, so that a title such as `[draft]` for `str | None` would be refused."""

    def pre_parse_json(self, data: dict[str, Any]) -> dict[str, Any]:
        parsed = dict(data)
        for name, given in data.items():
            field = self.arg_model.model_fields.get(name)
            if field is None or not isinstance(given, str) or _takes_text(field.annotation):
                continue
            try:
                value = json.loads(given)
            except (ValueError, RecursionError):
                continue  # the model's validation says what is wrong with it
            if isinstance(value, dict | list):
                parsed[name] = value
        return parsed


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_takes_text(one) for one in get_args(annotation))
    return annotation is str


class BorderTool(Tool):
    """A tool whose answers and failures have the form that this package promises."""

    async def run(self, arguments: dict[str, Any], context: Any, convert_result: bool = False) -> Any:
        try:
            answer = await super().run(arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, OmiumError):
                await context.request_context.lifespan_context.core.refusals.role(error.__cause__)
            return failure_result(error, self.name)
        return answer if isinstance(answer, InputRequiredResult) else answer_result(answer)


def answer_result(answer: Answer) -> CallToolResult:
    """The wire form of an answer: both contents carry everything."""
    structured = answer.model_dump(mode="json", exclude_none=True)
    text = as_text(structured)
    room = ANSWER - len(orjson.dumps(structured).decode())
    if len(text) > room:  # the models and pages bound an answer long before; this bounds what they overlooked
        _log.warning("an answer of %s is too long: %d characters", type(answer).__name__, len(text))
        text = text[: max(room - 100, 1_000)] + "\n[cut: ask for less, or without detail]"
    return CallToolResult(content=[TextContent(text=text)], structured_content=structured)


def build_tool(spec: ToolSpec) -> Tool:
    """The SDK's tool for a specification."""
    tool = BorderTool.from_function(
        spec.function,
        title=spec.title,
        description=inspect.getdoc(spec.function),
        annotations=spec.annotations,
        meta=dict(spec.meta) if spec.meta is not None else None,
        structured_output=False,  # the answer's schema is made below, once: every start of a server waits for it
    )
    loose = tool.fn_metadata.arg_model
    closed = {"model_config": ConfigDict(extra="forbid"), "__module__": __name__}
    answer: type[Answer] = get_type_hints(spec.function)["return"]
    tool.parameters = compact({**tool.parameters, "additionalProperties": False})
    tool.fn_metadata = _Border(
        arg_model=cast(type[ArgModelBase], type(loose.__name__, (loose,), closed)),
        output_model=answer,
        output_schema=compact(answer.model_json_schema(mode="serialization"), closed=False),
    )
    return tool


_UNSAID = ("title", "minLength", "maxLength")  # the refusal of what does not fit says it when it matters
_DATA = ("const", "enum", "default", "required")


def compact(schema: dict[str, Any], *, closed: bool = True) -> dict[str, Any]:
    """The schema in fewer words: no titles, no lengths of strings, no null as an alternative of a property (it is left
    out then), no default that is null, false or 0, and definitions with one use in the place of that. For an answer
    (not `closed`): nothing about other properties, and none of our docstrings."""

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(one) for one in node]
        if not isinstance(node, dict):
            return node
        kept: dict[str, Any] = {}
        for key, item in node.items():
            if key in _UNSAID or (key == "default" and not item) or (key == "description" and not closed):
                continue
            if key == "additionalProperties" and (item is True or (item is False and not closed)):
                continue
            if key == "properties":
                kept[key] = {name: _without_null(walk(one)) for name, one in item.items()}
            elif key == "$defs":
                kept[key] = {name: walk(one) for name, one in item.items()}
            else:
                kept[key] = item if key in _DATA else walk(item)
        return kept

    return _inlined(cast(dict[str, Any], walk(schema)))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a property that is left out rather than null."""
    choices = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if not choices:
        return schema
    rest = {key: item for key, item in schema.items() if key != "anyOf"}
    return {**choices[0], **rest} if len(choices) == 1 else {"anyOf": choices, **rest}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Definitions with one use are put where they are used; the rest stays in `$defs`."""
    written = json.dumps(schema)
    definitions: dict[str, Any] = schema.pop("$defs", {})
    once = {name for name in definitions if written.count(f'"#/$defs/{name}"') == 1}

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(one) for one in node]
        if not isinstance(node, dict):
            return node
        name = str(node.get("$ref", "")).removeprefix("#/$defs/")
        if name in once:
            node = {**definitions[name], **{key: item for key, item in node.items() if key != "$ref"}}
        return {key: walk(item) for key, item in node.items()}

    kept = {name: walk(one) for name, one in definitions.items() if name not in once}
    return cast(dict[str, Any], walk({**({"$defs": kept} if kept else {}), **schema}))


class UnknownTools:
    """Middleware: a call of a tool that this server does not offer is a protocol error that says so."""

    def __init__(self, names: Sequence[str], *, read_only: bool) -> None:
        self._names = frozenset(names)
        self._why = " This server is read-only." if read_only else ""

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method == "tools/call" and ctx.params is not None:
            name = ctx.params.get("name")
            if isinstance(name, str) and name not in self._names:
                raise unknown_tool(name, self._why)
        return await call_next(ctx)


def unknown_tool(name: str, why: str = "") -> MCPError:
    """The protocol error for a tool that is not offered."""
    return MCPError(
        code=INVALID_PARAMS,
        message=f"Unknown tool: {line(name)}.{why}",
        data={"code": "not_found", "hint": "tools/list names the tools of this server."},
    )
