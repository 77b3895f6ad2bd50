"""Maintenance of a SQLite database: files, backups, kills at every point, and any history that Hypothesis thinks of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, NodeId, Principal, ProjectId, RunId, Seq, WorkerId
from omium.orchestration.log import commands as c
from omium.orchestration.log.chain import Chain
from omium.orchestration.ports import NewBlob, WorkerRow, Write
from omium.orchestration.ports_gates import Amounts, Counter
from omium.orchestration.values import Encoded, encode
from omium.storage import maintenance as m
from omium.storage.maintenance.projections import TABLES
from omium.storage.maintenance.tables import snapshot
from omium.storage.sqlite.store import SqliteStore
from tests.storage_histories import NAMES, Life

DAY_US = 86_400_000_000


class Clock:
    """Real time, plus what a test adds: files get their times from the real clock."""

    def __init__(self) -> None:
        self.ahead_us = 0

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.ahead_us

    def monotonic(self) -> float:
        return self.now_us() / 1e6


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "home" / "omium.db", clock=clock)
    yield opened
    await opened.close()


def large(name: str) -> Encoded:
    """A value that becomes a file: random enough not to shrink."""
    return encode({"name": name, "noise": os.urandom(400_000)})


async def with_large(life: Life, *, name: str = "x", end: bool = True) -> tuple[RunId, Encoded]:
    run_id, value = await life.create(), large(name)
    await life.do(run_id, c.StartNode(NodeId("a"), 0))
    await life.do(run_id, c.CompleteNode(NodeId("a"), 0, value.digest, value.size), blobs=[NewBlob(value)])
    if end:
        await life.end(run_id)
    return run_id, value


def everything(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every projection, row by row."""
    with snapshot(path) as tables:
        found = {
            name: sorted(tables.all(f"SELECT {', '.join(columns)} FROM {name}"), key=repr)
            for name, (columns, _) in TABLES.items()
        }
        found["names"] = sorted(tables.all(NAMES))
    return found


# --- computing again --------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.integers(0, 10**6), min_size=30, max_size=150), st.booleans())
def test_projections_follow_from_any_log(numbers: list[int], keyed: bool) -> None:
    async def main(directory: Path) -> None:
        store = await SqliteStore.open(
            directory / "omium.db", chain_key=b"k" * 32 if keyed else None, durability="normal"
        )
        try:
            life = Life(store)
            await life.live(numbers)
            for run_id in life.runs:
                await life.do(run_id, c.Label(Seq(1), "end"))
            assert await m.verify(m.keeper(store)) == []
            before = everything(store.path)
            spoilt = ("approvals", "effects", "labels", "snapshots")
            await m.keeper(store).write(lambda tables: [tables.run(f"DELETE FROM {name}") for name in spoilt])
            await m.keeper(store).write(
                lambda tables: tables.run("UPDATE runs SET generation = 99, error = 'x', seq = 1")
            )
            assert await m.rebuild(m.keeper(store)) == m.Rebuilt(len(life.runs), [])
            assert everything(store.path) == before
            assert await m.verify(m.keeper(store)) == []
        finally:
            await store.close()

    with tempfile.TemporaryDirectory() as directory:
        anyio.run(main, Path(directory))


@pytest.mark.anyio
async def test_many_rollbacks_fold_in_linear_time_without_snapshots(store: SqliteStore) -> None:
    life = Life(store)
    run_id = await life.create()
    for _ in range(40):  # each goes back to a position before which all earlier ones lie
        await life.finish(run_id, "a")
        await life.do(run_id, c.RollBack(Seq((await store.state(run_id)).seq - 1)), c.ResumeRun())
    await m.keeper(store).write(lambda tables: tables.run("DELETE FROM snapshots"))
    with anyio.fail_after(20):
        assert await m.verify(m.keeper(store)) == []
        assert await m.rebuild(m.keeper(store)) == m.Rebuilt(1, [])


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_sweep_takes_files_orphans_and_temporaries(store: SqliteStore, clock: Clock) -> None:
    life = Life(store)
    _, kept = await with_large(life)
    unused = large("unused")
    await store.put([NewBlob(unused)])
    orphan = large("orphan")
    store.files.put(orphan.digest, orphan.data)
    temporary = store.path.parent / "blobs" / kept.digest[:2] / kept.digest[2:4] / f".{kept.digest}.{'0' * 16}.tmp"
    temporary.write_bytes(b"half")
    assert await m.sweep(m.keeper(store), clock.now_us()) == m.Swept(0, 0, 0, 0)
    clock.ahead_us = 2 * DAY_US
    assert await m.sweep(m.keeper(store), clock.now_us()) == m.Swept(1, 1, 1, 0)
    assert list(store.files.list()) == [kept.digest]
    assert await m.sweep(m.keeper(store), clock.now_us()) == m.Swept(0, 0, 0, 0)
    assert await m.verify(m.keeper(store)) == []


