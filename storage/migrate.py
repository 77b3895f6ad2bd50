"""Bring a database to the schema of this version, or say why that cannot be.

Three cases, cheapest first. A database that is current costs one read through the plain driver. An empty one is
created from `schema` and stamped, in one transaction. An older one is migrated by Alembic in one transaction (on SQLite
after a backup), and a step that fails leaves it as it was. Whoever finds another process at it waits, looks again and
finds nothing left to do. A worker of the version before would fail at tables that are no longer as it knows them, and
keep the runs that it owns to itself meanwhile: as long as one gives signs of life, nothing is migrated.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.storage.schema import metadata
from omium.storage.sqlite.errors import translated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_log = logging.getLogger(__name__)

_PATIENCE_S: Final = 120  # how long to wait for another process that migrates
_SIGN_OF_LIFE_S: Final = 7.0  # a worker gives one every 5 s
_LOOK_S: Final = 0.5
_BEATS: Final = "SELECT id, beat, host, pid FROM workers"
_POSTGRES: Final = "in PostgreSQL"
_POSTGRES_LOCK: Final = 0x6F6D69756D  # of the advisory lock that migrations hold: "omium"
_KEPT: Final = ("events", "project_events", "runs", "blobs")  # no migration may gain or lose rows of these

_stamp = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),  # as Alembic itself creates it
)


@dataclass(frozen=True, slots=True)
class History:
    """A line of migrations: the folder with `env.py` and `versions`, and the newest revision there.

    Revisions are numbers of four digits, so that an older program knows a newer database from a foreign one.
    """

    folder: Path
    head: str


HISTORY: Final = History(Path(__file__).parent / "migrations", "0006")


# --- SQLite -----------------------------------------------------------------------------------------------------------


def migrate_sqlite(path: Path, history: History = HISTORY) -> None:
    """Make the database at `path` current. Blocks: call it in a worker thread.

    Raises OmiumError("storage_unavailable") when the database is newer than this program, belongs to another one, is
    held by another process for two minutes, or when a migration fails; then it is as it was before, and so is the
    backup `<name>.before-<version>.bak` beside it.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_S)) as db:
            found = _sqlite_version(db, path)
            if found == history.head:
                return
            _refuse_newer(found, history, path.name)
            before = _wait_for_workers(db, path, history) if found is not None else {}
            if found is None:
                # The mode is a property of the file and cannot change inside a transaction.
                db.execute("PRAGMA journal_mode = WAL")
            with _connection(db) as connection:
                db.execute("PRAGMA secure_delete = ON")  # what a step drops may have been erased from its successor
                db.execute("BEGIN IMMEDIATE")
                try:
                    _migrate_locked(db, connection, path, history, before)
                finally:
                    if db.in_transaction:
                        db.execute("ROLLBACK")
    except (sqlite3.Error, OSError) as error:
        raise translated(error, path) from error


def _wait_for_workers(db: sqlite3.Connection, path: Path, history: History) -> Mapping[str, _Beat]:
    """Raises when a worker lives; those that are gone have left their rows. Gives what was seen at first: whoever shows
    anything else once the database is locked has come, or given a sign of life, since."""
    before = _beats(db.execute(_BEATS).fetchall())
    for _ in range(int(_SIGN_OF_LIFE_S / _LOOK_S) if before else 0):
        time.sleep(_LOOK_S)
        now = _beats(db.execute(_BEATS).fetchall())
        found = _sqlite_version(db, path)  # in this order: what is seen then is of that version, or of an older one
        if found == history.head:
            break  # another process was faster, and its worker may live
        _refuse_living(before, now, found, path.name)
    return before


def _migrate_locked(
    db: sqlite3.Connection, connection: Connection, path: Path, history: History, workers: Mapping[str, _Beat]
) -> None:
    found = _sqlite_version(db, path)  # again: another process may have been faster
    if found == history.head:
        return
    _refuse_newer(found, history, path.name)
    before = _counts(db)
    if found is not None:
        _refuse_living(workers, _beats(db.execute(_BEATS).fetchall()), found, path.name)
        _back_up(path, history.head)
        crash_point("migration.backed_up")
    with _failing(path.name, history):
        _bring(connection, found, history)
        _check_counts(before, _counts(db))
    crash_point("migration.before_commit")
    db.execute("COMMIT")


def _sqlite_version(db: sqlite3.Connection, path: Path) -> str | None:
    """The revision of the database; None when it is empty."""
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return None
    rows = db.execute("SELECT version_num FROM alembic_version").fetchall() if _stamp.name in tables else []
    return _one_version([row[0] for row in rows], path.name)


def _counts(db: sqlite3.Connection) -> dict[str, int]:
    there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {
        table: db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - names of ours
        for table in _KEPT
        if table in there
    }


