"""A function's exception as data: it crosses from a worker process, and the engine classifies it by type."""

from __future__ import annotations

import traceback
from typing import Any, Final

from omium.orchestration.errors import OmiumError

_MESSAGE_LIMIT: Final = 4096  # characters
_TRACEBACK_LIMIT: Final = 16 * 1024


class FunctionError(OmiumError):
    """A function raised. code: "process_failed"; data: reason "raised", error_type, mro, traceback, cause.

    error_type: the qualified name, such as "builtins.FileNotFoundError"; mro: its classes from itself to
    "builtins.object"; cause: when it raised an OmiumError, that as `{code, message, hint, data}`, otherwise None.
    """

    def __init__(self, ref: str, failure: dict[str, Any]) -> None:
        self.error_type: str = failure["error_type"]
        self.mro: tuple[str, ...] = tuple(failure["mro"])
        super().__init__(
            "process_failed",
            f"{ref} raised {self.error_type}: {failure['message']}",
            reason="raised",
            error_type=self.error_type,
            mro=list(self.mro),
            traceback=failure["traceback"],
            cause=failure["cause"],
        )

    @property
    def traceback(self) -> str:
        return str(self.data["traceback"])


def describe(error: BaseException) -> dict[str, Any]:
    """The failure that `FunctionError` takes; every part is bounded, the traceback keeps its end."""
    text = _text_of(error)
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception:  # an exception whose own text raises must not hide that there was one
        trace = "".join(traceback.format_tb(error.__traceback__))
    if len(trace) > _TRACEBACK_LIMIT:
        trace = "[...]\n" + trace[-_TRACEBACK_LIMIT:]
    return {
        "error_type": _name(type(error)),
        "mro": [_name(kind) for kind in type(error).__mro__],
        "message": text[:_MESSAGE_LIMIT],
        "traceback": _clean(trace),
        "cause": error.as_dict() if isinstance(error, OmiumError) else None,
    }


def _text_of(error: BaseException) -> str:
    try:
        return _clean(str(error))
    except Exception:  # a __str__ that raises is the function's mistake, not ours
        return f"<{type(error).__name__} whose text cannot be made>"


def _clean(text: str) -> str:
    # File names that are not UTF-8 come as lone surrogates, which no value may hold.
    return text.encode("utf-8", "backslashreplace").decode()


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