@pytest.mark.anyio
async def test_a_damaged_file_is_set_aside_and_healed(store: SqliteStore) -> None:
    life = Life(store)
    run_id, value = await with_large(life)
    path = store.path.parent / "blobs" / value.digest[:2] / value.digest[2:4] / value.digest
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    (damage,) = await m.verify(m.keeper(store))
    assert (damage.kind, damage.subject) == ("blob", value.digest)
    assert await m.keeper(store).read(lambda tables: m.runs_needing(tables, value.digest)) == [run_id]
    assert not path.exists()
    await store.put([NewBlob(value)])
    assert path.read_bytes() == value.data
    assert await m.verify(m.keeper(store)) == []
    path.unlink()
    assert [damage.subject for damage in await m.verify(m.keeper(store))] == [value.digest]


@pytest.mark.anyio
async def test_erased_content_is_nowhere_on_the_disk(store: SqliteStore, clock: Clock) -> None:
    life = Life(store)
    run_id = await life.create()
    secret = encode({"name": "Rumpelstiltskin"})
    filed = encode({"name": "Rumpelstiltskin", "noise": os.urandom(400_000)})
    for value in (secret, filed):
        await life.do(run_id, c.Signal("s", value.digest, value.size), blobs=[NewBlob(value)])
    await life.end(run_id)
    assert containing(store.path.parent, b"Rumpelstiltskin")
    clock.ahead_us = 120 * 10**6
    erased = await m.erase(m.keeper(store), run_id, "asked for", Principal("user:ada"))
    assert (erased.deleted, erased.pending) == (4, 0)
    assert containing(store.path.parent, b"Rumpelstiltskin") == []
    assert await m.verify(m.keeper(store)) == []


def containing(directory: Path, text: bytes) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.anyio
async def test_a_patch_never_rests_on_what_was_refused(store: SqliteStore, tmp_path: Path) -> None:
    """The base came with a write that was refused, so it is at hand and not stored."""
    life = Life(store)
    run_id = await life.create()
    base, upon = (encode({"text": "lorem ipsum dolor " * 1000, "n": n}) for n in range(2))
    with pytest.raises(OmiumError):
        await life.do(run_id, c.CompleteNode(NodeId("a"), 7, base.digest, base.size), blobs=[NewBlob(base)])
    await life.do(run_id, c.Signal("s", upon.digest, upon.size), blobs=[NewBlob(upon, base.digest)])
    assert await m.verify(m.keeper(store)) == []
    other = await SqliteStore.open(store.path)
    try:
        assert (await other.value(upon.digest))["n"] == 1  # type: ignore[call-overload,index]
    finally:
        await other.close()


