"""What maintenance needs of a store: transactions that plain functions run in.

Statements are plain SQL that both databases understand, with `:name` for values. A function that works in a transaction
runs outside the event loop, so it may take its time; one that writes should be short, since it holds the lock.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import anyio

from omium.orchestration.log.chain import Chain
from omium.orchestration.ports import Clock, Write, Written
from omium.storage.blobfiles import BlobFiles
from omium.storage.sqlite.errors import translated
from omium.storage.sqlite.store import SqliteStore

T = TypeVar("T")
Rows = list[tuple[Any, ...]]

_log = logging.getLogger(__name__)

REWRITE_UP_TO = 1_000_000_000  # bytes: some seconds, for which nobody else writes
_COMPLAINTS = 20  # of one table; the rest say the same


class Tables(Protocol):
    """One transaction."""

    def all(self, statement: str, **values: Any) -> Rows: ...

    def first(self, statement: str, **values: Any) -> tuple[Any, ...] | None: ...

    def each(self, statement: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows one after the other, in bounded memory; other statements may run meanwhile."""

    def run(self, statement: str, **values: Any) -> int:
        """How many rows it changed."""

    def many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def complaints(self) -> list[tuple[str, str]]:
        """What the database itself finds wrong with its pages and indices: (table, problem)."""

    def lock(self, name: str) -> None:
        """Wait for others that lock `name`; held until the transaction ends."""

    def lock_run(self, run_id: str) -> None:
        """No other process appends to the log of this run until the transaction ends."""

    def lock_blobs(self, digests: Sequence[str]) -> None:
        """No other process stores these contents, or patches upon them, until the transaction ends."""


class Keeper(Protocol):
    """A store, as those see it who maintain its database."""

    chain: Chain
    clock: Clock
    files: BlobFiles | None

    async def read(self, work: Callable[[Tables], T]) -> T:
        """Run `work` in a worker thread on one consistent snapshot. Raises `storage_unavailable`."""

    async def write(self, work: Callable[[Tables], T]) -> T:
        """Run `work` in a write transaction, which is durable on return. Afterwards nobody in this process remembers
        what it may have changed. Raises `storage_unavailable`, and then nothing has changed."""

    async def append(self, write: Write) -> Written:
        """`Store.write`."""

    async def scrub(self) -> None:
        """What was deleted is also gone from the database's journal, as far as those allow who read right now."""

    async def rewrite(self) -> bool:
        """Nothing of what was deleted stays in the gaps of the database's pages, where it leaves copies of rows that it
        has moved to make room. False when it is too large for that, in use or without room on the disk."""


class SqliteTables:
    """See `Tables`. In SQLite the writer has the database to itself, so the locks are had already."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def all(self, statement: str, **values: Any) -> Rows:
        return self.db.execute(statement, values).fetchall()

    def first(self, statement: str, **values: Any) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self.db.execute(statement, values).fetchone()
        return row

    def each(self, statement: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        return self.db.execute(statement, values)

    def complaints(self) -> list[tuple[str, str]]:
        tables = self.all("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        return [(name, text) for (name,) in tables for text in self._check(name)]

    def _check(self, table: str) -> list[str]:
        found: list[str] = []
        try:
            for (text,) in self.db.execute(f'PRAGMA integrity_check("{table}")'):
                found += [line for line in text.splitlines() if line not in ("ok", "*** in database main ***")]
        except sqlite3.DatabaseError as error:  # so damaged that the check itself gives up
            if isinstance(error, sqlite3.OperationalError):
                raise
            found.append(str(error))
        return found[:_COMPLAINTS]

    def run(self, statement: str, **values: Any) -> int:
        return self.db.execute(statement, values).rowcount

    def many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.db.executemany(statement, rows)

    def lock(self, name: str) -> None:
        """Nothing to do."""

    def lock_run(self, run_id: str) -> None:
        """Nothing to do."""

    def lock_blobs(self, digests: Sequence[str]) -> None:
        """Nothing to do."""


class SqliteKeeper:
    """See `Keeper`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.path = store.path
        self.chain = store.chain
        self.clock = store.clock
        self.files: BlobFiles | None = store.files

    async def read(self, work: Callable[[Tables], T]) -> T:
        def reading() -> T:
            with snapshot(self.path) as tables:
                return work(tables)

        return await anyio.to_thread.run_sync(reading)

    async def write(self, work: Callable[[Tables], T]) -> T:
        def writing(db: sqlite3.Connection) -> tuple[T | None, Exception | None]:
            # What is deleted here may be personal: its pages are overwritten, not only freed.
            (usual,) = db.execute("PRAGMA secure_delete").fetchone()
            db.execute("PRAGMA secure_delete = ON")
            db.execute("SAVEPOINT maintenance")
            try:
                return work(SqliteTables(db)), None
            except (sqlite3.Error, OSError):
                raise  # the writer undoes the transaction, and repeats it for the others in it
            except Exception as error:
                # Others share this transaction, so what `work` did is undone here; it is raised again for the caller.
                db.execute("ROLLBACK TO maintenance")
                return None, error
            finally:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("RELEASE maintenance")
                    db.execute(f"PRAGMA secure_delete = {int(usual)}")

        result, error = await self._store.maintain(writing)
        if error is not None:
            raise error
        return cast("T", result)

    async def append(self, write: Write) -> Written:
        return await self._store.write(write)

    async def scrub(self) -> None:
        def truncate() -> None:
            try:
                with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                    db.execute("PRAGMA busy_timeout = 5000")
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except sqlite3.Error as error:
                raise translated(error, self.path) from error

        await anyio.to_thread.run_sync(truncate)

    async def rewrite(self) -> bool:
        def work() -> bool:
            try:
                with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                    db.execute("PRAGMA busy_timeout = 5000")
                    (pages,) = db.execute("PRAGMA page_count").fetchone()
                    (size,) = db.execute("PRAGMA page_size").fetchone()
                    if pages * size > REWRITE_UP_TO:
                        return False
                    db.execute("VACUUM")
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                    return True
            except sqlite3.OperationalError as error:
                _log.warning("the database %s could not be rewritten: %s", self.path.name, error)
                return False

        return await anyio.to_thread.run_sync(work)


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[SqliteTables]:
    """A read transaction on a database file, which need not be opened as a store. Raises `storage_unavailable`.

    Text that is damaged so that it is no UTF-8 is read with its bad bytes spelled out: whoever compares it finds that
    it is not what was written, and goes on with the rest.
    """
    try:
        # `mode=ro` cannot create the file and cannot write it, whatever a statement says.
        address = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, isolation_level=None)) as db:
            db.text_factory = lambda raw: raw.decode("utf-8", "backslashreplace")
            db.execute("PRAGMA busy_timeout = 5000")
            db.execute("BEGIN")
            yield SqliteTables(db)
    except (sqlite3.Error, OSError) as error:
        raise translated(error, path) from error
