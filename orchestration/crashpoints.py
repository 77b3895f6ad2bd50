"""Crash points: named places at which a test kills the process, to show that nothing is lost or half done there.

`OMIUM_CRASH_AT=commit.before` in the environment when this module is imported arms the first hit of that point,
`commit.before:3` the third: the process ends by SIGKILL, as in a power cut, with no handler and no flush.
"""

from __future__ import annotations

import itertools
import os
import signal
from typing import Final, Literal, get_args

CrashPoint = Literal[
    "commit.before",  # the rows of a batch are written, its transaction is not committed
    "commit.after",  # the batch is durable, nobody has been told
    "effect.intended",  # the intent of a call is durable, the call is not made
    "effect.made",  # the call is made, its result is not recorded
    "child.named",  # a node waits for a child run that is not created
    "workspace.captured",  # the files that a node left are pinned, its end is not committed
    "setback.noted",  # a node failed for which the run is to be taken back, and nothing is undone yet
    "setback.undone",  # what can be undone is undone, the log does not say that the run went back
    "rollback.written",  # the log says that the run went back, and what it did behind that is not undone yet
    "restore.started",  # the log says that files are put back, nothing is
    "restore.done",  # the files are back, the log does not say so
    "blob.file.written",  # the bytes of a large blob are in its temporary file, not yet forced to disk
    "blob.file.synced",  # they are on disk, under the temporary name
    "blob.file.renamed",  # the blob has its name; its directory is not yet forced to disk
    "migration.backed_up",  # the copy beside the database is complete, the migration has not begun
    "migration.before_commit",  # the schema and its version are written, their transaction is not committed
    "erase.noted",  # an erasure is on record as begun, and nothing has been erased
    "erase.logged",  # the log says that content is erased, and it is still there
    "blobs.rows_deleted",  # rows of blobs are gone, the files of the large ones are still there
    "rebuild.run",  # the projections of one run are rebuilt, those of the next are not
    "backup.copied",  # a backup or a restore is complete and verified, under its temporary name
]

CRASH_POINTS: Final[frozenset[str]] = frozenset(get_args(CrashPoint))


def crash_point(name: CrashPoint) -> None:
    """Ends the process if this hit of `name` is the armed one; else does nothing, in some 50 ns."""
    if _armed is not None:
        _hit(name)


def _parse(text: str) -> tuple[str, int] | None:
    """What `name[:n]` arms. Raises ValueError for a name that is not declared: such a test would prove nothing."""
    if not text:
        return None
    name, _, count = text.partition(":")
    if name not in CRASH_POINTS:
        raise ValueError(f"OMIUM_CRASH_AT names the unknown crash point {name!r}; known: {sorted(CRASH_POINTS)}")
    hit = int(count) if count else 1
    if hit < 1:
        raise ValueError(f"OMIUM_CRASH_AT counts hits from 1, not {hit}")
    return name, hit


_armed: Final = _parse(os.environ.get("OMIUM_CRASH_AT", ""))
_hits: Final = itertools.count(1)  # next() on it is atomic, so threads cannot share a number


def _hit(name: str) -> None:
    if name not in CRASH_POINTS:
        raise ValueError(f"{name!r} is not declared in CRASH_POINTS")
    if _armed is not None and name == _armed[0] and next(_hits) == _armed[1]:
        os.kill(os.getpid(), signal.SIGKILL)
