"""SQLite's errors in the product's words."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from omium.orchestration.errors import OmiumError

_REPLACED = (
    "If a newer version of omium-mcp has migrated it meanwhile, start this program anew. If it was emptied or replaced,"
    " restore the last backup."
)
_NO_ROOM = ("no space left", "database or disk is full")
_SAYINGS = (
    ("locked", "is locked by another program", "Close the program that holds it, or try again."),
    ("busy", "is locked by another program", "Close the program that holds it, or try again."),
    ("readonly", "cannot be written", "Check the permissions of the file and of its directory."),
    ("read-only", "cannot be written", "Check the permissions of the file and of its directory."),
    ("permission denied", "cannot be opened: permission denied", "Check who may write to its directory."),
    ("disk i/o error", "cannot be read or written: the disk reports an error", "Check the disk."),
    ("malformed", "is damaged", "Run `omium verify`, then restore the last backup."),
    ("unsupported file format", "is damaged at its beginning", "Restore the last backup."),
    ("not a database", "is not an Omium database", "Point OMIUM_DATABASE at another file."),
    ("no such table", "is not whole: a table is missing", _REPLACED),
    ("no such column", "is not whole: a column is missing", _REPLACED),
    ("unable to open", "cannot be opened", "Check that its directory exists and may be written."),
)


def _without_room(error: BaseException, path: Path) -> OmiumError:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:  # its directory is no more, or never came to be
        free = 0
    return OmiumError(
        "storage_unavailable",
        f"the database {path} has no room: the disk is full ({free // 1024} KiB are free).",
        f"Free some space on the disk of {path.parent}; what was acknowledged is safe.",
        cause=str(error),
        path=str(path),
        free_bytes=free,
    )


def translated(error: BaseException, path: Path) -> BaseException:
    """An OmiumError("storage_unavailable") for what the database or the disk reports; anything else as it is."""
    if isinstance(error, sqlite3.IntegrityError):
        return OmiumError("conflict", f"somebody else wrote the same row first: {error}.")
    if isinstance(error, OverflowError):
        return OmiumError("invalid_value", f"a number cannot be stored: {error}.", "Integers have 64 bits.")
    if isinstance(error, sqlite3.Error | OSError):
        text = str(error).lower()
        if os.path.isdir(path):  # noqa: PTH112 - it never raises
            told, hint = f"the database {path} is a directory.", f"Name a file, such as {path / 'omium.db'}."
            return OmiumError("storage_unavailable", told, hint, cause=str(error))
        if any(sign in text for sign in _NO_ROOM):
            return _without_room(error, path)
        for sign, problem, hint in _SAYINGS:
            if sign in text:
                data = {"cause": str(error), **({"gone": True} if sign.startswith("no such") else {})}
                return OmiumError("storage_unavailable", f"the database {path.name} {problem}.", hint, **data)
        return OmiumError("storage_unavailable", f"the database {path.name} failed: {error}.", "", cause=str(error))
    return error
