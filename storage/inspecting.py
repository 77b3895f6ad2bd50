"""Looking at a database without opening it as a store: nothing is created, migrated or written."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio.to_thread

from omium.orchestration.errors import OmiumError
from omium.storage.migrate import HISTORY
from omium.storage.sqlite.errors import translated

State = Literal["absent", "empty", "current", "older", "newer", "unknown"]


@dataclass(frozen=True, slots=True)
class Inspected:
    """state: of the schema, beside that of this program; unknown of a database that only its package knows. version: of
    the database, None where there is none; known: of this program. path: the file, for SQLite."""

    state: State
    version: str | None
    known: str
    path: Path | None = None


async def inspect(url: str) -> Inspected:
    """url: as `open_store` takes it. Raises `storage_unavailable` for what cannot be read or is no database of Omium,
    and `unsupported` when the driver of PostgreSQL, or the package of another database, cannot be used."""
    if "://" in url and url.partition("://")[0].partition("+")[0] in ("postgresql", "postgres"):
        return await _postgres(url)
    if "://" in url and not url.startswith("sqlite"):
        from omium.storage.open import check

        check(url)
        return Inspected("unknown", None, HISTORY.head)
    return await anyio.to_thread.run_sync(_sqlite, url.partition("://")[2].removeprefix("/") if "://" in url else url)


def _sqlite(name: str) -> Inspected:
    path = Path(name).expanduser()
    try:
        if not path.exists():
            return Inspected("absent", None, HISTORY.head, path)
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            rows = db.execute("SELECT version_num FROM alembic_version").fetchall() if _STAMP in tables else []
    except (sqlite3.Error, OSError) as error:
        raise translated(error, path) from error
    return _judged(tables, [row[0] for row in rows], path.name, path)


async def _postgres(url: str) -> Inspected:
    try:
        from omium.storage.postgres.connection import connect, dsn_of
        from omium.storage.postgres.errors import FAILURES
        from omium.storage.postgres.errors import translated as of_postgres
    except ModuleNotFoundError as error:
        told = "this installation has no driver for PostgreSQL."
        raise OmiumError("unsupported", told, "pip install 'omium-mcp[postgres]'") from error
    found = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
    try:
        db = await connect(dsn_of(url), "omium-doctor")
        try:
            tables = {row[0] for row in await db.fetch(found)}
            rows = await db.fetch("SELECT version_num FROM alembic_version") if _STAMP in tables else []
        finally:
            await db.close()
    except FAILURES as error:
        raise of_postgres(error) from error
    return _judged(tables, [row[0] for row in rows], "in PostgreSQL", None)


_STAMP = "alembic_version"


def _judged(tables: set[str], versions: list[str], name: str, path: Path | None) -> Inspected:
    if not tables:
        return Inspected("empty", None, HISTORY.head, path)
    if len(versions) != 1 or not versions[0].isdigit():
        raise OmiumError(
            "storage_unavailable", f"the database {name} is not one of Omium.", "Point OMIUM_DATABASE at another one."
        )
    version = versions[0]
    state: State = "current" if version == HISTORY.head else "older" if version < HISTORY.head else "newer"
    return Inspected(state, version, HISTORY.head, path)
