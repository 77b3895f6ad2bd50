"""The writes of checkpoints of graphs in SQLite. They touch nothing that the writer remembers."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from omium.orchestration.ids import ProjectId, RunId
from omium.orchestration.ports_graphs import GraphRow, GraphWrite
from omium.storage.graphs import COLUMNS, KEPT, GraphReads, as_columns, write_columns

T = TypeVar("T")

# Names of tables and columns come from this package only; values are always bound.
_PUT: Final = f"INSERT OR REPLACE INTO graph_checkpoints VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_WRITE: Final = f"INSERT OR IGNORE INTO graph_writes VALUES ({', '.join('?' * len(KEPT))})"  # noqa: S608
_OVERWRITE: Final = _WRITE.replace("IGNORE", "REPLACE")


class SqliteGraphs(GraphReads):
    """Part of the store."""

    async def job(self, work: Callable[[sqlite3.Connection], T], about: Sequence[RunId] | None = None) -> T:
        raise AssertionError("the store writes")

    async def put_graph(self, row: GraphRow) -> None:
        await self.job(lambda db: db.execute(_PUT, as_columns(row)) and None, ())

    async def put_graph_writes(
        self, project: ProjectId, thread: str, ns: str, checkpoint: str, writes: Sequence[GraphWrite]
    ) -> None:
        rows = [(_OVERWRITE if one.idx < 0 else _WRITE, one) for one in writes]

        def work(db: sqlite3.Connection) -> None:
            for statement, write in rows:
                db.execute(statement, write_columns(project, thread, ns, checkpoint, write))

        await self.job(work, ())

    async def drop_graphs(
        self, project: ProjectId, *, thread: str | None = None, run: str | None = None, ids: Sequence[str] | None = None
    ) -> None:
        def work(db: sqlite3.Connection) -> None:
            if run is None and ids is None:
                assert thread is not None, "a whole project is not dropped"
                for table in ("graph_writes", "graph_checkpoints"):
                    db.execute(f"DELETE FROM {table} WHERE project = ? AND thread = ?", (project, thread))  # noqa: S608
                return
            where = ["project = ?"]
            values: list[Any] = [project]
            for column, wanted in (("thread", thread), ("run", run)):
                if wanted is not None:
                    where.append(f"{column} = ?")
                    values.append(wanted)
            found = db.execute(
                f"SELECT thread, ns, id FROM graph_checkpoints WHERE {' AND '.join(where)}",  # noqa: S608
                values,
            ).fetchall()
            wanted_ids = None if ids is None else set(ids)
            gone = [(project, *row) for row in found if wanted_ids is None or row[2] in wanted_ids]
            _each(db, "DELETE FROM graph_writes WHERE project = ? AND thread = ? AND ns = ? AND checkpoint = ?", gone)
            _each(db, "DELETE FROM graph_checkpoints WHERE project = ? AND thread = ? AND ns = ? AND id = ?", gone)

        await self.job(work, ())

    async def copy_graph(self, project: ProjectId, source: str, target: str) -> None:
        def work(db: sqlite3.Connection) -> None:
            for table, columns in (("graph_checkpoints", COLUMNS), ("graph_writes", KEPT)):
                rest = ", ".join(columns[2:])
                db.execute(
                    f"INSERT OR IGNORE INTO {table} SELECT project, ?, {rest} FROM {table}"  # noqa: S608
                    " WHERE project = ? AND thread = ?",
                    (target, project, source),
                )

        await self.job(work, ())


def _each(db: sqlite3.Connection, statement: str, rows: list[Any]) -> None:
    db.executemany(statement, rows)