def _back_up(path: Path, version: str) -> None:
    """A copy beside the database, complete or absent. The caller holds the write lock, so nothing is missing."""
    target = path.with_name(f"{path.name}.before-{version}.bak")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)  # of a process that died here
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(partial)) as copy,
        ):
            source.backup(copy)
        _sync(partial)
        partial.replace(target)
        _sync(target.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _connection(db: sqlite3.Connection) -> Iterator[Connection]:
    """`db` as a connection of SQLAlchemy. To be entered before `db` begins its transaction, since connecting rolls back
    once; within, SQLAlchemy thinks that a transaction is open, and the caller alone begins and ends it."""
    engine = create_engine("sqlite://", creator=lambda: db, poolclass=StaticPool)
    with engine.connect() as connection:
        connection.begin()
        yield connection


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


async def migrate_postgres(url: str, history: History = HISTORY) -> None:
    """Make the database at `url` (`postgresql://...`) current; raises as `migrate_sqlite` does.

    There is no backup: everything happens in one transaction, and the operator has the server's own backups.
    """
    import asyncpg  # type: ignore[import-untyped]
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    from omium.storage.postgres import connection as postgres
    from omium.storage.postgres.errors import translated as translated_postgres

    dsn = postgres.dsn_of(url)

    async def session() -> Any:
        return await postgres.connect(dsn, "omium-migration")

    engine = create_async_engine("postgresql+asyncpg://", async_creator=session, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            found = await connection.run_sync(_postgres_version)
        if found == history.head:
            return
        _refuse_newer(found, history, _POSTGRES)
        before = await _wait_for_workers_in_postgres(engine, history) if found is not None else {}
        async with engine.begin() as connection:
            await connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})")
            await connection.run_sync(_migrate_postgres_locked, history, before)
    except DBAPIError as error:
        raise translated_postgres(error.driver_exception or error) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise translated_postgres(error) from error
    finally:
        await engine.dispose()


async def _wait_for_workers_in_postgres(engine: AsyncEngine, history: History) -> Mapping[str, _Beat]:
    """See `_wait_for_workers`."""
    import anyio

    async def look() -> tuple[str | None, Mapping[str, _Beat]]:
        async with engine.connect() as connection:
            rows = await connection.exec_driver_sql(_BEATS)
            return await connection.run_sync(_postgres_version), _beats(rows.all())

    _, before = await look()
    for _ in range(int(_SIGN_OF_LIFE_S / _LOOK_S) if before else 0):
        await anyio.sleep(_LOOK_S)
        found, now = await look()
        if found == history.head:
            break
        _refuse_living(before, now, found, _POSTGRES)
    return before


def _migrate_postgres_locked(connection: Connection, history: History, workers: Mapping[str, _Beat]) -> None:
    found = _postgres_version(connection)
    if found == history.head:
        return
    _refuse_newer(found, history, _POSTGRES)
    if found is not None:
        connection.exec_driver_sql("LOCK TABLE workers IN SHARE MODE")  # none comes between this look and the end
        _refuse_living(workers, _beats(connection.exec_driver_sql(_BEATS).all()), found, _POSTGRES)
    before = _postgres_counts(connection) if found is not None else {}
    with _failing(_POSTGRES, history):
        _bring(connection, found, history)
        _check_counts(before, _postgres_counts(connection))
    crash_point("migration.before_commit")


def _postgres_version(connection: Connection) -> str | None:
    found = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    tables = {row[0] for row in connection.exec_driver_sql(found)}
    if not tables & {_stamp.name, *metadata.tables}:
        return None
    there = _stamp.name in tables
    rows = connection.exec_driver_sql("SELECT version_num FROM alembic_version").all() if there else []
    return _one_version([row[0] for row in rows], _POSTGRES)


def _postgres_counts(connection: Connection) -> dict[str, int]:
    return {
        table: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()  # noqa: S608 - names of ours
        for table in _KEPT
    }


# --- both -------------------------------------------------------------------------------------------------------------


def _bring(connection: Connection, found: str | None, history: History) -> None:
    """Create what is empty, migrate what is older, inside the connection's transaction."""
    if found is None and history is HISTORY:
        metadata.create_all(connection, checkfirst=False)
        _stamp.create(connection)
        connection.execute(_stamp.insert().values(version_num=history.head))
    else:
        run_migrations(connection, history)


def run_migrations(connection: Connection, history: History = HISTORY) -> None:
    """Every step from where the database is (from nothing, if it is empty) to the newest; the caller commits."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(history.folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, history.head)


def _one_version(rows: list[Any], name: str) -> str:
    if len(rows) != 1 or not str(rows[0]).isdigit():
        raise OmiumError(
            "storage_unavailable", f"{name} is not an Omium database.", "Point OMIUM_DATABASE at another one."
        )
    return str(rows[0])


def _refuse_newer(found: str | None, history: History, name: str) -> None:
    if found is not None and found > history.head:
        raise OmiumError(
            "storage_unavailable",
            f"the database {name} has schema {found}; this version knows {history.head} and older.",
            "Upgrade omium-mcp to the version that wrote it, or restore the backup from before.",
            found=found,
            known=history.head,
        )


_Beat: TypeAlias = tuple[int, str]  # and where the worker is


def _beats(rows: Iterable[Any]) -> dict[str, _Beat]:
    return {row[0]: (row[1], f"process {row[3]} on {str(row[2]).partition('/')[0]}") for row in rows}


def _refuse_living(before: Mapping[str, _Beat], now: Mapping[str, _Beat], found: str | None, name: str) -> None:
    living = [place for one, (beat, place) in now.items() if one not in before or beat != before[one][0]]
    if living:
        raise OmiumError(
            "storage_unavailable",
            f"the database {name} has schema {found}, and {', '.join(sorted(living))} works on it as that.",
            "Stop what works there (a server that a client has started ends with that client), then try again.",
            workers=len(living),
        )


def _check_counts(before: dict[str, int], after: dict[str, int]) -> None:
    for table, rows in before.items():
        if after.get(table) != rows:
            raise OmiumError("internal", f"the migration left {after.get(table)} of {rows} rows in {table}.")


@contextlib.contextmanager
def _failing(name: str, history: History) -> Iterator[None]:
    """A step that fails, in whatever way, is an error of the caller's database and not of the caller."""
    try:
        yield
    except Exception as error:
        _log.exception("the migration of %s failed", name)
        raise OmiumError(
            "storage_unavailable",
            f"the database {name} could not be brought to schema {history.head}: {error}",
            "Nothing was changed. Go on with the version of omium-mcp that you had, and report this.",
            cause=str(error),
        ) from error
