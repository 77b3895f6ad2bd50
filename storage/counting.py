"""What is told of many runs at once, for both databases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Select, func, select

from omium.orchestration.ids import ProjectId, RunId
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.ports_counts import Counted
from omium.storage import schema as t
from omium.storage.reads import EVENT, as_event


class Counting:
    """Part of a store."""

    async def _all(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        raise AssertionError("the store reads")

    async def count(self, project: ProjectId) -> Counted:
        r, a = t.runs.c, t.approvals.c
        of_project = r.project == project
        by_status = select(r.status, func.count(), func.sum(r.cost_usd), func.sum(r.tokens)).where(of_project)
        statuses = await self._all(by_status.group_by(r.status))
        counted: list[Any] = [func.count(), func.min(a.requested_at)]
        pending = (
            select(*counted)
            .select_from(t.approvals.join(t.runs, r.id == a.run_id))
            .where(of_project, a.status == "pending")
        )
        ((waiting, oldest),) = await self._all(pending)
        return Counted(
            {status: int(count) for status, count, _, _ in statuses},
            int(waiting),
            None if oldest is None else int(oldest),
            float(sum(cost or 0.0 for _, _, cost, _ in statuses)),
            int(sum(tokens or 0 for _, _, _, tokens in statuses)),
        )

    async def events_among(self, runs: Sequence[RunId], kinds: Collection[EventType], limit: int) -> list[Event]:
        e = t.events.c
        statement = (
            select(*EVENT)
            .where(e.run_id.in_(runs), e.type.in_([kind.value for kind in kinds]))
            .order_by(e.run_id, e.seq)
            .limit(limit)
        )
        return [as_event(row) for row in await self._all(statement)]
