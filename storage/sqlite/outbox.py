"""The writes of the outbox in SQLite. They touch nothing that the writer remembers, so it goes on remembering."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from typing import Final, TypeVar

from omium.orchestration.ids import ProjectId, RunId, Seq
from omium.orchestration.ports_notices import NoticeRow, NoticeStatus
from omium.storage.outbox import COLUMNS, RETURNED, OutboxReads, as_notice

T = TypeVar("T")

# Names of tables and columns come from this package only; values are always bound.
_PUT: Final = f"INSERT INTO notices ({RETURNED}) VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT DO NOTHING"  # noqa: S608
_SEEN: Final = (
    "INSERT INTO announced (run_id, endpoint, seq) VALUES (?, ?, ?)"
    " ON CONFLICT (run_id, endpoint) DO UPDATE SET seq = max(seq, excluded.seq)"
)
_PASSED: Final = (
    "INSERT INTO announced (run_id, endpoint, seq) SELECT id, ?, seq FROM runs WHERE project = ? ON CONFLICT DO NOTHING"
)
_TAKE: Final = (
    "UPDATE notices SET attempts = attempts + 1, due_at = ?1 WHERE id IN (SELECT id FROM notices"  # noqa: S608
    " WHERE project = ?2 AND endpoint = ?3 AND status = 'waiting' AND due_at <= ?4 ORDER BY due_at, id LIMIT ?5)"
    f" RETURNING {RETURNED}"
)
_SETTLE: Final = (
    "UPDATE notices SET status = ?, due_at = ?, ended_at = ?, problem = ?"
    " WHERE id = ? AND attempts = ? AND status = 'waiting'"
)
_AGAIN: Final = (
    "UPDATE notices SET status = 'waiting', attempts = 0, due_at = ?1, ended_at = NULL"
    " WHERE project = ?2 AND status = 'dead'"
)


class SqliteOutbox(OutboxReads):
    """Part of the store."""

    async def job(self, work: Callable[[sqlite3.Connection], T], about: Sequence[RunId] | None = None) -> T:
        raise AssertionError("the store writes")

    async def endpoint_since(self, project: ProjectId, endpoint: str) -> int:
        def work(db: sqlite3.Connection) -> int:
            fresh = "INSERT INTO endpoints VALUES (?, ?, 0) ON CONFLICT DO NOTHING"
            if db.execute(fresh, (project, endpoint)).rowcount:
                db.execute(_PASSED, (endpoint, project))
            found = "SELECT since FROM endpoints WHERE project = ? AND endpoint = ?"
            return int(db.execute(found, (project, endpoint)).fetchone()[0])

        return await self.job(work, ())

    async def announce(self, endpoint: str, notices: Sequence[NoticeRow], seen: Mapping[RunId, Seq]) -> None:
        def work(db: sqlite3.Connection) -> None:
            db.executemany(_PUT, [astuple(notice) for notice in notices])
            db.executemany(_SEEN, [(run_id, endpoint, seq) for run_id, seq in seen.items()])

        await self.job(work, ())

    async def take_notices(
        self, project: ProjectId, endpoint: str, now_us: int, until_us: int, limit: int
    ) -> list[NoticeRow]:
        row = (until_us, project, endpoint, now_us, limit)
        taken = await self.job(lambda db: [as_notice(found) for found in db.execute(_TAKE, row)], ())
        return sorted(taken, key=lambda notice: notice.id)

    async def settle_notice(
        self,
        notice_id: str,
        attempt: int,
        status: NoticeStatus,
        *,
        due_us: int,
        ended_us: int | None = None,
        problem: str | None = None,
    ) -> bool:
        row = (status, due_us, ended_us, problem, notice_id, attempt)
        return await self.job(lambda db: db.execute(_SETTLE, row).rowcount == 1, ())

    async def retry_notices(self, project: ProjectId, ids: Sequence[str] | None, now_us: int) -> int:
        def work(db: sqlite3.Connection) -> int:
            if ids is None:
                return db.execute(_AGAIN, (now_us, project)).rowcount
            each = f"{_AGAIN} AND id = ?3"
            return sum(db.execute(each, (now_us, project, one)).rowcount for one in ids)

        return await self.job(work, ())
