"""Workers watching over each other: a dead or silent worker's runs become free.

A worker's heartbeat is a number in its one row that grows. A process on this host that no longer exists is taken over
at once; a number that did not move for `stale_s` of the observer's own monotonic time makes its worker stale, and one
of this host is killed before its runs are taken. An observer that stood still itself (stopped, or its machine asleep)
has not observed meanwhile: it begins anew.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import WorkerId
from omium.orchestration.ports import Store, WorkerRow
from omium.orchestration.ports_processes import Processes

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import EngineConfig

_log = logging.getLogger(__name__)


class Watch:
    """Beats for this worker and observes the others."""

    def __init__(
        self,
        store: Store,
        processes: Processes,
        worker: WorkerId,
        config: EngineConfig,
        now: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._store = store
        self._processes = processes
        self._worker = worker
        self._config = config
        self._seen: dict[WorkerId, tuple[int, float]] = {}  # counter, and when it was first seen at that
        self._now = now
        self._looked = -math.inf

    async def register(self) -> None:
        """Make this worker known, and free what dead ones of this host left."""
        await self._sign_up()
        await self.look()

    async def _sign_up(self) -> None:
        host, boot, pid, start_time = self._processes.this()
        await self._store.register(
            WorkerRow(self._worker, host, boot, pid, start_time, 0, tuple(self._config.projects))
        )

    async def retire(self) -> None:
        try:
            await self._store.retire(self._worker)
        except OmiumError as error:
            _log.error("this worker cannot be signed off, its runs are free once it is seen to be dead: %s", error)

    async def run(self, freed: Callable[[], None]) -> None:
        """Beat and observe until cancelled; `freed` is called when runs may have become free. A database that cannot be
        written is told once, however long that lasts."""
        told = False
        while True:
            await anyio.sleep(self._config.beat_s)
            try:
                await self._store.beat(self._worker)
                if await self.look():
                    freed()
            except OmiumError as error:
                if not told:
                    _log.error("the heartbeat cannot be written now: %s", error)
                told = True
            else:
                told = False

    async def look(self) -> int:
        """Free the runs of workers that are dead or stale; how many runs."""
        freed = 0
        # Taken before the counters are read: whatever holds this process up from here on belongs to the next gap.
        now = self._now()
        if now - self._looked > max(self._config.stale_s / 2, 2 * self._config.beat_s):
            self._seen.clear()
        self._looked = now
        workers = await self._store.workers()
        known = {worker.id for worker in workers}
        self._seen = {worker: seen for worker, seen in self._seen.items() if worker in known}
        if self._worker not in known:
            # Taken for dead while it slept. What it claims from now on must be found by others should it die.
            await self._sign_up()
        for worker in workers:
            if worker.id != self._worker and self._is_gone(worker, now):
                count = await self._store.retire(worker.id)
                _log.warning(
                    "worker %s (pid %s on %s) is gone: %s runs are free", worker.id, worker.pid, worker.host, count
                )
                freed += count
        return freed

    def _is_gone(self, worker: WorkerRow, now: float) -> bool:
        alive = self._processes.alive(worker)
        if alive is False:
            self._processes.kill(worker)  # what it had started may live on
            return True
        beat, since = self._seen.get(worker.id, (-1, now))
        if beat != worker.beat:
            self._seen[worker.id] = (worker.beat, now)
            return False
        if now - since < self._config.stale_s:
            return False
        if alive:
            self._processes.kill(worker)
        return True