# --- backups ----------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("older", [False, True], ids=["now", "of an older version"])
async def test_a_copy_is_nobody_s_so_that_who_works_on_it_kills_no_worker_of_the_original(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    life, worker = Life(store), WorkerId("w")
    run_id = await life.create()
    await store.register(WorkerRow(worker, "host", "boot", os.getpid(), 1.0, 0, (ProjectId("default"),)))
    assert await store.hold("call", ProjectId("default"), worker, [Counter("all")], Amounts(usd=4)) == []
    if older:
        monkeypatch.setattr(sys.modules[m.backup.__module__], "_disown", lambda _: None)
    await m.backup(m.SqliteKeeper(store), tmp_path / "backup")
    monkeypatch.undo()
    await m.restore(tmp_path / "backup", tmp_path / "other" / "omium.db", Chain())
    assert [one.id for one in await store.workers()] == [worker]  # the original is as it was
    second = await SqliteStore.open(tmp_path / "other" / "omium.db")
    try:
        assert await second.workers() == []
        claimed = await second.claim(WorkerId("wrk_new"), [ProjectId("default")], 10, time.time_ns() // 1000 + 1)
        assert [(one.run_id, one.fence) for one in claimed] == [(run_id, life.fences[run_id] + 1)]
        (spent,) = await second.budgets(ProjectId("default"))
        assert (spent.spent.usd, spent.held.usd) == (4, 0)
        assert await m.verify(m.keeper(second)) == []
    finally:
        await second.close()


@pytest.mark.anyio
async def test_a_backup_taken_while_others_write_is_sound_and_comes_back(store: SqliteStore, tmp_path: Path) -> None:
    life = Life(store)
    run_id, value = await with_large(life)
    busy = await life.create()

    async def write_on(stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            await life.do(busy, c.Label(Seq(1), f"label {number}"))

    stop = asyncio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write_on, stop)
        made = await m.backup(m.SqliteKeeper(store), tmp_path / "backup")
        stop.set()
    assert (made.runs, made.files, made.damages) == (2, 1, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "home"]
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700
    with pytest.raises(OmiumError) as refusal:
        await m.backup(m.SqliteKeeper(store), tmp_path / "backup")
    assert refusal.value.code == "conflict"

    restored = await m.restore(tmp_path / "backup", tmp_path / "other" / "omium.db", Chain())
    assert (restored.runs, restored.files) == (2, 1)
    second = await SqliteStore.open(tmp_path / "other" / "omium.db")
    try:
        assert await m.verify(m.keeper(second)) == []
        assert await second.value(value.digest) == await store.value(value.digest)
        assert (await second.state(run_id)) == (await store.state(run_id))
        await Life(second, fences=life.fences).do(run_id, c.Label(Seq(1), "goes on"))
        assert await m.verify(m.keeper(second)) == []
    finally:
        await second.close()
    with pytest.raises(OmiumError) as refusal:
        await m.restore(tmp_path / "backup", tmp_path / "other" / "omium.db", Chain())
    assert refusal.value.code == "conflict"


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["database", "file", "missing"])
async def test_a_damaged_backup_is_not_restored(store: SqliteStore, tmp_path: Path, what: str) -> None:
    _, value = await with_large(Life(store))
    await m.backup(m.SqliteKeeper(store), tmp_path / "backup")
    blob = tmp_path / "backup" / "blobs" / value.digest[:2] / value.digest[2:4] / value.digest
    if what == "missing":
        blob.unlink()
    else:
        path = blob if what == "file" else tmp_path / "backup" / "omium.db"
        data = bytearray(path.read_bytes())
        place = 1000 if what == "file" else bytes(data).index(b'"workflow"')
        data[place] ^= 1
        path.write_bytes(data)
    with pytest.raises(OmiumError) as refusal:
        await m.restore(tmp_path / "backup", tmp_path / "other" / "omium.db", Chain())
    assert refusal.value.code == "integrity"
    assert refusal.value.data["places"]
    assert not (tmp_path / "other").exists()
    with pytest.raises(OmiumError) as refusal:
        await m.restore(tmp_path / "nothing", tmp_path / "other" / "omium.db", Chain())
    assert refusal.value.code == "not_found"


@pytest.mark.anyio
async def test_a_backup_comes_back_without_folded_states_of_another_version(store: SqliteStore, tmp_path: Path) -> None:
    life = Life(store)
    run_id, kept = await life.create(), await life.create()
    await store.snapshot(run_id)
    await store.snapshot(kept)
    with contextlib.closing(sqlite3.connect(store.path)) as db, db:
        (raw,) = db.execute("SELECT document FROM snapshots WHERE run_id = ?", (run_id,)).fetchone()
        other = orjson.dumps({**orjson.loads(raw), "a_field_of_another_version": 1})
        db.execute("UPDATE snapshots SET document = ? WHERE run_id = ?", (other, run_id))
    made = await m.backup(m.SqliteKeeper(store), tmp_path / "backup")
    assert [damage.subject for damage in made.damages] == [run_id]
    restored = await m.restore(tmp_path / "backup", tmp_path / "other" / "omium.db", Chain())
    assert (restored.runs, restored.damages) == (2, [])
    second = await SqliteStore.open(tmp_path / "other" / "omium.db")
    try:
        assert await m.verify(m.keeper(second)) == []
        assert await second.state(run_id) == await store.state(run_id)
        with contextlib.closing(sqlite3.connect(second.path)) as db:
            assert db.execute("SELECT run_id FROM snapshots").fetchall() == [(kept,)]
    finally:
        await second.close()


@pytest.mark.anyio
async def test_damage_is_backed_up_and_told(store: SqliteStore, tmp_path: Path) -> None:
    _, value = await with_large(Life(store))
    store.files.delete(value.digest)
    made = await m.backup(m.SqliteKeeper(store), tmp_path / "backup")
    assert [damage.subject for damage in made.damages] == [value.digest]


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(3))
async def test_nothing_of_what_is_erased_stays_in_any_page(store: SqliteStore, clock: Clock, seed: int) -> None:
    """Rows that make room for each other leave copies behind, also of what is about to be deleted."""
    rng, life = random.Random(seed), Life(store)
    runs: dict[str, RunId] = {}
    for letter in "ABCDE":
        run_id = await life.create()
        runs[letter] = run_id
    for number in range(150):
        for letter, run_id in runs.items():
            value = encode(f"MARK{letter}-{number}-" + "x" * rng.randrange(400))
            await life.do(run_id, c.Signal("s", value.digest, value.size), blobs=[NewBlob(value)])
    clock.ahead_us = 1_000_000
    for letter in rng.sample("ABCDE", 4):
        await life.do(runs[letter], c.CancelRun())
        clock.ahead_us += 1_000_000
        gone = await m.forget(m.keeper(store), [runs.pop(letter)], "blobs", reason="asked for", actor=Principal("u"))
        assert gone.rewritten
    (left,) = runs
    path = store.path
    await store.close()
    told = b"".join(file.read_bytes() for file in path.parent.glob("omium.db*"))
    assert {bytes(mark) for mark in re.findall(rb"MARK[A-E]", told)} == {f"MARK{left}".encode()}


