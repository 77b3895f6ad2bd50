"""The reading connection of SQLite: what it does when it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import bindparam, select

from omium.orchestration.errors import OmiumError
from omium.storage import schema as t
from omium.storage.sqlite.reader import Reader
from omium.storage.sqlite.store import SqliteStore

pytestmark = pytest.mark.anyio

ASKED = select(t.keys.c.result).where(t.keys.c.scope == "s", t.keys.c.key == bindparam("named"))


async def test_constants_and_parameters_are_both_bound(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "omium.db")
    statement = "INSERT INTO keys (scope, key, arguments, result, created_at) VALUES (?, ?, '', ?, 0)"
    for scope, name in (("s", "a"), ("s", "b"), ("other", "a")):
        row = (scope, name, f"{scope} {name}".encode())
        await store.job(lambda db, row=row: db.execute(statement, row) and None)  # type: ignore[misc]
    reader = Reader(tmp_path / "omium.db")
    assert await reader.fetch(ASKED, {"named": "a"}) == [(b"s a",)]
    assert await reader.fetch(ASKED, {"named": "b"}) == [(b"s b",)]
    assert await reader.fetch(ASKED, {"named": "c"}) == []
    await reader.close()
    await store.close()


async def test_what_cannot_be_read_is_said_and_the_next_read_tries_again(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    path.write_bytes(b"not a database at all" * 100)
    reader = Reader(path)
    for _ in range(2):
        with pytest.raises(OmiumError) as refusal:
            await reader.fetch(ASKED, {"named": "a"})
        assert refusal.value.code == "storage_unavailable"
    path.unlink()
    await (await SqliteStore.open(path)).close()
    assert await reader.fetch(ASKED, {"named": "a"}) == []
    await reader.close()


async def test_a_closed_reader_refuses(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "omium.db")
    await reader.close()
    with pytest.raises(OmiumError) as refusal:
        await reader.fetch(ASKED, {"named": "a"})
    assert refusal.value.code == "storage_unavailable"
