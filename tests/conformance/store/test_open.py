"""Which store a URL opens."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio
import pytest

from omium.orchestration.values import encode
from omium.storage.open import open_store
from omium.storage.postgres.store import PostgresStore
from omium.storage.sqlite.store import SqliteStore
from tests.conformance.store.acting import blob, refused

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("form", ["{path}", "sqlite:///{path}"])
async def test_a_path_is_an_sqlite_database(tmp_path: Path, form: str) -> None:
    path = tmp_path / "deep" / "omium.db"
    store = await open_store(form.format(path=path), files_root=tmp_path / "files")
    assert isinstance(store, SqliteStore) and path.exists()
    await store.put([blob({"n": 1})])
    assert await store.value(encode({"n": 1}).digest) == {"n": 1}
    await store.close()


async def test_a_relative_path_and_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "ada"))
    for url, place in (("sqlite:///here.db", "here.db"), ("there.db", "there.db"), ("~/home.db", "ada/home.db")):
        await (await open_store(url)).close()
        assert (tmp_path / place).exists()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
async def test_a_postgresql_url_is_a_postgresql_database(postgres_url: str, scheme: str) -> None:
    store = await open_store(postgres_url.replace("postgresql", scheme, 1), durability="normal")
    assert isinstance(store, PostgresStore)
    await store.close()


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "", ":memory:", "sqlite:///:memory:"])
async def test_anything_else_is_refused(url: str) -> None:
    await refused("invalid_argument", open_store(url))


WITHOUT_DRIVER = """
import asyncio, sys
sys.modules["asyncpg"] = None  # what an import finds that is not installed
from omium.orchestration.errors import OmiumError
from omium.storage.open import open_store
try:
    asyncio.run(open_store("postgresql://localhost/omium"))
except OmiumError as error:
    print(error.code, error.hint)
"""


async def test_a_missing_driver_is_said() -> None:
    ended = await anyio.run_process([sys.executable, "-c", WITHOUT_DRIVER])
    assert ended.stdout.decode().startswith("unsupported Run: pip install 'omium-mcp[postgres]'")
