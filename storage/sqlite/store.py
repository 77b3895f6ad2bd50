"""The store in one SQLite file: a group-committing writer thread, and reads beside it (WAL)."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import anyio
import orjson
from sqlalchemy import Select

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Fence, PlanToken, Principal, ProjectId, RunId, Seq, WorkerId
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.load import load
from omium.orchestration.log.state import to_document
from omium.orchestration.ports import (
    Claimed,
    Clock,
    NewBlob,
    PlanRow,
    Subscription,
    SystemClock,
    TaskRow,
    WorkerRow,
    Write,
    Written,
)
from omium.orchestration.ports_gates import Amounts, Counter
from omium.orchestration.ports_memory import MemoryRow
from omium.storage import budgets as counted
from omium.storage.batch import Rows, drive
from omium.storage.blobfiles import BlobFiles
from omium.storage.blobs import Packer
from omium.storage.counting import Counting
from omium.storage.listening import Changes, Hear, Listeners
from omium.storage.memories import SQLITE_PUT, MemoryReads, as_row
from omium.storage.migrate import migrate_sqlite
from omium.storage.project_log import ProjectLog
from omium.storage.reads import KEEP_TASKS_US, Reads
from omium.storage.sqlite import statements as sql
from omium.storage.sqlite.errors import translated
from omium.storage.sqlite.graphs import SqliteGraphs
from omium.storage.sqlite.outbox import SqliteOutbox
from omium.storage.sqlite.reader import Reader
from omium.storage.sqlite.tail import Tail
from omium.storage.sqlite.writer import Heard, Writer

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")


class SqliteStore(ProjectLog, Reads, SqliteOutbox, SqliteGraphs, Counting, MemoryReads):
    """See `orchestration.ports.Store`. Open it with `await SqliteStore.open(path)`."""

    def __init__(self, path: Path, files: BlobFiles, clock: Clock, chain: Chain, durability: str):
        super().__init__(lambda: _engine(path), Packer(files))
        self.path = path
        self.files = files
        self.chain = chain
        self.clock = clock
        self._listeners = Listeners()
        self._reader = Reader(path)
        self._writing = Packer(files)
        self._writer = Writer(
            path,
            synchronous="FULL" if durability == "full" else "NORMAL",
            clock=clock,
            chain=chain,
            packer=self._writing,
            hear=self._hear,
        )
        self._tail = Tail(path, known=lambda: self._writer.foreign, count=self._foreign)

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock | None = None,
        chain_key: bytes | None = None,
        durability: str = "full",
        files_root: Path | None = None,
    ) -> SqliteStore:
        """Open or create the database, migrating it if it is older. `files_root`: the directory of large blobs, `blobs`
        beside the database unless given. Raises `storage_unavailable`."""
        try:
            _make(path)
        except OSError as error:
            raise translated(error, path) from error
        try:
            await anyio.to_thread.run_sync(migrate_sqlite, path)
        except (sqlite3.Error, OSError) as error:
            raise translated(error, path) from error
        files = BlobFiles(files_root or path.parent / "blobs")
        store = cls(path, files, clock or SystemClock(), Chain(chain_key), durability)
        await store._writer.open()
        return store

    async def close(self) -> None:
        await self._tail.close()
        await self._writer.close()
        await self._reader.close()
        await self._dispose()

    async def _fetch(self, statement: Select[Any], **values: Any) -> Sequence[Any]:
        self._writer.standing.refuse()
        return await self._reader.fetch(statement, values)

    async def _all(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        self._writer.standing.refuse()
        return await super()._all(statement, values)

    # --- writing ------------------------------------------------------------------------------------------------

    async def write(self, write: Write) -> Written:
        return await self._writer.write(write)

    def _hear(self, heard: list[Heard]) -> None:
        self._listeners.tell(heard)
        self._tail.committed()

    def listen(self, hear: Hear, run_id: RunId | None = None) -> Callable[[], None]:
        return self._listeners.add(hear, run_id)

    async def job(self, work: Callable[[sqlite3.Connection], T], about: Sequence[RunId] | None = None) -> T:
        """Run `work` in the next write transaction; for the parts of this package that maintain the database."""
        return await self._writer.job(work, about)

    async def maintain(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`job` for work that changes what was committed before: afterwards this process remembers none of that."""

        def working(db: sqlite3.Connection) -> T:
            try:
                return work(db)
            finally:
                self._writer.forget()
                self._writing.forget()

        try:
            return await self.job(working)
        finally:
            async with self._unpacking:
                self._packer.forget()

    async def put(self, blobs: Sequence[NewBlob]) -> None:
        def work(db: sqlite3.Connection) -> None:
            packed = self._writing.pack(blobs, lambda digest: sql.blob_row(db, digest))
            rows = self._writer.grounded(db, blobs, packed, ())
            sql.insert(db, Rows(self.clock.now_us()), rows, ())

        await self.job(work)

    async def snapshot(self, run_id: RunId) -> None:
        def work(db: sqlite3.Connection) -> None:
            state = drive(load(run_id), lambda need: self._writer.read(db, need))
            row = (run_id, state.seq, orjson.dumps(to_document(state)))
            sql.insert(db, Rows(self.clock.now_us(), snapshots=[row]), (), ())

        await self.job(work)

    # --- claims -------------------------------------------------------------------------------------------------

    async def register(self, worker: WorkerRow) -> None:
        row = (
            worker.id, worker.host, worker.boot, worker.pid, worker.start_time, max(worker.beat, self.clock.now_us()),
            orjson.dumps(list(worker.serving)),
        )  # fmt: skip
        statement = (
            "INSERT OR REPLACE INTO workers (id, host, boot, pid, start_time, beat, serving)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        await self.job(lambda db: db.execute(statement, row) and None)

    async def beat(self, worker: WorkerId) -> None:
        row = (self.clock.now_us(), worker)
        statement = "UPDATE workers SET beat = max(beat + 1, ?) WHERE id = ?"
        await self.job(lambda db: db.execute(statement, row) and None, ())

    async def retire(self, worker: WorkerId) -> int:
        now = self.clock.now_us()

        def work(db: sqlite3.Connection) -> int:
            freed = db.execute("UPDATE claims SET worker = NULL, wake_at = ? WHERE worker = ?", (now, worker)).rowcount
            db.execute("DELETE FROM workers WHERE id = ?", (worker,))
            counted.settle_all_of(db, worker, now)
            return freed

        return await self.job(work)

    async def claim(self, worker: WorkerId, projects: Sequence[ProjectId], limit: int, now_us: int) -> list[Claimed]:
        marks = ", ".join("?" * len(projects))
        due = (
            f"SELECT run_id, fence FROM claims WHERE worker IS NULL AND wake_at <= ? AND project IN ({marks})"  # noqa: S608
            " ORDER BY priority DESC, wake_at, run_id LIMIT ?"
        )

        def work(db: sqlite3.Connection) -> list[Claimed]:
            rows = db.execute(due, (now_us, *projects, limit)).fetchall()
            db.executemany(
                "UPDATE claims SET worker = ?, fence = fence + 1, wake_at = NULL WHERE run_id = ?",
                [(worker, run_id) for run_id, _ in rows],
            )
            return [Claimed(RunId(run_id), Fence(fence + 1)) for run_id, fence in rows]

        return await self.job(work)

    async def take(self, worker: WorkerId, run_id: RunId) -> Fence | None:
        def work(db: sqlite3.Connection) -> Fence | None:
            row = db.execute(
                "UPDATE claims SET worker = ?, fence = fence + 1, wake_at = NULL WHERE run_id = ? AND worker IS NULL"
                " RETURNING fence",
                (worker, run_id),
            ).fetchone()
            return None if row is None else Fence(row[0])

        return await self.job(work, [run_id])

    async def release(self, run_id: RunId, fence: Fence, seq: Seq, wake_at: int | None) -> bool:
        def work(db: sqlite3.Connection) -> bool:
            # Of an owned run, `wake_at` is what it was called for meanwhile; min() of NULL and anything is NULL.
            freed = db.execute(
                "UPDATE claims SET worker = NULL, wake_at = min(?1, coalesce(wake_at, ?1))"
                " WHERE run_id = ?2 AND fence = ?3 AND worker IS NOT NULL"
                " AND (SELECT seq FROM runs WHERE id = ?2) = ?4",
                (wake_at, run_id, fence, seq),
            )
            return freed.rowcount == 1

        return await self.job(work, [run_id])

    # --- tasks --------------------------------------------------------------------------------------------------

    async def put_task(self, task: TaskRow) -> None:
        row = (*astuple(task)[:-1], orjson.dumps(task.document))
        old = self.clock.now_us() - KEEP_TASKS_US

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM tasks WHERE expires_at < ?", (old,))
            _insert_new(db, "tasks", row, f"there is a task {task.id}.")

        await self.job(work, ())

    async def change_task(self, task_id: str, version: int, document: Mapping[str, Any]) -> bool:
        statement = "UPDATE tasks SET document = ?, version = version + 1 WHERE id = ? AND version = ?"
        row = (orjson.dumps(document), task_id, version)
        return await self.job(lambda db: db.execute(statement, row).rowcount == 1, ())

    async def put_memory(self, row: MemoryRow, most: int) -> bool:
        return await self.job(lambda db: db.execute(SQLITE_PUT, (*as_row(row), most)).rowcount == 1, ())

    # --- budgets and leases -------------------------------------------------------------------------------------

    async def hold(
        self, hold: str, project: ProjectId, worker: WorkerId, counters: Sequence[Counter], amounts: Amounts
    ) -> list[str]:
        now = self.clock.now_us()
        return await self.job(lambda db: counted.hold(db, hold, project, worker, counters, amounts, now), ())

    async def settle_hold(self, hold: str, amounts: Amounts) -> None:
        now = self.clock.now_us()
        await self.job(lambda db: counted.settle(db, hold, amounts, now), ())

    async def lease(self, name: str, worker: WorkerId, holder: str) -> str | None:
        now = self.clock.now_us()
        return await self.job(lambda db: counted.lease(db, name, worker, holder, now), ())

    async def unlease(self, name: str, worker: WorkerId, holder: str) -> None:
        statement = "DELETE FROM leases WHERE name = ? AND worker = ? AND holder = ?"
        await self.job(lambda db: db.execute(statement, (name, worker, holder)) and None, ())

    # --- plans --------------------------------------------------------------------------------------------------

    async def put_plan(self, plan: PlanRow) -> None:
        row = (
            plan.token, plan.caller, plan.run_id, plan.operation, plan.binding, plan.expires_at,
            orjson.dumps(plan.document),
        )  # fmt: skip

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM plans WHERE expires_at < ?", (self.clock.now_us(),))
            db.execute(
                "INSERT INTO plans (token, caller, run_id, operation, binding, expires_at, document)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                row,
            )

        await self.job(work)

    async def take_plan(self, token: PlanToken, caller: Principal, now_us: int) -> PlanRow | None:
        columns = ("token", "caller", "run_id", "operation", "binding", "expires_at")

        def work(db: sqlite3.Connection) -> PlanRow | None:
            row = db.execute(
                "DELETE FROM plans WHERE token = ? AND caller = ? AND expires_at > ?"
                " RETURNING token, caller, run_id, operation, binding, expires_at, document",
                (token, caller, now_us),
            ).fetchone()
            if row is None:
                return None
            *plain, document = row
            return PlanRow(**dict(zip(columns, plain, strict=True)), document=orjson.loads(document))

        return await self.job(work)

    # --- tails --------------------------------------------------------------------------------------------------

    async def wake(self, run_ids: Sequence[RunId], at_us: int) -> None:
        rows = [(at_us, run_id) for run_id in run_ids]
        statement = "UPDATE claims SET wake_at = ?1 WHERE run_id = ?2 AND coalesce(wake_at, ?1) >= ?1"

        def work(db: sqlite3.Connection) -> None:
            db.executemany(statement, rows)

        await self.job(work)

    def on_change(self, call: Callable[[], None], *, own: bool = True) -> Callable[[], None]:
        return self._tail.callers().add(call, own)

    def changes(self, *, own: bool = True) -> Subscription:
        return Changes(self._tail.callers(), own)

    async def _foreign(self) -> int:
        """How often another connection has been seen to commit."""
        return await self.job(lambda _: self._writer.foreign, ())


def _insert_new(db: sqlite3.Connection, table: Literal["tasks", "tokens"], row: Sequence[Any], told: str) -> None:
    marks = ", ".join("?" * len(row))
    if not db.execute(f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT DO NOTHING", row).rowcount:  # noqa: S608
        raise OmiumError("conflict", told)


def _engine(path: Path) -> AsyncEngine:
    """For the reads that are composed as they are asked, such as lists; the frequent ones have the reader."""
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=4, max_overflow=4)

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 5000")
        cursor.execute("PRAGMA query_only = 1")
        cursor.close()

    return engine


def _make(path: Path) -> None:
    """An empty file that only this user may read, in a directory of the same kind, unless they exist."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
