"""The one connection that writes, and its thread.

A commit costs an fsync; everything that gathers while one is under way shares the next. The thread takes whole batches
in one hop, runs plain tuples through statements that SQLite keeps compiled, and wakes the event loop once per batch.
Blobs are packed before the transaction begins, so that the lock is held for rows only.

Where the disk is quick, the way to the thread and back costs as much as the commit. So one small write that comes alone
is committed where it stands, in the event loop: only while commits have lately taken less than a millisecond, never
waiting for a lock, never reading a log, never checkpointing. Whatever else comes goes to the thread. A write waits for
the end of its turn of the event loop, to see whether it is alone; that of a task which was alone and writes again need
not, but for every sixteenth, so that whoever else is there has his turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import orjson

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Fence, RunId, Seq
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.commands import EXECUTION, CreateRun
from omium.orchestration.log.events import Event
from omium.orchestration.log.load import Need, NeedEvents, NeedHeads, NeedSnapshot, NeedValue
from omium.orchestration.ports import Clock, IdempotencyKey, NewBlob, Write, Written
from omium.orchestration.values import decode
from omium.storage.batch import Batch, Spoiled, StateCache, drive
from omium.storage.blobs import BlobRow, Packer
from omium.storage.codec import compressed
from omium.storage.faults import Faults
from omium.storage.sqlite import connection
from omium.storage.sqlite import statements as sql
from omium.storage.sqlite.connection import Busy, begin, connect, grow_journal, set_patience
from omium.storage.sqlite.errors import translated
from omium.storage.sqlite.standing import Standing
from omium.storage.sqlite.step import is_step, write_step

T = TypeVar("T")
_log = logging.getLogger(__name__)

MAX_BATCH = 512

_QUICK_S = 0.001  # commits that lately took longer are made in the thread only
_SMALL = 65_536  # bytes of values that are packed in the event loop
_IN_A_ROW = 16  # writes of one task without a turn of the event loop between them
_TIDY_EVERY = 512  # commits in place; then the thread checkpoints beside them
_GROW_AFTER = 8  # commits; a process that writes so often will write more


@dataclass(slots=True)
class _Item:
    """A write, or a job: a function that reads and writes tables inside the batch's transaction."""

    work: Write | Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any] | None = None  # nobody waits for what is committed in place
    blobs: Sequence[BlobRow] = ()
    about: Sequence[RunId] | None = ()  # of a job: the runs whose owners it may change; None for any


Heard = tuple[RunId, Sequence[Event]]
Outcome = tuple[_Item, Any]  # what a caller gets; an exception is raised there


