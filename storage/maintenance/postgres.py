"""Maintenance of a PostgreSQL database: on a session of its own, in a worker thread with an event loop of its own,
since its functions take their time and the store's loop has others to serve."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import anyio
import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Write, Written
from omium.storage.maintenance.tables import Rows, Tables
from omium.storage.postgres.connection import connect
from omium.storage.postgres.errors import translated
from omium.storage.postgres.store import PostgresStore

T = TypeVar("T")


class PostgresTables:
    """See `Tables`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def all(self, statement: str, **values: Any) -> Rows:
        return [tuple(row) for row in self._connection.execute(text(statement), values)]

    def first(self, statement: str, **values: Any) -> tuple[Any, ...] | None:
        row = self._connection.execute(text(statement), values).first()
        return None if row is None else tuple(row)

    def each(self, statement: str, **values: Any) -> Iterator[tuple[Any, ...]]:
        options = {"stream_results": True, "yield_per": 500}
        with self._connection.execute(text(statement), values, execution_options=options) as result:
            for row in result:
                yield tuple(row)

    def run(self, statement: str, **values: Any) -> int:
        return int(self._connection.execute(text(statement), values).rowcount)

    def many(self, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self._connection.execute(text(statement), rows)

    def complaints(self) -> list[tuple[str, str]]:
        """None: checking pages is the server's, by their checksums, and its operator's, by `pg_amcheck`."""
        return []

    def lock(self, name: str) -> None:
        self.all("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))", name=name)

    def lock_run(self, run_id: str) -> None:
        self.all("SELECT 1 FROM runs WHERE id = :run FOR UPDATE", run=run_id)
        self.all("SELECT 1 FROM claims WHERE run_id = :run FOR UPDATE", run=run_id)

    def lock_blobs(self, digests: Sequence[str]) -> None:
        # In the order in which the writer locks them.
        found = "SELECT 1 FROM blobs WHERE digest = ANY(CAST(:digests AS text[])) ORDER BY digest FOR UPDATE"
        self.all(found, digests=list(digests))


class PostgresKeeper:
    """See `Keeper`."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self.chain = store.chain
        self.clock = store.clock
        self.files = store.files

    async def read(self, work: Callable[[Tables], T]) -> T:
        return await self._run(work, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")

    async def write(self, work: Callable[[Tables], T]) -> T:
        result = await self._run(work, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await self._store.forget()
        return result

    async def append(self, write: Write) -> Written:
        return await self._store.write(write)

    async def scrub(self) -> None:
        """Nothing to do: vacuuming and its journal are the server's."""

    async def rewrite(self) -> bool:
        """Nothing to do, as for `scrub`."""
        return True

    async def _run(self, work: Callable[[Tables], T], begin: str) -> T:
        return await anyio.to_thread.run_sync(lambda: asyncio.run(_transaction(self._store.dsn, work, begin)))


async def _transaction(dsn: str, work: Callable[[Tables], T], begin: str) -> T:
    async def session() -> Any:
        return await connect(dsn, "omium-maintenance")

    engine = create_async_engine("postgresql+asyncpg://", async_creator=session, poolclass=NullPool)

    def within(connection: Connection) -> T:
        connection.exec_driver_sql(begin)
        return work(PostgresTables(connection))

    try:
        async with engine.begin() as connection:
            return await connection.run_sync(within)
    except DBAPIError as error:
        raise _unavailable(error.driver_exception or error) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise _unavailable(error) from error
    finally:
        await engine.dispose()


def _unavailable(error: BaseException) -> BaseException:
    found = translated(error)
    return (
        found if isinstance(found, OmiumError) else OmiumError("storage_unavailable", f"the database failed: {error}.")
    )


__all__ = ["PostgresKeeper", "PostgresTables"]
