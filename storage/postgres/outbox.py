"""The writes of the outbox in PostgreSQL: a statement each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from typing import Any, Final

from omium.orchestration.ids import ProjectId, RunId, Seq
from omium.orchestration.ports_notices import NoticeRow, NoticeStatus
from omium.storage.outbox import COLUMNS, RETURNED, OutboxReads, as_notice
from omium.storage.postgres.writer import Writer

# Names of tables and columns come from this package only; values are always bound.
_SINCE: Final = (
    "WITH fresh AS (INSERT INTO endpoints (project, endpoint, since) VALUES ($1, $2, 0)"
    " ON CONFLICT DO NOTHING RETURNING since), passed AS (INSERT INTO announced (run_id, endpoint, seq)"
    " SELECT r.id, $2, r.seq FROM runs r, fresh WHERE r.project = $1 ON CONFLICT DO NOTHING)"
    " SELECT since FROM fresh UNION ALL SELECT since FROM endpoints WHERE project = $1 AND endpoint = $2 LIMIT 1"
)
_PUT: Final = (
    f"WITH put AS (INSERT INTO notices ({RETURNED}) SELECT * FROM unnest($4::text[], $5::text[], $6::text[],"  # noqa: S608
    " $7::text[], $8::int8[], $9::text[], $10::text[], $11::int8[], $12::int8[], $13::int8[], $14::int8[], $15::text[])"
    " ON CONFLICT DO NOTHING)"
    " INSERT INTO announced (run_id, endpoint, seq) SELECT s.run_id, $1, s.seq"
    " FROM unnest($2::text[], $3::int8[]) AS s (run_id, seq) ORDER BY s.run_id"
    " ON CONFLICT (run_id, endpoint) DO UPDATE SET seq = greatest(announced.seq, excluded.seq)"
)
_TAKE: Final = (
    "WITH due AS (SELECT id FROM notices WHERE project = $2 AND endpoint = $3 AND status = 'waiting'"  # noqa: S608
    " AND due_at <= $4 ORDER BY due_at, id LIMIT $5 FOR UPDATE SKIP LOCKED)"
    " UPDATE notices n SET attempts = attempts + 1, due_at = $1 FROM due WHERE n.id = due.id"
    f" RETURNING {', '.join(f'n.{name}' for name in COLUMNS)}"
)
_SETTLE: Final = (
    "UPDATE notices SET status = $1, due_at = $2, ended_at = $3, problem = $4"
    " WHERE id = $5 AND attempts = $6 AND status = 'waiting' RETURNING id"
)
_AGAIN: Final = (
    "UPDATE notices SET status = 'waiting', attempts = 0, due_at = $1, ended_at = NULL"
    " WHERE project = $2 AND status = 'dead' AND ($3::text[] IS NULL OR id = ANY($3::text[])) RETURNING id"
)


class PostgresOutbox(OutboxReads):
    """Part of the store."""

    _writer: Writer

    async def endpoint_since(self, project: ProjectId, endpoint: str) -> int:
        row = (project, endpoint)
        for _ in range(2):  # somebody who inserts it at this very moment is seen the second time
            found = await self._writer.job(_SINCE, row, lambda rows: int(rows[0][0]) if rows else None, quiet=True)
            if found is not None:
                return found
        return 0

    async def announce(self, endpoint: str, notices: Sequence[NoticeRow], seen: Mapping[RunId, Seq]) -> None:
        rows = [astuple(notice) for notice in notices]
        columns: list[list[Any]] = [[row[place] for row in rows] for place in range(len(COLUMNS))]
        arguments = (endpoint, list(seen), list(seen.values()), *columns)
        await self._writer.job(_PUT, arguments, lambda _: None, quiet=not notices)

    async def take_notices(
        self, project: ProjectId, endpoint: str, now_us: int, until_us: int, limit: int
    ) -> list[NoticeRow]:
        row = (until_us, project, endpoint, now_us, limit)
        taken = await self._writer.job(_TAKE, row, lambda rows: [as_notice(found) for found in rows], quiet=True)
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
        return await self._writer.job(_SETTLE, row, bool, quiet=True)

    async def retry_notices(self, project: ProjectId, ids: Sequence[str] | None, now_us: int) -> int:
        row = (now_us, project, None if ids is None else list(ids))
        return await self._writer.job(_AGAIN, row, len)
