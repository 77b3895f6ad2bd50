"""Each test of this suite runs on every database; a test that asks for `database` opens as many stores as it needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.store.databases import AnyStore, Database, PostgresDatabase, SqliteDatabase, TestClock


@pytest.fixture(params=["sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database; its stores are closed after the test."""
    found: Database
    if request.param == "sqlite":
        found = SqliteDatabase(tmp_path / "omium.db")
    else:
        url = request.getfixturevalue("postgres_url")
        found = PostgresDatabase(request.getfixturevalue("postgres"), url, tmp_path / "blobs")
    yield found
    await found.close()


@pytest.fixture
async def store(database: Database) -> AnyStore:
    return await database.open()


@pytest.fixture
def clock(database: Database) -> TestClock:
    return database.clock
