"""A worker's heartbeat while the database cannot be written, and what it concludes from the silence of another one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

import anyio
import pytest

from omium.orchestration.engine.engine import EngineConfig
from omium.orchestration.engine.watch import Watch
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import WorkerId
from omium.orchestration.ports import Store, WorkerRow
from omium.orchestration.ports_processes import Processes

pytestmark = pytest.mark.anyio


class Disk:
    """A store whose heartbeats go as `answers` says; at their end it stops the watch."""

    def __init__(self, answers: Iterator[bool], stop: anyio.CancelScope) -> None:
        self._answers = answers
        self._stop = stop

    async def beat(self, worker: WorkerId) -> None:
        answer = next(self._answers, None)
        if answer is None:
            self._stop.cancel()
        elif not answer:
            raise OmiumError("storage_unavailable", "the disk is full.", "Free some space.")

    async def workers(self) -> list[Any]:
        return []

    async def register(self, row: Any) -> None: ...


class Nobody:
    def this(self) -> tuple[str, str, int, float]:
        return "host", "boot", 1, 0.0


async def test_a_database_that_cannot_be_written_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    with anyio.fail_after(20), anyio.CancelScope() as stop:
        disk = Disk(iter([False, False, False, True, False, False, True]), stop)
        watch = Watch(cast(Store, disk), cast(Processes, Nobody()), WorkerId("wrk_1"), EngineConfig(beat_s=0.0))
        await watch.run(lambda: None)
    said = [record for record in caplog.records if "heartbeat" in record.message]
    assert len(said) == 2  # once for each time that it could not be written
    assert all("the disk is full" in record.message and record.exc_info is None for record in said)


class Neighbour(Nobody):
    """One other worker, whose process lives and whose counter stands still; both as a store and as the processes."""

    def __init__(self) -> None:
        self.row = WorkerRow(WorkerId("wrk_2"), "host", "boot", 2, 0.0, 7, ())
        self.killed = 0

    async def workers(self) -> list[WorkerRow]:
        return [self.row, WorkerRow(WorkerId("wrk_1"), "host", "boot", 1, 0.0, 1, ())]

    async def retire(self, worker: WorkerId) -> int:
        return 1

    def alive(self, worker: WorkerRow) -> bool:
        return True

    def kill(self, worker: WorkerRow) -> None:
        self.killed += 1


async def _looks(*times: float) -> list[int]:
    """How many were killed after each look, at these times."""
    there, clock = Neighbour(), iter(times)
    watch = Watch(
        cast(Store, there), cast(Processes, there), WorkerId("wrk_1"), EngineConfig(), now=lambda: next(clock)
    )
    killed = []
    for _ in times:
        await watch.look()
        killed.append(there.killed)
    return killed


async def test_a_worker_that_was_watched_all_the_while_and_stayed_silent_is_killed() -> None:
    assert await _looks(0, 5, 10, 15, 20, 25, 30) == [0, 0, 0, 0, 0, 0, 1]


async def test_whoever_slept_as_long_itself_blames_nobody_and_watches_anew() -> None:
    assert await _looks(0, 5, 48, 53, 58, 63, 68, 73, 78) == [0, 0, 0, 0, 0, 0, 0, 0, 1]
