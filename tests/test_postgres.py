"""The PostgreSQL server of the tests: durable, one for many, gone with its last user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest

from tests.postgres import PostgresServer, start_postgres

KEEPER = """
import sys, pathlib
from tests.postgres import start_postgres
server = start_postgres(pathlib.Path(sys.argv[1]))
print(server.execute("SHOW data_directory"), flush=True)
sys.stdin.read()
"""


def postmaster(data: str) -> int:
    return int((Path(data) / "postmaster.pid").read_text().splitlines()[0])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.anyio
async def test_each_test_gets_an_empty_durable_database(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        settings = [await connection.fetchval(f"SHOW {name}") for name in ("fsync", "synchronous_commit")]
        assert settings == ["on", "on"]
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    finally:
        await connection.close()


def test_a_refused_statement_carries_the_servers_message(postgres: PostgresServer) -> None:
    with pytest.raises(RuntimeError, match='database "postgres" already exists'):
        postgres.create_database("postgres")


def test_a_server_is_shared_and_stops_with_its_last_user(tmp_path: Path) -> None:
    first = start_postgres(tmp_path / "server")
    second = start_postgres(tmp_path / "server")
    assert second.url == first.url
    data = first.execute("SHOW data_directory")
    pid = postmaster(data)
    first.close()
    assert second.execute("SELECT 1") == "1"
    second.close()
    assert not is_running(pid)
    assert not Path(data).exists()


def test_a_server_stops_when_its_only_user_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEPER, str(tmp_path / "server")]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        data = user.stdout.readline().strip()
        pid = postmaster(data)
        user.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)
