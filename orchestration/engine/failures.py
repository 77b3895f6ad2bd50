"""What kind of failure it was, and whether trying again makes sense.

Classified first by exception type and exit code, then by anchored patterns over the message's first line; never by
loose words, so that "Conference room booking" is no memory error and a room that "was not found" no missing file.
"""

from __future__ import annotations

import builtins
import itertools
import json
import random
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omium.orchestration.definition.model import FAILURE_CATEGORIES, Retry
from omium.orchestration.errors import OmiumError

CATEGORIES = FAILURE_CATEGORIES

# Trying the same thing again can help; for the others something has to change first.
TRANSIENT = frozenset({"api_error", "timeout", "connection_error", "rate_limited", "memory_error", "unknown"})

# By name, so that the exceptions of libraries that are not imported here, or not installed, count as well. The first
# class of the exception's ancestry that stands here decides.
_BY_TYPE: Mapping[str, str] = {
    "builtins.FileNotFoundError": "file_not_found",
    "builtins.NotADirectoryError": "file_not_found",
    "builtins.TimeoutError": "timeout",
    "builtins.ImportError": "import_error",
    "builtins.UnicodeError": "value_error",
    "builtins.TypeError": "type_error",
    "builtins.KeyError": "key_error",
    "builtins.AttributeError": "attribute_error",
    "builtins.IndexError": "index_error",
    "builtins.PermissionError": "permission_error",
    "builtins.ConnectionError": "connection_error",
    "builtins.MemoryError": "memory_error",
    "builtins.ValueError": "value_error",
    "builtins.AssertionError": "validation",
    "builtins.SyntaxError": "validation",
    "json.decoder.JSONDecodeError": "value_error",
    "socket.gaierror": "connection_error",
    "ssl.SSLError": "connection_error",
    "sqlite3.OperationalError": "api_error",
    "httpx.TimeoutException": "timeout",
    "httpx.TransportError": "connection_error",
    "httpx2.TimeoutException": "timeout",
    "httpx2.TransportError": "connection_error",
    "requests.exceptions.Timeout": "timeout",
    "requests.exceptions.ConnectionError": "connection_error",
    "pydantic_core._pydantic_core.ValidationError": "validation",
    "pydantic_core.ValidationError": "validation",
    "jsonschema.exceptions.ValidationError": "validation",
    "openai.BadRequestError": "validation",
    "openai.UnprocessableEntityError": "validation",
    "openai.RateLimitError": "rate_limited",
    "openai.APIConnectionError": "connection_error",
    "openai.APIError": "api_error",
    "anthropic.BadRequestError": "validation",
    "anthropic.UnprocessableEntityError": "validation",
    "anthropic.RateLimitError": "rate_limited",
    "anthropic.APIConnectionError": "connection_error",
    "anthropic.APIError": "api_error",
}

_BY_CODE: Mapping[str, str] = {
    "timeout": "timeout",
    "invalid_value": "validation",
    "invalid_argument": "validation",
    "invalid_definition": "validation",
    "expression_error": "validation",
    "precondition_failed": "validation",
    "forbidden": "permission_error",
    "denied": "permission_error",
    "budget_exceeded": "permission_error",
    "tool_failed": "api_error",
    "rate_limited": "rate_limited",
    "queue_full": "rate_limited",
    "not_found": "file_not_found",
    "not_registered": "import_error",
    "storage_unavailable": "api_error",
}

# What a command did wrong, by the `reason` of its failure; that says more than the code it ended with.
_BY_REASON: Mapping[str, str] = {
    "memory": "memory_error",
    "hard_timeout": "timeout",
    "idle_timeout": "timeout",
    "protocol_error": "validation",
    "max_resumes": "validation",
}

_BY_EXIT: Mapping[int, str] = {126: "permission_error", 127: "file_not_found", 124: "timeout", 137: "memory_error"}

# The ancestors of what is often named in messages and has no category of its own.
_SUBCLASSES: Mapping[str, Sequence[str]] = {
    kind.__name__: [f"builtins.{base.__name__}" for base in kind.__mro__]
    for kind in vars(builtins).values()
    if isinstance(kind, type) and issubclass(kind, Exception)
}

_STATUS = r"\A(?:error code: |http(?:/[\d.]+)?(?: error)?:? ?|status(?: code)?:? ?)"
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("rate_limited", re.compile(_STATUS + r"429\b|\A429 (?:too many requests|client error)\b", re.I)),
    ("api_error", re.compile(_STATUS + r"(?:4(?!29)\d\d|5\d\d)\b|\A5\d\d (?:server error|[a-z ]*unavailable)\b", re.I)),
    ("file_not_found", re.compile(r"\A(?:\[Errno 2\] )?No such file or directory\b", re.I)),
    ("file_not_found", re.compile(r": (?:No such file or directory|command not found)\Z", re.I)),
    ("permission_error", re.compile(r"\A(?:\[Errno 13\] )?Permission denied\b|: Permission denied\Z", re.I)),
    ("connection_error", re.compile(r"\A(?:\[Errno \d+\] )?Connection (?:refused|reset|aborted|timed out)\b", re.I)),
    ("connection_error", re.compile(r"\Acould not resolve host\b|: Connection (?:refused|reset by peer)\Z", re.I)),
    ("timeout", re.compile(r"\A(?:the )?(?:read |request |operation |call )?timed out\b", re.I)),
    ("import_error", re.compile(r"\ANo module named '", re.I)),
    ("memory_error", re.compile(r"\A(?:out of memory|cannot allocate memory)\b", re.I)),
    ("api_error", re.compile(r"\Adatabase is locked\b", re.I)),
)  # fmt: skip

