"""How a process hears of the commits of others: one poll of `data_version` for all who want to know."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

from omium.orchestration.errors import OmiumError
from omium.storage.listening import Callers

_log = logging.getLogger(__name__)

POLL_S = 0.05  # how soon a change by another process is seen
_TROUBLE_S = 1.0  # how soon it is tried again when the database cannot be read


class Tail:
    """Calls those of this process who want to know. It polls only while there are any.

    `known` gives how often the writer has seen another connection commit, `count` the same after looking again: only
    the writer can tell its own commits from theirs.
    """

    def __init__(self, path: Path, known: Callable[[], int], count: Callable[[], Awaitable[int]]) -> None:
        self._path = path
        self._known = known
        self._count = count
        self._callers = Callers()
        self._db: sqlite3.Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._version = 0
        self._foreign = 0

    def callers(self) -> Callers:
        """To be added to: from now on it is looked whether others commit."""
        if self._task is None or self._task.done():
            self._foreign = self._known()
            self._version = self._read()
            self._task = asyncio.create_task(self._run(), name="omium-tail")
        return self._callers

    def committed(self) -> None:
        """This process has committed something."""
        self._callers.committed()

    async def close(self) -> None:
        await self._callers.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._db is not None:
            self._db.close()

    async def _run(self) -> None:
        await asyncio.sleep(POLL_S)
        while self._callers:
            pause = POLL_S
            try:
                changed = await self._was_changed()
            except (OmiumError, sqlite3.Error) as error:
                _log.warning("the database %s cannot be watched: %s", self._path.name, error)
                changed, pause = True, _TROUBLE_S  # whoever looks will see what is the matter
            if changed:
                self._callers.changed()
            await asyncio.sleep(pause)

    async def _was_changed(self) -> bool:
        """Whether somebody else has committed since the last call."""
        version = self._read()
        if version == self._version:
            return False
        before, self._foreign = self._foreign, await self._count()
        self._version = version
        return self._foreign != before

    def _read(self) -> int:
        """Changes whenever any connection commits. One read of a mapped page, microseconds: done in the loop."""
        if self._db is None:
            self._db = sqlite3.connect(self._path, isolation_level=None)
            self._db.execute("PRAGMA busy_timeout = 5000")
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])
