"""Everything that is read from outside a write, for both databases; a store may answer frequent reads its own way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import orjson
from sqlalchemy import BigInteger, ColumnElement, Select, and_, bindparam, func, or_, select
from sqlalchemy.exc import DBAPIError

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, Fence, Principal, ProjectId, RunId, Seq, WorkerId
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.load import NeedEvents, NeedSnapshot, NeedValue, load
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import (
    ApprovalRow,
    Claimed,
    EffectRow,
    LabelRow,
    RunQuery,
    RunRow,
    TaskRow,
    TokenRow,
    WorkerRow,
)
from omium.orchestration.ports_gates import BudgetRow, DecisionRow, PinRow
from omium.orchestration.values import Value, decode
from omium.storage import pins as pinned
from omium.storage import schema as t
from omium.storage.blobs import BlobRow, Packer, damaged
from omium.storage.budgets import BUDGETS, budget_row

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")
_log = logging.getLogger(__name__)

# The ends of things: where going back makes sense. A start or a progress note is no place to return to.
CHECKPOINTS = (
    EventType.RUN_CREATED,
    EventType.NODE_COMPLETED,
    EventType.NODE_REUSED,
    EventType.NODE_SKIPPED,
    EventType.NODE_FAILED,
    EventType.APPROVAL_DECIDED,
    EventType.CHECKPOINT_CREATED,
    EventType.RUN_COMPLETED,
)

EVENT = (
    t.events.c.run_id, t.events.c.seq, t.events.c.type, t.events.c.at, t.events.c.actor, t.events.c.data,
    t.events.c.prev_hash, t.events.c.hash,
)  # fmt: skip
_BLOB = (t.blobs.c.digest, t.blobs.c.size, t.blobs.c.encoding, t.blobs.c.base, t.blobs.c.depth, t.blobs.c.data)
_LATEST = 2**62
_NO_TEXT = ("22021", "22P05")  # SQLSTATE: a character that the database's text cannot hold
_AT_ONCE = 200  # blobs
_LAST_READS_S = 5.0  # how long closing waits for what nobody wants to know any more

# The reads that are asked most, built once; `_fetch` gives their parameters.
_RUN = select(t.runs).where(t.runs.c.id == bindparam("run"))
_EVENTS = (
    select(*EVENT)
    .where(t.events.c.run_id == bindparam("run"), t.events.c.seq > bindparam("after"))
    .where(t.events.c.seq <= bindparam("upto"))
    .order_by(t.events.c.seq)
    .limit(bindparam("most", type_=BigInteger))
)
_SNAPSHOT = (
    select(t.snapshots.c.document)
    .where(t.snapshots.c.run_id == bindparam("run"), t.snapshots.c.seq <= bindparam("upto"))
    .order_by(t.snapshots.c.seq.desc())
    .limit(1)
)
_ASKED = (
    select(t.approvals)
    .where(t.approvals.c.run_id == bindparam("run"), t.approvals.c.status == "pending")
    .order_by(t.approvals.c.requested_at, t.approvals.c.id)
    .limit(bindparam("most", type_=BigInteger))
)
_APPROVAL = select(t.approvals).where(t.approvals.c.id == bindparam("approval"))
_HEAD = select(t.runs.c.seq).where(t.runs.c.id == bindparam("run"))
_CALLED = (
    select(t.runs)
    .where(t.runs.c.caller_run == bindparam("run"))
    .order_by(t.runs.c.id.desc())
    .limit(bindparam("most", type_=BigInteger))
)
_EFFECTS = select(t.effects).where(t.effects.c.run_id == bindparam("run"))
_LABELS = select(t.labels).where(t.labels.c.run_id == bindparam("run")).order_by(t.labels.c.seq)
_KEY = select(t.keys.c.arguments, t.keys.c.result).where(
    t.keys.c.scope == bindparam("in_scope"), t.keys.c.key == bindparam("named")
)
_FREE = (t.claims.c.worker.is_(None), t.claims.c.wake_at.is_not(None), t.claims.c.project == bindparam("of"))
_NEXT_WAKE = select(func.min(t.claims.c.wake_at)).where(*_FREE)
_OWNED = select(t.claims.c.run_id, t.claims.c.fence).where(t.claims.c.worker == bindparam("of"))
_QUEUED = select(func.count()).select_from(t.claims).where(*_FREE, t.claims.c.wake_at <= bindparam("now"))

KEEP_TASKS_US = 86_400_000_000  # tasks that expired so long ago are deleted
_TASK = select(t.tasks).where(t.tasks.c.id == bindparam("task"))
_TOKEN = select(t.tokens).where(t.tokens.c.digest == bindparam("of"))

_TASK_NAMES = tuple(column.name for column in t.tasks.c)
_TOKEN_NAMES = tuple(column.name for column in t.tokens.c)
_RUN_NAMES = tuple(column.name for column in t.runs.c)
_APPROVAL_NAMES = tuple(column.name for column in t.approvals.c)
_EFFECT_NAMES = tuple(column.name for column in t.effects.c)
_LABEL_NAMES = tuple(column.name for column in t.labels.c)
_THREAD_FROM = 256 * 1024  # bytes of a value that is unpacked in a thread rather than in the event loop


def as_event(row: Sequence[Any]) -> Event:
    """The event of a row. Raises `integrity` for one that is damaged so that it cannot be read at all; whether it is
    what was written, only its chain can tell."""
    run_id, seq, kind, at, actor, data, prev_hash, digest = row
    try:
        type_, read = EventType(kind), orjson.loads(data)
    except ValueError as error:
        raise OmiumError(
            "integrity",
            f"event {seq} of run {run_id} is damaged: {error}.",
            "Run `omium verify`, then restore the last backup.",
            run=run_id,
            seq=seq,
        ) from error
    return Event(
        RunId(run_id), Seq(seq), type_, at, Principal(actor), read, bytes(prev_hash), bytes(digest)
    )  # fmt: skip


def as_document(raw: bytes) -> dict[str, Any] | None:
    """A stored snapshot; None for a damaged one, which is as good as none."""
    try:
        document: dict[str, Any] = orjson.loads(raw)
    except ValueError:
        _log.warning("a snapshot is damaged and is not used")
        return None
    return document


def _json(raw: bytes | None) -> Any:
    """Raises `integrity` for a column that holds no JSON any more."""
    try:
        return None if raw is None else orjson.loads(raw)
    except ValueError as error:
        raise OmiumError(
            "integrity",
            f"a row of the database is damaged: {error}.",
            "Run `omium verify`, then restore the last backup.",
        ) from error


def as_run(row: Sequence[Any]) -> RunRow:
    values = dict(zip(_RUN_NAMES, row, strict=True))
    values["error"] = _json(values["error"])
    values["head"] = bytes(values["head"])
    return RunRow(**values)


def _approval(row: Sequence[Any]) -> ApprovalRow:
    values = dict(zip(_APPROVAL_NAMES, row, strict=True))
    values["options"], values["details"] = _json(values["options"]), _json(values["details"])
    values["consumed"] = bool(values["consumed"])
    return ApprovalRow(**values)


def _effect(row: Sequence[Any]) -> EffectRow:
    values = dict(zip(_EFFECT_NAMES, row, strict=True))
    values["error"], values["detail"] = _json(values["error"]), _json(values["detail"])
    return EffectRow(**values)


def _task(row: Sequence[Any]) -> TaskRow:
    values = dict(zip(_TASK_NAMES, row, strict=True))
    return TaskRow(**{**values, "document": _json(values["document"])})


def _token(row: Sequence[Any]) -> TokenRow:
    return TokenRow(**dict(zip(_TOKEN_NAMES, row, strict=True)))


def _like(text: str) -> str:
    """A pattern that finds `text` literally."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


