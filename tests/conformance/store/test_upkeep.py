"""Chores come round once for all the processes on a database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.storage.maintenance import keeper
from omium.storage.maintenance.upkeep import FIRST_S, LOOK_S, Chore, keep_up, last_times, run_due
from tests.conformance.store.databases import Database

pytestmark = pytest.mark.anyio
DAY = 86_400.0


def counting(name: str = "sweep") -> tuple[Chore, list[str]]:
    done: list[str] = []

    async def work() -> Mapping[str, Any]:
        done.append(name)
        return {"contents": len(done)}

    return Chore(name, DAY, work), done


async def test_a_chore_comes_round_once_for_two_processes(database: Database) -> None:
    clock = database.clock
    one, other = keeper(await database.open()), keeper(await database.open())
    chore, done = counting()
    assert await run_due(one, [chore]) == {}  # a new database is a day old first
    begun = clock.now_us()
    (row,) = await last_times(other)
    assert (row.name, row.started_at, row.outcome) == ("sweep", begun, None)
    clock.advance(DAY - 1)
    assert await run_due(other, [chore]) == {}
    clock.advance(1)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(run_due, one, [chore])
            tasks.start_soon(run_due, other, [chore])
    assert done == ["sweep"]
    (row,) = await last_times(one)
    assert (row.started_at, row.ended_at, row.outcome) == (clock.now_us(), clock.now_us(), {"contents": 1})
    assert await run_due(one, [chore], now=True) == {"sweep": {"contents": 2}}
    clock.advance(DAY)
    assert await run_due(other, [chore]) == {"sweep": {"contents": 3}}


async def test_a_chore_that_is_under_way_is_not_begun_again(database: Database) -> None:
    clock = database.clock
    keeping = keeper(await database.open())
    begun, go = anyio.Event(), anyio.Event()

    async def work() -> Mapping[str, Any]:
        begun.set()
        await go.wait()
        return {}

    chore = Chore("slow", 3_600.0, work)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: run_due(keeping, [chore], now=True))
            await begun.wait()
            clock.advance(2 * 3_600.0)
            assert await run_due(keeping, [chore], now=True) == {}
            assert (await last_times(keeping))[0].ended_at is None
            go.set()
    assert (await last_times(keeping))[0].outcome == {}


async def test_one_that_fails_or_is_interrupted_says_so_and_the_next_is_done(database: Database) -> None:
    keeping = keeper(await database.open())

    async def fails() -> Mapping[str, Any]:
        raise OmiumError("storage_unavailable", "the disk is full.")

    later, done = counting("later")
    outcomes = await run_due(keeping, [Chore("first", DAY, fails), later], now=True)
    assert outcomes["first"] == {"error": "storage_unavailable", "message": "the disk is full."}
    assert done == ["later"]

    begun = anyio.Event()

    async def waits() -> Mapping[str, Any]:
        begun.set()
        await anyio.sleep_forever()
        return {}

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: run_due(keeping, [Chore("third", DAY, waits)], now=True))
            await begun.wait()
            tasks.cancel_scope.cancel()
    third = next(row for row in await last_times(keeping) if row.name == "third")
    assert third.outcome == {"error": "interrupted"} and third.ended_at is not None


async def test_a_process_looks_now_and_then(database: Database) -> None:
    clock = database.clock
    keeping = keeper(await database.open())
    chore, done = counting()
    pauses: list[float] = []

    class Enough(Exception):
        pass

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        clock.advance(DAY / 2)
        if len(pauses) == 5:
            raise Enough

    with pytest.raises(Enough):
        await keep_up(keeping, [chore], pause)
    assert pauses == [FIRST_S, *[LOOK_S] * 4]
    assert len(done) == 1
