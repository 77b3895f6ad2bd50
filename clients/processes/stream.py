"""The output of a process: kept within bounds, and cut into lines as it comes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import orjson

StreamName = Literal["stdout", "stderr"]

LINE_LIMIT: Final = 8 * 1024 * 1024  # bytes of one line; coding CLIs write lines of more than 1 MB
_HEARTBEAT_LIMIT: Final = 8 * 1024  # a heartbeat is short; a longer line is output


@dataclass(frozen=True, slots=True)
class Captured:
    """What was kept of a stream: its beginning, its end, and how many bytes came in all."""

    head: bytes
    tail: bytes
    total: int

    @property
    def truncated(self) -> bool:
        """Whether something between head and tail is missing."""
        return self.total > len(self.head) + len(self.tail)

    def text(self) -> str:
        """As text; invalid UTF-8 is replaced and a gap is marked."""
        missing = self.total - len(self.head) - len(self.tail)
        gap = f"\n[... {missing} bytes left out ...]\n".encode() if missing else b""
        return (self.head + gap + self.tail).decode("utf-8", "replace")


class RingBuffer:
    """Keeps the first and the last half of `limit` bytes; never holds more than 1.5 times the limit."""

    def __init__(self, limit: int) -> None:
        self._head_limit = limit // 2
        self._tail_limit = limit - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def write(self, data: bytes) -> None:
        """Takes the next bytes of the stream."""
        self._total += len(data)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data[-self._tail_limit :] if self._tail_limit else b""
        if len(self._tail) > 2 * self._tail_limit:  # rarely, so that the move costs nothing per byte
            del self._tail[: -self._tail_limit]

    @property
    def total(self) -> int:
        """How many bytes came so far."""
        return self._total

    def captured(self) -> Captured:
        """What is kept now."""
        tail = bytes(self._tail[-self._tail_limit :]) if self._tail_limit else b""
        return Captured(bytes(self._head), tail, self._total)


class LineSplitter:
    """Cuts a stream of bytes into lines without their line end; one of more than `limit` bytes is cut with a mark."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._length = 0  # of the pending line, cut bytes included

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes. Must be exhausted."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._append(data[start:end])
            yield self._take()
            start = end + 1
        self._append(data[start:] if start else data)

    def close(self) -> Iterator[bytes]:
        """The last line, if it has no line end."""
        if self._length:
            yield self._take()

    @property
    def pending(self) -> bytes:
        """The first bytes of the line that is not complete yet (enough to see what it may become)."""
        return bytes(self._pending[: _HEARTBEAT_LIMIT + 1])

    def _append(self, part: bytes) -> None:
        self._length += len(part)
        room = self._limit - len(self._pending)
        self._pending += part if len(part) <= room else part[:room]

    def _take(self) -> bytes:
        line = bytes(self._pending)
        cut = self._length > len(line)
        if cut:
            line += f" [... line cut: {self._length} bytes in all]".encode()
        elif line.endswith(b"\r"):
            line = line[:-1]
        self._pending = bytearray()
        self._length = 0
        return line


def is_heartbeat(line: bytes) -> bool:
    """Whether a line of stderr is `{"event": "heartbeat", ...}`, which proves life and not progress."""
    if not may_become_heartbeat(line):
        return False
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return isinstance(event, dict) and event.get("event") == "heartbeat"


def may_become_heartbeat(start: bytes) -> bool:
    """Whether a line that starts so can still turn out to be a heartbeat (also when nothing of it came yet)."""
    return len(start) <= _HEARTBEAT_LIMIT and (not start.strip() or start.lstrip().startswith(b"{"))
