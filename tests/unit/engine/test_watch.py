"""A worker's heartbeat while the database cannot be written."""

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
from omium.orchestration.ports import Processes, Store

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
