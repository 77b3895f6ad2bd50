"""One try at committing a batch: from writes to rows, and from rows to a commit that took place or did not."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import orjson

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError, Unheard
from omium.orchestration.ids import Digest, Fence, RunId, Seq
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.commands import EXECUTION, CreateRun
from omium.orchestration.log.events import Event
from omium.orchestration.log.load import Need, NeedEvents, NeedHeads, NeedSnapshot, NeedValue
from omium.orchestration.ports import Clock, IdempotencyKey, NewBlob, Write, Written
from omium.orchestration.values import decode
from omium.storage.batch import Batch, StateCache
from omium.storage.blobs import BlobRow, Packer
from omium.storage.postgres import statements as sql
from omium.storage.postgres.connection import RESOLVE_S, Connection, Link
from omium.storage.postgres.errors import FAILURES, is_lost
from omium.storage.reads import as_event

T = TypeVar("T")
Heard = tuple[RunId, Sequence[Event]]

_THREAD_FROM = 64 * 1024  # bytes of new blobs that are packed in a thread rather than in the event loop
_LATEST = 2**62


@dataclass(slots=True)
class Item:
    work: Write
    future: asyncio.Future[Written]
    blobs: Sequence[BlobRow] = ()


@dataclass(slots=True)
class Result:
    outcomes: list[tuple[Item, Any]] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)


class Unanswered(OmiumError):
    """Nobody knows whether the commit of a batch took place; `of`: what that is to whoever waits for one of it."""

    def __init__(self, error: OmiumError, result: Result) -> None:
        super().__init__(error.code, error.message, error.hint, **error.data)
        self._result = result

    def of(self, item: Item) -> Unheard:
        written = next((found for one, found in self._result.outcomes if one is item), None)
        return Unheard(self.message, self.hint, written.events if isinstance(written, Written) else ())


class Moved(Exception):
    """A run of the batch is not what this process believed: nothing was written."""


def bases_of(packed: Sequence[BlobRow]) -> list[Digest]:
    """What these blobs are patches upon, as far as they do not bring it themselves."""
    brought = {row.digest for row in packed}
    return sorted({row.base for row in packed if row.base is not None and row.base not in brought})


@dataclass(slots=True)
class Desk:
    """What the attempts of one writer share, one after the other."""

    link: Link
    clock: Clock
    chain: Chain
    packer: Packer
    cache: StateCache

    async def packed(self, blobs: Sequence[NewBlob], known: Mapping[bytes, bytes] | None = None) -> list[BlobRow]:
        """The rows of new blobs, patched against their bases where that pays; large ones are in their files by then.
        `known`: what `codec.compressed` gave for these and others."""
        wanted = self.packer.bases(blobs)
        rows: Mapping[Digest, BlobRow] = {}
        if wanted:
            rows = await self._chains(sorted(wanted))
        if sum(blob.encoded.size for blob in blobs) < _THREAD_FROM:
            return self.packer.pack(blobs, rows.get, known)
        return await asyncio.to_thread(self.packer.pack, blobs, rows.get, known)

    async def _chains(self, digests: Sequence[Digest]) -> dict[Digest, BlobRow]:
        try:
            return sql.blob_rows(await (await self.link.get()).fetch(sql.CHAINS, digests))
        except FAILURES as error:
            if not is_lost(error):
                raise
        self.link.lose()
        return sql.blob_rows(await (await self.link.get()).fetch(sql.CHAINS, digests))

    async def grounded(
        self, db: Connection, packed: Sequence[BlobRow], blobs: Iterable[NewBlob], now: int
    ) -> list[BlobRow]:
        """The rows of blobs that were packed before this transaction. Should the base of a patch not be stored (the
        write that brought it was refused; it was swept or found damaged meanwhile), the patch is packed again whole."""
        bases = bases_of(packed)
        sound = {row[0] for row in await db.fetch(sql.TOUCH, bases, now)} if bases else set()
        lost = set(bases) - sound
        if not lost:
            return list(packed)
        contents = {blob.encoded.digest: blob.encoded for blob in blobs}
        alone = {row.digest for row in packed if row.base in lost}
        again = {row.digest: row for row in await self.packed([NewBlob(contents[digest]) for digest in sorted(alone)])}
        return [again.get(row.digest, row) for row in packed]

    async def landed(self, question: str, *arguments: Any) -> bool:
        """Whether the commit whose answer was lost took place. Raises `storage_unavailable` if nobody can be asked."""
        self.link.lose()
        try:
            db = await self.link.get(RESOLVE_S)
            return await db.fetchval(question, *arguments) is True
        except (OmiumError, *FAILURES) as error:
            raise OmiumError(
                "storage_unavailable",
                "the PostgreSQL database was lost during a commit; it is not known whether that took place.",
                "Read the run again once the database is back.",
                outcome="unknown",
            ) from error


async def roll_back(db: Connection) -> None:
    try:
        await db.execute("ROLLBACK")
    except FAILURES:
        db.terminate()  # the server rolls back what a lost session leaves


class Attempt:
    """One try at committing a batch."""

    def __init__(self, desk: Desk, items: list[Item]) -> None:
        self._desk = desk
        self._items = items
        self._now = desk.clock.now_us()
        self._batch = Batch(desk.cache, desk.chain, self._now)
        self._blobs: list[BlobRow] = []
        self._keys: list[tuple[IdempotencyKey, int]] = []
        self._earlier: dict[tuple[str, str], tuple[str, bytes]] = {}
        self._heads: dict[RunId, tuple[int, int]] | None = None  # when locked: position and owner's token, or -1
        self._fences: dict[RunId, int] = {}  # when not locked: the token that the batch's members believe in
        self._beside: dict[RunId, Seq] = {}  # when not locked: the positions at which other runs have to be still
        self._loaded: dict[RunId, tuple[Any, list[Event]]] = {}
        self._db: Connection = None

    async def run(self, locked: bool) -> Result:
        db = self._db = await self._desk.link.get()
        if not locked:
            await self._prepare()
            result, statement = await self._apply()
            await self._finish(result, statement, locked)
        else:
            await db.execute("BEGIN")
            try:
                await self._lock()
                await self._prepare()
                result, statement = await self._apply()
                await self._finish(result, statement, locked)
            except BaseException:
                if not db.is_closed() and db.is_in_transaction():
                    await roll_back(db)
                raise
        self._batch.commit()
        return result

    async def _lock(self) -> None:
        """Lock the runs of the batch, and read what this process does not know of them."""
        runs = sorted({one for item in self._items for one in (item.work.run_id, item.work.awaited_by) if one})
        self._heads = {RunId(row[0]): (row[1], row[2]) for row in await self._db.fetch(sql.LOCK, runs)}
        cache = self._desk.cache
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

    async def _apply(self) -> tuple[Result, sql.Statement | None]:
        result = Result()
        for item in self._items:
            try:
                written = await self._write(item)
            except OmiumError as refusal:
                result.outcomes.append((item, refusal))
                continue
            result.heard += self._batch.heard(item.work, written.events)
            result.outcomes.append((item, written))
        bases: Sequence[Digest] = ()
        if self._heads is None:
            bases = bases_of(self._blobs)
        else:
            blobs = (blob for item in self._items for blob in item.work.blobs)
            self._blobs = await self._desk.grounded(self._db, self._blobs, blobs, self._now)
        based = [sql.Based(run_id, seq, self._fences.get(run_id)) for run_id, seq in self._batch.based_on.items()]
        based += [sql.Based(*one) for one in self._beside.items() if one not in self._batch.based_on.items()]
        layout = self._desk.link.layout
        return result, sql.statement(layout, based, self._batch.rows(), self._blobs, self._keys, bases)

    async def _write(self, item: Item) -> Written:
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
        if write.tried and await self._is_committed(write.tried[-1]):
            return Written(write.tried, write.tried[-1].seq)
        events = await self._drive(self._batch.apply(write))
        self._blobs += item.blobs
        if write.idempotency is not None:
            self._keys.append((write.idempotency, self._now))
            self._earlier[write.idempotency.scope, write.idempotency.key] = (
                write.idempotency.arguments,
                orjson.dumps(write.idempotency.result),
            )
        return Written(
            events, self._batch.position(write.run_id), Fence(1) if creating and write.claim is not None else None
        )

    async def _is_committed(self, event: Event) -> bool:
        return await self._db.fetchval(sql.IS_COMMITTED, event.run_id, event.seq, event.hash) is True

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
                raise Moved
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
            if not self._desk.packer.knows(need.digest):
                rows = sql.blob_rows(await self._db.fetch(sql.CHAINS, [need.digest]))
            return decode(self._desk.packer.unpack(need.digest, rows.get))
        if isinstance(need, NeedHeads):
            asked = sql.HEADS if self._heads is None else sql.LOCK
            found = await self._db.fetch(asked, sorted(need.run_ids))
            if len(found) < len(need.run_ids):  # one to be created is seen only once what it is created for is locked
                if self._heads is None:
                    raise Moved
                found = await self._db.fetch(asked, sorted(need.run_ids))  # it was created while that was waited for
            heads = {RunId(row[0]): Seq(row[1]) for row in found}
            if self._heads is None:
                self._beside |= heads
            return heads
        if need.upto is None and need.run_id in self._loaded:
            document, events = self._loaded[need.run_id]
            return document if isinstance(need, NeedSnapshot) else events
        upto = need.upto if need.upto is not None else _LATEST
        if isinstance(need, NeedSnapshot):
            found = await self._db.fetchval(sql.SNAPSHOT, need.run_id, upto)
            return None if found is None else orjson.loads(found)
        assert isinstance(need, NeedEvents)
        return [as_event(row) for row in await self._db.fetch(sql.EVENTS, need.run_id, need.after, upto)]

    async def _finish(self, result: Result, statement: sql.Statement | None, locked: bool) -> None:
        """Write and commit. Raises Moved, with nothing written, when a run is not what the batch was computed from, and
        Unanswered."""
        witness = self._batch.first_event
        try:
            if statement is not None:
                if not locked:
                    crash_point("commit.before")
                if await self._db.fetchval(statement.text, *statement.arguments) is not True:
                    raise Moved
            if locked:
                crash_point("commit.before")
                await self._db.execute("COMMIT")
        except FAILURES as error:
            if not is_lost(error) or witness is None:
                raise
            try:
                landed = await self._desk.landed(sql.IS_COMMITTED, witness.run_id, witness.seq, witness.hash)
            except OmiumError as unknown:
                raise Unanswered(unknown, result) from error
            if not landed:
                raise
        crash_point("commit.after")
