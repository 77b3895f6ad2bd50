"""Each test of this suite runs on every database; a test that asks for `database` opens as many stores as it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.store.databases import AnyStore, Database, PostgresDatabase, SqliteDatabase, TestClock


@pytest.fixture(params=["sqlite", "postgres"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database, for a test that runs the event loop itself."""
    if request.param == "sqlite":
        return SqliteDatabase(tmp_path / "omium.db")
    url = request.getfixturevalue("postgres_url")
    return PostgresDatabase(request.getfixturevalue("postgres"), url, tmp_path / "blobs")


@pytest.fixture
async def database(empty: Database) -> AsyncIterator[Database]:
    """An empty database; its stores are closed after the test."""
    yield empty
    await empty.close()


@pytest.fixture
async def store(database: Database) -> AnyStore:
    return await database.open()


@pytest.fixture
def clock(database: Database) -> TestClock:
    return database.clock
