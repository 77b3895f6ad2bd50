"""The databases that the suite runs on, and what it does to them behind a store's back."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from omium.storage.open import open_store
from omium.storage.postgres.store import PostgresStore
from omium.storage.sqlite.store import SqliteStore
from tests.postgres import PostgresServer

AnyStore = SqliteStore | PostgresStore
START_US = 1_700_000_000_000_000


class TestClock:
    """A clock that stands still until a test moves it."""

    __test__ = False

    def __init__(self) -> None:
        self.us = START_US

    def now_us(self) -> int:
        return self.us

    def monotonic(self) -> float:
        return self.us / 1e6

    def advance(self, seconds: float) -> None:
        self.us += int(seconds * 1e6)


class Database(Protocol):
    """One empty database; `open` gives another store on it each time, as another process would have one."""

    name: str
    clock: TestClock

    async def open(self, **options: Any) -> AnyStore: ...

    async def close(self) -> None: ...

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run plain SQL on a connection of its own; columns come back as the database's tool prints them."""


@dataclass
class SqliteDatabase:
    path: Path
    name: str = "sqlite"
    clock: TestClock = field(default_factory=TestClock)
    stores: list[AnyStore] = field(default_factory=list)

    async def open(self, **options: Any) -> AnyStore:
        store = await open_store(str(self.path), clock=self.clock, **options)
        assert isinstance(store, SqliteStore)
        self.stores.append(store)
        return store

    async def close(self) -> None:
        for store in self.stores:
            await store.close()

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.path)) as db, db:
            return db.execute(statement).fetchall()


@dataclass
class PostgresDatabase:
    server: PostgresServer
    url: str
    files: Path
    name: str = "postgres"
    clock: TestClock = field(default_factory=TestClock)
    stores: list[AnyStore] = field(default_factory=list)

    async def open(self, **options: Any) -> AnyStore:
        store = await open_store(self.url, clock=self.clock, files_root=self.files, **options)
        assert isinstance(store, PostgresStore)
        self.stores.append(store)
        return store

    async def close(self) -> None:
        for store in self.stores:
            await store.close()

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        text = self.server.execute(statement, urlsplit(self.url).path.removeprefix("/"))
        return [tuple(line.split("|")) for line in text.splitlines()]


def count_commits(monkeypatch: Any) -> Callable[[], int]:
    """Counts the commits of all stores from now on, by the point that each of them passes."""
    seen: list[str] = []
    for writer in ("omium.storage.sqlite.writer", "omium.storage.postgres.writer", "omium.storage.postgres.attempt"):
        monkeypatch.setattr(f"{writer}.crash_point", seen.append)
    return lambda: seen.count("commit.after")
