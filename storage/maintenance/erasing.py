"""Erase the content of a run while its log stays: its `erased` events say what went, and its chain still verifies.

An erasure is on record from before its first step until after its last one. What a crash interrupts, the next sweep
finishes: whoever asked for it need not be there to repeat it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import anyio

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, Principal, RunId, Seq
from omium.orchestration.log.commands import Erase
from omium.orchestration.log.courses import is_overtaken
from omium.orchestration.log.events import EventType
from omium.orchestration.log.references import references
from omium.orchestration.log.state import RUN_TERMINAL
from omium.orchestration.ports import Write
from omium.storage.codec import pack
from omium.storage.maintenance.contents import Contents
from omium.storage.maintenance.logs import RUN_ERASED, append_event, run_events
from omium.storage.maintenance.naming import disown, runs_naming, unlink
from omium.storage.maintenance.tables import Keeper, Tables

Beside: TypeAlias = Callable[[Sequence[RunId], bool], Awaitable[None]]
"""Removes what runs have left outside of the database, with their workspaces or without. It may be called again."""

SYSTEM: Final = Principal("retention")
RETENTION: Final = "retention"  # the reason of a policy, which leaves the workspaces of runs whose logs stay

_TRIES: Final = 5
_ERASE_AT_ONCE: Final = 500  # digests of one `erased` event
_DELETE_AT_ONCE: Final = 100
_WRITE_MAY_TAKE_S: Final = 60.0
_BEING_MADE_US: Final = 60_000_000  # between the note of a branch and its first event lies one write
_INTERRUPTED_US: Final = 3_600_000_000  # an erasure that was begun so long ago is at nobody's hands
# Without these a log could not be folded or shown: what was to run, and which nodes a change of course reset. They are
# no content of the run; the sweep takes them once no log names them.
_STRUCTURE: Final = ("definition", "policy", "nodes", "reset")


@dataclass(frozen=True, slots=True)
class Erased:
    """`logged`: blobs that this erasure is the first to name; `deleted`: blobs that are gone now; `shared`: blobs that
    other runs name too and that stay for them; `inherited`: blobs that stay for the `branches`, which took them over:
    erase those first, then this once more. `pending`: files that were being stored this very minute; the sweep takes
    them."""

    run_id: RunId
    logged: int
    deleted: int
    shared: int
    inherited: int
    branches: Sequence[RunId]
    pending: int


@dataclass(frozen=True, slots=True)
class Erasable:
    digests: Sequence[Digest] = ()  # named by the log, not erased yet, nobody's inheritance
    inherited: int = 0
    branches: Sequence[RunId] = ()
    is_noted: bool = True  # an erasure is on record
    went_on: bool = False  # the run has done something since that was begun
    head: Seq | None = None  # where the log ended


async def erase(
    keeper: Keeper, run_id: RunId, reason: str, actor: Principal = SYSTEM, beside: Beside | None = None
) -> Erased:
    """Delete the content of a terminal run: inputs, outputs, artifacts, results; not what other runs name too. Its log
    stays, with an `erased` event, and its chain still verifies.

    One that was interrupted, or that had to leave something for the moment, is finished by repeating it, and by a sweep
    an hour later. `beside` is called before its end. Raises `not_found`, `not_allowed` while the run has not ended,
    `storage_unavailable`, and what `beside` raises.
    """
    for attempt in range(1, _TRIES + 1):
        content = await keeper.read(partial(to_erase, run_id=run_id, now_us=keeper.clock.now_us()))
        if content.digests:
            about: dict[str, Any] = {"at": keeper.clock.now_us(), "reason": reason, "actor": actor}
            await keeper.write(partial(_begin, keeper=keeper, run_id=run_id, of=len(content.digests), **about))
        crash_point("erase.noted")
        try:
            return await _carry_out(keeper, run_id, content, reason, actor, beside)
        except OmiumError as error:
            if not is_overtaken(error) or attempt == _TRIES:
                raise
    raise AssertionError("the last attempt returns or raises")


async def finish_interrupted(keeper: Keeper, now_us: int, beside: Beside | None = None) -> int:
    """Finish the erasures that were begun an hour ago or earlier and never came to their end; how many there were.
    `now_us`: microseconds since the epoch. A run that has gone on since keeps what it has made from then on, and what
    is beside the database; of one that was dropped, that goes. Raises `storage_unavailable`, what `beside` raises."""
    query = "SELECT run_id, begun_at, reason, actor FROM erasures WHERE begun_at < :cut ORDER BY run_id"
    found = await keeper.read(lambda tables: tables.all(query, cut=now_us - _INTERRUPTED_US))
    for name, begun_at, reason, actor in found:
        for attempt in range(1, _TRIES + 1):
            try:
                await _finish(keeper, RunId(name), now_us, begun_at, reason, Principal(actor), beside)
                break
            except OmiumError as error:
                if not is_overtaken(error) or attempt == _TRIES:
                    raise
    if found:
        await keeper.rewrite()
    return len(found)


async def _finish(
    keeper: Keeper, run_id: RunId, now_us: int, begun_at: int, reason: str, actor: Principal, beside: Beside | None
) -> None:
    try:
        content = await keeper.read(partial(to_erase, run_id=run_id, now_us=now_us, begun_at=begun_at))
    except OmiumError as error:
        if error.code == "not_found":
            await end(keeper, [run_id], True, beside)
            return
        if error.code != "not_allowed":
            raise
        content = Erasable(went_on=True)
    await _carry_out(keeper, run_id, content, reason, actor, None if content.went_on else beside)


def note(tables: Tables, run_id: RunId, at: int, reason: str, actor: Principal) -> bool:
    """Have it on record that something of the run is to be removed; whether nothing was."""
    known = tables.run("DELETE FROM erasures WHERE run_id = :run", run=run_id)
    tables.run(
        "INSERT INTO erasures (run_id, begun_at, reason, actor) VALUES (:run, :at, :reason, :actor)",
        run=run_id, at=at, reason=reason, actor=actor,
    )  # fmt: skip
    return not known


async def end(keeper: Keeper, run_ids: Sequence[RunId], workspaces: bool, beside: Beside | None) -> None:
    """Have what is beside the database removed, and then the record."""
    if beside is not None:
        await beside(run_ids, workspaces)
    rows = [{"run": run_id} for run_id in run_ids]
    await keeper.write(lambda tables: tables.many("DELETE FROM erasures WHERE run_id = :run", rows))


def _begin(tables: Tables, keeper: Keeper, run_id: RunId, at: int, reason: str, actor: Principal, of: int) -> None:
    """Note the erasure of so many contents, and tell the project, once however often it is taken up again."""
    tables.lock_run(run_id)
    row = tables.first("SELECT project FROM runs WHERE id = :run", run=run_id)
    if row is None:
        raise _unknown(run_id)
    if note(tables, run_id, at, reason, actor):
        data = {"run": run_id, "digests": of, "reason": reason}
        append_event(tables, keeper.chain, row[0], RUN_ERASED, at, actor, data)


async def _carry_out(
    keeper: Keeper, run_id: RunId, content: Erasable, reason: str, actor: Principal, beside: Beside | None
) -> Erased:
    started = keeper.clock.now_us()
    for start in range(0, len(content.digests), _ERASE_AT_ONCE):
        part = tuple(content.digests[start : start + _ERASE_AT_ONCE])
        await keeper.append(Write(run_id, [Erase(part, reason, content.head)], actor))
    crash_point("erase.logged")
    erased, head = await keeper.write(partial(_forget_links, run_id=run_id))
    parts = [erased[start : start + _DELETE_AT_ONCE] for start in range(0, len(erased), _DELETE_AT_ONCE)]
    about: dict[str, Any] = {"keeper": keeper, "run_id": run_id, "head": head, "started": started}
    deleted = shared = pending = 0
    for digests in parts:
        went = await keeper.write(partial(_delete, **about, digests=digests))
        crash_point("blobs.rows_deleted")
        deleted, shared = deleted + went.rows, shared + went.shared
        pending += await anyio.to_thread.run_sync(_delete_files, keeper, went, started / 1e6 - _WRITE_MAY_TAKE_S)
    if deleted or content.is_noted:
        await keeper.scrub()
    is_new, workspaces = bool(content.digests) or content.is_noted, reason != RETENTION
    if is_new and not pending:
        await end(keeper, [run_id], workspaces, beside)
    elif beside is not None and (is_new or workspaces):
        await beside([run_id], workspaces)
    return Erased(run_id, len(content.digests), deleted, shared, content.inherited, content.branches, pending)


def to_erase(
    tables: Tables, run_id: RunId, now_us: int, begun_at: int | None = None, gone: Collection[RunId] = ()
) -> Erasable:
    """`now_us`: microseconds since the epoch; `begun_at`: what the log has named later was not meant; `gone`: runs to
    be taken for erased. Raises `not_found`, `not_allowed`."""
    row = tables.first("SELECT status FROM runs WHERE id = :run", run=run_id)
    if row is None:
        raise _unknown(run_id)
    if row[0] not in RUN_TERMINAL:
        raise OmiumError(
            "not_allowed", f"run {run_id} is {row[0]}: its content is still needed.", "Cancel it, then erase it."
        )
    taken_over, branches = _branches(tables, run_id, gone)
    for child, seq in being_made(tables, run_id, now_us):
        taken_over, branches = max(taken_over, seq), [*branches, child]
    named: set[Digest] = set()
    inherited: set[Digest] = set()
    structure: set[Digest] = set()
    later: set[Digest] = set()
    went_on, head = False, Seq(0)
    for event in run_events(tables, run_id):
        head = event.seq
        structure.update(event.data[name] for name in _STRUCTURE if isinstance(event.data.get(name), str))
        digests = references(event.data)
        named.update(digests)
        if event.seq <= taken_over:
            inherited.update(digests)
        if event.type is EventType.ERASED:
            named.difference_update(event.data["digests"])
        elif begun_at is not None and event.at > begun_at:
            later.update(digests)
            went_on = True
    digests = sorted(named - structure - inherited - later)
    is_noted = tables.first("SELECT 1 FROM erasures WHERE run_id = :run", run=run_id) is not None
    return Erasable(digests, len((named & inherited) - structure), branches, is_noted, went_on, head)


def being_made(tables: Tables, run_id: RunId, now_us: int) -> list[tuple[RunId, Seq]]:
    """Branches that the run's log has named just now, with their positions, of which nothing is written yet. Those that
    were named longer ago were cut off: whoever makes them looks at the run again."""
    found = []
    for event in run_events(tables, run_id):
        if event.type is EventType.RUN_BRANCHED and event.at > now_us - _BEING_MADE_US:
            child = event.data["child"]
            gone = "SELECT 1 FROM dropped_runs WHERE run_id = :run UNION SELECT 1 FROM runs WHERE id = :run"
            if tables.first(gone, run=child) is None:
                found.append((RunId(child), Seq(event.data["at"])))
    return found


def _unknown(run_id: RunId) -> OmiumError:
    return OmiumError("not_found", f"there is no run {run_id}.", "List the runs to see their ids.")


def _forget_links(tables: Tables, run_id: RunId) -> tuple[list[Digest], Seq]:
    """What the log says is erased, and how long the log is."""
    tables.lock_run(run_id)
    erased = _erased(tables, run_id)
    unlink(tables, run_id, erased)
    head = tables.first("SELECT seq FROM runs WHERE id = :run", run=run_id)
    return erased, Seq(head[0] if head is not None else 0)


def _branches(tables: Tables, run_id: RunId, gone: Collection[RunId]) -> tuple[int, list[RunId]]:
    """Up to which position branches have taken over what the run did, and which ones: those that are not erased, or
    whose own branches are not."""
    upto, standing = 0, []
    for child, seq in tables.all("SELECT id, parent_seq FROM runs WHERE parent_run = :run ORDER BY id", run=run_id):
        below = _branches(tables, RunId(child), gone)[1]
        erased = "SELECT 1 FROM events WHERE run_id = :run AND type = :type LIMIT 1"
        is_erased = child in gone or tables.first(erased, run=child, type=EventType.ERASED.value) is not None
        if below or not is_erased:
            upto = max(upto, seq)
            standing.append(RunId(child))
    return upto, standing


def _erased(tables: Tables, run_id: RunId) -> list[Digest]:
    """What the log says is erased and has not named again since; patches before what they are patches upon."""
    erased: set[Digest] = set()
    for event in run_events(tables, run_id):
        erased.difference_update(references(event.data))
        if event.type is EventType.ERASED:
            erased.update(Digest(digest) for digest in event.data["digests"])
    depths: dict[Digest, int] = {}
    for digest in erased:
        row = tables.first("SELECT depth FROM blobs WHERE digest = :digest", digest=digest)
        depths[digest] = row[0] if row is not None else 0
    return sorted(erased, key=lambda digest: (-depths[digest], digest))


def still_stored(tables: Tables, run_ids: Sequence[RunId]) -> int:
    """How many contents stay that the logs of these runs call erased: what other runs name too."""
    named = {digest for run_id in run_ids for digest in _erased(tables, run_id)}
    stored = "SELECT 1 FROM blobs WHERE digest = :digest"
    return sum(tables.first(stored, digest=digest) is not None for digest in named)


@dataclass(slots=True)
class _Went:
    rows: int = 0
    shared: int = 0
    files: list[Digest] = field(default_factory=list)  # of rows that went now
    left: list[Digest] = field(default_factory=list)  # of rows that went earlier: there may be files of theirs


def _only_of(tables: Tables, run_id: RunId, head: Seq, digests: Sequence[Digest]) -> Iterator[tuple[Digest, bool]]:
    """Those that the run has not named again since its log was at `head`, and whether other runs name them."""
    tables.lock_run(run_id)
    again = {named for event in run_events(tables, run_id, after=head) for named in references(event.data)}
    tables.lock_blobs(digests)  # a patch upon one of them that is being written is either seen here, or comes too late
    for digest in digests:
        if digest not in again:
            yield digest, any(other != run_id for other in runs_naming(tables, digest))


def _delete(tables: Tables, keeper: Keeper, run_id: RunId, head: Seq, digests: Sequence[Digest], started: int) -> _Went:
    """Delete those that no log names any more."""
    contents, went = Contents(tables, keeper.files), _Went()
    for digest, is_shared in _only_of(tables, run_id, head, digests):
        if is_shared:
            disown(tables, run_id, digest)
            went.shared += 1
            continue
        _stand_alone(tables, contents, digest)
        # One that was stored since is somebody's who will name it in a moment.
        rows = tables.all(
            "DELETE FROM blobs WHERE digest = :digest AND touched_at < :started RETURNING encoding",
            digest=digest, started=started,
        )  # fmt: skip
        went.rows += len(rows)
        if ("file",) in rows:
            went.files.append(digest)
        elif not rows and tables.first("SELECT 1 FROM blobs WHERE digest = :digest", digest=digest) is None:
            went.left.append(digest)
        elif not rows:
            disown(tables, run_id, digest)
    return went


def _stand_alone(tables: Tables, contents: Contents, base: Digest) -> None:
    """Store the blobs that are patches upon `base` without it."""
    for (name,) in tables.all("SELECT digest FROM blobs WHERE base = :base", base=base):
        digest = Digest(name)
        if contents.fault(digest) is not None:
            # It is lost either way; so it names nothing, and a new copy heals it.
            tables.run("UPDATE blobs SET encoding = 'bad', base = NULL WHERE digest = :digest", digest=digest)
            continue
        packed = pack(contents.get(digest))
        tables.run(
            "UPDATE blobs SET encoding = :encoding, base = NULL, depth = 0, data = :data WHERE digest = :digest",
            encoding=packed.encoding, data=packed.data, digest=digest,
        )  # fmt: skip


def _delete_files(keeper: Keeper, went: _Went, untouched_since: float) -> int:
    """How many are still there: a write that found the file may be on its way."""
    files, left = keeper.files, 0
    if files is None:
        return 0
    for digest in (*went.files, *went.left):
        files.delete(digest, untouched_since=untouched_since)
        left += files.size(digest) > 0
    return left


__all__ = [
    "RETENTION",
    "SYSTEM",
    "Beside",
    "Erasable",
    "Erased",
    "being_made",
    "end",
    "erase",
    "finish_interrupted",
    "note",
    "still_stored",
    "to_erase",
]
