"""A small write that comes alone is committed in the event loop, and nothing else is."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from omium.orchestration.log.commands import NoteProgress, StartNode
from omium.orchestration.values import encode
from omium.storage.sqlite import connection
from omium.storage.sqlite import writer as writing
from omium.storage.sqlite.store import SqliteStore
from tests.conformance.store.acting import A, Run, executing
from tests.conformance.store.databases import TestClock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SqliteStore]:
    monkeypatch.setattr(writing, "_QUICK_S", 60.0)  # whatever this disk is like
    store = await SqliteStore.open(tmp_path / "omium.db", clock=TestClock())
    store._writer._commit_s = 0.0
    yield store
    await store.close()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads that committed, one after the other."""
    seen: list[str] = []

    def note(point: str) -> None:
        if point == "commit.after":
            seen.append(threading.current_thread().name)

    monkeypatch.setattr(writing, "crash_point", note)
    return seen


def note(number: int) -> NoteProgress:
    return NoteProgress(A, 0, 1, f"step {number}")


async def running(store: SqliteStore) -> Run:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    return run


async def test_a_lone_small_write_is_committed_where_it_stands(store: SqliteStore, threads: list[str]) -> None:
    run = await running(store)
    threads.clear()
    await run.do(note(1))
    assert threads == ["MainThread"]
    assert (await run.state()).seq == (await store.heads([run.id]))[run.id]


async def test_a_task_that_goes_on_alone_waits_for_a_turn_seldom_only(store: SqliteStore, threads: list[str]) -> None:
    run = await running(store)
    store._writer._here = writing._GROW_AFTER  # nothing for the thread to do meanwhile
    turns, done, in_a_row = 0, False, writing._IN_A_ROW

    async def turn() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    turning = asyncio.create_task(turn())
    await run.do(note(0))
    store._writer._in_a_row = 0
    threads.clear()
    seen = []
    for number in range(2 * in_a_row + 4):
        await run.do(note(number))
        seen.append(turns)
    done = True
    await turning
    assert [seen.count(value) for value in dict.fromkeys(seen)] == [in_a_row, in_a_row + 1, 3]
    assert threads == ["MainThread"] * (2 * in_a_row + 4)


async def test_a_task_that_is_alone_no_more_waits_for_the_others(store: SqliteStore, threads: list[str]) -> None:
    runs = [await running(store), await running(store)]
    await runs[0].do(note(0))
    threads.clear()
    other = asyncio.create_task(runs[1].do(note(0)))
    await asyncio.sleep(0)  # it has come, and waits for the end of the turn
    await runs[0].do(note(1))
    await other
    assert threads == ["omium-writer"]


async def test_what_comes_together_is_left_to_the_thread(store: SqliteStore, threads: list[str]) -> None:
    runs = [await running(store), await running(store)]
    threads.clear()
    await asyncio.gather(*(run.do(note(1)) for run in runs))
    assert threads == ["omium-writer"]


async def test_large_values_are_left_to_the_thread(store: SqliteStore, threads: list[str]) -> None:
    from omium.orchestration.ports import NewBlob

    run = await running(store)
    threads.clear()
    await run.do(note(1), blobs=[NewBlob(encode("x" * 100_000))])
    assert threads == ["omium-writer"]


async def test_a_slow_disk_is_left_to_the_thread(store: SqliteStore, threads: list[str]) -> None:
    run = await running(store)
    threads.clear()
    store._writer._commit_s = 61.0
    await run.do(note(1))
    assert threads == ["omium-writer"]


async def test_another_writer_is_waited_for_in_the_thread(
    store: SqliteStore, threads: list[str], tmp_path: Path
) -> None:
    run = await running(store)
    threads.clear()
    other = sqlite3.connect(tmp_path / "omium.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while not threads:
            turns += 1
            if turns == 3:  # the event loop goes on meanwhile
                other.execute("ROLLBACK")
            await asyncio.sleep(0.001)  # real time: the thread waits in SQLite

    turning = asyncio.create_task(turn())
    await run.do(note(1))
    await turning
    other.close()
    assert threads == ["omium-writer"] and turns >= 3


async def test_the_journal_is_grown_early_and_begun_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(connection, "JOURNAL_PAGES", 512)
    monkeypatch.setattr(writing, "_TIDY_EVERY", 16)
    run = await running(store)
    for number in range(400):
        await run.do(note(number))
    size = (tmp_path / "omium.db-wal").stat().st_size
    assert 512 * 4096 <= size <= 3 * 512 * 4096


async def test_a_refusal_in_place_changes_nothing(store: SqliteStore, threads: list[str]) -> None:
    from omium.orchestration.errors import OmiumError

    run = await running(store)
    threads.clear()
    with pytest.raises(OmiumError) as refused:
        await run.do(NoteProgress(A, 7, 1, "of another generation"))
    assert refused.value.code == "conflict"
    before = (await run.state()).seq
    await run.do(note(1))
    assert (await run.state()).seq == before + 1


async def test_what_was_submitted_before_the_close_is_durable(store: SqliteStore, tmp_path: Path) -> None:
    run = await running(store)
    writing_on = asyncio.create_task(run.do(note(1)))
    await asyncio.sleep(0)  # it has been submitted
    await store.close()
    written = await writing_on
    again = await SqliteStore.open(tmp_path / "omium.db", clock=TestClock())
    assert (await again.heads([run.id]))[run.id] == written.seq
    await again.close()


async def test_nothing_overtakes_what_the_thread_has_still_to_commit(store: SqliteStore) -> None:
    run = await running(store)
    kept: list[list[object]] = []
    batches, store._writer._batches = store._writer._batches, Kept(kept)
    together = [asyncio.create_task(run.do(note(number))) for number in (1, 2)]
    await asyncio.sleep(0)
    alone = asyncio.create_task(run.do(note(3)))
    for _ in range(3):
        await asyncio.sleep(0)
    assert [len(batch) for batch in kept] == [2, 1] and not alone.done()
    for batch in kept:
        batches.put(batch)
    store._writer._batches = batches
    await asyncio.gather(*together, alone)
    said = [event.data["text"] for event in await store.events(run.id) if "text" in event.data]
    assert said == ["step 1", "step 2", "step 3"]


class Kept:
    """Stands for the way to a thread that is slow to wake."""

    def __init__(self, kept: list[list[object]]) -> None:
        self._kept = kept

    def put(self, batch: list[object]) -> None:
        self._kept.append(batch)
