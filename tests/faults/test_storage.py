"""Trouble with the disk, and with whoever wrote to it: a clear error, nothing else harmed, `verify` names the place."""

from __future__ import annotations

import contextlib
import errno
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, Principal, ProjectId, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Damage, NewBlob, RunQuery
from omium.orchestration.values import encode
from omium.storage import maintenance as m
from omium.storage.sqlite import store as opening
from omium.storage.sqlite import writer as writing
from omium.storage.sqlite.errors import translated
from omium.storage.sqlite.store import SqliteStore
from tests.storage_histories import Life

pytestmark = pytest.mark.anyio
USER = Principal("user:ada")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "omium.db")
    yield opened
    await opened.close()


async def finished(life: Life, **changes: Any) -> RunId:
    run_id = await life.create(**changes)
    await life.finish(run_id, "a", "b")
    await life.end(run_id)
    return run_id


async def refused(code: str, action: Any) -> OmiumError:
    with pytest.raises(OmiumError) as caught:
        await action
    assert caught.value.code == code, caught.value
    return caught.value


@contextlib.contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody with write access to the file, who knows that triggers guard it."""
    db = sqlite3.connect(path, isolation_level=None)
    guards = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in guards:
        db.execute(f"DROP TRIGGER {name}")
    yield db
    for _, statement in guards:
        db.execute(statement)
    db.close()


# --- a full disk ------------------------------------------------------------------------------------------------------


async def test_a_full_database_refuses_and_goes_on_when_there_is_room(store: SqliteStore) -> None:
    life = Life(store)
    run_id = await finished(life)
    busy = await life.create()
    before = await store.state(busy)
    await store.job(lambda db: db.execute("PRAGMA max_page_count = 1") and None)  # it cannot grow from here on
    value = encode({"text": random.Random(1).randbytes(200_000)})
    error = await refused(
        "storage_unavailable", life.do(busy, c.Signal("s", value.digest, value.size), blobs=[NewBlob(value)])
    )
    assert "full" in error.message and str(store.path) in error.message and error.data["free_bytes"] > 0
    assert await store.state(busy) == before
    assert await store.value((await store.state(run_id)).output or Digest("")) == {"result of": run_id}
    await store.job(lambda db: db.execute("PRAGMA max_page_count = 1000000") and None)
    await life.do(busy, c.Signal("s", value.digest, value.size), blobs=[NewBlob(value)])
    assert (await store.state(busy)).signals == {"s": [value.digest]}
    assert await m.verify(m.keeper(store)) == []


FULL_DISK = """
import os, resource, signal, sys
from pathlib import Path
import anyio
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob
from omium.orchestration.values import encode
from omium.storage import maintenance as m
from omium.storage.sqlite.store import SqliteStore
from tests.storage_histories import Life

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(path):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    store = await SqliteStore.open(Path(path))
    life = Life(store)
    run = await life.create()
    acknowledged, refusals = [], []
    limit(600_000)  # bytes that any file may have
    for number in range(60):
        value = encode({"number": number, "noise": os.urandom(1_000_000 if number % 7 == 3 else 20_000)})
        try:
            await life.do(run, c.Signal("s", value.digest, value.size), blobs=[NewBlob(value)])
            acknowledged.append(value.digest)
        except OmiumError as error:
            refusals.append(error.code)
    assert set(refusals) == {"storage_unavailable"} and len(refusals) > 8, refusals
    assert len(acknowledged) > 8, len(acknowledged)
    assert (await store.state(run)).signals["s"] == acknowledged
    limit(resource.RLIM_INFINITY)
    await life.do(run, c.Label(Seq(1), "there is room again"))
    assert (await store.state(run)).signals["s"] == acknowledged
    assert await m.verify(m.keeper(store)) == []
    await store.close()
    again = await SqliteStore.open(Path(path))
    assert [await again.value(digest) is not None for digest in acknowledged]
    assert await m.verify(m.keeper(again)) == []
    await again.close()
    print("sound")

