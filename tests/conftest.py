"""Fixtures for every test: the asyncio backend and a real PostgreSQL server."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres import PostgresServer, start_postgres

settings.register_profile("omium", deadline=None)  # a busy machine is no failure
settings.load_profile("omium")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="Kill hundreds of workers instead of a few.")
    parser.addoption("--crewai", action="store_true", help="Install CrewAI beside, and run the page's script with it.")
    parser.addoption("--coding-clis", action="store_true", help="Install Codex and Gemini beside, and work with them.")


# What takes large programs of others runs by its flag only.
_BY_FLAG = {"test_crewai.py": "--crewai", "test_real_clis.py": "--coding-clis"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    flag = _BY_FLAG.get(collection_path.name)
    return True if flag is not None and not config.getoption(flag) else None


def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: many tests wait for processes that they have started."""
    return 2 * (os.cpu_count() or 1)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that runs a server or a command in this process leaves the logging of the next one alone."""
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), logging.root.manager.disable
    try:
        return (yield)
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
        logging.disable(disabled)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """The loop that Omium's own processes have."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL server, started when the first test asks for it and shared by the workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with start_postgres(shared / "postgres") as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres.create_database(name)
    postgres.drop_database(name)
