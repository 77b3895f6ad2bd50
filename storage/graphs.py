"""Checkpoints of graphs: the tables' columns and the reads, for both databases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Select, select, tuple_

from omium.orchestration.ids import ProjectId
from omium.orchestration.ports_graphs import GraphQuery, GraphRow, GraphWrite, Packed
from omium.storage import schema as t

_AT_ONCE: Final = 200

COLUMNS: Final = tuple(column.name for column in t.graph_checkpoints.c)
KEPT: Final = tuple(column.name for column in t.graph_writes.c)


def as_columns(row: GraphRow) -> tuple[Any, ...]:
    """In the order of the table."""
    return (row.project, row.thread, row.ns, row.id, row.parent, row.run, *row.document, *row.metadata, row.at)


def write_columns(project: ProjectId, thread: str, ns: str, checkpoint: str, write: GraphWrite) -> tuple[Any, ...]:
    """In the order of the table."""
    return (project, thread, ns, checkpoint, write.task, write.idx, write.path, write.channel, *write.value)


class GraphReads:
    """Part of a store."""

    async def _all(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        raise AssertionError("the store reads")

    async def graphs(self, query: GraphQuery, limit: int) -> list[GraphRow]:
        c = t.graph_checkpoints.c
        statement = select(t.graph_checkpoints).where(c.project == query.project)
        for column, wanted in ((c.thread, query.thread), (c.ns, query.ns), (c.id, query.id)):
            if wanted is not None:
                statement = statement.where(column == wanted)
        if query.before is not None:
            statement = statement.where(c.id < query.before)
        if query.after is not None:
            statement = statement.where(tuple_(c.id, c.thread, c.ns) < query.after)
        statement = statement.order_by(c.id.desc(), c.thread.desc(), c.ns.desc()).limit(limit)
        return [_row(row) for row in await self._all(statement)]

    async def graph_writes(
        self, project: ProjectId, thread: str, ns: str, checkpoints: Sequence[str]
    ) -> dict[str, list[GraphWrite]]:
        c = t.graph_writes.c
        found: dict[str, list[GraphWrite]] = {}
        for start in range(0, len(checkpoints), _AT_ONCE):
            some = checkpoints[start : start + _AT_ONCE]
            statement = select(t.graph_writes).where(c.project == project, c.thread == thread, c.ns == ns)
            for row in await self._all(statement.where(c.checkpoint.in_(some))):
                found.setdefault(row.checkpoint, []).append(
                    GraphWrite(row.task, row.idx, row.path, row.channel, Packed(row.kind, bytes(row.value)))
                )
        for writes in found.values():  # here, since databases order text in their own ways
            writes.sort(key=lambda write: (write.path, write.task, write.idx))
        return found


def _row(row: Any) -> GraphRow:
    return GraphRow(
        ProjectId(row.project),
        row.thread,
        row.ns,
        row.id,
        row.parent,
        row.run,
        Packed(row.kind, bytes(row.document)),
        Packed(row.metadata_kind, bytes(row.about)),
        row.at,
    )