class Reads:
    """Reads for one database. `make_engine` is called when a read first needs it: that takes long to load. `packer` is
    this object's own: it is used by one task at a time."""

    def __init__(self, make_engine: Callable[[], AsyncEngine], packer: Packer) -> None:
        self._make_engine = make_engine
        self._engine: AsyncEngine | None = None
        self._packer = packer
        self._unpacking = anyio.Lock()
        self._reading: set[asyncio.Task[Sequence[Any]]] = set()

    async def _fetch(self, statement: Select[Any], **values: Any) -> Sequence[Any]:
        """The rows of one of the statements above, as tuples."""
        return await self._all(statement, values)

    async def _all(self, statement: Select[Any], values: Mapping[str, Any] | None = None) -> Sequence[Any]:
        try:
            return await self._once(statement, values)
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise unavailable(error) from error
        try:  # the server was restarted since: the pool has thrown its old connections away
            return await self._once(statement, values)
        except DBAPIError as error:
            raise unavailable(error) from error

    async def _once(self, statement: Select[Any], values: Mapping[str, Any] | None) -> Sequence[Any]:
        """In a task of its own, which whoever asked may leave. A read that is cancelled in the middle would give its
        connection back in a task that nobody waits for, and that may outlive the event loop."""
        task = asyncio.create_task(self._read(statement, values), name="omium-read")
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)
        return await asyncio.shield(task)

    async def _read(self, statement: Select[Any], values: Mapping[str, Any] | None) -> Sequence[Any]:
        if self._engine is None:
            self._engine = self._make_engine()
        async with self._engine.connect() as connection:
            rows: Sequence[Any] = (await connection.execute(statement, values)).all()
            return rows

    async def _dispose(self) -> None:
        if self._reading:
            await asyncio.wait(self._reading, timeout=_LAST_READS_S)
        for task in self._reading:
            task.cancel()  # a database that does not answer
        if self._engine is not None:
            await self._engine.dispose()

    # --- the log ------------------------------------------------------------------------------------------------

    async def state(self, run_id: RunId, upto: Seq | None = None) -> RunState:
        state = await self._drive(load(run_id, upto))
        if state.seq == 0:
            raise OmiumError("not_found", f"there is no run {run_id}.", "List the runs to see their ids.")
        return state

    async def _drive(self, loading: Generator[Any, Any, T]) -> T:
        try:
            need = next(loading)
            while True:
                need = loading.send(await self._answer(need))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _answer(self, need: NeedSnapshot | NeedEvents | NeedValue) -> Any:
        if isinstance(need, NeedValue):
            return await self.value(need.digest)
        upto = need.upto if need.upto is not None else _LATEST
        if isinstance(need, NeedSnapshot):
            rows = await self._fetch(_SNAPSHOT, run=need.run_id, upto=upto)
            return as_document(rows[0][0]) if rows else None
        return await self._events(need.run_id, need.after, upto, _LATEST)

    async def _events(self, run_id: RunId, after: int, upto: int, limit: int) -> list[Event]:
        rows = await self._fetch(_EVENTS, run=run_id, after=after, upto=upto, most=limit)
        return [as_event(row) for row in rows]

    async def events(self, run_id: RunId, after: Seq = Seq(0), limit: int = 1000) -> list[Event]:
        return await self._events(run_id, after, _LATEST, limit)

    async def checkpoints(self, run_id: RunId, before: Seq | None = None, limit: int = 50) -> list[Event]:
        e = t.events.c
        statement = (
            select(*EVENT)
            .where(e.run_id == run_id, e.seq < (before if before is not None else _LATEST))
            .where(e.type.in_([kind.value for kind in CHECKPOINTS]))
            .order_by(e.seq.desc())
            .limit(limit)
        )
        return [as_event(row) for row in await self._all(statement)]

    async def heads(self, run_ids: Sequence[RunId]) -> dict[RunId, Seq]:
        if len(run_ids) == 1:
            rows = await self._fetch(_HEAD, run=run_ids[0])
            return {run_ids[0]: Seq(rows[0][0])} if rows else {}
        found: dict[RunId, Seq] = {}
        for start in range(0, len(run_ids), 500):
            part = run_ids[start : start + 500]
            rows = await self._all(select(t.runs.c.id, t.runs.c.seq).where(t.runs.c.id.in_(part)))
            found |= {RunId(row[0]): Seq(row[1]) for row in rows}
        return found

    # --- projections --------------------------------------------------------------------------------------------

    async def run(self, run_id: RunId) -> RunRow | None:
        rows = await self._fetch(_RUN, run=run_id)
        return as_run(rows[0]) if rows else None

    async def runs(self, query: RunQuery) -> list[RunRow]:
        if query.caller is not None and query == RunQuery(caller=query.caller, limit=query.limit):
            return [as_run(row) for row in await self._fetch(_CALLED, run=query.caller, most=query.limit)]
        return [as_run(row) for row in await self._all(runs_statement(query))]

    async def started_by(self, run_ids: Sequence[RunId]) -> dict[RunId, int]:
        caller = t.runs.c.caller_run
        statement = select(caller, func.count()).where(caller.in_(run_ids)).group_by(caller)
        return {RunId(run): int(count) for run, count in (await self._all(statement) if run_ids else ())}

    async def approvals(
        self,
        *,
        projects: Sequence[ProjectId] | None = None,
        owner: str | None = None,
        run_id: RunId | None = None,
        pending: bool = True,
        limit: int = 200,
    ) -> list[ApprovalRow]:
        if run_id is not None and pending and projects is None and owner is None:
            return [_approval(row) for row in await self._fetch(_ASKED, run=run_id, most=limit)]
        a = t.approvals.c
        statement = select(t.approvals).order_by(a.requested_at, a.id).limit(limit)
        if pending:
            statement = statement.where(a.status == "pending")
        if run_id is not None:
            statement = statement.where(a.run_id == run_id)
        if projects is not None or owner is not None:
            statement = statement.join(t.runs, t.runs.c.id == a.run_id)
        if projects is not None:
            statement = statement.where(t.runs.c.project.in_(projects))
        if owner is not None:
            statement = statement.where(t.runs.c.owner == owner)
        return [_approval(row) for row in await self._all(statement)]

    async def approval(self, approval_id: ApprovalId) -> ApprovalRow | None:
        rows = await self._fetch(_APPROVAL, approval=approval_id)
        return _approval(rows[0]) if rows else None

    async def effects(self, run_id: RunId) -> list[EffectRow]:
        found = await self._fetch(_EFFECTS, run=run_id)
        if not found:
            return []
        # In the order of the intents: that of the events, which the ledger's rows do not repeat.
        intents = await self._all(
            select(t.events.c.data)
            .where(t.events.c.run_id == run_id, t.events.c.type == EventType.EFFECT_INTENDED.value)
            .order_by(t.events.c.seq)
        )
        order = {orjson.loads(row[0])["effect"]: place for place, row in enumerate(intents)}
        rows = [_effect(row) for row in found]
        return sorted(rows, key=lambda row: order.get(row.id, len(order)))

    async def labels(self, run_id: RunId) -> list[LabelRow]:
        rows = await self._fetch(_LABELS, run=run_id)
        return [LabelRow(**dict(zip(_LABEL_NAMES, row, strict=True))) for row in rows]

    async def decisions(
        self,
        *,
        projects: Sequence[ProjectId] | None = None,
        owner: str | None = None,
        run_id: RunId | None = None,
        effects: Sequence[str] = (),
        limit: int = 200,
    ) -> list[DecisionRow]:
        d = t.decisions.c
        statement = select(t.decisions).order_by(d.at.desc(), d.run_id, d.seq.desc()).limit(limit)
        if run_id is not None:
            statement = statement.where(d.run_id == run_id)
        if effects:
            statement = statement.where(d.effect.in_(effects))
        if projects is not None or owner is not None:
            statement = statement.join(t.runs, t.runs.c.id == d.run_id)
        if projects is not None:
            statement = statement.where(t.runs.c.project.in_(projects))
        if owner is not None:
            statement = statement.where(t.runs.c.owner == owner)
        return [DecisionRow(*row) for row in await self._all(statement)]

    async def budgets(self, project: ProjectId, names: Sequence[str] | None = None) -> list[BudgetRow]:
        wanted = select(*(t.budgets.c[name] for name in BUDGETS)).where(t.budgets.c.project == project)
        if names is not None:
            wanted = wanted.where(t.budgets.c.name.in_(names))
        return [budget_row(row) for row in await self._all(wanted.order_by(t.budgets.c.name))]

    # --- tasks and tokens ---------------------------------------------------------------------------------------

    async def task(self, task_id: str) -> TaskRow | None:
        rows = await self._fetch(_TASK, task=task_id)
        return _task(rows[0]) if rows else None

    async def token(self, digest: str) -> TokenRow | None:
        rows = await self._fetch(_TOKEN, of=digest)
        return _token(rows[0]) if rows else None

    async def tokens(self, project: ProjectId) -> list[TokenRow]:
        c = t.tokens.c
        found = await self._all(select(t.tokens).where(c.project == project).order_by(c.created_at, c.id))
        return [_token(row) for row in found]

    async def pins(self, project: ProjectId, server: str | None = None) -> list[PinRow]:
        return [pinned.pin_row(row) for row in await self._all(pinned.chosen(project, server))]

    # --- values -------------------------------------------------------------------------------------------------

    async def value(self, digest: Digest) -> Value:
        return decode(await self.blob(digest))

    async def values(self, digests: Sequence[Digest]) -> dict[Digest, Value]:
        found: dict[Digest, Value] = {}
        wanted = list(dict.fromkeys(digests))
        for start in range(0, len(wanted), _AT_ONCE):
            part = wanted[start : start + _AT_ONCE]
            rows = await self._blob_rows(part)
            found |= {digest: decode(await self._unpacked(digest, rows)) for digest in part}
        return found

    async def blob(self, digest: Digest) -> bytes:
        """The verified canonical bytes. Raises `not_found`, or `integrity` after quarantining what is damaged."""
        rows = [blob_row(row) for row in await self._fetch(_ONE_BLOB, digest=digest)]
        return await self._unpacked(digest, {row.digest: row for row in rows})

    async def _quarantined(self, error: OmiumError) -> OmiumError:
        """The error that says which runs need the damaged blob, which nobody reads again unless a new copy heals it."""
        from omium.storage.maintenance import keeper, quarantine, runs_needing

        try:
            digest, maintained = Digest(error.data["digest"]), keeper(self)
            await quarantine(maintained, digest)
            runs = await maintained.read(lambda tables: runs_needing(tables, digest))
        except OmiumError as refusal:  # a database that cannot be written: the damage is what the caller must hear of
            _log.warning("a damaged blob could not be quarantined: %s", refusal)
            return error
        return OmiumError(error.code, error.message, error.hint, digest=digest, runs=runs)

    async def _blob_rows(self, digests: Sequence[Digest]) -> dict[Digest, BlobRow]:
        """The rows of these blobs, and of all that they are patches upon."""
        rows = [blob_row(row) for row in await self._all(_with_bases(t.blobs.c.digest.in_(digests)))]
        return {row.digest: row for row in rows}

    async def _unpacked(self, digest: Digest, rows: Mapping[Digest, BlobRow]) -> bytes:
        row = rows.get(digest)
        if row is None:  # it may still be at hand, but it was erased
            raise OmiumError("not_found", f"blob {digest} is not stored; it may have been erased.", digest=digest)
        try:
            if row.encoding == "bad":
                raise damaged(digest, "it is quarantined")
            async with self._unpacking:
                if any(row.encoding == "file" or row.size > _THREAD_FROM for row in rows.values()):
                    return await anyio.to_thread.run_sync(self._packer.unpack, digest, rows.get)
                return self._packer.unpack(digest, rows.get)
        except OmiumError as error:
            if error.code != "integrity":
                raise
            raise await self._quarantined(error) from error

    # --- plain tables -------------------------------------------------------------------------------------------

    async def recall(self, scope: str, key: str) -> tuple[Digest, Any] | None:
        rows = await self._fetch(_KEY, in_scope=scope, named=key)
        return (Digest(rows[0][0]), orjson.loads(rows[0][1])) if rows else None

    async def workers(self) -> list[WorkerRow]:
        rows = await self._all(select(t.workers))
        return [
            WorkerRow(
                WorkerId(row.id), row.host, row.boot, row.pid, row.start_time, row.beat, orjson.loads(row.serving)
            )
            for row in rows
        ]

    async def claimed_by(self, worker: WorkerId) -> list[Claimed]:
        return [Claimed(RunId(row[0]), Fence(row[1])) for row in await self._fetch(_OWNED, of=worker)]

    async def queued(self, projects: Sequence[ProjectId], now_us: int) -> int:
        return sum([int((await self._fetch(_QUEUED, of=project, now=now_us))[0][0]) for project in projects])

    async def next_wake(self, projects: Sequence[ProjectId]) -> int | None:
        found = [(await self._fetch(_NEXT_WAKE, of=project))[0][0] for project in projects]
        return min((due for due in found if due is not None), default=None)


