"""The outbox: who is told of what happens, how far was looked for them, and what is still to be carried out.

Reading is the same on both databases; each store brings its own writes (`sqlite/outbox.py`, `postgres/outbox.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select, and_, func, select

from omium.orchestration.ids import ProjectId, RunId, Seq
from omium.orchestration.log.events import Event
from omium.orchestration.ports_notices import NoticeRow, NoticeStatus, Unannounced
from omium.storage import schema as t
from omium.storage.reads import as_event

COLUMNS: Final = tuple(column.name for column in t.notices.c)
RETURNED: Final = ", ".join(COLUMNS)
_N = t.notices.c


def as_notice(row: Sequence[Any]) -> NoticeRow:
    return NoticeRow(**dict(zip(COLUMNS, row, strict=True)))


class OutboxReads:
    """Part of a store."""

    async def _all(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        raise AssertionError("the store reads")

    async def unannounced(self, project: ProjectId, endpoint: str, since_us: int, limit: int) -> list[Unannounced]:
        r, a = t.runs.c, t.announced.c
        seen = func.coalesce(a.seq, 0)
        known = t.runs.outerjoin(t.announced, and_(a.run_id == r.id, a.endpoint == endpoint))
        statement = (
            select(r.id, seen, r.seq)
            .select_from(known)
            .where(r.project == project, r.updated_at >= since_us, r.seq > seen)
            .order_by(r.id)
            .limit(limit)
        )
        return [Unannounced(RunId(run), Seq(at), Seq(head)) for run, at, head in await self._all(statement)]

    async def events_of(self, run_id: RunId, after: Seq, upto: Seq, types: Sequence[str]) -> list[Event]:
        e = t.events.c
        statement = (
            select(e.run_id, e.seq, e.type, e.at, e.actor, e.data, e.prev_hash, e.hash)
            .where(e.run_id == run_id, e.seq > after, e.seq <= upto, e.type.in_(list(types)))
            .order_by(e.seq)
        )
        return [as_event(row) for row in await self._all(statement)]

    async def notices(
        self, project: ProjectId, *, status: NoticeStatus | None = None, endpoint: str | None = None, limit: int = 100
    ) -> list[NoticeRow]:
        statement = select(t.notices).where(_N.project == project)
        if status is not None:
            statement = statement.where(_N.status == status)
        if endpoint is not None:
            statement = statement.where(_N.endpoint == endpoint)
        rows = await self._all(statement.order_by(_N.created_at.desc(), _N.id.desc()).limit(limit))
        return [as_notice(row) for row in rows]

    async def next_notice(self, project: ProjectId, endpoints: Sequence[str]) -> int | None:
        mine = (_N.project == project, _N.status == "waiting", _N.endpoint.in_(list(endpoints)))
        found = await self._all(select(func.min(_N.due_at)).where(*mine))
        return None if found[0][0] is None else int(found[0][0])

    async def notice_counts(self, project: ProjectId) -> dict[tuple[str, NoticeStatus], int]:
        grouped = select(_N.endpoint, _N.status, func.count()).where(_N.project == project)
        rows = await self._all(grouped.group_by(_N.endpoint, _N.status))
        return {(endpoint, status): int(count) for endpoint, status, count in rows}


__all__ = ["COLUMNS", "RETURNED", "OutboxReads", "as_notice"]
