"""What supervised programs did, as JSON lines in a file that several processes write to and that is rotated.

{"event": "tool_status_change", "at": 1789.5, "tool": "deploy", "run": "run_1", "node": "d", "to": "running", ...}
{"event": "tool_output", "at": 1789.6, "tool": "deploy", "stream": "stdout", "line": "..."}
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from omium.clients.processes.counters import counters

_log = logging.getLogger(__name__)

MAX_BYTES: Final = 100 * 1000 * 1000
KEEP: Final = 5
_QUIET_S: Final = 60.0


class EventLog:
    """Appends to `path`; at `max_bytes` it becomes `path.1`, that `path.2`, and so on up to `keep`, the oldest goes.

    No line is lost or cut by a rotation, whoever makes it: a line goes out in one write to the file that bears the name
    at that moment, and only one process renames. output: whether lines of programs are wanted too;
    enabled: whether anything is written at all. hide: takes secrets out of a text. A failure (a full disk, a directory
    that was removed) is counted and logged now and then; it never reaches the program that is being watched.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_BYTES,
        keep: int = KEEP,
        output: bool = True,
        enabled: bool = True,
        hide: Callable[[str], str] = str,
    ) -> None:
        self._output = output
        self._enabled = enabled
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._hide = hide
        self._descriptor: int | None = None
        self._complained = -_QUIET_S

    @property
    def output(self) -> bool:
        """Whether the lines of programs are wanted too."""
        return self._enabled and self._output

    def change(self, *, max_bytes: int, keep: int, output: bool, enabled: bool) -> None:
        """From the next event on other settings hold."""
        self._max_bytes, self._keep, self._output, self._enabled = max_bytes, keep, output, enabled

    def write(self, event: str, told: Mapping[str, Any]) -> None:
        """Append one event with the present time."""
        if not self._enabled:
            return
        shown = {key: self._hide(value) if isinstance(value, str) else value for key, value in told.items()}
        text = json.dumps({"event": event, "at": round(time.time(), 3), **shown})
        try:
            self._append(f"{text}\n".encode("utf-8", "replace"))
        except OSError as error:
            counters.log_failures += 1
            if time.monotonic() - self._complained >= _QUIET_S:
                self._complained = time.monotonic()
                _log.warning("%s cannot be written: %s", self._path, error)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _append(self, line: bytes) -> None:
        descriptor = self._current()
        if os.fstat(descriptor).st_size + len(line) > self._max_bytes:
            descriptor = self._rotate(len(line))
        written = os.write(descriptor, line)
        if written < len(line):  # the disk is full: half a line is ended, so that the next one is whole
            os.write(descriptor, b"\n")
            raise OSError(28, "half a line was written")

    def _current(self) -> int:
        """The file that bears the name now; another process may have rotated."""
        if self._descriptor is not None:
            try:
                there, own = os.stat(self._path), os.fstat(self._descriptor)
                if (there.st_ino, there.st_dev) == (own.st_ino, own.st_dev):
                    return self._descriptor
            except FileNotFoundError:
                pass
            self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._path, flags, 0o600)
        return self._descriptor

    def _rotate(self, needed: int) -> int:
        lock = os.open(f"{self._path}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            descriptor = self._current()
            size = os.fstat(descriptor).st_size
            if size and size + needed > self._max_bytes:  # nobody has done it meanwhile
                for number in range(self._keep - 1, 0, -1):
                    older = Path(f"{self._path}.{number}")
                    if older.exists():
                        older.replace(f"{self._path}.{number + 1}")
                if self._keep:
                    self._path.replace(f"{self._path}.1")
                else:
                    self._path.unlink()
                descriptor = self._current()
            return descriptor
        finally:
            os.close(lock)
