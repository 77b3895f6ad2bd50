"""The lines between Omium and a worker process, checked at the border: JSON objects, one in a line.

From Omium: first what to do, then one answer to each request, with its id. From the worker: requests (`calls`, `human`,
`keep`, `emit`, `model`, `used`), each of which waits for its answer, and at the end `done` or `failed`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from omium.orchestration.errors import OmiumError

_CALLS: Final = 100
_TEXT: Final = 200_000

Text = Annotated[str, Field(max_length=_TEXT)]
Count = Annotated[int, Field(ge=0, le=10**9)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Calls(_Line):
    """Calls of tools: [name, arguments, call id or null] each."""

    type: Literal["calls"]
    id: Count
    calls: Annotated[list[Annotated[list[Any], Field(min_length=3, max_length=3)]], Field(max_length=_CALLS)]


class Human(_Line):
    type: Literal["human"]
    id: Count
    question: Text
    options: Annotated[list[Text], Field(max_length=50)] = []


class Keep(_Line):
    type: Literal["keep"]
    id: Count
    state: Any


class Emit(_Line):
    type: Literal["emit"]
    id: Count
    text: str


class ModelBegins(_Line):
    type: Literal["model"]
    id: Count
    chars: Count


class Used(_Line):
    input: Count
    output: Count
    cached: Count = 0
    model: Annotated[str, Field(max_length=200)] | None = None


class Failure(_Line):
    """kind: the class of the error; message: the error's; status: of HTTP, if it has one."""

    kind: Text = ""
    message: str
    status: Annotated[int, Field(ge=100, le=599)] | None = None


class ModelEnds(_Line):
    """model: the id of the request that it began with."""

    type: Literal["used"]
    id: Count
    model: Count
    used: Used | None = None
    failed: Failure | None = None


class Done(_Line):
    type: Literal["done"]
    output: Any


class Failed(_Line):
    type: Literal["failed"]
    message: str
    status: Annotated[int, Field(ge=100, le=599)] | None = None


Request = Calls | Human | Keep | Emit | ModelBegins | ModelEnds
Line = Annotated[Request | Done | Failed, Field(discriminator="type")]
_lines: Final[TypeAdapter[Request | Done | Failed]] = TypeAdapter(Line)


def read(line: str) -> Request | Done | Failed:
    """Raises `process_failed` for what is none of the protocol's lines."""
    try:
        return _lines.validate_python(orjson.loads(line))
    except (orjson.JSONDecodeError, ValidationError, RecursionError) as error:
        raise OmiumError(
            "process_failed", f"the worker does not speak the protocol: {str(error)[:300]}", reason="protocol"
        ) from error


def written(message: dict[str, Any]) -> bytes:
    return orjson.dumps(message, default=str) + b"\n"
