"""For programs that Omium supervises: a line on stderr every now and then that says "I am alive".

A heartbeat proves life, never progress: the supervisor's idle time-out runs on until there is real output.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol


class Writer(Protocol):
    """What heartbeats are written to."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class HeartbeatEmitter:
    """Writes `{"event": "heartbeat", ...}` lines from a thread of its own.

    interval_s: between two of them; grace_s: how long after the last one a reader may begin to worry (it is part of
    the line); progress: an optional counter that is read for each line; more: further fields, likewise.
    Use it as a context manager, or call `start` and `stop`. Both may be called more than once. Raises ValueError for a
    time that is none: not above zero, infinite, no number.
    """

    def __init__(
        self,
        *,
        interval_s: float = 30.0,
        grace_s: float = 90.0,
        progress: Callable[[], int] | None = None,
        more: Callable[[], Mapping[str, object]] | None = None,
        stream: Writer | None = None,
    ) -> None:
        for name, value in (("interval_s", interval_s), ("grace_s", grace_s)):
            if not 0 < value <= threading.TIMEOUT_MAX:  # which nan is not either
                raise ValueError(f"{name} is {value}; expected a number of seconds above 0")
        self._interval_s = interval_s
        self._grace_s = grace_s
        self._progress = progress
        self._more = more
        self._stream = stream
        self._sent = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Sends one now, then one every interval."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._beat, daemon=True, name="omium-heartbeat")
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread at once; returns when it has ended."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def emit_once(self) -> None:
        """Writes one heartbeat now."""
        self._sent += 1
        event: dict[str, object] = {
            "event": "heartbeat",
            "number": self._sent,
            "at": time.time(),
            "interval_s": self._interval_s,
            "grace_s": self._grace_s,
        }
        if self._progress is not None:
            event["progress"] = self._progress()
        if self._more is not None:
            event = {**self._more(), **event}
        stream = self._stream or sys.stderr
        stream.write(json.dumps(event) + "\n")  # one write, so that lines of other threads do not get into it
        stream.flush()

    def __enter__(self) -> HeartbeatEmitter:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _beat(self) -> None:
        while True:
            self.emit_once()
            if self._stopping.wait(self._interval_s):
                return
