"""What a client on standard input is told of a line that is no message. The SDK drops such a line without a word, and
whoever sent a request in it waits for ever."""

from __future__ import annotations

import json
from collections import deque
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from anyio import EndOfStream
from mcp.shared.message import SessionMessage
from mcp_types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError, JSONRPCNotification
from pydantic import ValidationError
from pydantic_core import from_json

if TYPE_CHECKING:
    from types import TracebackType

    from mcp.shared._stream_protocols import ReadStream, WriteStream

MAX_MESSAGE: Final = 16 * 1024 * 1024  # bytes of one line
TOO_LONG: Final = "too long"  # stands for a line over the limit


class Readable:
    """A transport's messages without the lines that were none: those are answered. Each line has to be handed to
    `taken` before what the transport makes of it arrives."""

    def __init__(self, messages: ReadStream[SessionMessage | Exception], answers: WriteStream[SessionMessage]) -> None:
        self._messages = messages
        self._answers = answers
        self._lines: deque[str] = deque()

    def taken(self, line: str) -> None:
        self._lines.append(line)

    @property
    def last_context(self) -> Context | None:
        return getattr(self._messages, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        while True:
            item = await self._messages.receive()
            line = self._lines.popleft()
            answer = answer_to(line) if isinstance(item, Exception) or _may_ask(item, line) else None
            if answer is not None:
                await self._answers.send(SessionMessage(answer))
            elif not isinstance(item, Exception):
                return item

    def __aiter__(self) -> Readable:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self.receive()
        except EndOfStream:
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        await self._messages.aclose()

    async def __aenter__(self) -> Readable:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def answer_to(line: str) -> JSONRPCError | None:
    """What to say to a line that is no message; None to one that asks for nothing: an empty one, a notification, an
    answer to a request of ours. The id is the request's wherever that can be read, so that its sender stops waiting."""
    if not line.strip():
        return None
    if line == TOO_LONG:
        return _error(None, PARSE_ERROR, f"Parse error: the message is longer than {MAX_MESSAGE >> 20} MiB.")
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return _error(
            None, PARSE_ERROR, "Parse error: the line is no JSON, or nests too deeply, or has too long a number."
        )
    if not isinstance(said, dict):
        return _error(None, INVALID_REQUEST, "Invalid request: a line holds one message, and no batch.")
    if ("id" not in said and "method" in said) or ("method" not in said and ("result" in said or "error" in said)):
        return None
    id_ = said.get("id")
    if _readable(line):
        return _error(id_, INVALID_REQUEST, "Invalid request: it is no message of JSON-RPC 2.0.")
    return _error(
        id_, PARSE_ERROR, "Parse error: a text in it is no Unicode (a lone surrogate), or it nests too deeply."
    )


def _may_ask(item: SessionMessage, line: str) -> bool:
    """Whether it may be a request whose id is none (1.5, null), which the SDK takes for a notification. What is called
    a notification is one, whatever else it carries."""
    said = item.message
    return isinstance(said, JSONRPCNotification) and not said.method.startswith("notifications/") and '"id"' in line


def _readable(line: str) -> bool:
    """Whether the SDK's parser takes it for JSON at all; Python's own takes more."""
    try:
        from_json(line)
    except ValueError:
        return False
    return True


def _error(id_: Any, code: int, message: str) -> JSONRPCError:
    said = ErrorData(code=code, message=message)
    try:
        str(id_).encode()
        return JSONRPCError(jsonrpc="2.0", id=id_, error=said)
    except (ValidationError, UnicodeEncodeError):  # it is no id, or one that could not be sent back
        return JSONRPCError(jsonrpc="2.0", id=None, error=said)
