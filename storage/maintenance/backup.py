"""Copies of a SQLite database with its large blobs, taken while others write; and the way back.

A backup is a directory like the one that it is a copy of: `omium.db` and `blobs`. It is complete and verified, or it is
not there.

A copy belongs to nobody. Who worked on the original at that moment stands in the copy as well, but its heartbeats go to
the original: whoever works on the copy would take it for a worker that has gone silent, and kill it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, RunId
from omium.orchestration.log.chain import Chain
from omium.orchestration.ports import Damage
from omium.storage.blobfiles import BlobFiles
from omium.storage.maintenance.tables import SqliteKeeper, snapshot
from omium.storage.maintenance.verify import check
from omium.storage.sqlite.errors import translated

T = TypeVar("T")
Beside = Callable[[Path, Sequence[RunId]], Coroutine[Any, Any, None]]

DATABASE: Final = "omium.db"
BLOBS: Final = "blobs"

# What makes a copy nobody's, on both databases: its runs are free, and what was held counts as spent, as for workers
# that are gone.
DISOWN: Final = (
    "UPDATE budgets SET spent_usd = spent_usd + held_usd, spent_tokens = spent_tokens + held_tokens,"
    " spent_calls = spent_calls + held_calls, held_usd = 0, held_tokens = 0, held_calls = 0",
    "DELETE FROM holds",
    "DELETE FROM leases",
    "UPDATE claims SET worker = NULL, wake_at = 0 WHERE worker IS NOT NULL",
    "DELETE FROM workers",
)

_ATTEMPTS: Final = 3  # an erasure that comes in between makes one of them void


@dataclass(frozen=True, slots=True)
class Backup:
    """What was copied. `size`: bytes. `damages`: what is wrong with it, which was wrong before."""

    path: Path
    runs: int
    files: int
    size: int
    damages: Sequence[Damage]


async def backup(keeper: SqliteKeeper, target: Path, beside: Beside | None = None) -> Backup:
    """Copy the database and its large blobs to the new directory `target`, while others go on working.

    beside: writes what else belongs to these runs into the directory, before that gets its name.

    The copy is verified before it gets its name; damage that was there before is copied and listed, not hidden. Raises
    `conflict` when `target` exists, `storage_unavailable` when it cannot be written.
    """

    def fill(partial: Path) -> None:
        _fill(keeper, partial)
        if beside is not None:
            anyio.from_thread.run(beside, partial, _runs(partial / DATABASE))

    return await anyio.to_thread.run_sync(_write, target, fill, keeper.chain)


async def restore(
    source: Path, database: Path, chain: Chain, files_root: Path | None = None, beside: Beside | None = None
) -> Backup:
    """Put a backup where `database` is to be; nobody may have that open, and it must not exist.

    `source`: a directory that `backup` made; `files_root`: where large blobs go (`blobs` beside the database);
    `beside`: puts back what else belongs to its runs, once it is whole and before the database is there. Raises
    `not_found` when there is no backup, `integrity` when it is damaged (and then nothing is restored), `conflict` when
    `database` exists, `storage_unavailable` when it cannot be written. Folded states that are not what the logs say,
    such as those of a version with other fields, are left out: the logs have it all.
    """
    return await anyio.to_thread.run_sync(_restore, source, database, chain, files_root, beside)


def _restore(
    source: Path, database: Path, chain: Chain, files_root: Path | None, beside: Beside | None = None
) -> Backup:
    saved = source / DATABASE
    if not saved.is_file():
        raise OmiumError(
            "not_found", f"{source} is no backup: it has no {DATABASE}.", "Give the directory of a backup."
        )
    for name in (database.name, f"{database.name}-wal", f"{database.name}-shm"):
        if database.with_name(name).exists():
            raise OmiumError("conflict", f"{database.with_name(name)} exists.", "Move it away, then restore.")
    found = _verified(saved, chain)
    stale = [damage for damage in found if damage.data.get("table") == "snapshots" and damage.data.get("key")]
    damages = [damage for damage in found if damage not in stale]
    if damages:
        raise OmiumError(
            "integrity",
            f"the backup is damaged at {len(damages)} places, first: {damages[0].subject}: {damages[0].problem}.",
            "Restore an older one.",
            places=[damage.subject for damage in damages[:100]],
        )
    with _reporting(database):
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        blobs, into = BlobFiles(source / BLOBS), BlobFiles(files_root or database.parent / BLOBS)
        files = list(blobs.list())
        for digest in files:  # before the database that names them; a file that is there already is kept
            into.put(digest, blobs.get(digest))
        if beside is not None:
            anyio.from_thread.run(beside, source, _runs(saved))
        partial = database.with_name(f".{database.name}.{secrets.token_hex(8)}.partial")
        try:
            shutil.copyfile(saved, partial)
            partial.chmod(0o600)
            _disown(partial)
            _forget(partial, stale)
            _sync(partial)
            crash_point("backup.copied")
            os.link(partial, database)  # unlike a rename, it never replaces what somebody made meanwhile
        except FileExistsError:
            raise OmiumError("conflict", f"{database} exists.", "Move it away, then restore.") from None
        finally:
            partial.unlink(missing_ok=True)
        _sync(database.parent)
    return _described(database, blobs, files, damages)


def _write(target: Path, fill: Callable[[Path], None], chain: Chain) -> Backup:
    """A new directory: filled and verified under another name, then renamed."""
    if target.exists():
        raise OmiumError("conflict", f"{target} exists.", "Name a directory that does not.")
    with _reporting(target):
        partial = target.with_name(f".{target.name}.{secrets.token_hex(8)}.partial")
        partial.mkdir(mode=0o700, parents=True)
        try:
            fill(partial)
            damages = _verified(partial / DATABASE, chain)
            _sync(partial / DATABASE)
            _sync(partial)
            crash_point("backup.copied")
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync(target.parent)
        blobs = BlobFiles(target / BLOBS)
        return _described(target / DATABASE, blobs, list(blobs.list()), damages)


def _fill(keeper: SqliteKeeper, directory: Path) -> None:
    """Copy database and files. The database first: files are only added to what it names, except by an
    erasure or a sweep, and then it is copied again."""
    for _ in range(_ATTEMPTS):
        _copy_database(keeper.path, directory / DATABASE)
        assert keeper.files is not None
        missing = _copy_files(directory / DATABASE, keeper.files, BlobFiles(directory / BLOBS))
        if not any(_is_gone(keeper.path, digest) for digest in missing):
            return  # what is missing was missing before: the verification says so


def _copy_database(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with contextlib.closing(sqlite3.connect(source)) as live, contextlib.closing(sqlite3.connect(target)) as copy:
        live.execute("PRAGMA busy_timeout = 5000")
        live.execute("BEGIN")  # one snapshot: a copy that follows the writers might never end
        live.execute("SELECT 1 FROM events LIMIT 1").fetchall()
        live.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, which can be read from a medium that cannot be written
    _disown(target)


def _disown(database: Path) -> None:
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as copy:
        copy.execute("PRAGMA journal_mode = DELETE")
        copy.execute("BEGIN IMMEDIATE")
        for statement in DISOWN:
            copy.execute(statement)
        copy.execute("COMMIT")


def _forget(database: Path, stale: Sequence[Damage]) -> None:
    """Remove the folded states that a verification has named."""
    with contextlib.closing(sqlite3.connect(database)) as copy, copy:
        named = [(damage.data["run"], int(damage.data["key"])) for damage in stale]
        copy.executemany("DELETE FROM snapshots WHERE run_id = ? AND seq = ?", named)


def _runs(database: Path) -> list[RunId]:
    with snapshot(database) as tables:
        return [RunId(row[0]) for row in tables.each("SELECT id FROM runs ORDER BY id")]


def _copy_files(database: Path, source: BlobFiles, target: BlobFiles) -> list[Digest]:
    """Copy the files that the database names; those that are missing."""
    missing = []
    with snapshot(database) as tables:
        for (name,) in tables.each("SELECT digest FROM blobs WHERE encoding = 'file'"):
            digest = Digest(name)
            try:
                target.put(digest, source.get(digest))
            except OmiumError as error:
                if error.code != "not_found":
                    raise
                missing.append(digest)
    return missing


def _is_gone(database: Path, digest: Digest) -> bool:
    with snapshot(database) as tables:
        return tables.first("SELECT 1 FROM blobs WHERE digest = :digest AND encoding = 'file'", digest=digest) is None


def _verified(database: Path, chain: Chain) -> list[Damage]:
    with snapshot(database) as tables:
        return list(check(tables, BlobFiles(database.parent / BLOBS), chain))


def _described(database: Path, blobs: BlobFiles, files: Sequence[Digest], damages: Sequence[Damage]) -> Backup:
    with snapshot(database) as tables:
        row = tables.first("SELECT count(*) FROM runs")
    size = database.stat().st_size + sum(blobs.size(digest) for digest in files)
    return Backup(database.parent, row[0] if row is not None else 0, len(files), size, damages)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reporting(place: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise translated(error, place) from error


__all__ = ["BLOBS", "DATABASE", "DISOWN", "Backup", "backup", "restore"]
