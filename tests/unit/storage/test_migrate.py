"""Migrations: what is fresh equals what is migrated, nothing is lost when one fails, and two at once end well."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from omium.orchestration.errors import OmiumError
from omium.storage import migrate
from omium.storage.migrate import HISTORY, History, migrate_postgres, migrate_sqlite

GOOD = """
from alembic import op
revision, down_revision = "0007", "0006"

def upgrade():
    with op.batch_alter_table("plans") as plans:
        plans.drop_column("binding")
    op.execute("CREATE TABLE later (id INTEGER PRIMARY KEY)")
"""
FAILING = GOOD + "    op.execute('INSERT INTO nowhere VALUES (1)')\n"
LOSING = GOOD + "    op.execute('DELETE FROM blobs')\n"


def later(tmp_path: Path, step: str) -> History:
    """The history with one more step, as a later version of the program has it."""
    folder = tmp_path / "migrations"
    if not folder.exists():
        shutil.copytree(HISTORY.folder, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "v0007_later.py").write_text(step)
    return History(folder, "0007")


def schema(path: Path) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(path)
    rows = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    db.close()
    return sorted((*row[:3], re.sub(r"\s+", " ", row[3] or "").strip()) for row in rows)


def dump(path: Path) -> str:
    db = sqlite3.connect(path)
    text = "\n".join(db.iterdump())
    db.close()
    return text


def put_blob(path: Path, digest: str = "a" * 64) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute("INSERT INTO blobs VALUES (?, 1, 'raw', NULL, 0, 0, NULL, x'01')", (digest,))
    db.close()


def version(path: Path) -> str:
    db = sqlite3.connect(path)
    (found,) = db.execute("SELECT version_num FROM alembic_version").fetchone()
    db.close()
    return str(found)


def as_file(path: Path) -> str:
    """The main file's digest, once its journal is empty."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_newest_revision_is_the_one_that_the_program_knows() -> None:
    config = Config()
    config.set_main_option("script_location", str(HISTORY.folder))
    assert ScriptDirectory.from_config(config).get_heads() == [HISTORY.head]


def test_a_fresh_sqlite_schema_equals_a_migrated_one(tmp_path: Path) -> None:
    migrate_sqlite(tmp_path / "fresh.db")
    migrate_sqlite(tmp_path / "migrated.db", History(HISTORY.folder, HISTORY.head))  # every step, one after the other
    assert schema(tmp_path / "fresh.db") == schema(tmp_path / "migrated.db"), "write a migration"
    assert version(tmp_path / "fresh.db") == version(tmp_path / "migrated.db") == HISTORY.head