def blob_row(row: Sequence[Any]) -> BlobRow:
    digest, size, encoding, base, depth, data = row
    return BlobRow(Digest(digest), size, encoding, base, depth, bytes(data))


def _with_bases(wanted: ColumnElement[bool]) -> Select[Any]:
    """The blobs that are wanted, and all that they are patches upon."""
    b = t.blobs
    chain = select(b.c.digest, b.c.base).where(wanted).cte("chain", recursive=True)
    chain = chain.union(select(b.c.digest, b.c.base).join(chain, b.c.digest == chain.c.base))
    return select(*_BLOB).where(b.c.digest.in_(select(chain.c.digest)))


_ONE_BLOB = _with_bases(t.blobs.c.digest == bindparam("digest"))


def runs_statement(query: RunQuery) -> Select[Any]:
    """One page of runs, newest first."""
    r = t.runs.c
    filters: list[ColumnElement[bool]] = []
    if query.projects is not None:
        filters.append(r.project.in_(query.projects))
    if query.statuses:
        filters.append(r.status.in_(query.statuses))
    if query.workflow is not None:
        filters.append(r.workflow == query.workflow)
    if query.parent is not None:
        filters.append(r.parent_run == query.parent)
    if query.caller is not None:
        filters.append(r.caller_run == query.caller)
    if query.owner is not None:
        filters.append(r.owner == query.owner)
    if query.session is not None:
        filters.append(r.session == query.session)
    if query.top:
        filters.append(r.caller_run.is_(None))
    if query.before is not None:
        filters.append(r.id < query.before)
    if query.text:
        pattern = _like(query.text)
        filters.append(or_(*(column.ilike(pattern, escape="\\") for column in (r.id, r.workflow, r.title))))
    return select(t.runs).where(and_(True, *filters)).order_by(r.id.desc()).limit(query.limit)


def unavailable(error: DBAPIError) -> OmiumError:
    if getattr(error.orig, "sqlstate", None) in _NO_TEXT:
        return OmiumError("invalid_argument", "a text holds a NUL character, which nothing here has.", "Remove it.")
    return OmiumError(
        "storage_unavailable",
        f"the database cannot be read: {error.orig}.",
        "Check that it is reachable; nothing was changed.",
        cause=str(error.orig),
    )


__all__ = ["CHECKPOINTS", "Reads", "as_event", "blob_row", "runs_statement", "unavailable"]
