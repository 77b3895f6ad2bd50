"""The one error model: a stable code, what was wrong, and what to do next.

Every anticipated failure of Omium is an `OmiumError`. The code is the contract (tests and callers pin codes, never
prose), the message names the offending value, and the hint says the next step. Anything else that is raised is a bug
and is never swallowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from omium.orchestration.log.events import Event

ErrorCode = Literal[
    "invalid_argument",  # a value from outside does not have the form that was asked for
    "invalid_definition",  # a workflow or project file does not load or validate
    "invalid_value",  # a value cannot be stored: unsupported type, too deep, too large
    "expression_error",  # an expression does not compile, fails, or gives the wrong type
    "not_found",  # no such run, node, approval, workflow, blob, for this caller
    "not_allowed",  # the state machine refuses; `data["allowed"]` lists what is allowed now
    "conflict",  # somebody else changed it first, or the name is taken
    "already_decided",  # an approval has its one decision
    "fenced",  # this process no longer owns the run
    "plan_required",  # it would repeat calls that have happened, or undo some: preview it, then pass the plan's token
    "plan_expired",  # the plan's token is used, expired, or for other arguments
    "unauthenticated",  # who asks is not known: no credential, or one that is not good
    "forbidden",  # the caller may not do this
    "denied",  # policy, or a person whom it had asked, does not allow this call
    "budget_exceeded",  # nothing is left of a budget, until somebody raises it
    "tool_failed",  # an external tool says that it failed, or its server is not to be had
    "not_registered",  # a definition names something that the operator has not registered
    "queue_full",  # back-pressure: try again after `data["retry_after_s"]` seconds
    "rate_limited",  # likewise, for one caller
    "timeout",  # the time that was given ran out
    "precondition_failed",  # a `requires` or an `expects` did not hold
    "integrity",  # stored bytes do not match their digest, or the chain is broken
    "storage_unavailable",  # the database is locked, read-only, full or gone
    "unsupported",  # this installation cannot do it; the hint says what would
    "process_failed",  # a supervised process ended badly
    "workspace",  # the run's directory cannot be captured or restored
    "internal",  # a bug: the details are in the log
]

ERROR_CODES: frozenset[str] = frozenset(get_args(ErrorCode))


class OmiumError(Exception):
    """An anticipated failure.

    code: one of `ErrorCode`; message: one sentence with the offending value; hint: what to do next (may be empty);
    data: JSON values that a program can act on (allowed states, retry_after_s, positions).
    """

    def __init__(self, code: ErrorCode, message: str, hint: str = "", **data: Any) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message
        self.hint = hint
        self.data: Mapping[str, Any] = data

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" + (f" {self.hint}" if self.hint else "")

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call cls(message) and lose the rest when an error crosses a process boundary.
        return (_rebuild, (self.code, self.message, self.hint, dict(self.data)))

    def as_dict(self) -> dict[str, Any]:
        """The wire form: `{code, message, hint, data}`."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "data": dict(self.data)}


class Unheard(OmiumError):
    """The answer to a commit was lost, and nobody knows whether it took place; `events`: what is in the log if so."""

    def __init__(self, message: str, hint: str, events: Sequence[Event]) -> None:
        super().__init__("storage_unavailable", message, hint, outcome="unknown")
        self.events = events


def _rebuild(code: ErrorCode, message: str, hint: str, data: dict[str, Any]) -> OmiumError:
    return OmiumError(code, message, hint, **data)