anyio.run(main, sys.argv[1])
"""


async def test_files_that_cannot_grow_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / "omium.db")]
    with anyio.fail_after(120):
        done = await anyio.run_process(command, cwd=Path(__file__).parents[2], check=False)
    assert done.stdout == b"sound\n", done.stderr.decode()


@pytest.mark.parametrize(
    "reported", [sqlite3.OperationalError("database or disk is full"), OSError(errno.ENOSPC, "No space left on device")]
)
async def test_a_disk_that_is_full_at_the_start_is_named_with_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reported: Exception
) -> None:
    def full(_: Path) -> None:
        raise reported

    monkeypatch.setattr(opening, "migrate_sqlite", full)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 * 1024))
    error = await refused("storage_unavailable", SqliteStore.open(tmp_path / "omium.db"))
    assert f"{tmp_path / 'omium.db'} has no room: the disk is full (3 KiB are free)" in error.message
    assert str(tmp_path) in error.hint


def test_a_name_that_says_full_makes_no_full_disk() -> None:
    told = translated(
        PermissionError(13, "Permission denied", "/srv/fulltext/omium.db"), Path("/srv/fulltext/omium.db")
    )
    assert isinstance(told, OmiumError) and "permission denied" in told.message


async def test_maintenance_on_a_full_disk_is_refused_and_harms_nothing(store: SqliteStore, tmp_path: Path) -> None:
    life = Life(store)
    await finished(life)
    await store.job(lambda db: db.execute("PRAGMA max_page_count = 1") and None)
    big = {"x": "y" * 400_000}
    await refused("storage_unavailable", m.append_project_event(m.keeper(store), ProjectId("p"), "a.b", USER, big))
    await store.job(lambda db: db.execute("PRAGMA max_page_count = 1000000") and None)
    (tmp_path / "file").write_bytes(b"")
    await refused("storage_unavailable", m.backup(m.SqliteKeeper(store), tmp_path / "file" / "backup"))
    assert await m.verify(m.keeper(store)) == []


# --- locks ------------------------------------------------------------------------------------------------------------


async def test_a_lock_of_two_seconds_is_absorbed(store: SqliteStore) -> None:
    life = Life(store)
    run_id = await life.create()
    other = sqlite3.connect(store.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(2.0, lambda: other.execute("COMMIT"))  # another program's real time
    timer.start()
    start = time.monotonic()
    with anyio.fail_after(15):
        await life.do(run_id, c.Label(Seq(1), "patient"))
    assert time.monotonic() - start > 1.5
    timer.join()
    other.close()
    assert [label.label for label in await store.labels(run_id)] == ["patient"]


async def test_a_lock_that_stays_is_an_error_and_harms_nothing(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[bool] = []

    def counted(db: sqlite3.Connection, patient: bool) -> None:
        waits.append(patient)
        begin(db, patient)

    begin = writing.begin
    life = Life(store)
    run_id = await finished(life)
    await store.job(lambda db: db.execute("PRAGMA busy_timeout = 20").fetchall() and None)
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    errors: list[OmiumError] = []
    monkeypatch.setattr(writing, "begin", counted)

    async def try_(number: int) -> None:
        errors.append(await refused("storage_unavailable", life.do(run_id, c.Label(Seq(1), f"label {number}"))))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(try_, number)
    assert all("locked" in error.message and error.hint for error in errors)
    assert waits == [True]  # together: one after the other, the last would hear of it when its client is gone
    assert (await store.state(run_id)).status == "completed"  # whoever reads goes on
    assert await m.verify(m.keeper(store)) == []
    other.execute("COMMIT")
    other.close()
    await life.do(run_id, c.Label(Seq(1), "after"))
    assert [label.label for label in await store.labels(run_id)] == ["after"]


# --- what cannot be written -------------------------------------------------------------------------------------------


async def test_a_database_that_turns_read_only_can_still_be_read(store: SqliteStore) -> None:
    life = Life(store)
    run_id = await finished(life)
    digest = (await store.state(run_id)).output or Digest("")
    await store.job(lambda db: db.execute("PRAGMA query_only = 1") and None)
    error = await refused("storage_unavailable", life.do(run_id, c.Label(Seq(1), "x")))
    assert "cannot be written" in error.message
    await refused("storage_unavailable", m.rebuild(m.keeper(store)))
    with tampering(store.path) as db:  # a value that is damaged just now is told, though it cannot be quarantined
        db.execute("UPDATE blobs SET data = x'00' WHERE digest = ?", (digest,))
    await refused("integrity", store.value(digest))
    assert (await store.state(run_id)).status == "completed"


READ_ONLY = """
import os, sys
from pathlib import Path
import anyio
from omium.orchestration.errors import OmiumError
from omium.storage import maintenance as m
from omium.storage.sqlite.store import SqliteStore

