"""How a process hears of the commits of others: LISTEN on a session of its own, with a poll beside it.

A notification follows its commit on that same session rather than being part of it: PostgreSQL lets only one
transaction that notifies commit at a time, in all its databases. Should a process die in between, the poll of the
others, once a second, sees that transactions have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from omium.storage.listening import Callers
from omium.storage.postgres.connection import Connection, connect
from omium.storage.postgres.errors import FAILURES

_log = logging.getLogger(__name__)

CHANNEL = "omium"
POLL_S = 1.0
BUSY_POLL_S = 5.0  # while this process commits, too, a poll cannot tell its transactions from those of others
NOTIFY_EVERY_S = 0.02  # at most: commits in between share a notification
RECONNECT_S = 0.5

_IDLE = {"synchronous_commit": "off"}  # it writes nothing that has to last


class Tail:
    """Calls those of this process who want to know, and tells other processes of its commits."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.callers = Callers()  # a poll cannot tell the commits of this process from others': all hear of those
        self._committed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._pid = 0  # of our own session, whose notifications are for others

    def open(self) -> None:
        self._task = asyncio.create_task(self._run(), name="omium-tail")

    def committed(self) -> None:
        """This process has committed something."""
        self._committed.set()
        self.callers.committed()

    async def close(self) -> None:
        await self.callers.close()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, *FAILURES):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self._session()
            except FAILURES as error:
                _log.warning("the PostgreSQL database cannot be listened to: %s", error)
            await asyncio.sleep(RECONNECT_S)

    async def _session(self) -> None:
        """Listen until the session is lost."""
        db = await connect(self._dsn, "omium-tail", _IDLE)
        try:
            self._pid = db.get_server_pid()
            await db.add_listener(CHANNEL, self._heard)
            self.callers.changed()  # whatever was said meanwhile was missed
            seen, now = await self._position(db), asyncio.get_running_loop().time
            poll_at, busy = now() + POLL_S, False
            woken_at = now()
            while True:
                if await self._has_committed(poll_at - now()):
                    busy = True
                    await db.execute(f"NOTIFY {CHANNEL}")
                    # What comes in meanwhile is told after the pause.
                    await asyncio.sleep(NOTIFY_EVERY_S)
                if now() >= poll_at:
                    before, seen = seen, await self._position(db)
                    if seen != before and (not busy or now() >= woken_at + BUSY_POLL_S):
                        self.callers.changed()
                        woken_at = now()
                    poll_at, busy = now() + POLL_S, False
        finally:
            db.terminate()

    async def _has_committed(self, within_s: float) -> bool:
        """Wait for a commit of this process; False when none came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(within_s, 0)):
                await self._committed.wait()
        committed = self._committed.is_set()
        self._committed.clear()
        return committed

    async def _position(self, db: Connection) -> str:
        """Which transactions have ended. It changes with every commit of the server, ours or not."""
        return str(await db.fetchval("SELECT pg_current_snapshot()::text"))

    def _heard(self, db: Connection, pid: int, channel: str, payload: Any) -> None:
        if pid != self._pid:
            self.callers.changed()


__all__ = ["Tail"]
