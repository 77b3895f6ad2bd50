"""The writes of checkpoints of graphs in PostgreSQL: a statement each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from omium.orchestration.ids import ProjectId
from omium.orchestration.ports_graphs import GraphRow, GraphWrite
from omium.storage.graphs import COLUMNS, KEPT, GraphReads, as_columns, write_columns
from omium.storage.postgres.writer import Writer

# Names of tables and columns come from this package only; values are always bound.
_PUT: Final = (
    f"INSERT INTO graph_checkpoints ({', '.join(COLUMNS)})"  # noqa: S608
    f" VALUES ({', '.join(f'${place + 1}' for place in range(len(COLUMNS)))})"
    " ON CONFLICT (project, thread, ns, id) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[4:])
)
_WRITE: Final = (
    f"INSERT INTO graph_writes ({', '.join(KEPT)}) SELECT * FROM unnest($1::text[], $2::text[], $3::text[],"  # noqa: S608
    " $4::text[], $5::text[], $6::int8[], $7::text[], $8::text[], $9::text[], $10::bytea[])"
    " ON CONFLICT (project, thread, ns, checkpoint, task, idx) "
)
_IGNORE: Final = f"{_WRITE} DO NOTHING"
_REPLACE: Final = f"{_WRITE} DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in KEPT[6:])}"
_DROP_THREAD: Final = (
    "WITH writes AS (DELETE FROM graph_writes WHERE project = $1 AND thread = $2)"
    " DELETE FROM graph_checkpoints WHERE project = $1 AND thread = $2"
)
_DROP: Final = (
    "WITH gone AS (DELETE FROM graph_checkpoints WHERE project = $1 AND ($2::text IS NULL OR thread = $2)"
    " AND ($3::text IS NULL OR run = $3) AND ($4::text[] IS NULL OR id = ANY($4::text[])) RETURNING thread, ns, id)"
    " DELETE FROM graph_writes w USING gone"
    " WHERE w.project = $1 AND w.thread = gone.thread AND w.ns = gone.ns AND w.checkpoint = gone.id"
)


def _copied(table: str, columns: Sequence[str]) -> str:
    rest = ", ".join(columns[2:])
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT project, $3, {rest} FROM {table}"  # noqa: S608
        " WHERE project = $1 AND thread = $2 ON CONFLICT DO NOTHING"
    )


_COPY: Final = f"WITH copied AS ({_copied('graph_checkpoints', COLUMNS)}) {_copied('graph_writes', KEPT)}"


class PostgresGraphs(GraphReads):
    """Part of the store."""

    _writer: Writer

    async def put_graph(self, row: GraphRow) -> None:
        await self._writer.job(_PUT, as_columns(row), _nothing, quiet=True)

    async def put_graph_writes(
        self, project: ProjectId, thread: str, ns: str, checkpoint: str, writes: Sequence[GraphWrite]
    ) -> None:
        # No statement may write one row twice, so what replaces and is there twice is said once.
        replacing = {(one.task, one.idx): one for one in writes if one.idx < 0}
        for statement, some in ((_REPLACE, list(replacing.values())), (_IGNORE, [w for w in writes if w.idx >= 0])):
            if some:
                rows = [write_columns(project, thread, ns, checkpoint, write) for write in some]
                columns: list[Any] = [[row[place] for row in rows] for place in range(len(KEPT))]
                await self._writer.job(statement, columns, _nothing, quiet=True)

    async def drop_graphs(
        self, project: ProjectId, *, thread: str | None = None, run: str | None = None, ids: Sequence[str] | None = None
    ) -> None:
        if run is None and ids is None:
            assert thread is not None, "a whole project is not dropped"
            await self._writer.job(_DROP_THREAD, (project, thread), _nothing, quiet=True)
            return
        row = (project, thread, run, None if ids is None else list(ids))
        await self._writer.job(_DROP, row, _nothing, quiet=True)

    async def copy_graph(self, project: ProjectId, source: str, target: str) -> None:
        await self._writer.job(_COPY, (project, source, target), _nothing, quiet=True)


def _nothing(rows: Sequence[Any]) -> None:
    """The shape of a statement without a result."""
