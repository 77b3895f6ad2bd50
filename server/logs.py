"""Logging of a process: on standard error only (standard output may carry a protocol), without secrets.

OMIUM_LOG=json writes one JSON object a line; OMIUM_LOG_LEVEL sets the level (`warning` unless given; a background
worker and a server say more).
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

from omium.orchestration.errors import OmiumError
from omium.server.telemetry.ids import trace_of_text

HIDDEN: Final = "[hidden]"

_SECRET_KEY: Final = re.compile(
    r"(?:\A|[_.-])(?:password|passwd|passphrase|secret|token|api[_-]?key|apikey|authorization|cookie|credential|"
    r"credentials|private[_-]?key|access[_-]?key|session[_-]?key|bearer|dsn)(?:\Z|[_.-])",
    re.IGNORECASE,
)
_IN_TEXT: Final = (
    (re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@]*:)[^\s/@]+(@)"), rf"\1{HIDDEN}\2"),  # user:password@host
    (re.compile(r"(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(?i)([\"']?\b[\w.-]*(?:password|passwd|secret|token|api[_-]?key|authorization|credential)[\w.-]*[\"']?"
            r"\s*[=:]\s*)(?!\[hidden\])(?:\"[^\"]*\"|'[^']*'|[^\s,;&\"'}]+)"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\bomium_[0-9A-Z]{26}_[A-Za-z0-9_-]{16,}"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), HIDDEN),  # a JWT
    (re.compile(r"\b(?:sk|pk|ghp|gho|ghs|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{16,}\b"), HIDDEN),
)
_LEVELS: Final = ("debug", "info", "warning", "error")
_DEPTH: Final = 8


def set_up_logging(
    default_level: str = "info", *, stream: TextIO | None = None, environ: Mapping[str, str] | None = None
) -> None:
    """Have every logger of the process, of the standard library and of structlog, write to `stream` (standard error).

    Raises `invalid_argument` for a value of OMIUM_LOG or OMIUM_LOG_LEVEL that is none.
    """
    import structlog

    env = os.environ if environ is None else environ
    form = _choice(env, "OMIUM_LOG", ("text", "json"), "text")
    level = _choice(env, "OMIUM_LOG_LEVEL", _LEVELS, default_level)
    target = stream or sys.stderr
    before: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer()
    if form == "text":
        renderer = structlog.dev.ConsoleRenderer(colors=target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _hide,
                _trace,
                renderer,
            ],
        )
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *before,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for noisy in ("aiosqlite", "asyncio", "httpx", "httpcore", "mcp"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def hidden(value: Any, depth: int = 0) -> Any:
    """The value without what looks like a secret: by the name of its key, or by its form within a text."""
    if isinstance(value, str):
        for pattern, instead in _IN_TEXT:
            value = pattern.sub(instead, value)
        return value
    if depth > _DEPTH:
        return "..."
    if isinstance(value, Mapping):
        return {key: _hidden_item(str(key), item, depth) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [hidden(item, depth + 1) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return hidden(repr(value) if isinstance(value, bytes) else str(value))


def _hidden_item(key: str, value: Any, depth: int) -> Any:
    # Numbers are no secrets: `tokens: 123` is a count.
    if _SECRET_KEY.search(key) and value is not None and not isinstance(value, bool | int | float):
        return HIDDEN
    return hidden(value, depth + 1)


def _hide(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor. Runs behind the one that turns exceptions into text, so that their text is covered."""
    return {key: _hidden_item(key, value, 0) for key, value in event.items()}


def _trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor that names the trace of the run that a line is about, if it is about one."""
    if "trace_id" not in event:
        about = " ".join(str(event[key]) for key in ("event", "run", "run_id") if key in event)
        found = trace_of_text(about)
        if found is not None:
            event["trace_id"] = found
    return event


def _choice(env: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    text = env.get(name, "").strip().lower() or default
    if text not in allowed:
        raise OmiumError(
            "invalid_argument",
            f"the environment variable {name} is {text!r}.",
            f"It takes one of {', '.join(allowed)}.",
        )
    return text
