"""The one task that writes: it gathers, and commits what has gathered as one statement.

A commit costs a round trip and an fsync of the server; everything that comes in while one is under way shares the next.
When this process knows all runs of a batch, the batch is computed first and written by one statement in autocommit that
does nothing unless every run still is as it was known (`statements`). Otherwise, and when that statement finds that a
run has moved on, the runs are locked, read and written in a transaction.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.commands import CreateRun
from omium.orchestration.ports import Clock, NewBlob, Write, Written
from omium.storage.batch import Rows, Spoiled, StateCache
from omium.storage.blobs import Packer
from omium.storage.codec import compressed
from omium.storage.faults import Faults
from omium.storage.postgres import statements as sql
from omium.storage.postgres.attempt import Attempt, Desk, Heard, Item, Moved, Result, Unanswered, roll_back
from omium.storage.postgres.connection import Connection, Link
from omium.storage.postgres.errors import FAILURES, RETRY, is_lost, translated

T = TypeVar("T")
_log = logging.getLogger(__name__)

MAX_BATCH = 512
MAX_BATCH_BYTES = 32 * 1024 * 1024  # of new blobs
_ATTEMPTS = 6  # at a write of its own that meets deadlocks or rows that somebody inserts first


@dataclass(slots=True)
class _Job:
    """One statement of its own, or blobs to be stored. `shape` makes the result of its rows. A `quiet` one is of no
    interest to other processes. One that can be done `together` with others of the same text takes each argument as an
    array; the first column of its rows, as the first of its arguments, says whose they are."""

    text: str
    arguments: Sequence[Any]
    shape: Callable[[Sequence[Any]], Any]
    future: asyncio.Future[Any]
    blobs: Sequence[NewBlob] = ()
    quiet: bool = False
    together: bool = False


class Writer:
    """Commits what is submitted, batch by batch."""

    def __init__(
        self, link: Link, *, clock: Clock, chain: Chain, packer: Packer, hear: Callable[[Sequence[Heard]], None]
    ) -> None:
        self._link = link
        self._clock = clock
        self._cache = StateCache()
        self._faults = Faults()
        self._desk = Desk(link, clock, chain, packer, self._cache)
        self._hear = hear
        self._writes: deque[Item] = deque()
        self._jobs: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
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
        self._writes.append(Item(write, future))
        self._arrived.set()
        return future

    def job(
        self,
        text: str,
        arguments: Sequence[Any],
        shape: Callable[[Sequence[Any]], T],
        *,
        quiet: bool = False,
        together: bool = False,
    ) -> asyncio.Future[T]:
        """Run one statement in a transaction; resolves to `shape` of its rows once that is durable."""
        future: asyncio.Future[T] = self._open_loop().create_future()
        self._jobs.append(_Job(text, arguments, shape, future, quiet=quiet, together=together))
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

    # --- the task -----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while self._writes or self._jobs or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            while self._writes or self._jobs:
                if self._writes:
                    await self._commit(self._gathered())
                if self._jobs:
                    await self._commit_jobs([self._jobs.popleft() for _ in range(min(MAX_BATCH, len(self._jobs)))])

    def _gathered(self) -> list[Item]:
        """What waits, up to what one statement can well carry; at least one write."""
        batch, size = [self._writes.popleft()], 0
        while self._writes and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            size += sum(blob.encoded.size for blob in batch[-1].work.blobs)
            batch.append(self._writes.popleft())
        return batch

    async def _commit(self, items: list[Item]) -> None:
        """One transaction for all; when that fails, one for each, so that nobody suffers for another's mistake."""
        ready = []
        known = compressed(blob.encoded.data for item in items for blob in item.work.blobs)
        for item in items:
            try:
                self._faults.check(item.work)
                if item.work.blobs:
                    item.blobs = await self._desk.packed(item.work.blobs, known)
                ready.append(item)
            except Exception as error:
                self._deliver(Result([(item, self._failed(item, error))]))
        if not ready:
            return
        try:
            result = await self._together(ready)
        except Exception as error:
            if len(ready) == 1 or _concerns_all(error):
                result = Result([(item, self._failed(item, error)) for item in ready])
            else:
                for item in ready:
                    self._deliver(await self._alone(item))
                return
        self._deliver(result)

    async def _alone(self, item: Item) -> Result:
        try:
            self._faults.check(item.work)
            return await self._together([item])
        except Exception as error:
            return Result([(item, self._failed(item, error))])

    def _failed(self, item: Item, error: BaseException) -> BaseException:
        """What whoever waits is told of a failure."""
        if isinstance(error, Unanswered):
            error = error.of(item)
        if isinstance(error, Spoiled) and error.__cause__ is not None:
            error = error.__cause__
        told = translated(error)
        if not isinstance(told, OmiumError):
            _log.error("a write failed", exc_info=told)
        self._faults.failed(item.work, told)
        return told

    def _deliver(self, result: Result) -> None:
        if result.heard:
            self._hear(result.heard)
        for item, outcome in result.outcomes:
            if isinstance(outcome, Written):
                self._faults.made(item.work)
            if item.future.done():  # the caller was cancelled; the write stands
                continue
            if isinstance(outcome, BaseException):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome)

    # --- a batch ------------------------------------------------------------------------------------------------

    async def _together(self, items: list[Item]) -> Result:
        """Commit these writes at once. Raises what the database says, or Spoiled; then nothing was written."""
        locked, lost = not self._knows_all(items), False
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await Attempt(self._desk, items).run(locked)
            except Moved:
                pass
            except FAILURES as error:
                if is_lost(error):
                    self._link.lose()
                    if lost:
                        raise
                    lost = True
                elif len(items) > 1 or getattr(error, "sqlstate", "") not in RETRY or attempt == _ATTEMPTS:
                    raise
            locked = True
        raise AssertionError("what is locked does not move")

    def _knows_all(self, items: list[Item]) -> bool:
        created: set[RunId] = set()
        for item in items:
            above = item.work.awaited_by
            if item.work.tried or (above is not None and above not in self._cache and above not in created):
                return False
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
            except FAILURES as error:
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
            rows = await self._run_all(db, jobs)
            crash_point("commit.before")
        except BaseException:
            await roll_back(db)
            raise
        try:
            await db.execute("COMMIT")
        except FAILURES as error:
            if not is_lost(error) or not await self._desk.landed(
                "SELECT pg_xact_status($1::text::xid8) = 'committed'", mark
            ):
                raise
        crash_point("commit.after")
        return [job.shape(found) for job, found in zip(jobs, rows, strict=True)]

    async def _run_all(self, db: Connection, jobs: list[_Job]) -> list[Sequence[Any]]:
        """The rows of each. Those that are done together come before the first that is not."""
        shared: dict[str, dict[Any, _Job]] = {}  # by text, then by whose it is: a row can be changed once a statement
        for job in jobs:
            if job.together:
                shared.setdefault(job.text, {}).setdefault(job.arguments[0], job)
        found: dict[int, Sequence[Any]] = {}
        for text, alike in shared.items():
            rows: dict[Any, list[Any]] = {}
            for row in await db.fetch(text, *zip(*(job.arguments for job in alike.values()), strict=True)):
                rows.setdefault(row[0], []).append(row)
            found |= {id(job): rows.get(whose, []) for whose, job in alike.items()}
        return [found[id(job)] if id(job) in found else await self._run_job(db, job) for job in jobs]

    async def _run_job(self, db: Connection, job: _Job) -> Sequence[Any]:
        if job.blobs:
            now = self._clock.now_us()
            rows = await self._desk.grounded(db, await self._desk.packed(job.blobs), job.blobs, now)
            statement = sql.statement(self._link.layout, (), Rows(now), rows)
            assert statement is not None
            await db.fetchval(statement.text, *statement.arguments)
            return ()
        arguments = [[argument] for argument in job.arguments] if job.together else job.arguments
        found: Sequence[Any] = await db.fetch(job.text, *arguments)
        return found


def _concerns_all(error: BaseException) -> bool:
    """Whether the members of a batch would fare no better alone: the database is away, rather than one of its rows."""
    told = translated(error)
    away = isinstance(told, OmiumError) and told.code == "storage_unavailable"
    return away and getattr(error, "sqlstate", None) != "55P03"


__all__ = ["Heard", "Writer"]
