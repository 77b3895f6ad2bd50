"""Errors on the wire: the one error model as JSON, with the status that HTTP has for it."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from omium.orchestration.errors import OmiumError
from omium.server.commands.wire import as_json, json_text

STATUS: Final[Mapping[str, int]] = {
    "invalid_argument": 400,
    "invalid_definition": 422,
    "invalid_value": 422,
    "expression_error": 422,
    "not_registered": 422,
    "unauthenticated": 401,
    "forbidden": 403,
    "denied": 403,
    "budget_exceeded": 409,
    "tool_failed": 502,
    "not_found": 404,
    "not_allowed": 409,
    "conflict": 409,
    "already_decided": 409,
    "plan_required": 409,
    "plan_expired": 409,
    "precondition_failed": 409,
    "workspace": 409,
    "rate_limited": 429,
    "queue_full": 503,
    "fenced": 503,
    "storage_unavailable": 503,
    "unsupported": 501,
    "timeout": 504,
    "integrity": 500,
    "process_failed": 500,
    "internal": 500,
}
"""The status of each code. What may succeed when it is repeated is 429, 503 or 504."""


PRIVATE: Final = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
"""Headers of an answer that is nobody's to keep or to guess the type of."""


class JSON(Response):
    """A JSON answer."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(json_text(content, indent=None).encode(), status_code, {**PRIVATE, **(headers or {})})


def error_response(error: OmiumError, status: int | None = None) -> Response:
    """`{"error": {code, message, hint, data}}` with its status, and the headers that go with it."""
    told = error.as_dict()
    headers: dict[str, str] = {}
    retry_after_s = error.data.get("retry_after_s")
    if isinstance(retry_after_s, int | float):
        headers["retry-after"] = str(max(1, ceil(retry_after_s)))
    if error.code == "unauthenticated":
        headers["www-authenticate"] = str(error.data.get("challenge") or 'Bearer realm="omium"')
    return JSON({"error": as_json(told)}, status or STATUS[error.code], headers)


async def refuse(scope: Scope, receive: Receive, send: Send, error: OmiumError, status: int | None = None) -> None:
    """Answer with an error before any body was read, which this connection is then not kept for."""
    response = error_response(error, status)
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def on_http_error(request: Request, error: Exception) -> Response:
    """What the router refuses: an unknown path, or a method that a path does not take."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response(OmiumError("not_found", f"nothing is at {request.url.path[:200]!r}."))
    problem = OmiumError("invalid_argument", f"{request.method[:20]} {request.url.path[:200]!r}: {error.detail}.")
    response = error_response(problem, error.status_code)
    response.headers.update(error.headers or {})
    return response


def on_bug(_: Request, __: Exception) -> Response:
    """What nobody foresaw. The details are in the log, which the server writes, and nowhere else."""
    return error_response(OmiumError("internal", "the request failed for a reason that its author did not foresee."))
