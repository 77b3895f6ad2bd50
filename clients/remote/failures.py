"""Whatever goes wrong, as the one error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent

from omium.orchestration.errors import ERROR_CODES, OmiumError

_AGAIN_S: Final = 0.0
_OWN: Final = frozenset({"code", "message", "hint", "self"})


def failed_call(result: CallToolResult, tool: str) -> tuple[OmiumError, float | None]:
    """The error that a tool answered with, and in how many seconds the same call may succeed; None if it will not."""
    text = next((one.text for one in result.content if isinstance(one, TextContent)), "")
    try:
        told = json.loads(text)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return OmiumError("internal", f"{tool} failed: {text[:500]}"), None
    data = told.get("data")
    details = {str(name): one for name, one in data.items()} if isinstance(data, dict) else {}
    error = _error(str(told.get("code")), str(told.get("message", "")), str(told.get("hint", "")), details, told)
    if told.get("retryable") is not True:
        return error, None
    after = details.get("retry_after_s")
    return error, float(after) if isinstance(after, int | float) and after >= 0 else _AGAIN_S


def refused_request(error: MCPError, tool: str) -> OmiumError:
    """A request that the protocol refused: a tool that there is not, or arguments that are none."""
    data = error.error.data if isinstance(error.error.data, Mapping) else {}
    code = str(data.get("code", "not_found" if "unknown" in error.error.message.lower() else "invalid_argument"))
    hint = str(data.get("hint", ""))
    return _error(code, f"{tool}: {error.error.message[:500]}", hint, {}, {})


def unreachable(why: str) -> OmiumError:
    return OmiumError(
        "tool_failed",
        f"the server is not to be had: {why or 'it does not answer'}.",
        "Nothing is lost: runs go on without a client. Try again.",
        reason="unreachable",
    )


def _error(code: str, message: str, hint: str, data: Mapping[str, Any], told: Mapping[str, Any]) -> OmiumError:
    known: Any = code if code in ERROR_CODES else "internal"
    kept = {name: one for name, one in data.items() if name not in _OWN}
    if "next" in told:
        kept["next"] = told["next"]
    return OmiumError(known, message or f"it failed with {code}.", hint, **kept)
