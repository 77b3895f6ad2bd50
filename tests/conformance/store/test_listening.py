"""Hearing of commits, and reading, as they are asked for from all sides at once."""

from __future__ import annotations

import asyncio

import pytest

from omium.orchestration.ids import Seq
from omium.orchestration.log.commands import Label, PauseRun
from tests.conformance.store.acting import executing, refused
from tests.conformance.store.databases import AnyStore

pytestmark = pytest.mark.anyio


async def test_a_listener_of_one_run_hears_of_no_other(store: AnyStore) -> None:
    mine, other = await executing(store), await executing(store)
    heard: list[tuple[str, int]] = []

    def hear(run_id: str, events: object) -> None:
        heard.extend((run_id, event.seq) for event in events)  # type: ignore[attr-defined]

    ends = [store.listen(hear, mine.id), store.listen(hear, mine.id)]
    await other.ask(PauseRun())
    written = await mine.ask(PauseRun())
    assert heard == [(mine.id, written.seq)] * 2
    ends[0]()
    written = await mine.ask(Label(Seq(1), "once"))
    assert heard[2:] == [(mine.id, written.seq)]
    ends[1]()
    await mine.ask(Label(Seq(1), "never"))
    assert len(heard) == 3


async def test_many_reads_at_once_each_get_their_own_answer(store: AnyStore) -> None:
    runs = [await executing(store) for _ in range(20)]
    rows = await asyncio.gather(*(store.run(run.id) for run in runs))
    assert [row and row.id for row in rows] == [run.id for run in runs]
    logs = await asyncio.gather(*(store.events(run.id, Seq(1), 1) for run in runs))
    assert [[(event.run_id, event.seq) for event in log] for log in logs] == [[(run.id, 2)] for run in runs]


async def test_a_read_that_nobody_waits_for_any_more_disturbs_no_other(store: AnyStore) -> None:
    run = await executing(store)
    reads = [asyncio.ensure_future(store.run(run.id)) for _ in range(5)]
    await asyncio.sleep(0)
    for read in reads[:4]:
        read.cancel()
    row = await reads[4]
    assert row is not None and row.id == run.id
    assert await store.events(run.id)


async def test_a_run_that_is_not_there_has_nothing_to_read(store: AnyStore) -> None:
    run = await executing(store)
    nobody = type(run.id)("run_00000000000000000000000000")
    assert await store.run(nobody) is None
    assert await store.events(nobody) == []
    assert await store.heads([nobody]) == {}
    assert await store.heads([run.id]) == {run.id: 3}
    await refused("not_found", store.state(nobody))


async def test_one_who_fails_to_hear_harms_neither_the_write_nor_the_others(store: AnyStore) -> None:
    run, called = await executing(store), []

    def fails(*_: object) -> None:
        raise ValueError("not mine")

    ends = [store.on_change(fails), store.listen(fails), store.on_change(lambda: called.append(1))]
    assert (await run.ask(PauseRun())).events
    assert called
    for end in ends:
        end()
    before = len(called)
    await run.ask(Label(Seq(1), "later"))
    assert len(called) == before
