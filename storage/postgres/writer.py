"""The one task that writes: it gathers, and commits what has gathered as one statement.

A commit costs a round trip and an fsync of the server; everything that comes in while one is under way shares the next.
When this process knows all runs of a batch, the batch is computed first and written by one statement in autocommit that
does nothing unless every run still is as it was known (`statements`). Otherwise, and when that statement finds that a run
has moved on, the runs are locked, read and written in a transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]
import orjson

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, Fence, RunId, Seq
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.commands import EXECUTION, CreateRun
from omium.orchestration.log.events import Event
from omium.orchestration.log.load import Need, NeedEvents, NeedSnapshot, NeedValue
from omium.orchestration.ports import Clock, IdempotencyKey, NewBlob, Write, Written
from omium.orchestration.values import decode
from omium.storage.batch import Batch, Rows, Spoiled, StateCache
from omium.storage.blobs import BlobRow, Packer
from omium.storage.postgres import statements as sql
from omium.storage.postgres.connection import RESOLVE_S, Connection, Link
from omium.storage.postgres.errors import RETRY, is_lost, translated
from omium.storage.reads import as_event

T = TypeVar("T")
Heard = tuple[RunId, Sequence[Event]]
_log = logging.getLogger(__name__)

MAX_BATCH = 512
_ATTEMPTS = 6  # at a write of its own that meets deadlocks or rows that somebody inserts first
_THREAD_FROM = 64 * 1024  # bytes of new blobs that are packed in a thread rather than in the event loop
_LATEST = 2**62


@dataclass(slots=True)
class _Item:
    work: Write
    future: asyncio.Future[Written]
    blobs: Sequence[BlobRow] = ()


@dataclass(slots=True)
class _Job:
    """One statement of its own, or blobs to be stored. `shape` makes the result of its rows. A `quiet` one is of no
    interest to other processes."""

    text: str
    arguments: Sequence[Any]
    shape: Callable[[Sequence[Any]], Any]
    future: asyncio.Future[Any]
    blobs: Sequence[NewBlob] = ()
    quiet: bool = False


@dataclass(slots=True)
class _Result:
    outcomes: list[tuple[_Item, Any]] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)


class _Moved(Exception):
    """A run of the batch is not what this process believed: nothing was written."""


class Writer:
    """Commits what is submitted, batch by batch."""

    def __init__(
        self, link: Link, *, clock: Clock, chain: Chain, packer: Packer, hear: Callable[[Sequence[Heard]], None]
    ) -> None:
        self._link = link
        self._clock = clock
        self._chain = chain
        self._packer = packer
        self._hear = hear
        self._writes: deque[_Item] = deque()
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self._cache = StateCache()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self._link.get()
        self._task = asyncio.create_task(self._run(), name="omium-writer")

    async def close(self) -> None:
        """Commit what was submitted, then end."""
        self._closing = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        await self._link.close()

    def submit(self, write: Write) -> asyncio.Future[Written]:
        """Resolves once the write is durable."""
        future: asyncio.Future[Written] = self._open_loop().create_future()
        self._writes.append(_Item(write, future))
        self._arrived.set()
        return future

    def job(
        self, text: str, arguments: Sequence[Any], shape: Callable[[Sequence[Any]], T], *, quiet: bool = False
    ) -> asyncio.Future[T]:
        """Run one statement in a transaction; resolves to `shape` of its rows once that is durable."""
        future: asyncio.Future[T] = self._open_loop().create_future()
        self._jobs.append(_Job(text, arguments, shape, future, quiet=quiet))
        self._arrived.set()
        return future

    def put(self, blobs: Sequence[NewBlob]) -> asyncio.Future[None]:
        """Store blobs; resolves once they are durable."""
        future: asyncio.Future[None] = self._open_loop().create_future()
        self._jobs.append(_Job("", (), lambda rows: None, future, blobs=blobs))
        self._arrived.set()
        return future

    def _open_loop(self) -> asyncio.AbstractEventLoop:
        if self._closing:
            raise OmiumError("storage_unavailable", "the store is closed.")
        return asyncio.get_running_loop()

    async def _packed(self, blobs: Sequence[NewBlob]) -> list[BlobRow]:
        """The rows of new blobs, patched against their bases where that pays; large ones are in their files by then."""
        wanted = self._packer.bases(blobs)
        rows: Mapping[Digest, BlobRow] = {}
        if wanted:
            db = await self._link.get()
            rows = sql.blob_rows(await db.fetch(sql.CHAINS, sorted(wanted)))
        if sum(blob.encoded.size for blob in blobs) < _THREAD_FROM:
            return self._packer.pack(blobs, rows.get)
        return await asyncio.to_thread(self._packer.pack, blobs, rows.get)

    # --- the task -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._writes or self._jobs or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            while self._writes or self._jobs:
                if self._writes:
                    await self._commit([self._writes.popleft() for _ in range(min(MAX_BATCH, len(self._writes)))])
                if self._jobs:
                    await self._commit_jobs([self._jobs.popleft() for _ in range(min(MAX_BATCH, len(self._jobs)))])

    async def _commit(self, items: list[_Item]) -> None:
        """One transaction for all; when that fails, one for each, so that nobody suffers for another's mistake."""
        ready = []
        for item in items:
            try:
                if item.work.blobs:
                    item.blobs = await self._packed(item.work.blobs)
                ready.append(item)
            except Exception as error:
                self._deliver(_Result([(item, self._explained(error))]))
        if not ready:
            return
        try:
            result = await self._together(ready)
        except Exception as error:
            if len(ready) == 1 or _concerns_all(error):
                result = _Result([(item, self._explained(error)) for item in ready])
            else:
                for item in ready:
                    self._deliver(await self._alone(item))
                return
        self._deliver(result)

    async def _alone(self, item: _Item) -> _Result:
        try:
            return await self._together([item])
        except Exception as error:
            return _Result([(item, self._explained(error))])

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, Spoiled) and error.__cause__ is not None:
            error = error.__cause__
        told = translated(error)
        if not isinstance(told, OmiumError):
            _log.error("a write failed", exc_info=told)
        return told

    def _deliver(self, result: _Result) -> None:
        if result.heard:
            self._hear(result.heard)
        for item, outcome in result.outcomes:
            if item.future.done():  # the caller was cancelled; the write stands
                continue
            if isinstance(outcome, BaseException):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome)

    # --- a batch ------------------------------------------------------------------------------------------------

    async def _together(self, items: list[_Item]) -> _Result:
        """Commit these writes at once. Raises what the database says, or Spoiled; then nothing was written."""
        locked = not self._knows_all(items)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await _Attempt(self, items).run(locked)
            except _Moved:
                locked = True
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if is_lost(error):
                    self._link.lose()
                    if attempt > 1:
                        raise
                elif len(items) > 1 or getattr(error, "sqlstate", "") not in RETRY or attempt == _ATTEMPTS:
                    raise
                locked = True
        raise AssertionError("a locked run moved")

    def _knows_all(self, items: list[_Item]) -> bool:
        created: set[RunId] = set()
        for item in items:
            if isinstance(item.work.commands[0], CreateRun):
                created.add(item.work.run_id)
            elif item.work.run_id not in self._cache and item.work.run_id not in created:
                return False
        return True

    # --- jobs ---------------------------------------------------------------------------------------------------

    async def _commit_jobs(self, jobs: list[_Job]) -> None:
        try:
            results = await self._run_jobs(jobs)
        except Exception as error:
            if len(jobs) == 1 or _concerns_all(error):
                results = [translated(error)] * len(jobs)
            else:
                for job in jobs:
                    await self._commit_jobs([job])
                return
        if not all(job.quiet for job in jobs):
            self._hear(())
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    async def _run_jobs(self, jobs: list[_Job]) -> list[Any]:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._job_transaction(jobs)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                if is_lost(error):
                    self._link.lose()
                    if attempt > 1:
                        raise
                elif getattr(error, "sqlstate", "") not in RETRY - {"23505"} or attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _job_transaction(self, jobs: list[_Job]) -> list[Any]:
        db = await self._link.get()
        await db.execute("BEGIN")
        try:
            mark = await db.fetchval("SELECT pg_current_xact_id()::text")
            rows = [await self._run_job(db, job) for job in jobs]
            crash_point("commit.before")
        except BaseException:
            await roll_back(db)
            raise
        try:
            await db.execute("COMMIT")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if not is_lost(error) or not await self.landed("SELECT pg_xact_status($1::text::xid8) = 'committed'", mark):
                raise
        crash_point("commit.after")
        return [job.shape(found) for job, found in zip(jobs, rows, strict=True)]

    async def _run_job(self, db: Connection, job: _Job) -> Sequence[Any]:
        if job.blobs:
            now = self._clock.now_us()
            rows = await self.grounded(db, await self._packed(job.blobs), job.blobs, now)
            statement = sql.statement(self._link.layout, (), Rows(now), rows)
            assert statement is not None
            await db.fetchval(statement.text, *statement.arguments)
            return ()
        found: Sequence[Any] = await db.fetch(job.text, *job.arguments)
        return found

    async def grounded(
        self, db: Connection, packed: Sequence[BlobRow], blobs: Iterable[NewBlob], now: int
    ) -> list[BlobRow]:
        """The rows of blobs that were packed before this transaction. Should the base of a patch not be stored (the write
        that brought it was refused; it was swept or found damaged meanwhile), that one is packed again by itself."""
        bases = bases_of(packed)
        sound = {row[0] for row in await db.fetch(sql.TOUCH, bases, now)} if bases else set()
        lost = set(bases) - sound
        if not lost:
            return list(packed)
        contents = {blob.encoded.digest: blob.encoded for blob in blobs}
        alone = {row.digest for row in packed if row.base in lost}
        again = {row.digest: row for row in await self._packed([NewBlob(contents[digest]) for digest in sorted(alone)])}
        return [again.get(row.digest, row) for row in packed]

    async def landed(self, question: str, *arguments: Any) -> bool:
        """Whether the commit whose answer was lost took place. Raises `storage_unavailable` when nobody can be asked."""
        self._link.lose()
        try:
            db = await self._link.get(RESOLVE_S)
            return await db.fetchval(question, *arguments) is True
        except (OmiumError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            raise OmiumError(
                "storage_unavailable",
                "the PostgreSQL database was lost during a commit; it is not known whether that took place.",
                "Read the run again once the database is back.",
                outcome="unknown",
            ) from error


def bases_of(packed: Sequence[BlobRow]) -> list[Digest]:
    """What these blobs are patches upon, as far as they do not bring it themselves."""
    brought = {row.digest for row in packed}
    return sorted({row.base for row in packed if row.base is not None and row.base not in brought})


def _concerns_all(error: BaseException) -> bool:
    """Whether the members of a batch would fare no better alone: the database is away, rather than one of its rows."""
    told = translated(error)
    away = isinstance(told, OmiumError) and told.code == "storage_unavailable"
    return away and getattr(error, "sqlstate", None) != "55P03"


async def roll_back(db: Connection) -> None:
    try:
        await db.execute("ROLLBACK")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        db.terminate()  # the server rolls back what a lost session leaves


class _Attempt:
    """One try at committing a batch."""

    def __init__(self, writer: Writer, items: list[_Item]) -> None:
        self._writer = writer
        self._items = items
        self._now = writer._clock.now_us()
        self._batch = Batch(writer._cache, writer._chain, self._now)
        self._blobs: list[BlobRow] = []
        self._keys: list[tuple[IdempotencyKey, int]] = []
        self._earlier: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._heads: dict[RunId, tuple[int, int]] | None = None  # when locked: position and owner's token, or -1
        self._fences: dict[RunId, int] = {}  # when not locked: the token that the batch's members believe in
        self._loaded: dict[RunId, tuple[Any, list[Event]]] = {}
        self._db: Connection = None

    async def run(self, locked: bool) -> _Result:
        db = self._db = await self._writer._link.get()
        if not locked:
            await self._prepare()
            result, statement = await self._apply()
            await self._finish(statement, locked)
        else:
            await db.execute("BEGIN")
            try:
                await self._lock()
                await self._prepare()
                result, statement = await self._apply()
                await self._finish(statement, locked)
            except BaseException:
                if not db.is_closed() and db.is_in_transaction():
                    await roll_back(db)
                raise
        self._batch.commit()
        return result

    async def _lock(self) -> None:
        """Lock the runs of the batch, and read what this process does not know of them."""
        runs = sorted({item.work.run_id for item in self._items})
        self._heads = {RunId(row[0]): (row[1], row[2]) for row in await self._db.fetch(sql.LOCK, runs)}
        cache = self._writer._cache
        for run_id in runs:
            if run_id in cache and cache.position(run_id) != self._heads.get(run_id, (0, 0))[0]:
                cache.drop(run_id)
        unknown = [run_id for run_id in self._heads if run_id not in cache]
        if not unknown:
            return
        documents = {row[0]: (row[1], row[2]) for row in await self._db.fetch(sql.SNAPSHOTS, unknown)}
        after = [documents[run_id][0] if run_id in documents else 0 for run_id in unknown]
        tails: dict[RunId, list[Event]] = {run_id: [] for run_id in unknown}
        for row in await self._db.fetch(sql.TAILS, unknown, after):
            tails[row[0]].append(as_event(row))
        for run_id in unknown:
            document = orjson.loads(documents[run_id][1]) if run_id in documents else None
            self._loaded[run_id] = (document, tails[run_id])

    async def _prepare(self) -> None:
        """What earlier requests with the idempotency keys of this batch got."""
        keys = [item.work.idempotency for item in self._items if item.work.idempotency is not None]
        if keys:
            rows = await self._db.fetch(sql.KEYS, [key.scope for key in keys], [key.key for key in keys])
            self._earlier = {(row[0], row[1]): (row[2], row[3]) for row in rows}

    async def _apply(self) -> tuple[_Result, sql.Statement | None]:
        result = _Result()
        for item in self._items:
            try:
                written = await self._write(item)
            except OmiumError as refusal:
                result.outcomes.append((item, refusal))
                continue
            if written.events:
                result.heard.append((item.work.run_id, written.events))
            result.outcomes.append((item, written))
        bases: Sequence[Digest] = ()
        if self._heads is None:
            bases = bases_of(self._blobs)
        else:
            blobs = (blob for item in self._items for blob in item.work.blobs)
            self._blobs = await self._writer.grounded(self._db, self._blobs, blobs, self._now)
        based = [sql.Based(run_id, seq, self._fences.get(run_id)) for run_id, seq in self._batch.based_on.items()]
        layout = self._writer._link.layout
        return result, sql.statement(layout, based, self._batch.rows(), self._blobs, self._keys, bases)

    async def _write(self, item: _Item) -> Written:
        write = item.work
        if write.idempotency is not None:
            earlier = self._replayed(write.idempotency)
            if earlier is not None:
                return earlier
        creating = isinstance(write.commands[0], CreateRun)
        if not creating:
            self._check_fence(write)
        elif self._heads is not None and write.run_id in self._heads:
            raise OmiumError("conflict", f"run {write.run_id} exists.")
        events = await self._drive(self._batch.apply(write))
        self._blobs += item.blobs
        if write.idempotency is not None:
            self._keys.append((write.idempotency, self._now))
            self._earlier[write.idempotency.scope, write.idempotency.key] = (
                write.idempotency.arguments,
                orjson.dumps(write.idempotency.result),
            )
        return Written(events, Seq(events[-1].seq), Fence(1) if creating and write.claim is not None else None)

    def _replayed(self, wanted: IdempotencyKey) -> Written | None:
        row = self._earlier.get((wanted.scope, wanted.key))
        if row is None:
            return None
        if row[0] != wanted.arguments:
            raise OmiumError(
                "conflict",
                f"the idempotency key {wanted.key!r} was used with other arguments.",
                "Use a new key for a new request.",
            )
        return Written((), Seq(0), replayed=orjson.loads(row[1]))

    def _check_fence(self, write: Write) -> None:
        if write.fence is None:
            if any(type(command) in EXECUTION for command in write.commands):
                raise OmiumError("fenced", f"run {write.run_id} is written without its owner's token.")
            return
        owner = self._batch.claimed(write.run_id)
        if owner is None and self._heads is None:  # believed, and checked by the statement
            if self._fences.setdefault(write.run_id, write.fence) != write.fence:
                raise _Moved
            return
        if owner is None:
            owner = (self._heads or {}).get(write.run_id, (0, -1))[1]
        if owner != write.fence:
            raise OmiumError(
                "fenced", f"run {write.run_id} has another owner: token {write.fence} is not {owner}.", fence=owner
            )

    async def _drive(self, loading: Generator[Need, Any, T]) -> T:
        try:
            need = next(loading)
            while True:
                need = loading.send(await self._read(need))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _read(self, need: Need) -> Any:
        if isinstance(need, NeedValue):
            rows: Mapping[Digest, BlobRow] = {}
            if not self._writer._packer.knows(need.digest):
                rows = sql.blob_rows(await self._db.fetch(sql.CHAINS, [need.digest]))
            return decode(self._writer._packer.unpack(need.digest, rows.get))
        if need.upto is None and need.run_id in self._loaded:
            document, events = self._loaded[need.run_id]
            return document if isinstance(need, NeedSnapshot) else events
        upto = need.upto if need.upto is not None else _LATEST
        if isinstance(need, NeedSnapshot):
            found = await self._db.fetchval(sql.SNAPSHOT, need.run_id, upto)
            return None if found is None else orjson.loads(found)
        assert isinstance(need, NeedEvents)
        return [as_event(row) for row in await self._db.fetch(sql.EVENTS, need.run_id, need.after, upto)]

    async def _finish(self, statement: sql.Statement | None, locked: bool) -> None:
        """Write and commit. Raises _Moved, with nothing written, when a run is not what the batch was computed from."""
        witness = self._batch.first_event
        try:
            if statement is not None:
                if not locked:
                    crash_point("commit.before")
                if await self._db.fetchval(statement.text, *statement.arguments) is not True:
                    raise _Moved
            if locked:
                crash_point("commit.before")
                await self._db.execute("COMMIT")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if not is_lost(error) or witness is None:
                raise
            if not await self._writer.landed(sql.IS_COMMITTED, witness.run_id, witness.seq, witness.hash):
                raise
        crash_point("commit.after")


__all__ = ["Heard", "Writer"]
