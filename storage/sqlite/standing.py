"""Whether the database file is still the one that was opened.

A file that was deleted or replaced lives on for whoever has it open: each commit succeeds, and all of it is lost with
the last process. So the writer looks whether the path still leads to its file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from omium.orchestration.errors import OmiumError

LOOK_S = 1.0


class Standing:
    """The identity of a file at the moment when this is made. Once it was seen to be another one, it stays lost: there
    is no telling what was written meanwhile by whom."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.perf_counter) -> None:
        self._path = path
        self._clock = clock
        self._first = _identity(path)
        self._looked = clock()
        self.lost = False

    def check(self, now: bool = True) -> None:
        """Raises `storage_unavailable` when the file is gone. now: look, even if it was looked a moment ago."""
        at = self._clock()
        if now or at - self._looked > LOOK_S:
            self._looked = at
            self.lost = self.lost or _identity(self._path) != self._first
        if self.lost:
            self.refuse()

    def refuse(self) -> None:
        """Raises `storage_unavailable` when it was seen that the file is gone."""
        if self.lost:
            raise OmiumError(
                "storage_unavailable",
                f"the database file {self._path.name} was deleted or replaced while this process used it.",
                "Put it back or restore a backup, then restart this process.",
                gone=True,
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode; None where there is no file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