def test_a_current_database_costs_next_to_nothing(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    program = """
import sys, time
from pathlib import Path
from omium.storage.migrate import migrate_sqlite
path, best = Path(sys.argv[1]), 9.0
migrate_sqlite(path)
for _ in range(5):
    start = time.perf_counter()
    migrate_sqlite(path)
    best = min(best, time.perf_counter() - start)
print(best, "alembic" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    best, imported = done.stdout.split()
    assert imported == "False"  # neither to look nor to create
    assert float(best) < 0.005


def test_an_older_database_is_backed_up_and_migrated_once(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path)
    put_blob(path)
    before = dump(path)
    migrate_sqlite(path, later(tmp_path, GOOD))
    assert version(path) == "0007"
    assert "later" in [row[1] for row in schema(path)]
    saved = tmp_path / "omium.db.before-0007.bak"
    assert dump(saved) == before
    assert saved.stat().st_mode & 0o777 == 0o600
    saved.unlink()
    after = as_file(path)
    migrate_sqlite(path, later(tmp_path, GOOD))
    assert as_file(path) == after
    assert not saved.exists()


def test_snapshots_of_a_version_that_folded_otherwise_go(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path, History(HISTORY.folder, "0005"))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("INSERT INTO snapshots (run_id, seq, document) VALUES ('run_x', 1000, x'7b7d')")
    migrate_sqlite(path)
    assert db.execute("SELECT count(*) FROM snapshots").fetchone() == (0,)
    db.close()


def of_first(blob: Callable[[bytes], str]) -> Iterator[str]:
    """Statements that fill tables of the first version. `blob` writes bytes as the database reads them."""
    yield (
        "INSERT INTO blobs (digest, size, encoding, base, depth, touched_at, data) VALUES"
        f" ('a', 1, 'raw', NULL, 0, 7, {blob(b'x')}), ('b', 2, 'patch', 'a', 1, 8, {blob(b'yy')})"
    )
    yield "INSERT INTO links (digest, run_id) VALUES ('a', 'r'), ('b', 'r')"
    error, waits = blob(b'{"error":{"message":"\\"wait\\":"}}'), blob(b'{"wait":{"kind":"children"}}')
    yield (
        'INSERT INTO nodes (run_id, node, status, generation, attempt, seq, "key", output, size, detail) VALUES'
        " ('r', 'done', 'completed', 0, 1, 5, 'k', 'a', 1, NULL),"
        " ('r', 'executes', 'running', 0, 1, 6, 'k', NULL, 0, NULL),"
        f" ('r', 'again', 'running', 0, 2, 7, 'k', NULL, 0, {error}),"
        f" ('r', 'waits', 'running', 0, 1, 8, NULL, NULL, 0, {waits})"
    )


SINCE_SECOND = {
    "SELECT digest, size, encoding, base, touched_at, brought_by FROM blobs ORDER BY digest": [
        ("a", 1, "raw", None, 7, None),
        ("b", 2, "patch", "a", 8, None),
    ],
    "SELECT digest, run_id FROM links ORDER BY digest": [("a", "r"), ("b", "r")],
    "SELECT node, status, attempt, seq, output FROM nodes ORDER BY node": [
        ("done", "completed", 1, 5, "a"),
        ("waits", "running", 1, 8, None),
    ],
}
"""What is in the tables of the second version; `nodes` is there until the fifth."""


def test_the_second_version_keeps_contents_and_drops_what_executes(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path, History(HISTORY.folder, "0001"))
    db = sqlite3.connect(path)
    with db:
        for statement in of_first(lambda data: f"x'{data.hex()}'"):
            db.execute(statement)
    migrate_sqlite(path, History(HISTORY.folder, "0002"))
    assert {query: db.execute(query).fetchall() for query in SINCE_SECOND} == SINCE_SECOND
    migrate_sqlite(path)
    kept = {query: found for query, found in SINCE_SECOND.items() if "FROM nodes" not in query}
    assert {query: db.execute(query).fetchall() for query in kept} == kept
    assert "nodes" not in [row[1] for row in schema(path)]
    db.close()


@pytest.mark.anyio
async def test_the_second_version_in_postgres(postgres_url: str) -> None:
    await migrate_postgres(postgres_url, History(HISTORY.folder, "0001"))
    for statement in of_first(lambda data: f"'\\x{data.hex()}'"):
        await query(postgres_url, statement)
    await migrate_postgres(postgres_url, History(HISTORY.folder, "0002"))
    assert {asked: await query(postgres_url, asked) for asked in SINCE_SECOND} == SINCE_SECOND
    await migrate_postgres(postgres_url)
    assert await query(postgres_url, "SELECT to_regclass('nodes')::text") == [(None,)]


WORKER = "INSERT INTO workers VALUES ('w', 'desk/7f', 'b', 4711, 1.0, 5, {})"
BEATS = "UPDATE workers SET beat = beat + 1"


@pytest.mark.parametrize("lives", [True, False])
def test_nothing_is_migrated_while_a_worker_of_before_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path, History(HISTORY.folder, "0004"))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(WORKER.format("x'5b5d'"))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if lives and sum(slept) > 4:
            db.execute(BEATS)

    monkeypatch.setattr("omium.storage.migrate.time.sleep", sleep)
    if lives:
        with pytest.raises(OmiumError) as refusal:
            migrate_sqlite(path)
        assert "process 4711 on desk works on it" in refusal.value.message and "Stop" in refusal.value.hint
    else:
        migrate_sqlite(path)
    assert version(path) == ("0004" if lives else HISTORY.head)
    assert 4 < sum(slept) < 8
    db.close()


def test_a_worker_that_comes_meanwhile_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path, History(HISTORY.folder, "0004"))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(WORKER.format("x'5b5d'"))
    new = WORKER.format("x'5b5d'").replace("'w'", "'v'").replace("4711", "4712").replace("INSERT", "INSERT OR IGNORE")
    monkeypatch.setattr("omium.storage.migrate.time.sleep", lambda seconds: db.execute(new))
    with pytest.raises(OmiumError, match="process 4712 on desk works on it"):
        migrate_sqlite(path)
    assert version(path) == "0004"
    db.close()


@pytest.mark.parametrize("sign", [WORKER.format("x'5b5d'"), BEATS])
def test_so_does_one_that_shows_itself_after_the_last_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    """Where no worker was to be seen at first, there is no wait either."""
    path = tmp_path / "omium.db"
    migrate_sqlite(path, History(HISTORY.folder, "0004"))
    db = sqlite3.connect(path, isolation_level=None)
    if sign == BEATS:
        db.execute(WORKER.format("x'5b5d'"))
    monkeypatch.setattr("omium.storage.migrate.time.sleep", lambda seconds: None)

    def connection(own: sqlite3.Connection) -> contextlib.AbstractContextManager[Any]:
        db.execute(sign)
        return as_ever(own)

    as_ever = migrate._connection
    monkeypatch.setattr(migrate, "_connection", connection)
    with pytest.raises(OmiumError, match="process 4711 on desk works on it"):
        migrate_sqlite(path)
    assert version(path) == "0004"
    assert not list(tmp_path.glob("*.bak"))
    db.close()


def test_who_was_faster_with_a_migration_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path, History(HISTORY.folder, "0004"))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(WORKER.format("x'5b5d'"))

    def sleep(seconds: float) -> None:
        monkeypatch.undo()
        monkeypatch.setattr("omium.storage.migrate._SIGN_OF_LIFE_S", 0.0)
        migrate_sqlite(path)
        db.execute(BEATS)

    monkeypatch.setattr("omium.storage.migrate.time.sleep", sleep)
    migrate_sqlite(path)
    assert version(path) == HISTORY.head
    db.close()


@pytest.mark.anyio
@pytest.mark.parametrize("lives", [True, False])
async def test_nothing_is_migrated_in_postgres_either(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, lives: bool
) -> None:
    await migrate_postgres(postgres_url, History(HISTORY.folder, "0004"))
    await query(postgres_url, WORKER.format("'[]'"))

    async def sleep(seconds: float) -> None:
        if lives:
            await query(postgres_url, BEATS)

    monkeypatch.setattr("anyio.sleep", sleep)
    if lives:
        with pytest.raises(OmiumError, match="process 4711 on desk"):
            await migrate_postgres(postgres_url)
    else:
        await migrate_postgres(postgres_url)
    expected = "0004" if lives else HISTORY.head
    assert await query(postgres_url, "SELECT version_num FROM alembic_version") == [(expected,)]


@pytest.mark.anyio
async def test_one_that_comes_after_the_last_look_is_seen_in_postgres_too(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate_postgres(postgres_url, History(HISTORY.folder, "0004"))

    async def wait(*args: Any) -> Any:
        seen = await as_ever(*args)
        await query(postgres_url, WORKER.format("'[]'"))
        return seen

    as_ever = migrate._wait_for_workers_in_postgres
    monkeypatch.setattr(migrate, "_wait_for_workers_in_postgres", wait)
    with pytest.raises(OmiumError, match="process 4711 on desk"):
        await migrate_postgres(postgres_url)
    assert await query(postgres_url, "SELECT version_num FROM alembic_version") == [("0004",)]


@pytest.mark.parametrize("step", [FAILING, LOSING, "revision, down_revision = '0007', '0006'\ndef upgrade(): 1 / 0\n"])
def test_a_step_that_fails_changes_nothing(tmp_path: Path, step: str) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path)
    put_blob(path)
    text, before = dump(path), as_file(path)
    with pytest.raises(OmiumError) as failure:
        migrate_sqlite(path, later(tmp_path, step))
    assert failure.value.code == "storage_unavailable"
    assert as_file(path) == before
    assert dump(tmp_path / "omium.db.before-0007.bak") == text
    migrate_sqlite(path)
    put_blob(path, "b" * 64)  # it goes on with the version that it had
    migrate_sqlite(path, later(tmp_path, GOOD))
    assert version(path) == "0007"


@pytest.mark.parametrize("point", ["migration.backed_up", "migration.before_commit"])
def test_a_migration_that_is_killed_changes_nothing(tmp_path: Path, point: str) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path)
    put_blob(path)
    before, history = as_file(path), later(tmp_path, GOOD)
    assert in_child(path, history, point) == -9
    assert as_file(path) == before
    migrate_sqlite(path, history)
    assert version(path) == "0007"


def test_a_creation_that_is_killed_leaves_an_empty_database(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    assert in_child(path, HISTORY, "migration.before_commit") == -9
    assert schema(path) == []
    migrate_sqlite(path)
    assert version(path) == HISTORY.head


CHILD = """
import sys
from pathlib import Path
from omium.storage import migrate
from omium.storage.migrate import HISTORY, History, migrate_sqlite
folder, head = Path(sys.argv[2]), sys.argv[3]
migrate_sqlite(Path(sys.argv[1]), HISTORY if folder == HISTORY.folder else History(folder, head))
"""


def in_child(path: Path, history: History, crash_at: str = "") -> int:
    command = [sys.executable, "-c", CHILD, str(path), str(history.folder), history.head]
    return subprocess.run(command, env={"OMIUM_CRASH_AT": crash_at}, check=False, timeout=60).returncode


@pytest.mark.parametrize("existing", [False, True])
def test_processes_that_start_at_once_all_end_well(tmp_path: Path, existing: bool) -> None:
    path, history = tmp_path / "omium.db", HISTORY
    if existing:
        migrate_sqlite(path)
        put_blob(path)
        history = later(tmp_path, GOOD)
    with ThreadPoolExecutor(4) as pool:
        codes = list(pool.map(lambda _: in_child(path, history), range(4)))
    assert codes == [0, 0, 0, 0]
    assert version(path) == history.head
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM blobs").fetchone() == (int(existing),)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


def test_threads_that_start_at_once_all_end_well(tmp_path: Path) -> None:
    for attempt in range(5):
        path = tmp_path / f"{attempt}.db"
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _, path=path: migrate_sqlite(path), range(8)))
        assert version(path) == HISTORY.head


def test_a_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path)
    migrate_sqlite(path, later(tmp_path, GOOD))
    before = as_file(path)
    with pytest.raises(OmiumError, match=HISTORY.head) as refusal:
        migrate_sqlite(path)
    assert refusal.value.code == "storage_unavailable"
    assert "Upgrade" in refusal.value.hint
    assert as_file(path) == before


def foreign_table(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE notes (text)")
    db.close()


def foreign_version(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('f3a9')")
    db.close()


@pytest.mark.parametrize("make", [foreign_table, foreign_version, lambda path: path.write_bytes(b"no database" * 99)])
def test_what_is_no_omium_database_is_refused_and_left_alone(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "omium.db"
    make(path)
    before = path.read_bytes()
    with pytest.raises(OmiumError, match="not an Omium database") as refusal:
        migrate_sqlite(path)
    assert refusal.value.code == "storage_unavailable"
    assert path.read_bytes() == before


def test_history_is_append_only_and_goes_only_as_a_dropped_run(tmp_path: Path) -> None:
    path = tmp_path / "omium.db"
    migrate_sqlite(path)
    db = sqlite3.connect(path, isolation_level=None)
    for run_id in ("a", "b"):
        db.execute("INSERT INTO events VALUES (?, 1, 't', 0, 'x', x'', x'', x'')", (run_id,))
    db.execute("INSERT INTO project_events VALUES ('p', 1, 't', 0, 'x', x'', x'', x'')")
    for statement in (
        "UPDATE events SET actor = 'y'",
        "DELETE FROM events WHERE run_id = 'a'",
        "UPDATE project_events SET actor = 'y'",
        "DELETE FROM project_events",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            db.execute(statement)
    db.execute("INSERT INTO dropped_runs VALUES ('a', 'p', 1, x'', 0)")
    db.execute("DELETE FROM events WHERE run_id = 'a'")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute("DELETE FROM events WHERE run_id = 'b'")
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        db.execute("UPDATE events SET actor = 'y' WHERE run_id = 'b'")
    assert db.execute("SELECT run_id, actor FROM events").fetchall() == [("b", "x")]
    db.close()


def test_the_guards_cost_an_insert_nothing(tmp_path: Path) -> None:
    """SQLite makes the same program of it with them and without."""
    path = tmp_path / "omium.db"
    migrate_sqlite(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        insert = "EXPLAIN INSERT INTO events VALUES ('r', 1, 't', 0, 'x', x'00', x'00', x'00')"
        guarded = [step[1] for step in db.execute(insert)]
        db.executescript("DROP TRIGGER events_no_update; DROP TRIGGER events_no_delete")
        assert [step[1] for step in db.execute(insert)] == guarded


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

CATALOGUE = """
SELECT 'column', table_name || '.' || column_name, data_type || is_nullable || coalesce(column_default, '')
  FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint
  WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'trigger', tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY 1, 2
"""


async def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


@pytest.mark.anyio
async def test_a_fresh_postgres_schema_equals_a_migrated_one(postgres: Any, postgres_url: str) -> None:
    await migrate_postgres(postgres_url)
    fresh = await query(postgres_url, CATALOGUE)
    name = postgres_url.rpartition("/")[2] + "_migrated"
    other = postgres.create_database(name)
    try:
        await migrate_postgres(other, History(HISTORY.folder, HISTORY.head))
        migrated = await query(other, CATALOGUE)
    finally:
        postgres.drop_database(name)
    assert fresh == migrated, "write a migration"
    assert {"events_no_update", "events_no_delete", "events_no_truncate"} <= {row[1] for row in fresh}


@pytest.mark.anyio
async def test_postgres_migrates_once_whoever_comes_together(postgres_url: str, tmp_path: Path) -> None:
    await asyncio.gather(*(migrate_postgres(postgres_url) for _ in range(4)))
    history = later(tmp_path, GOOD)
    await asyncio.gather(*(migrate_postgres(postgres_url, history) for _ in range(4)))
    assert await query(postgres_url, "SELECT version_num FROM alembic_version") == [("0007",)]
    with pytest.raises(OmiumError) as refusal:
        await migrate_postgres(postgres_url)
    assert refusal.value.code == "storage_unavailable"
    assert refusal.value.data["found"] == "0007"


@pytest.mark.anyio
@pytest.mark.parametrize("step", [FAILING, LOSING])
async def test_a_postgres_step_that_fails_changes_nothing(postgres_url: str, tmp_path: Path, step: str) -> None:
    await migrate_postgres(postgres_url)
    await query(postgres_url, f"INSERT INTO blobs VALUES ('{'a' * 64}', 1, 'raw', NULL, 0, 0, NULL, '\\x01')")
    before = await query(postgres_url, CATALOGUE)
    with pytest.raises(OmiumError) as failure:
        await migrate_postgres(postgres_url, later(tmp_path, step))
    assert failure.value.code == "storage_unavailable"
    assert await query(postgres_url, CATALOGUE) == before
    assert await query(postgres_url, "SELECT version_num FROM alembic_version") == [(HISTORY.head,)]
    assert await query(postgres_url, "SELECT count(*) FROM blobs") == [(1,)]


@pytest.mark.anyio
async def test_history_in_postgres_is_append_only(postgres_url: str) -> None:
    await migrate_postgres(postgres_url)
    for run_id in ("a", "b"):
        await query(postgres_url, f"INSERT INTO events VALUES ('{run_id}', 1, 't', 0, 'x', '', '', '')")
    await query(postgres_url, "INSERT INTO project_events VALUES ('p', 1, 't', 0, 'x', '', '', '')")
    for statement in (
        "UPDATE events SET actor = 'y'",
        "DELETE FROM events WHERE run_id = 'a'",
        "TRUNCATE events",
        "UPDATE project_events SET actor = 'y'",
        "DELETE FROM project_events",
        "TRUNCATE project_events",
    ):
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await query(postgres_url, statement)
    await query(postgres_url, "INSERT INTO dropped_runs VALUES ('a', 'p', 1, '', 0)")
    await query(postgres_url, "DELETE FROM events WHERE run_id = 'a'")
    assert await query(postgres_url, "SELECT run_id, actor FROM events") == [("b", "x")]


@pytest.mark.anyio
async def test_a_postgres_that_is_not_there_is_a_clear_error(postgres_url: str) -> None:
    gone = postgres_url + "_gone"
    with pytest.raises(OmiumError) as failure:
        await migrate_postgres(gone)
    assert failure.value.code == "storage_unavailable"
    password = re.search(r":([^:@]+)@", gone)
    assert password is not None
    assert password.group(1) not in str(failure.value)
