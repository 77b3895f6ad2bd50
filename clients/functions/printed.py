"""What a function prints: kept in files beside what commands write, and only once there is something to keep."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from omium.clients.processes.stream import StreamName
from omium.orchestration.errors import OmiumError

_log = logging.getLogger(__name__)

MOST_BYTES: Final = 4 * 1024 * 1024
"""Of each stream of one attempt; the rest is dropped, and the file says so."""


class Printed:
    """The lines of one attempt. directory: gives the attempt's scratch directory, and is not called before a line
    comes, since most functions print nothing."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self._files: dict[StreamName, IO[str] | None] = {}
        self._left: dict[StreamName, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Printed:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._stack.close()
        except OSError as error:  # such as a disk that is full when the last of it is written
            _log.warning("what a function prints cannot be kept: %s", error)

    def take(self, stream: StreamName, line: str) -> None:
        """Keep a line. That it cannot be kept never fails the function."""
        if stream not in self._files:
            self._files[stream], self._left[stream] = self._opened(stream), MOST_BYTES
        file = self._files[stream]
        if file is None or self._left[stream] <= 0:
            return
        self._left[stream] -= len(line.encode("utf-8", "backslashreplace")) + 1
        try:
            file.write(f"{line}\n" if self._left[stream] > 0 else "... (it printed more)\n")
        except OSError as error:
            _log.warning("what a function prints cannot be kept: %s", error)
            self._files[stream] = None

    def _opened(self, stream: StreamName) -> IO[str] | None:
        try:
            path = self._directory() / "logs" / f"{stream}.log"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        except (OSError, OmiumError) as error:
            _log.warning("what a function prints cannot be kept: %s", error)
            return None
        return self._stack.enter_context(open(descriptor, "w", encoding="utf-8", errors="backslashreplace"))


def kept(directory: Path, since_us: int | None, most: int = 64 * 1024) -> dict[StreamName, str]:
    """The end of what an attempt has written by stream, at most `most` characters of each; nothing that is older than
    `since_us` (microseconds UTC), which an earlier generation left there."""
    found: dict[StreamName, str] = {}
    names: tuple[StreamName, ...] = ("stdout", "stderr")
    for name in names:
        path = directory / "logs" / f"{name}.log"
        try:
            if since_us is not None and path.stat().st_mtime_ns // 1000 < since_us - 1_000_000:
                continue
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - most))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            continue
        if text.strip():
            found[name] = text
    return found