@pytest.mark.anyio
async def test_files_that_are_too_young_go_with_a_later_sweep(store: SqliteStore, clock: Clock) -> None:
    """A write that found one may be on its way; so the erasure has not come to its end."""
    run_id, value = await with_large(Life(store))
    clock.ahead_us = 1_000_000
    assert (await m.erase(m.keeper(store), run_id, "asked for")).pending == 1
    assert value.digest in set(store.files.list())
    clock.ahead_us = 2 * 3_600_000_000
    assert (await m.sweep(m.keeper(store), clock.now_us(), 30 * 86_400)).erasures == 1
    assert value.digest not in set(store.files.list())


# --- kills ------------------------------------------------------------------------------------------------------------

CHILD = """
import sys
from pathlib import Path
import anyio
from omium.orchestration.ids import RunId
from omium.storage import maintenance as m
from omium.storage.sqlite.store import SqliteStore

async def main(path, what, run_id):
    store = await SqliteStore.open(Path(path))
    keeper = m.keeper(store)
    if what == "erase":
        await m.erase(keeper, RunId(run_id), "asked for")
    elif what == "rebuild":
        await m.rebuild(keeper)
    elif what == "sweep":
        await m.sweep(keeper, store.clock.now_us() + 2 * 86_400_000_000)
    elif what == "retain":
        await m.retain(keeper, m.Policy(86_400), store.clock.now_us() + 2 * 86_400_000_000)
    else:
        await m.backup(m.SqliteKeeper(store), Path(path).parent.parent / "backup")
    await store.close()

anyio.run(main, *sys.argv[1:])
"""


def in_child(path: Path, what: str, run_id: RunId, crash_at: str) -> int:
    command = [sys.executable, "-c", CHILD, str(path), what, run_id]
    return subprocess.run(command, env={"OMIUM_CRASH_AT": crash_at}, check=False, timeout=60).returncode


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("what", "point"),
    [
        ("erase", "erase.noted"),
        ("erase", "erase.logged"),
        ("erase", "commit.before:3"),
        ("erase", "blobs.rows_deleted"),
        ("erase", "commit.before:5"),
        ("rebuild", "commit.before:1"),
        ("rebuild", "rebuild.run"),
        ("sweep", "commit.before:1"),
        ("sweep", "blobs.rows_deleted"),
        ("retain", "commit.before:1"),
        ("retain", "commit.after:1"),
        ("backup", "backup.copied"),
    ],
)
async def test_a_kill_leaves_nothing_half_done(tmp_path: Path, clock: Clock, what: str, point: str) -> None:
    await _kill_and_go_on(tmp_path, clock, what, point)