# How Python, and what imitates it, ends a traceback: `ValueError: bad timeout value`, `a.b.Error: ...`.
_RAISED = re.compile(r"\A((?:[A-Za-z_]\w*\.)*[A-Z]\w*): ")

_MESSAGE_LIMIT = 4_000
_TRACE_LIMIT = 16_000
_VOTES_LIMIT = 16_000  # characters of their JSON


def type_names(error: BaseException) -> list[str]:
    """The qualified names of an exception's classes, the most particular first."""
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]


def classify(error: BaseException) -> str:
    """The category of a failure, one of `CATEGORIES`; of several at once, that of the first."""
    error = _first(error)
    if isinstance(error, OmiumError):
        return _classify_ours(error)
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        if status == 429:
            return "rate_limited"
        if 400 <= status < 600:
            return "api_error"
    return by_name(type_names(error)) or _by_message(str(error))


def _first(error: BaseException) -> BaseException:
    """What really failed: a task group wraps the errors of its tasks, one or more."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _classify_ours(error: OmiumError) -> str:
    said = error.data.get("category")  # whoever raised it knew better than its code tells
    if isinstance(said, str) and said in CATEGORIES:
        return said
    names = error.data.get("mro") or [error.data.get("error_type", "")]
    found = by_name(str(name) for name in names if name)
    cause = error.data.get("cause")  # what a function raised was itself an error of ours
    code = cause["code"] if isinstance(cause, Mapping) else error.code
    if found is None and code in _BY_CODE:
        found = _BY_CODE[code]
    reason, exit_code = error.data.get("reason"), error.data.get("exit_code")
    if found is None and isinstance(reason, str):
        found = _BY_REASON.get(reason)
    if found is None and isinstance(exit_code, int):
        found = _BY_EXIT.get(exit_code)
    raised = f"raised {error.data.get('error_type')}: "  # what a function said stands behind it
    return found or _by_message(error.message.partition(raised)[2] or error.message)


def by_name(names: Iterable[str]) -> str | None:
    """The category of the first class that has one."""
    for name in names:
        if name in _BY_TYPE:
            return _BY_TYPE[name]
    return None


def _by_message(text: str) -> str:
    line = text.strip().split("\n", 1)[0]
    raised = _RAISED.match(line)
    if raised is not None:
        found = by_name((raised[1], f"builtins.{raised[1]}", *_SUBCLASSES.get(raised[1], ())))
        if found is not None:
            return found
        line = line[raised.end() :]
    for category, pattern in _PATTERNS:
        if pattern.search(line):
            return category
    return "unknown"


def describe(error: BaseException) -> dict[str, Any]:
    """A failure as it stands in the log: category, type, message, hint, bounded traceback."""
    trace = "".join(traceback.format_exception(error)) if not isinstance(error, OmiumError) else ""
    error = _first(error)
    if isinstance(error, OmiumError):
        data = error.data
        told: dict[str, Any] = {
            "category": classify(error),
            "type": data.get("error_type", "omium"),
            "code": error.code,
            "message": error.message[:_MESSAGE_LIMIT],
        }
        if error.hint:
            told["hint"] = error.hint[:_MESSAGE_LIMIT]
        for name in ("exit_code", "reason", "stderr"):
            if data.get(name) is not None:
                told[name] = data[name] if not isinstance(data[name], str) else data[name][-_MESSAGE_LIMIT:]
        if isinstance(data.get("votes"), Mapping):
            told["votes"] = _votes(data["votes"])
        if data.get("traceback"):
            told["traceback"] = str(data["traceback"])[-_TRACE_LIMIT:]
        return told
    return {
        "category": classify(error),
        "type": type_names(error)[0],
        "message": (str(error) or type(error).__name__)[:_MESSAGE_LIMIT],
        "traceback": trace[-_TRACE_LIMIT:],
    }


def _votes(votes: Mapping[str, Any]) -> dict[str, Any]:
    """Who voted for what in a vote that decided nothing: as it is, or, where that is long, the beginning of each."""
    if len(json.dumps(votes, default=str)) <= _VOTES_LIMIT:
        return dict(votes)
    each = max(_VOTES_LIMIT // len(votes), 100)
    shown = itertools.islice(votes.items(), _VOTES_LIMIT // 100)
    return {voter: {"cut": json.dumps(vote, ensure_ascii=False, default=str)[:each]} for voter, vote in shown}


def without_traceback(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name != "traceback"}


def may_retry(policy: Retry, category: str, failures: int) -> bool:
    """Whether to try again after `failures` failed attempts, the last of this category."""
    if failures >= policy.max_attempts:
        return False
    return category in policy.on if policy.on is not None else category in TRANSIENT


def backoff_s(policy: Retry, failures: int, rng: random.Random) -> float:
    """Seconds to wait before the next attempt, after `failures` failed ones."""
    plain = min(policy.initial_s * policy.factor ** (failures - 1), policy.max_s)
    return float(max(0.0, plain * (1 + policy.jitter * rng.uniform(-1, 1))))
