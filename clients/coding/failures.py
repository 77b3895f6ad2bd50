"""How the end of a coding CLI is told: success is a result that says so, and nothing else."""

from __future__ import annotations

from typing import Any, Final

from omium.clients.coding.conversation import Ended
from omium.clients.coding.events import Result
from omium.clients.coding.spec import CodingSpec
from omium.clients.commands import tail_text
from omium.clients.external.redact import Redactor
from omium.orchestration.errors import OmiumError

_LEAVE: Final = frozenset({"denied", "rate_limited"})


def not_leave(error: OmiumError) -> str:
    """What the model is told of a call that may not be made. Raises the error itself when it is no refusal: the work
    ends with it."""
    if error.code not in _LEAVE:
        raise error
    return error.message


def check_ended(spec: CodingSpec, ended: Ended, redactor: Redactor) -> Result:
    """The result of a conversation that went well; otherwise raises OmiumError: "timeout", or "process_failed" with
    the data reason (`no_result`, `max_turns`, `api_error`, `failed`, `memory`, `output`, ...), exit_code, signal and
    stderr."""
    stderr = redactor.text(tail_text(ended.exit.stderr))
    data: dict[str, Any] = {"exit_code": ended.exit.code, "signal": ended.exit.signal, "stderr": stderr}
    reason, result = ended.exit.reason, ended.result
    # First, as what is ended for a limit may still give a result: a tool that was killed is no end of the work.
    if reason in ("hard_timeout", "idle_timeout"):
        limit = spec.timeout_s if reason == "hard_timeout" else spec.idle_timeout_s
        what = "took longer than" if reason == "hard_timeout" else "gave no output for"
        said = f"{spec.name} {what} {limit:g} s and was ended."
        raise OmiumError("timeout", said, reason=reason, limit_s=limit, **data)
    if reason in ("memory", "output"):
        raise OmiumError("process_failed", f"{spec.name} exceeded its limit of {reason}.", reason=reason, **data)
    if result is None:
        how = f"died of signal {ended.exit.signal}" if ended.exit.signal else f"ended with code {ended.exit.code}"
        raise OmiumError(
            "process_failed",
            f"{spec.name} {how} without a result{': ' + stderr[-300:] if stderr else '.'}",
            "Its lines are in the logs of the attempt.",
            reason="no_result",
            malformed_lines=ended.malformed,
            **data,
        )
    if result.ok:
        return result
    said = redactor.text(result.errors[0] if result.errors else result.text)[:500]
    if (kind := _api_error(result)) is not None:
        data = {**data, "error_type": kind, "status": result.status}
    hint = "Raise max_turns, or make the task smaller." if result.reason == "max_turns" else ""
    raise OmiumError(
        "process_failed", f"{spec.name} failed ({result.reason}): {said}", hint, reason=result.reason, **data
    )


def _api_error(result: Result) -> str | None:
    """What a failed request to the model would be if we had made it: by that it is tried again, or not."""
    if result.reason != "api_error":
        return None
    if result.status == 429:
        return "anthropic.RateLimitError"
    if result.status in (401, 403):
        return "builtins.PermissionError"
    if result.status in (400, 422):
        return "anthropic.BadRequestError"
    return "anthropic.APIError"