async def main(place):
    place = Path(place)
    store = await SqliteStore.open(place / "warm" / "omium.db")  # whatever is imported late is imported now
    await m.verify(m.keeper(store))
    await m.backup(m.SqliteKeeper(store), place / "warm" / "backup")
    await store.close()
    if os.getuid() == 0:  # to whom permissions say nothing
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
    for name in ("existing", "empty"):
        try:
            await SqliteStore.open(place / name / "omium.db")
        except OmiumError as error:
            print(name, error.code, bool(error.hint))

anyio.run(main, sys.argv[1])
"""


async def test_a_directory_that_cannot_be_written_is_a_clear_error() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own may be entered by their owner only
        place = Path(directory)
        for name in ("warm", "existing", "empty"):
            (place / name).mkdir()
        store = await SqliteStore.open(place / "existing" / "omium.db")
        await finished(Life(store))
        await store.close()
        before = (place / "existing" / "omium.db").read_bytes()
        try:
            for path, mode in ((place, 0o755), (place / "existing", 0o555), (place / "empty", 0o555)):
                path.chmod(mode)
            (place / "existing" / "omium.db").chmod(0o444)
            done = await anyio.run_process([sys.executable, "-c", READ_ONLY, directory], check=False)
            assert done.stdout.decode().splitlines() == [
                "existing storage_unavailable True",
                "empty storage_unavailable True",
            ], done.stderr.decode()
            assert (place / "existing" / "omium.db").read_bytes() == before
            assert sorted(path.name for path in (place / "existing").iterdir()) == ["omium.db"]
        finally:
            for name in ("existing", "empty"):
                (place / name).chmod(0o755)


async def test_no_database_where_it_should_be(tmp_path: Path) -> None:
    (tmp_path / "omium.db").mkdir()
    await refused("storage_unavailable", SqliteStore.open(tmp_path / "omium.db"))
    (tmp_path / "file").write_text("")
    await refused("storage_unavailable", SqliteStore.open(tmp_path / "file" / "omium.db"))
    (tmp_path / "text.db").write_text("I am no database. " * 100)
    error = await refused("storage_unavailable", SqliteStore.open(tmp_path / "text.db"))
    assert "not an Omium database" in error.message
    assert (tmp_path / "text.db").read_text().startswith("I am no")


# --- flipped bytes ----------------------------------------------------------------------------------------------------


def places(damages: list[Damage]) -> set[tuple[str, str]]:
    return {(damage.kind, damage.subject) for damage in damages}


async def closed(store: SqliteStore) -> Path:
    await store.close()
    assert not store.path.with_name("omium.db-wal").exists()
    return store.path


def flip(path: Path, text: bytes, at: int = 0, to: bytes = b"") -> None:
    """Damage the one place in the file where `text` stands."""
    data = bytearray(path.read_bytes())
    assert bytes(data).count(text) == 1, bytes(data).count(text)
    place = bytes(data).index(text) + at
    data[place : place + 1] = to or bytes([data[place] ^ 1])
    path.write_bytes(data)


async def test_a_flipped_byte_in_a_blob_is_named_and_only_that(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "omium.db")
    life = Life(store)
    bad, good = await life.create(), await finished(life)
    value = encode({"note": "unmistakable"})
    await life.do(bad, c.Signal("s", value.digest, value.size), blobs=[NewBlob(value)])
    flip(await closed(store), b"unmistakable", 3)
    store = await SqliteStore.open(tmp_path / "omium.db")
    error = await refused("integrity", store.value(value.digest))
    assert error.data["runs"] == [bad]
    assert places(await m.verify(m.keeper(store))) == {("blob", value.digest)}
    assert await m.verify(m.keeper(store), [good]) == []
    assert await store.value((await store.state(good)).output or Digest("")) == {"result of": good}
    await store.close()


@pytest.mark.parametrize(("to", "readable"), [(b"", True), (b'"', False)])
async def test_a_flipped_byte_in_an_event_is_named(tmp_path: Path, to: bytes, readable: bool) -> None:
    store = await SqliteStore.open(tmp_path / "omium.db")
    life = Life(store)
    bad, good = await finished(life), await finished(life)
    await life.do(bad, c.Label(Seq(1), "unmistakable", note="n"))
    seq = (await store.state(bad)).seq
    with tampering(await closed(store)) as db:
        db.execute("DELETE FROM labels")  # so that the text stands in one place
        db.execute("VACUUM")
    flip(tmp_path / "omium.db", b"unmistakable", 3, to)
    store = await SqliteStore.open(tmp_path / "omium.db")
    assert places(await m.verify(m.keeper(store), [bad])) >= {("chain", f"{bad}@{seq}")}
    assert await m.verify(m.keeper(store), [good]) == []
    assert (await m.rebuild(m.keeper(store))).broken[0].subject == bad
    if not readable:
        error = await refused("integrity", store.state(bad))
        assert error.data == {"run": bad, "seq": seq}
        await refused("integrity", life_of(store, life).do(bad, c.Label(Seq(1), "more")))
    assert (await store.state(good)).status == "completed"
    assert await m.nearest_valid_checkpoint(m.keeper(store), bad) == seq - 1
    await store.close()


async def test_text_that_is_no_utf_8_any_more_is_named_and_the_rest_verified(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "omium.db")
    life = Life(store)
    bad, good = await finished(life), await finished(life)
    lost = await finished(life)
    with tampering(await closed(store)) as db:
        damaged = "UPDATE events SET type = CAST(x'6e6fff652e73746172746564' AS TEXT) WHERE run_id = ? AND seq = 2"
        db.execute(damaged, (bad,))
        db.execute("DELETE FROM events WHERE run_id = ? AND seq = 2", (lost,))
    store = await SqliteStore.open(tmp_path / "omium.db")
    found = places(await m.verify(m.keeper(store)))
    assert {("chain", f"{bad}@2"), ("chain", f"{lost}@3")} <= found
    assert not [subject for _, subject in found if good in subject]
    await store.close()


async def test_a_row_that_holds_no_json_any_more_is_a_clear_error(store: SqliteStore) -> None:
    run_id = await finished(Life(store))
    with tampering(store.path) as db:
        db.execute("UPDATE runs SET error = 7 WHERE id = ?", (run_id,))
    error = await refused("integrity", store.runs(RunQuery()))
    assert "damaged" in error.message
    assert "omium verify" in error.hint


def life_of(store: SqliteStore, life: Life) -> Life:
    return Life(store, life.runs, life.fences)


@pytest.mark.parametrize("table", ["labels", "events", "links"])
async def test_a_damaged_page_is_named_and_other_tables_can_be_read(tmp_path: Path, table: str) -> None:
    store = await SqliteStore.open(tmp_path / "omium.db")
    life = Life(store)
    run_id = await finished(life)
    path = await closed(store)
    db = sqlite3.connect(path)
    (size,) = db.execute("PRAGMA page_size").fetchone()
    (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    db.close()
    data = bytearray(path.read_bytes())
    data[(page - 1) * size] ^= 0xFF  # what kind of page it is
    path.write_bytes(data)
    store = await SqliteStore.open(path)
    damages = await m.verify(m.keeper(store))
    assert ("database", table) in places(damages)
    row = await store.run(run_id)
    assert row is not None
    assert row.status == "completed"
    if table == "events":
        error = await refused("storage_unavailable", store.state(run_id))
        assert error.hint
    await store.close()


async def test_a_damaged_snapshot_is_not_used_and_named(store: SqliteStore) -> None:
    life = Life(store)
    run_id = await finished(life)
    await store.snapshot(run_id)
    state = await store.state(run_id)
    for document in (b"{", b'{"nodes": 7}', b"[]"):
        with tampering(store.path) as db:
            db.execute("UPDATE snapshots SET document = ?", (document,))
        assert await store.state(run_id) == state
        await life.do(run_id, c.Label(Seq(1), "goes on"))
        state = await store.state(run_id)
        assert ("projection", run_id) in places(await m.verify(m.keeper(store)))
    await m.rebuild(m.keeper(store))
    assert await m.verify(m.keeper(store)) == []


# --- logs that somebody changed ---------------------------------------------------------------------------------------


async def test_a_truncated_log_shows_in_its_run_and_for_certain_in_an_anchor(store: SqliteStore) -> None:
    life = Life(store)
    run_id = await life.create()
    await life.finish(run_id, "a")
    seq = (await store.state(run_id)).seq
    head = (await store.events(run_id))[-1].hash
    await life.finish(run_id, "b")
    await m.record_heads(m.keeper(store), USER)
    anchor = await m.export_heads(m.keeper(store))
    with tampering(store.path) as db:
        db.execute("DELETE FROM events WHERE run_id = ? AND seq > ?", (run_id, seq))
    assert ("chain", f"{run_id}@{seq}") in places(await m.verify(m.keeper(store)))
    with tampering(store.path) as db:  # and now with all traces removed but those that are elsewhere
        db.execute("UPDATE runs SET seq = ?, head = ?", (seq, head))
    await m.rebuild(m.keeper(store))
    ends = ("anchor", f"{run_id}@{seq + 2}")
    assert places(await m.verify(m.keeper(store))) == {ends}  # the project's log has seen more
    assert places(await m.verify(m.keeper(store), [run_id], anchor)) == {ends}
    with tampering(store.path) as db:
        db.execute("DELETE FROM project_events")
    assert await m.verify(m.keeper(store)) == []
    assert places(await m.verify(m.keeper(store), anchor=anchor)) == {ends, ("anchor", "project:default@1")}


async def test_a_log_without_any_event_is_named(store: SqliteStore) -> None:
    life = Life(store)
    gone, good = await finished(life), await finished(life)
    with tampering(store.path) as db:
        db.execute("DELETE FROM events WHERE run_id = ?", (gone,))
    found = places(await m.verify(m.keeper(store)))
    assert ("chain", f"{gone}@0") in found
    assert not any(good in subject for _, subject in found)
    assert places(await m.verify(m.keeper(store), [gone])) == {("chain", f"{gone}@0")}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ("UPDATE events SET seq = CASE seq WHEN 4 THEN 105 ELSE 104 END WHERE seq IN (4, 5);"
         "UPDATE events SET seq = seq - 100 WHERE seq > 100", 4),  # two rows have changed places
        ("DELETE FROM events WHERE seq = 4", 5),
        ("UPDATE events SET actor = 'user:eve' WHERE seq = 4", 4),
        ("UPDATE events SET at = at + 1 WHERE seq = 4", 4),
        ("UPDATE events SET type = 'run.paused' WHERE seq = 4", 4),
        ("UPDATE events SET type = 'never.heard' WHERE seq = 4", 4),
        ("UPDATE events SET hash = zeroblob(32) WHERE seq = 4", 4),
        ("UPDATE events SET hash = NULL, data = 'text' WHERE 0; UPDATE events SET data = 'text' WHERE seq = 4", 4),
        ("UPDATE events SET prev_hash = (SELECT hash FROM events WHERE seq = 1) WHERE seq = 4", 4),
        ("UPDATE events SET data = cast(' ' || cast(data AS text) AS blob) WHERE seq = 4", 4),
        ("INSERT INTO events SELECT run_id, 99, type, at, actor, data, prev_hash, hash FROM events WHERE seq = 4", 99),
    ],
)  # fmt: skip
async def test_whatever_is_changed_in_a_log_is_named(store: SqliteStore, change: str, place: int) -> None:
    life = Life(store)
    run_id = await finished(life)
    with tampering(store.path) as db:
        db.executescript(change)
    found = places(await m.verify(m.keeper(store)))
    assert ("chain", f"{run_id}@{place}") in found
    assert not any(kind == "chain" and subject < f"{run_id}@{place}" for kind, subject in found if "99" not in subject)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("DELETE FROM project_events WHERE seq = 2", {("chain", "project:p@3")}),
        ("UPDATE project_events SET seq = 9 WHERE seq = 2; UPDATE project_events SET seq = 2 WHERE seq = 3;"
         "UPDATE project_events SET seq = 3 WHERE seq = 9", {("chain", "project:p@2"), ("chain", "project:p@3"),
                                                            ("chain", "project:p@4"), ("anchor", "project:p@4")}),
        ("UPDATE project_events SET data = '{}' WHERE seq = 2", {("chain", "project:p@2")}),
        ("DELETE FROM project_events WHERE seq = 4", {("anchor", "project:p@4")}),
        ("DELETE FROM project_events", {("anchor", "project:p@4")}),
    ],
)  # fmt: skip
async def test_a_changed_audit_is_named(store: SqliteStore, change: str, found: set[tuple[str, str]]) -> None:
    for number in range(4):
        await m.append_project_event(m.keeper(store), ProjectId("p"), "pin.set", USER, {"number": number})
    anchor = await m.export_heads(m.keeper(store))
    with tampering(store.path) as db:
        db.executescript(change)
    seen = places(await m.verify(m.keeper(store), anchor=anchor))
    assert seen - {("anchor", "project:p@4")} == found - {("anchor", "project:p@4")}
    assert seen


async def test_a_keyed_chain_cannot_be_forged_without_the_key(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "omium.db", chain_key=b"secret" * 6)
    run_id = await finished(Life(store))
    assert await m.verify(m.keeper(store)) == []
    await store.close()
    other = await SqliteStore.open(tmp_path / "omium.db", chain_key=b"guess!" * 6)
    assert ("chain", f"{run_id}@1") in places(await m.verify(m.keeper(other)))
    await other.close()
