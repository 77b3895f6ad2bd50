"""The store in PostgreSQL: one task that group-commits, reads on a pool beside it, and a session that listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Text, any_, bindparam, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Fence, PlanToken, Principal, ProjectId, RunId, Seq, WorkerId
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.state import to_document
from omium.orchestration.ports import (
    Claimed,
    Clock,
    NewBlob,
    PlanRow,
    RunRow,
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
from omium.storage import schema as t
from omium.storage.blobfiles import BlobFiles
from omium.storage.blobs import Packer
from omium.storage.counting import Counting
from omium.storage.gathered import Gathered
from omium.storage.listening import Changes, Hear, Listeners
from omium.storage.memories import PG_PUT, MemoryReads, as_row
from omium.storage.migrate import migrate_postgres
from omium.storage.postgres.connection import Durability, Link, connect, dsn_of
from omium.storage.postgres.errors import FAILURES, translated
from omium.storage.postgres.graphs import PostgresGraphs
from omium.storage.postgres.outbox import PostgresOutbox
from omium.storage.postgres.tail import Tail
from omium.storage.postgres.writer import Heard, Writer
from omium.storage.project_log import ProjectLog
from omium.storage.reads import KEEP_TASKS_US, Reads, as_run

_READER = {"default_transaction_read_only": "on", "jit": "off"}

_THESE = t.runs.c.id == any_(bindparam("ids", type_=ARRAY(Text)))
_RUNS = select(t.runs).where(_THESE)
_HEADS = select(t.runs.c.id, t.runs.c.seq).where(_THESE)
_REGISTER = (
    "INSERT INTO workers (id, host, boot, pid, start_time, beat, serving) VALUES ($1, $2, $3, $4, $5, $6, $7)"
    " ON CONFLICT (id) DO UPDATE SET host = excluded.host, boot = excluded.boot, pid = excluded.pid,"
    " start_time = excluded.start_time, beat = excluded.beat, serving = excluded.serving"
)
_BEAT = "UPDATE workers SET beat = greatest(beat + 1, $2) WHERE id = $1"
_RETIRE = (  # claims are locked in the order in which the writer locks them
    "WITH held AS (SELECT run_id FROM claims WHERE worker = $1 ORDER BY run_id FOR UPDATE),"
    " freed AS (UPDATE claims c SET worker = NULL, wake_at = $2 FROM held WHERE c.run_id = held.run_id RETURNING 1),"
    " gone AS (DELETE FROM workers WHERE id = $1)"
    " SELECT count(*) FROM freed"
)
_CLAIM = (
    "WITH due AS (SELECT run_id, priority, wake_at FROM claims"
    " WHERE worker IS NULL AND wake_at <= $1 AND project = ANY($2::text[])"
    " ORDER BY priority DESC, wake_at, run_id LIMIT $3 FOR UPDATE SKIP LOCKED),"
    " taken AS (UPDATE claims c SET worker = $4, fence = fence + 1, wake_at = NULL FROM due"
    " WHERE c.run_id = due.run_id RETURNING c.run_id, c.fence)"
    " SELECT run_id, taken.fence FROM taken JOIN due USING (run_id) ORDER BY due.priority DESC, due.wake_at, run_id"
)
_TAKE = (
    "UPDATE claims SET worker = $1, fence = fence + 1, wake_at = NULL WHERE run_id = $2 AND worker IS NULL"
    " RETURNING fence"
)
# The runs are locked first, as by every write: what is appended meanwhile is either seen here, or sees the run without
# an owner and wakes it.
_RELEASE = (
    "WITH head AS MATERIALIZED (SELECT r.id,"  # of an owned run, `wake_at` is what it was called for meanwhile
    " CASE WHEN b.wake_at IS NOT NULL THEN least(b.wake_at, c.wake_at) END AS wake_at,"
    " r.seq = b.seq AND c.worker IS NOT NULL AND c.fence = b.fence AS holds"
    " FROM unnest($1::text[], $2::int8[], $3::int8[], $4::int8[]) AS b (id, fence, seq, wake_at)"
    " JOIN runs r ON r.id = b.id JOIN claims c ON c.run_id = r.id ORDER BY r.id FOR UPDATE OF r, c),"
    " freed AS (UPDATE claims c SET worker = NULL, wake_at = h.wake_at FROM head h WHERE c.run_id = h.id AND h.holds"
    " RETURNING c.run_id)"
    " SELECT run_id FROM freed"
)
_WAKE = (
    "WITH called AS (SELECT run_id FROM claims WHERE run_id = ANY($1::text[])"
    " AND coalesce(wake_at, $2) >= $2 ORDER BY run_id FOR UPDATE)"
    " UPDATE claims c SET wake_at = $2 FROM called WHERE c.run_id = called.run_id"
)
_PUT_PLAN = (
    "WITH expired AS (DELETE FROM plans WHERE expires_at < $8)"
    " INSERT INTO plans (token, caller, run_id, operation, binding, expires_at, document)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7)"
)
_TAKE_PLAN = (
    "DELETE FROM plans WHERE token = $1 AND caller = $2 AND expires_at > $3"
    " RETURNING token, caller, run_id, operation, binding, expires_at, document"
)
_PUT_TASK = (
    "WITH gone AS (DELETE FROM tasks WHERE expires_at < $9)"
    " INSERT INTO tasks (id, project, principal, run_id, created_at, expires_at, version, document)"
    " VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING id"
)
_CHANGE_TASK = "UPDATE tasks SET document = $3, version = version + 1 WHERE id = $1 AND version = $2 RETURNING id"
_SNAPSHOT = "INSERT INTO snapshots (run_id, seq, document) VALUES ($1, $2, $3) ON CONFLICT (run_id, seq) DO NOTHING"


def _plan(row: Sequence[Any]) -> PlanRow:
    token, caller, run_id, operation, binding, expires_at, document = row
    return PlanRow(token, caller, run_id, operation, binding, expires_at, orjson.loads(document))


def _nothing(rows: Sequence[Any]) -> None:
    """The shape of a statement without a result."""


class PostgresStore(ProjectLog, Reads, PostgresOutbox, PostgresGraphs, Counting, MemoryReads):
    """See `orchestration.ports.Store`. Open it with `await PostgresStore.open(url)`."""

    def __init__(
        self, dsn: str, engine: AsyncEngine, files: BlobFiles | None, clock: Clock, chain: Chain, durability: Durability
    ) -> None:
        super().__init__(lambda: engine, Packer(files))
        self.dsn = dsn
        self.files = files
        self.chain = chain
        self.clock = clock
        self._listeners = Listeners()
        self._rows = Gathered(self._runs_of)
        self._tail = Tail(dsn)
        self._writer = Writer(Link(dsn, durability), clock=clock, chain=chain, packer=Packer(files), hear=self._hear)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        clock: Clock | None = None,
        chain_key: bytes | None = None,
        durability: Durability = "full",
        files_root: Path | None = None,
    ) -> PostgresStore:
        """Open the database `url` (`postgresql://user:password@host:port/name?sslmode=...`), creating or migrating its
        tables. `files_root`: a directory for large blobs, the same one for all processes that use the database; without
        it they go into the database. Raises `storage_unavailable`."""
        dsn = dsn_of(url)

        async def reader() -> Any:
            try:
                return await connect(dsn, "omium-reader", _READER)
            except FAILURES as error:
                raise translated(error) from error

        await migrate_postgres(dsn)
        # In autocommit, because every read is one statement: no BEGIN and no ROLLBACK go around it.
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=reader, pool_size=4, max_overflow=4, isolation_level="AUTOCOMMIT"
        )
        files = BlobFiles(files_root) if files_root is not None else None
        store = cls(dsn, engine, files, clock or SystemClock(), Chain(chain_key), durability)
        await store._writer.open()
        store._tail.open()
        return store

    async def close(self) -> None:
        await self._writer.close()
        await self._tail.close()
        await self._rows.close()
        await self._dispose()

    async def run(self, run_id: RunId) -> RunRow | None:
        return await self._rows.get(run_id)

    async def heads(self, run_ids: Sequence[RunId]) -> dict[RunId, Seq]:
        rows = await self._all(_HEADS, {"ids": list(run_ids)})
        return {RunId(row[0]): Seq(row[1]) for row in rows}

    async def _runs_of(self, run_ids: Sequence[RunId]) -> dict[RunId, RunRow]:
        if len(run_ids) == 1:
            row = await super().run(run_ids[0])
            return {} if row is None else {row.id: row}
        rows = [as_run(found) for found in await self._all(_RUNS, {"ids": list(run_ids)})]
        return {row.id: row for row in rows}

    # --- writing ------------------------------------------------------------------------------------------------

    async def forget(self) -> None:
        """Read again what was read so far: maintenance has changed what was committed before."""
        async with self._unpacking:
            self._packer.forget()

    async def write(self, write: Write) -> Written:
        return await self._writer.submit(write)

    def _hear(self, heard: Sequence[Heard]) -> None:
        self._listeners.tell(heard)
        self._tail.committed()

    def listen(self, hear: Hear, run_id: RunId | None = None) -> Callable[[], None]:
        return self._listeners.add(hear, run_id)

    def on_change(self, call: Callable[[], None], *, own: bool = True) -> Callable[[], None]:
        return self._tail.callers.add(call, own)

    def changes(self, *, own: bool = True) -> Subscription:
        return Changes(self._tail.callers, own)

    async def put(self, blobs: Sequence[NewBlob]) -> None:
        if blobs:
            await self._writer.put(blobs)

    async def snapshot(self, run_id: RunId) -> None:
        state = await self.state(run_id)
        await self._writer.job(_SNAPSHOT, (run_id, state.seq, orjson.dumps(to_document(state))), _nothing, quiet=True)

    # --- claims -------------------------------------------------------------------------------------------------

    async def register(self, worker: WorkerRow) -> None:
        row = (
            worker.id, worker.host, worker.boot, worker.pid, worker.start_time, max(worker.beat, self.clock.now_us()),
            orjson.dumps(list(worker.serving)),
        )  # fmt: skip
        await self._writer.job(_REGISTER, row, _nothing)

    async def beat(self, worker: WorkerId) -> None:
        await self._writer.job(_BEAT, (worker, self.clock.now_us()), _nothing, quiet=True)

    async def retire(self, worker: WorkerId) -> int:
        now = self.clock.now_us()
        await self._writer.job(counted.PG_SETTLE_ALL_OF, (worker, now), _nothing, quiet=True)
        return await self._writer.job(_RETIRE, (worker, now), lambda rows: int(rows[0][0]))

    async def claim(self, worker: WorkerId, projects: Sequence[ProjectId], limit: int, now_us: int) -> list[Claimed]:
        return await self._writer.job(
            _CLAIM,
            (now_us, list(projects), limit, worker),
            lambda rows: [Claimed(RunId(row[0]), Fence(row[1])) for row in rows],
        )

    async def take(self, worker: WorkerId, run_id: RunId) -> Fence | None:
        return await self._writer.job(_TAKE, (worker, run_id), lambda rows: Fence(rows[0][0]) if rows else None)

    async def release(self, run_id: RunId, fence: Fence, seq: Seq, wake_at: int | None) -> bool:
        return await self._writer.job(_RELEASE, (run_id, fence, seq, wake_at), bool, together=True)

    async def wake(self, run_ids: Sequence[RunId], at_us: int) -> None:
        await self._writer.job(_WAKE, (list(run_ids), at_us), _nothing)

    # --- tasks --------------------------------------------------------------------------------------------------

    async def put_task(self, task: TaskRow) -> None:
        row = (*astuple(task)[:-1], orjson.dumps(task.document), self.clock.now_us() - KEEP_TASKS_US)
        if not await self._writer.job(_PUT_TASK, row, bool, quiet=True):
            raise OmiumError("conflict", f"there is a task {task.id}.")

    async def change_task(self, task_id: str, version: int, document: Mapping[str, Any]) -> bool:
        return await self._writer.job(_CHANGE_TASK, (task_id, version, orjson.dumps(document)), bool)

    async def put_memory(self, row: MemoryRow, most: int) -> bool:
        return await self._writer.job(PG_PUT, (*as_row(row), most), bool, quiet=True)

    # --- budgets and leases -------------------------------------------------------------------------------------

    async def hold(
        self, hold: str, project: ProjectId, worker: WorkerId, counters: Sequence[Counter], amounts: Amounts
    ) -> list[str]:
        now = self.clock.now_us()
        names = [one.name for one in counters]
        limits = [[getattr(one, unit) for one in counters] for unit in counted.UNITS]
        begun = await self._writer.job(
            counted.PG_ENSURE, (project, names, now), lambda rows: [str(new[0]) for new in rows], quiet=True
        )
        if any(name.startswith(counted.RATE) for name in begun):
            gone = (project, now - counted.FORGOTTEN_AFTER_US)
            await self._writer.job(counted.PG_FORGET, gone, _nothing, quiet=True)
        row = (project, hold, names, *limits, amounts.usd, amounts.tokens, amounts.calls, worker, now)
        return await self._writer.job(counted.PG_HOLD, row, lambda rows: [str(found[0]) for found in rows], quiet=True)

    async def settle_hold(self, hold: str, amounts: Amounts) -> None:
        row = (hold, amounts.usd, amounts.tokens, amounts.calls, self.clock.now_us())
        await self._writer.job(counted.PG_SETTLE, row, _nothing, quiet=True)

    async def lease(self, name: str, worker: WorkerId, holder: str) -> str | None:
        row = (name, worker, holder, self.clock.now_us())
        if await self._writer.job(counted.PG_LEASE, row, bool, quiet=True):
            return None
        return await self._writer.job(
            counted.PG_HOLDER, (name,), lambda rows: str(rows[0][0]) if rows else "", quiet=True
        )

    async def unlease(self, name: str, worker: WorkerId, holder: str) -> None:
        await self._writer.job(counted.PG_UNLEASE, (name, worker, holder), _nothing, quiet=True)

    # --- plans --------------------------------------------------------------------------------------------------

    async def put_plan(self, plan: PlanRow) -> None:
        row = (
            plan.token, plan.caller, plan.run_id, plan.operation, plan.binding, plan.expires_at,
            orjson.dumps(plan.document), self.clock.now_us(),
        )  # fmt: skip
        await self._writer.job(_PUT_PLAN, row, _nothing, quiet=True)

    async def take_plan(self, token: PlanToken, caller: Principal, now_us: int) -> PlanRow | None:
        return await self._writer.job(
            _TAKE_PLAN,
            (token, caller, now_us),
            lambda rows: _plan(rows[0]) if rows else None,
            quiet=True,
        )