@pytest.mark.anyio
@pytest.mark.parametrize("point", [f"commit.{side}:{commit}" for commit in range(1, 6) for side in ("before", "after")])
async def test_an_erasure_that_was_killed_is_finished_by_the_sweep(tmp_path: Path, clock: Clock, point: str) -> None:
    await _kill_and_go_on(tmp_path, clock, "erase", point, repeated=point == "commit.before:1")  # nothing was begun


async def _kill_and_go_on(tmp_path: Path, clock: Clock, what: str, point: str, repeated: bool = True) -> None:
    path = tmp_path / "home" / "omium.db"
    store = await SqliteStore.open(path, clock=clock)
    life = Life(store)
    run_id, value = await with_large(life)
    other, _ = await with_large(life, name="y")
    unused = large("unused")
    await store.put([NewBlob(unused)])
    if what == "rebuild":
        await m.keeper(store).write(lambda tables: tables.run("UPDATE runs SET completed_nodes = 99"))
    await store.close()
    for file in (path.parent / "blobs").rglob("*"):
        os.utime(file, (time.time() - 3600,) * 2)  # none that a write may be about to name

    assert await anyio.to_thread.run_sync(in_child, path, what, run_id, point) == -9
    clock.ahead_us = 2 * DAY_US
    store = await SqliteStore.open(path, clock=clock)
    try:
        keeper = m.keeper(store)
        if what != "rebuild":
            assert await m.verify(keeper) == []
        if what == "erase":
            if repeated:
                await m.erase(keeper, run_id, "asked for")
            else:
                await m.sweep(keeper, clock.now_us(), 30 * 86_400)  # too early for anything else to go
            assert await keeper.read(lambda tables: tables.all("SELECT * FROM erasures")) == []
            told = "SELECT count(*) FROM project_events WHERE type = 'run.erased'"
            assert await keeper.read(lambda tables: tables.all(told)) == [(1,)]
            assert (await m.erase(keeper, run_id, "asked for")).deleted == 0
            assert value.digest not in set(store.files.list())
            assert [event.type for event in await store.events(run_id)].count("erased") == 1  # type: ignore[comparison-overlap]
        elif what == "rebuild":
            assert await m.rebuild(keeper) == m.Rebuilt(2, [])
        elif what == "sweep":
            await m.sweep(keeper, clock.now_us())
            assert unused.digest not in set(store.files.list())
        elif what == "retain":
            assert {*(await m.retain(keeper, m.Policy(86_400), clock.now_us())).dropped} <= {run_id, other}
            assert await store.heads([run_id, other]) == {}
        else:
            assert not (tmp_path / "backup").exists()
            assert (await m.backup(m.SqliteKeeper(store), tmp_path / "backup")).damages == []
        assert await m.verify(keeper) == []
    finally:
        await store.close()


@pytest.mark.anyio
async def test_maintenance_that_fails_changes_nothing_and_harms_nobody(store: SqliteStore) -> None:
    life = Life(store)
    run_id = await life.create()

    def work(tables: m.Tables) -> None:
        tables.run("DELETE FROM claims")
        tables.run("UPDATE runs SET title = 'changed'")
        raise KeyError("a mistake of ours")

    results = await asyncio.gather(
        life.do(run_id, c.Label(Seq(1), "first")),
        m.keeper(store).write(work),
        life.do(run_id, c.Label(Seq(1), "second")),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), KeyError, type(None)]
    assert [label.label for label in await store.labels(run_id)] == ["first", "second"]
    assert await m.verify(m.keeper(store)) == []


@pytest.mark.anyio
async def test_a_write_to_a_run_that_another_process_dropped_is_refused(store: SqliteStore, clock: Clock) -> None:
    life = Life(store)
    run_id, _ = await with_large(life)
    other = await SqliteStore.open(store.path, clock=clock)
    try:
        await other.write(Write(run_id, [c.Erase((Digest("0" * 64),), "x")], Principal("u")))
        with pytest.raises(OmiumError):
            await m.keeper(store).write(lambda tables: tables.run("DELETE FROM events"))
        clock.ahead_us = 2 * DAY_US
        assert (await m.retain(m.keeper(store), m.Policy(86_400), clock.now_us())).dropped == [run_id]
        with pytest.raises(OmiumError) as refusal:
            await other.write(Write(run_id, [c.Label(Seq(1), "late")], Principal("u")))
        assert refusal.value.code == "not_found"
    finally:
        await other.close()
    assert await m.verify(m.keeper(store)) == []