class Writer:
    """Commits what is submitted, batch by batch. All results come back in the event loop that submitted the work."""

    def __init__(
        self,
        path: Path,
        *,
        synchronous: str,
        clock: Clock,
        chain: Chain,
        packer: Packer,
        hear: Callable[[list[Heard]], None],
    ) -> None:
        self._path = path
        self.standing = Standing(path)
        self._synchronous = synchronous
        self._clock = clock
        self._chain = chain
        self._packer = packer
        self._hear = hear
        self._arrived: list[_Item] = []  # in this turn of the event loop
        self._wrote: asyncio.Task[Any] | None = None  # the last task that had to wait for the end of its turn
        self._alone: asyncio.Task[Any] | None = None  # the one whose write was the only one then
        self._in_a_row = 0  # its writes since
        self._ahead = 0  # batches that the thread was given and that are not settled yet
        self._batches: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        self._db: sqlite3.Connection | None = None
        self._using = threading.Lock()  # the connection and all that is remembered of it
        self._commit_s = _QUICK_S  # how long commits have lately taken
        self._here = 0  # commits in place
        self._log_is_long = False  # the thread is to commit next, and to checkpoint with that
        self._patient = True
        self._cache = StateCache()
        self._faults = Faults()
        self._owners: dict[RunId, int] = {}  # fencing tokens of the runs written lately
        self._version = -1
        self._closing = False
        self.foreign = 0  # how often another connection's commits were noticed
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # listeners are called in it: anyio can tell by it which loop it is in
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="omium-writer", daemon=True)

    async def open(self) -> None:
        self._thread.start()
        await self._opened

    async def close(self) -> None:
        self._closing = True
        self._hand_over()
        self._batches.put(None)
        while self._thread.is_alive():  # it ends after its last commit
            await asyncio.to_thread(self._thread.join, 1.0)

    async def write(self, write: Write) -> Written:
        """Returns once the write is durable."""
        task = asyncio.current_task(self._loop)
        if self._goes_on(task) and self._may_commit_here(write):
            outcome = self._commit_here(write)
            if isinstance(outcome, Written):
                return outcome
            if outcome is not None:
                try:
                    raise outcome
                finally:
                    outcome = None  # its traceback holds this frame
        future: asyncio.Future[Written] = self._loop.create_future()
        self._wrote = task
        self._arrive(_Item(write, future))
        return await future

    def job(self, work: Callable[[sqlite3.Connection], T], about: Sequence[RunId] | None = None) -> asyncio.Future[T]:
        """Run `work` in the next transaction; resolves once that is durable. `about`: the runs whose owners it may
        change (None: any)."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._arrive(_Item(work, future, about=about))
        return future

    def _arrive(self, item: _Item) -> None:
        if self._closing:
            raise OmiumError("storage_unavailable", "the store is closed.")
        self._arrived.append(item)
        if len(self._arrived) == 1:
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Have what this turn of the event loop has brought committed."""
        items, self._arrived = self._arrived, []
        self._in_a_row = 0
        self._alone = self._wrote if len(items) == 1 and isinstance(items[0].work, Write) else None
        alone = items[0].work if len(items) == 1 else None
        if isinstance(alone, Write) and self._may_commit_here(alone):
            outcome = self._commit_here(alone)
            if outcome is not None:
                return self._tell(items[0], outcome)
        for start in range(0, len(items), MAX_BATCH):
            self._ahead += 1
            self._batches.put(items[start : start + MAX_BATCH])

    # --- in the event loop ------------------------------------------------------------------------------------------

    def _goes_on(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether nobody but this task has written for a while, as in a chain of short nodes."""
        if task is None or task is not self._alone or self._arrived or self._closing or self._in_a_row == _IN_A_ROW:
            return False
        self._in_a_row += 1
        return True

    def _may_commit_here(self, write: Write) -> bool:
        if self._ahead or self._commit_s >= _QUICK_S or self._log_is_long:
            return False  # nothing overtakes what came before it: within a run the order is the meaning
        if write.fence is None or self._cache.look(write.run_id) is None:
            return False  # an owner's write reads no log, since its run was written before
        size = 0
        for blob in write.blobs:
            size += blob.encoded.size
        return size <= _SMALL

    def _commit_here(self, write: Write) -> Written | BaseException | None:
        """Commit now, and tell whoever listens; what came of it. None, with nothing done, when the thread or another
        process is writing."""
        if self._db is None or not self._using.acquire(blocking=False):
            return None
        try:
            if self._patient:
                self._set_patience(self._db, False)
            outcome: Any = self._commit_step(self._db, write)
            heard = [(write.run_id, outcome.events)] if isinstance(outcome, Written) else []
            if outcome is None:
                ((_, outcome),), heard = self._commit(self._db, [_Item(write)])
        except Busy:
            return None
        finally:
            self._using.release()
        self._here += 1
        if self._here == _GROW_AFTER or self._here % _TIDY_EVERY == 0:
            self._batches.put([])
        if heard:
            self._hear(heard)
        told: Written | BaseException = outcome
        return told

    def _set_patience(self, db: sqlite3.Connection, patient: bool) -> None:
        """Whether the connection waits for other processes' locks, and checkpoints."""
        if patient is not self._patient:
            self._patient = patient
            set_patience(db, patient)

    def _settle(self, outcomes: Sequence[Outcome], heard: list[Heard]) -> None:
        """Tell everybody. In the event loop."""
        if heard:
            self._hear(heard)
        for item, outcome in outcomes:
            self._tell(item, outcome)

    def _tell(self, item: _Item, outcome: Any) -> None:
        if item.future is None or item.future.done():  # the caller was cancelled; the write stands
            return
        if isinstance(outcome, BaseException):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            db = self._db = connect(self._path, self._synchronous)
        except (sqlite3.Error, OSError) as error:
            self._call(self._opened.set_exception, translated(error, self._path))
            return
        self._call(self._opened.set_result, None)
        last, grown = False, False
        while not last and (batch := self._batches.get()) is not None:
            taken = int(bool(batch))
            while len(batch) < MAX_BATCH:
                try:
                    more = self._batches.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                taken += bool(more)
                batch += more
            if not batch and not grown:
                grown = True
                with self._using:
                    self._set_patience(db, False)  # it is no work that anybody should wait for
                    grow_journal(db)
            elif not batch:
                self._tidy()
            else:
                self._commit_batch(db, batch, taken)
        with self._using:
            self._db = None
            db.close()

    def _commit_batch(self, db: sqlite3.Connection, batch: list[_Item], taken: int) -> None:
        """`taken`: of how many batches that were handed over it is made."""
        with self._using:
            self._set_patience(db, True)
            outcomes, heard = self._commit(db, batch)
            self._log_is_long = False
        self._call(self._caught_up, taken, outcomes, heard)

    def _caught_up(self, taken: int, outcomes: Sequence[Outcome], heard: list[Heard]) -> None:
        """In the event loop."""
        self._ahead -= taken
        self._settle(outcomes, heard)

    def _tidy(self) -> None:
        """Checkpoint what was committed in place, beside further commits; so that little is left to do when the log has
        to be begun again, which nobody may write meanwhile."""
        keeper = sqlite3.connect(self._path, isolation_level=None)
        try:
            keeper.execute(f"PRAGMA synchronous = {self._synchronous}")
            _, length, _ = keeper.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._log_is_long = length > connection.JOURNAL_PAGES
        except sqlite3.Error as error:
            _log.warning("the write-ahead log was not checkpointed: %s", error)
            self._log_is_long = True  # whoever commits next with a checkpoint hears of it
        finally:
            keeper.close()

    def _call(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args, context=self._context)
        except RuntimeError:
            _log.warning("the event loop ended before a commit could be reported")

    # --- committing, by whoever holds the connection ------------------------------------------------------------------

    def _commit(self, db: sqlite3.Connection, items: list[_Item]) -> tuple[list[Outcome], list[Heard]]:
        """One transaction for all; when that fails, one for each, so that nobody suffers for another's mistake."""
        ready, outcomes = [], []
        known: Mapping[bytes, bytes] | None = {} if len(items) == 1 else None
        for item in items:
            if isinstance(item.work, Write):
                try:
                    self._faults.check(item.work)
                    if item.work.blobs:
                        if known is None:
                            known = {}  # whatever fails here concerns this item alone
                            known = compressed(_contents(items))
                        item.blobs = self._packer.pack(item.work.blobs, lambda digest: sql.blob_row(db, digest), known)
                except Exception as error:
                    outcomes.append((item, self._failed(item.work, error)))
                    continue
            ready.append(item)
        if not ready:
            return outcomes, []
        try:
            told, heard = self._transaction(db, ready)
        except Busy as error:
            if not self._patient:
                raise
            # Tried one by one, each of them would wait as long again.
            return [*outcomes, *((item, self._failed(item.work, error)) for item in ready)], []
        except BaseException as error:
            self.forget()
            if len(ready) == 1:
                return [*outcomes, (ready[0], self._failed(ready[0].work, error))], []
            self._note(error)
            told, heard = [], []
            for item in ready:
                one, its = self._commit_one(db, item)
                told.append(one)
                heard += its
        return [*outcomes, *told], heard

    def _commit_step(self, db: sqlite3.Connection, write: Write) -> Written | BaseException | None:
        """`_commit` for a step that comes alone: what came of it. None, with nothing done, for anything else. It is one
        function, and short of calls, since each costs more here than elsewhere: after an fsync everything is cold."""
        state = self._cache.look(write.run_id)
        if state is None or self._faults.any or not is_step(write, state):
            return None
        before = state.seq
        try:
            self.standing.check(now=False)
            begin(db, self._patient)
            self._refresh(db)
            if self._cache.look(write.run_id) is not state:  # another process has written to the run
                db.execute("ROLLBACK")
                return None
            if self._owners.get(write.run_id) != write.fence:
                self._check_fence(db, write)
            events = write_step(db, state, write, self._clock.now_us(), self._chain)
            self._end(db)
        except Busy:
            raise
        except BaseException as error:
            if not isinstance(error, OmiumError) or state.seq != before:
                self.forget()  # it is folded into the state, and perhaps not in the log
            with contextlib.suppress(sqlite3.Error):  # of a disk that is gone; whoever begins next hears of it
                if db.in_transaction:
                    db.execute("ROLLBACK")
            return self._failed(write, error)
        for blob in write.blobs:
            self._packer.remember(blob.encoded.digest, blob.encoded.data, 0)
        self._cache.put(state)  # it may weigh more now
        return Written(events, state.seq)

    def _end(self, db: sqlite3.Connection) -> None:
        """Make a transaction durable."""
        crash_point("commit.before")
        began = time.perf_counter()
        db.execute("COMMIT")
        self._commit_s += (min(time.perf_counter() - began, 10 * _QUICK_S) - self._commit_s) / 16
        crash_point("commit.after")

    def _commit_one(self, db: sqlite3.Connection, item: _Item) -> tuple[Outcome, list[Heard]]:
        try:
            if isinstance(item.work, Write):
                self._faults.check(item.work)
            told, heard = self._transaction(db, [item])
            return told[0], heard
        except BaseException as error:
            self.forget()
            return (item, self._failed(item.work, error)), []

    def _failed(self, work: Write | Callable[..., Any], error: BaseException) -> BaseException:
        """What whoever waits is told of a failure."""
        self._note(error)
        told = translated(error.__cause__ if isinstance(error, Spoiled) and error.__cause__ else error, self._path)
        if isinstance(work, Write):
            self._faults.failed(work, told)
        return told

    def _note(self, error: BaseException) -> None:
        if not isinstance(
            error, Spoiled | OmiumError | sqlite3.Error | OSError
        ):  # a bug; the writer must live on all the same
            _log.error("a commit failed", exc_info=error)

    def forget(self) -> None:
        """Read again what was written so far. To be called by whoever holds the connection: in a job."""
        self._cache.clear()
        self._owners.clear()
        self._version = -1

    def _transaction(self, db: sqlite3.Connection, items: list[_Item]) -> tuple[list[Outcome], list[Heard]]:
        self.standing.check(now=self._patient)  # in place, a look costs more than it is worth for each commit
        begin(db, self._patient)
        try:
            self._refresh(db)
            now = self._clock.now_us()
            outcomes: list[Outcome] = []
            heard: list[Heard] = []
            batch = Batch(self._cache, self._chain, now)
            blobs: list[BlobRow] = []
            keys: list[tuple[IdempotencyKey, int]] = []
            for item in items:
                work = item.work
                if not isinstance(work, Write):
                    continue  # jobs come last, so that the rows of all writes go in together
                try:
                    written = self._write(db, batch, work, now, keys)
                    blobs += self.grounded(db, work.blobs, item.blobs, blobs)
                    heard += batch.heard(work, written.events)
                    outcomes.append((item, written))
                except OmiumError as refusal:
                    outcomes.append((item, refusal))
            sql.insert(db, batch.rows(), blobs, keys)
            batch.commit()  # given back at once, for the jobs to see; a failure below forgets them all
            for item in items:
                if not isinstance(item.work, Write):
                    outcomes.append((item, self._do(db, item)))
            self._end(db)
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        for item, outcome in outcomes:
            if isinstance(item.work, Write) and isinstance(outcome, Written):
                self._faults.made(item.work)
        return outcomes, heard

    def _do(self, db: sqlite3.Connection, item: _Item) -> Any:
        try:
            assert not isinstance(item.work, Write)
            return item.work(db)
        except OmiumError as refusal:
            return refusal
        finally:
            if item.about is None:
                self._owners.clear()
            for run_id in item.about or ():
                self._owners.pop(run_id, None)

    def _refresh(self, db: sqlite3.Connection) -> None:
        """Another connection has committed since: keep only what is still at the head, and look owners up again."""
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return
        self._version = version
        self.foreign += 1
        self._owners.clear()
        known = self._cache.runs()
        if known:
            self._cache.keep(sql.heads(db, known))

    def _write(
        self, db: sqlite3.Connection, batch: Batch, write: Write, now: int, keys: list[tuple[IdempotencyKey, int]]
    ) -> Written:
        if write.idempotency is not None:
            earlier = self._earlier(db, write.idempotency, keys)
            if earlier is not None:
                return earlier
        first = write.commands[0]
        creating = isinstance(first, CreateRun)
        if not isinstance(first, CreateRun):
            self._check_fence(db, write)
        elif (first.caller or first.parent) is not None and sql.heads(db, [write.run_id]):
            # Only the id of a child run or a branch is known before it is created, so only that may be created twice.
            raise OmiumError("conflict", f"run {write.run_id} exists.")
        if write.tried and sql.is_committed(db, write.tried[-1]):
            return Written(write.tried, write.tried[-1].seq)
        events = drive(batch.apply(write), lambda need: self.read(db, need))
        if write.idempotency is not None:
            keys.append((write.idempotency, now))
        fence = None
        if creating and write.claim is not None:
            fence = Fence(1)
            self._owners[write.run_id] = 1
        return Written(events, batch.position(write.run_id), fence)

    def grounded(
        self, db: sqlite3.Connection, blobs: Sequence[NewBlob], packed: Sequence[BlobRow], pending: Sequence[BlobRow]
    ) -> Sequence[BlobRow]:
        """The rows of `blobs`, which were packed before this transaction. Should the base of a patch not be stored (the
        write that brought it was refused; it was swept or found damaged meanwhile), it is packed again by itself."""
        lost = [row for row in packed if row.base is not None and not sql.is_sound(db, row.base)]
        if not lost:
            return packed
        coming = {row.digest for row in (*pending, *packed)}
        alone = {row.digest for row in lost if row.base not in coming}
        contents = {blob.encoded.digest: blob.encoded for blob in blobs}
        again = self._packer.pack([NewBlob(contents[digest]) for digest in alone], lambda _: None)
        return [row for row in packed if row.digest not in alone] + again

    def _earlier(
        self, db: sqlite3.Connection, wanted: IdempotencyKey, keys: list[tuple[IdempotencyKey, int]]
    ) -> Written | None:
        """What an earlier request with this key got, be it committed or a member of this batch."""
        row = sql.key(db, wanted.scope, wanted.key)
        for pending, _ in keys:
            if (pending.scope, pending.key) == (wanted.scope, wanted.key):
                row = (pending.arguments, orjson.dumps(pending.result))
        if row is None:
            return None
        if row[0] != wanted.arguments:
            raise OmiumError(
                "conflict",
                f"the idempotency key {wanted.key!r} was used with other arguments.",
                "Use a new key for a new request.",
            )
        return Written((), Seq(0), replayed=orjson.loads(row[1]))

    def _check_fence(self, db: sqlite3.Connection, write: Write) -> None:
        if write.fence is None:
            if any(type(command) in EXECUTION for command in write.commands):
                raise OmiumError("fenced", f"run {write.run_id} is written without its owner's token.")
            return
        owner = self._owners.get(write.run_id)
        if owner is None:
            owner = self._owners[write.run_id] = sql.fence(db, write.run_id)
        if owner != write.fence:
            raise OmiumError(
                "fenced", f"run {write.run_id} has another owner: token {write.fence} is not {owner}.", fence=owner
            )

    def read(self, db: sqlite3.Connection, need: Need) -> Any:
        if isinstance(need, NeedSnapshot):
            return sql.snapshot(db, need.run_id, need.upto)
        if isinstance(need, NeedEvents):
            return sql.events(db, need.run_id, need.after, need.upto)
        if isinstance(need, NeedHeads):
            return dict(sql.heads(db, need.run_ids))
        assert isinstance(need, NeedValue)
        return decode(self._packer.unpack(need.digest, lambda digest: sql.blob_row(db, digest)))


def _contents(items: Iterable[_Item]) -> Iterator[bytes]:
    for item in items:
        if isinstance(item.work, Write):
            yield from (blob.encoded.data for blob in item.work.blobs)


__all__ = ["Heard", "Writer"]
