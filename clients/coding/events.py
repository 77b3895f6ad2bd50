"""What coding CLIs say, as one set of typed events; each kind has a parser that makes them of its lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import orjson

SHOWN: Final = 400  # characters of a line or an input that are shown or kept as an example


@dataclass(frozen=True, slots=True)
class Tokens:
    """What requests to models took, in tokens. input: without what was read from or written to a cache."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output + self.cache_read + self.cache_write

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
        )


@dataclass(frozen=True, slots=True)
class Begun:
    """The conversation has begun. session: the CLI's own id of it."""

    session: str
    model: str | None = None
    tools: tuple[str, ...] = ()
    cwd: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """Text of the model. message: its id, by which the `tokens` of several parts of one answer are counted once; those
    are what is known while it is under way. fragment: the text is a piece that goes on the one before."""

    text: str
    message: str = ""
    tokens: Tokens | None = None
    fragment: bool = False


@dataclass(frozen=True, slots=True)
class Used:
    """The model calls a tool."""

    id: str
    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Returned:
    """What a tool gave to the model."""

    id: str
    text: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """The CLI waits for an answer. by: `hook` before any tool, `permission` where its own rules want leave; `other` is
    something that cannot be answered."""

    request: str
    by: Literal["hook", "permission", "other"]
    tool: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    use: str = ""
    what: str = ""


@dataclass(frozen=True, slots=True)
class Retried:
    """A request to the model failed and is made again by the CLI itself. wait_s: how long it waits before that."""

    status: int | None
    error: str
    wait_s: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a turn. reason: empty when it went well; otherwise `max_turns`, `api_error`, `session_lost`, `failed`
    or the CLI's own word. deferred: the tool call that waits for a decision. turns, tokens: of this turn alone."""

    reason: str
    text: str = ""
    session: str | None = None
    turns: int = 0
    tokens: Tokens = Tokens()
    model: str | None = None
    errors: tuple[str, ...] = ()
    status: int | None = None
    deferred: str | None = None

    @property
    def ok(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Unknown:
    """A line of a type that means nothing to us. Such lines are counted, never an error."""

    type: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A line that is no JSON object: noise, or one that was cut for its length."""

    start: str


Event: TypeAlias = Begun | Said | Used | Returned | Asked | Retried | Result | Unknown | Malformed


def read_object(line: str) -> dict[str, Any] | None:
    """The JSON object of a line; None when it is none."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def text_of(value: Any) -> str:
    """A value that should be text, as text."""
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int:
    """A value that should be a count, as one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def object_of(value: Any) -> dict[str, Any]:
    """A value that should be an object, as one."""
    return value if isinstance(value, dict) else {}
