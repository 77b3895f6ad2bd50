"""What tells that files have changed, without reading them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

_SETTLED_NS: Final = 2_000_000_000  # a file changed within the grain of its file system's clock may look the same

Stamps: TypeAlias = Mapping[Path, tuple[int, int, int] | None]


def look(files: Iterable[Path], now_ns: int) -> tuple[Stamps, bool]:
    """(time of change, size and inode of each file, None for one that cannot be looked at; whether a change from now on
    would show in them). Where it would not, the files have to be read to know. now_ns: since the epoch."""
    stamps: dict[Path, tuple[int, int, int] | None] = {}
    newest = 0
    for path in files:
        try:
            found = path.stat()
        except OSError:
            stamps[path] = None
            continue
        stamps[path] = (found.st_mtime_ns, found.st_size, found.st_ino)
        newest = max(newest, found.st_mtime_ns)
    return stamps, now_ns - newest > _SETTLED_NS


__all__ = ["Stamps", "look"]
