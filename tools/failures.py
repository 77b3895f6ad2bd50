"""Failures as the model sees them: one JSON object with a code, what was wrong, and the next call to make.

It travels as text in an `isError` result and never as structured content, which has to match the tool's output schema.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from itertools import islice
from typing import Any

import orjson
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp_types import CallToolResult, TextContent
from pydantic import ValidationError

from omium.orchestration.errors import ErrorCode, OmiumError
from omium.tools.present import harmless, line, paragraph

_log = logging.getLogger(__name__)

RETRYABLE: frozenset[ErrorCode] = frozenset({"queue_full", "rate_limited", "timeout", "storage_unavailable", "fenced"})
_DATA = 8_000  # characters of JSON
_PROBLEMS = 8
_ITEMS = 20  # of a list

_FINDERS = {
    "run_workflow": "list_workflows()",
    "simulate_workflow": "list_workflows()",
    "list_workflows": "list_workflows()",
    "approve": "list_approvals()",
    "rollback": "list_checkpoints(run_id) for positions, list_runs() for runs",
    "branch": "list_checkpoints(run_id) for positions, list_runs() for runs",
    "checkpoint": "list_checkpoints(run_id) for positions, list_runs() for runs",
    "play_from_node": "get_run(run_id, detail=true) for nodes, list_runs() for runs",
}
_REPEAT = "repeat the same call with the same idempotency_key, after data.retry_after_s seconds if it is given"
_NEXT: Mapping[ErrorCode, str] = {
    "invalid_argument": "correct the arguments and call {tool} again",
    "invalid_value": "correct the value at data.path and call {tool} again",
    "invalid_definition": "list_workflows(): only registered workflows can be run",
    "not_registered": "list_workflows(): only what the operator registered can be named",
    "not_allowed": "get_run(run_id): `allowed` lists what it takes now",
    "conflict": "read the present state, then call {tool} with another name or idempotency_key",
    "already_decided": "get_run(run_id) to see how the run went on",
    "plan_required": "show data.plan to the user, then repeat {tool}(...) with plan_token=data.plan.plan_token",
    "plan_expired": "{tool}(..., preview=true) for a new plan_token",
    "unauthenticated": "ask the user for a credential that is good; this connection has none",
    "forbidden": "ask a human who may do this",
    "queue_full": _REPEAT,
    "rate_limited": _REPEAT,
    "timeout": _REPEAT,
    "storage_unavailable": _REPEAT,
    "fenced": _REPEAT,
    "precondition_failed": "get_run(run_id, detail=true)",
    "integrity": "list_checkpoints(run_id) for an older position; a human runs `omium verify`",
    "internal": "get_run(run_id) to see what was done before repeating anything; the details are in the server's log",
}


def failure_result(error: ToolError, tool: str) -> CallToolResult:
    """The result of a call that failed. A crash is logged here with its traceback and answered as `internal`."""
    failure = _anticipated(error, tool)
    if failure is None:
        _log.error("tool %s crashed", tool, exc_info=error.__cause__ or error)
        failure = OmiumError("internal", f"{tool} failed for a reason that its author did not foresee.")
    else:
        _log.info("tool %s: %s", tool, failure.code)
    return CallToolResult(content=[TextContent(text=_as_json(failure, tool))], is_error=True)


def _anticipated(error: ToolError, tool: str) -> OmiumError | None:
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup) and len(cause.exceptions) == 1:  # a task group that it passed through
        cause = cause.exceptions[0]
    if isinstance(cause, OmiumError):
        return cause
    if isinstance(cause, ValidationError) and not isinstance(error, UnexpectedToolError):
        return invalid_arguments(cause, tool)
    if isinstance(error, UnexpectedToolError):
        return None
    # The SDK's own, about the client's answer to a form. Its words name our functions, and blame nobody.
    _log.info("tool %s: %s", tool, cause or error)
    problem = "the client's answer to the form does not fit the form, so nothing was decided."
    return OmiumError("invalid_argument", problem, "In a terminal: omium approvals", what="answer")


def invalid_arguments(error: ValidationError, tool: str) -> OmiumError:
    """Names every problem by its path; the values stay out, since they may be long, secret or hostile."""
    problems = [
        {"path": ".".join(str(part) for part in one["loc"]), "problem": one["msg"]}
        for one in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    named = "; ".join(f"{one['path']}: {one['problem']}" for one in problems[:_PROBLEMS])
    return OmiumError(
        "invalid_argument",
        f"{tool} does not take these arguments: {named}",
        "The tool's input schema says what it takes.",
        problems=problems[:_PROBLEMS],
    )


def _as_json(error: OmiumError, tool: str) -> str:
    body = {
        "code": error.code,
        "message": paragraph(error.message),
        "hint": paragraph(error.hint),
        "retryable": error.code in RETRYABLE,
        "next": line(_next_call(error, tool)),
        "data": _data(error.data),
    }
    return orjson.dumps(body).decode()


def _next_call(error: OmiumError, tool: str) -> str:
    if error.code == "not_found" and error.data.get("what") in ("node", "output"):
        return "get_run(run_id, detail=true) for its nodes"
    if error.code == "not_found":
        return _FINDERS.get(tool, "list_runs()")
    if error.code == "invalid_argument" and error.data.get("what") == "answer":
        return f"the same call of {tool} puts the question again"
    return _NEXT.get(error.code, "get_run(run_id)").format(tool=tool)


def _data(data: Mapping[str, Any]) -> Any:
    shown = harmless(_plain(data))
    if len(orjson.dumps(shown)) <= _DATA:
        return shown
    kept = {key: item for key, item in shown.items() if len(orjson.dumps(item)) <= _DATA // 2}
    return {**kept, "cut": "what was longer is left out"}


def _plain(item: Any) -> Any:
    """JSON types only, views as objects, and the beginning of long lists."""
    if dataclasses.is_dataclass(item) and not isinstance(item, type):
        return _plain(dataclasses.asdict(item))
    if isinstance(item, Mapping):
        return {str(key): _plain(one) for key, one in item.items()}
    if isinstance(item, list | tuple | set | frozenset):
        some = [_plain(one) for one in islice(item, _ITEMS)]
        return some if len(item) <= _ITEMS else [*some, f"... {len(item)} in all"]
    return item
