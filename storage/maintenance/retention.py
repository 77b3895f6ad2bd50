"""Forget: whole runs that have served their time or that somebody names, or the content of runs while their logs stay.

An event is never removed from a log that is kept, so the chain of a run whose content is gone still verifies: events
name content by its digest only. What branches, labels and other runs still reach is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import anyio

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, Principal, ProjectId, RunId, Seq
from omium.orchestration.log.commands import Erase
from omium.orchestration.log.events import EventType
from omium.orchestration.log.references import references
from omium.orchestration.log.state import RUN_TERMINAL
from omium.orchestration.ports import Write
from omium.storage.budgets import forget_counters
from omium.storage.codec import pack
from omium.storage.maintenance.contents import Contents
from omium.storage.maintenance.logs import (
    RUN_DROPPED,
    RUN_ERASED,
    DroppedRun,
    append_event,
    drop_from_history,
    run_events,
)
from omium.storage.maintenance.naming import disown, runs_naming, unlink
from omium.storage.maintenance.tables import Keeper, Tables

SYSTEM: Final = Principal("retention")

_ERASE_AT_ONCE: Final = 500  # digests of one `erased` event
_DELETE_AT_ONCE: Final = 100
_WRITE_MAY_TAKE_S: Final = 60.0
_EVER: Final = 2**62
# Without these a log could not be folded or shown: what was to run, and which nodes a change of course reset. They are
# no content of the run; the sweep takes them once no log names them.
_STRUCTURE: Final = ("definition", "policy", "nodes", "reset")
_OWN: Final = (
    "nodes",
    "approvals",
    "effects",
    "labels",
    "decisions",
    "snapshots",
    "claims",
    "plans",
    "announced",
    "notices",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Terminal runs that nothing has happened to for `older_than_s` seconds lose their content (`blobs`), or go
    altogether (`runs`). `projects`: only these; None: all."""

    older_than_s: float
    forget: Literal["runs", "blobs"] = "runs"
    projects: tuple[ProjectId, ...] | None = None


@dataclass(frozen=True, slots=True)
class Retained:
    """What went, and why each other run that was old enough stayed."""

    dropped: Sequence[RunId] = ()
    erased: Sequence[RunId] = ()
    kept: Mapping[RunId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Erased:
    """`logged`: blobs that this erasure is the first to name; `deleted`: blobs that are gone now; `shared`: blobs that
    other runs name too and that stay for them; `inherited`: blobs that stay for the `branches`, which took them over:
    erase those first. `pending`: files that were being stored this very minute; the sweep takes them."""

    run_id: RunId
    logged: int
    deleted: int
    shared: int
    inherited: int
    branches: Sequence[RunId]
    pending: int


# --- retention --------------------------------------------------------------------------------------------------------


async def retain(
    keeper: Keeper, policy: Policy, now_us: int, *, actor: Principal = SYSTEM, preview: bool = False
) -> Retained:
    """Apply a policy; with `preview` only say what it would do. `now_us`: microseconds since the epoch.

    A run and the runs that it called go together, in one transaction, or stay together. They stay as long as one of
    them is not terminal, too young, labelled, or has a branch that stays. Raises `storage_unavailable`.
    """
    cut = now_us - int(policy.older_than_s * 1_000_000)
    dropped: list[RunId] = []
    erased: list[RunId] = []
    kept: dict[RunId, str] = {}
    roots = await keeper.read(lambda tables: list(_roots(tables, policy, cut)))
    for root in roots:  # the youngest first: a branch goes before the run that it came from
        gone = frozenset(dropped) if preview else frozenset()
        if policy.forget == "blobs" or preview:
            family, reason = await keeper.read(partial(_family, root=root, cut=cut, gone=gone))
        else:
            family, reason = await keeper.write(partial(_drop, keeper=keeper, root=root, cut=cut, actor=actor))
        if reason is not None:
            kept[root] = reason
        elif policy.forget == "runs":
            dropped += family
        else:
            for run_id in family:
                if preview:
                    outcome = len((await keeper.read(partial(_to_erase, run_id=run_id))).digests)
                else:
                    outcome = (await erase(keeper, run_id, "retention", actor)).deleted
                if outcome:
                    erased.append(run_id)
    return Retained(dropped, erased, kept)


def _roots(tables: Tables, policy: Policy, cut: int) -> Iterator[RunId]:
    """Old runs that no run which is still here has called."""
    rows = tables.each(
        "SELECT id, project, status FROM runs r WHERE updated_at < :cut AND NOT EXISTS"
        " (SELECT 1 FROM runs c WHERE c.id = r.caller_run) ORDER BY id DESC",
        cut=cut,
    )
    for run_id, project, status in rows:
        if status in RUN_TERMINAL and (policy.projects is None or project in policy.projects):
            yield RunId(run_id)


def _called(tables: Tables, root: RunId) -> list[RunId]:
    """The run and all that it called, callers before those that they called."""
    family, todo = [root], [root]
    while todo:
        called = tables.all("SELECT id FROM runs WHERE caller_run = :run ORDER BY id", run=todo.pop())
        fresh = [RunId(run_id) for (run_id,) in called if run_id not in family]
        family += fresh
        todo += fresh
    return family


def _family(
    tables: Tables, root: RunId, cut: int, gone: frozenset[RunId] = frozenset(), *, named: bool = False
) -> tuple[list[RunId], str | None]:
    """The run and all that it called, the callers last, and why they must stay (None: they need not). `gone`: runs to
    be taken for dropped. named: somebody wants just this one gone, whatever labels it has."""
    family = _called(tables, root)
    for run_id in family:
        row = tables.first("SELECT status, updated_at FROM runs WHERE id = :run", run=run_id)
        if row is None or row[0] not in RUN_TERMINAL:
            return [], f"{run_id} has not ended"
        if row[1] >= cut:
            return [], f"{run_id} is too young"
        label = tables.first("SELECT label FROM labels WHERE run_id = :run LIMIT 1", run=run_id)
        if label is not None and not named:
            return [], f"{run_id} has the label {label[0]!r}"
        for (branch,) in tables.all("SELECT id FROM runs WHERE parent_run = :run ORDER BY id", run=run_id):
            if branch not in gone:
                return [], f"{run_id} is where branch {branch} came from"
    return family[::-1], None


def _drop(
    tables: Tables, keeper: Keeper, root: RunId, cut: int, actor: Principal, named: bool = False
) -> tuple[list[RunId], str | None]:
    """Drop a family if it still may be dropped: no write comes between the look and the deed."""
    at = keeper.clock.now_us()
    for run_id in _family(tables, root, cut, named=named)[0]:
        tables.lock_run(run_id)
    family, reason = _family(tables, root, cut, named=named)
    for run_id in family:
        row = tables.first("SELECT project, seq, head FROM runs WHERE id = :run", run=run_id)
        assert row is not None
        run = DroppedRun(run_id, ProjectId(row[0]), Seq(row[1]), bytes(row[2]))
        digests = {digest for event in run_events(tables, run_id) for digest in references(event.data)}
        unlink(tables, run_id, digests)
        drop_from_history(tables, run, at)
        tables.run("DELETE FROM runs WHERE id = :run", run=run_id)
        for table in _OWN:
            tables.run(f"DELETE FROM {table} WHERE run_id = :run", run=run_id)  # noqa: S608 - names of ours
        forget_counters(tables, run.project, run_id)
        data = {"run": run_id, "seq": run.seq, "head": run.head.hex()}
        append_event(tables, keeper.chain, run.project, RUN_DROPPED, at, actor, data)
    return family, reason


# --- what somebody names ----------------------------------------------------------------------------------------------


async def forget(
    keeper: Keeper,
    run_ids: Sequence[RunId],
    what: Literal["runs", "blobs"],
    *,
    reason: str,
    actor: Principal,
    preview: bool = False,
) -> Retained:
    """Drop these runs (`runs`), or erase their content (`blobs`), with the runs that they have called, however young
    they are; with `preview` only say what would go. `reason` stands in the logs of those that are erased.

    A run stays as long as it has not ended, or is part of one that stays; it is not dropped as long as a branch that
    stays came from it. Raises `not_found`, `storage_unavailable`. What was interrupted is finished by repeating it.
    """
    found: dict[str, list[RunId]] = {"runs": [], "blobs": []}
    kept: dict[RunId, str] = {}
    roots = await keeper.read(lambda tables: _named(tables, run_ids, kept))
    for root in roots:
        if what == "runs":
            if preview:
                gone = frozenset(found["runs"])
                family, why = await keeper.read(partial(_family, root=root, cut=_EVER, gone=gone, named=True))
            else:
                drop = partial(_drop, keeper=keeper, root=root, cut=_EVER, actor=actor, named=True)
                family, why = await keeper.write(drop)
            if why is None:
                found["runs"] += family
            else:
                kept[root] = why
            continue
        for run_id in await keeper.read(partial(_called, root=root)):
            try:
                if preview:
                    await keeper.read(partial(_to_erase, run_id=run_id))
                else:
                    await erase(keeper, run_id, reason, actor)
                found["blobs"].append(run_id)
            except OmiumError as error:
                if error.code != "not_allowed":
                    raise
                kept[run_id] = f"{run_id} has not ended"
    return Retained(found["runs"], found["blobs"], kept)


def _named(tables: Tables, run_ids: Sequence[RunId], kept: dict[RunId, str]) -> list[RunId]:
    """Those of the runs that no other one of them has called, the youngest first; the rest goes with its caller."""
    roots = []
    for run_id in sorted(set(run_ids), reverse=True):
        row = tables.first("SELECT caller_run FROM runs WHERE id = :run", run=run_id)
        if row is None:
            raise OmiumError("not_found", f"there is no run {run_id}.", "List the runs to see their ids.")
        if row[0] in run_ids:
            continue
        if row[0] is not None and tables.first("SELECT 1 FROM runs WHERE id = :run", run=row[0]) is not None:
            kept[run_id] = f"{run_id} is a part of {row[0]}"
            continue
        roots.append(run_id)
    return roots


# --- erasing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Content:
    project: ProjectId
    digests: Sequence[Digest]  # named by the log, not erased yet, nobody's inheritance
    inherited: int
    branches: Sequence[RunId]


async def erase(keeper: Keeper, run_id: RunId, reason: str, actor: Principal = SYSTEM) -> Erased:
    """Delete the content of a terminal run: inputs, outputs, artifacts, results; not what other runs name too. Its log
    stays, with an `erased` event, and its chain still verifies.

    An erasure that was interrupted is finished by repeating it. Raises `not_found`, `not_allowed` while the run has not
    ended, `storage_unavailable`.
    """
    started = keeper.clock.now_us()
    content = await keeper.read(partial(_to_erase, run_id=run_id))
    for start in range(0, len(content.digests), _ERASE_AT_ONCE):
        part = tuple(content.digests[start : start + _ERASE_AT_ONCE])
        await keeper.append(Write(run_id, [Erase(part, reason)], actor))
    crash_point("erase.logged")

    def forget_names(tables: Tables) -> tuple[list[Digest], Seq]:
        tables.lock_run(run_id)
        erased = _erased(tables, run_id)
        unlink(tables, run_id, erased)
        if content.digests:
            data = {"run": run_id, "digests": len(content.digests), "reason": reason}
            append_event(tables, keeper.chain, content.project, RUN_ERASED, started, actor, data)
        head = tables.first("SELECT seq FROM runs WHERE id = :run", run=run_id)
        return erased, Seq(head[0] if head is not None else 0)

    erased, head = await keeper.write(forget_names)
    deleted = shared = pending = 0
    for start in range(0, len(erased), _DELETE_AT_ONCE):
        some = erased[start : start + _DELETE_AT_ONCE]
        gone, left = await keeper.write(
            partial(_delete, keeper=keeper, run_id=run_id, head=head, digests=some, started=started)
        )
        crash_point("blobs.rows_deleted")
        deleted, shared = deleted + len(gone), shared + left
        pending += await anyio.to_thread.run_sync(_delete_files, keeper, gone, started / 1e6 - _WRITE_MAY_TAKE_S)
    if deleted:
        await keeper.scrub()
    return Erased(run_id, len(content.digests), deleted, shared, content.inherited, content.branches, pending)


def _to_erase(tables: Tables, run_id: RunId) -> _Content:
    row = tables.first("SELECT project, status FROM runs WHERE id = :run", run=run_id)
    if row is None:
        raise OmiumError("not_found", f"there is no run {run_id}.", "List the runs to see their ids.")
    if row[1] not in RUN_TERMINAL:
        raise OmiumError(
            "not_allowed", f"run {run_id} is {row[1]}: its content is still needed.", "Cancel it, then erase it."
        )
    taken_over, branches = _branches(tables, run_id)
    named: set[Digest] = set()
    inherited: set[Digest] = set()
    structure: set[Digest] = set()
    for event in run_events(tables, run_id):
        structure.update(event.data[name] for name in _STRUCTURE if isinstance(event.data.get(name), str))
        digests = references(event.data)
        named.update(digests)
        if event.seq <= taken_over:
            inherited.update(digests)
        if event.type is EventType.ERASED:
            named.difference_update(event.data["digests"])
    digests = sorted(named - structure - inherited)
    return _Content(ProjectId(row[0]), digests, len((named & inherited) - structure), branches)


def _branches(tables: Tables, run_id: RunId) -> tuple[int, list[RunId]]:
    """Up to which position branches have taken over what the run did, and which ones: those that are not erased, or
    whose own branches are not."""
    upto, standing = 0, []
    for child, seq in tables.all("SELECT id, parent_seq FROM runs WHERE parent_run = :run ORDER BY id", run=run_id):
        below = _branches(tables, RunId(child))[1]
        erased = "SELECT 1 FROM events WHERE run_id = :run AND type = :type LIMIT 1"
        if below or tables.first(erased, run=child, type=EventType.ERASED.value) is None:
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


def _delete(
    tables: Tables, keeper: Keeper, run_id: RunId, head: Seq, digests: Sequence[Digest], started: int
) -> tuple[list[tuple[Digest, str]], int]:
    """Delete those that no log names any more: (digest, encoding) of each, and how many stay for others. The run itself
    may have named one again since its log was at `head`."""
    tables.lock_run(run_id)
    again = {named for event in run_events(tables, run_id, after=head) for named in references(event.data)}
    tables.lock_blobs(digests)  # a patch upon one of them that is being written is either seen here, or comes too late
    contents = Contents(tables, keeper.files)
    gone: list[tuple[Digest, str]] = []
    shared = 0
    for digest in digests:
        if digest in again:
            continue
        if any(other != run_id for other in runs_naming(tables, digest)):
            disown(tables, run_id, digest)
            shared += 1
            continue
        _stand_alone(tables, contents, digest)
        # One that was stored since is somebody's who will name it in a moment.
        rows = tables.all(
            "DELETE FROM blobs WHERE digest = :digest AND touched_at < :started RETURNING encoding",
            digest=digest, started=started,
        )  # fmt: skip
        if not rows:
            disown(tables, run_id, digest)
        gone += [(digest, encoding) for (encoding,) in rows]
    return gone, shared


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


def _delete_files(keeper: Keeper, gone: Sequence[tuple[Digest, str]], untouched_since: float) -> int:
    """How many could not be deleted yet: a write that found the file may be on its way."""
    files = keeper.files
    if files is None:
        return 0
    filed = [digest for digest, encoding in gone if encoding == "file"]
    return sum(not files.delete(digest, untouched_since=untouched_since) for digest in filed)


__all__ = ["SYSTEM", "Erased", "Policy", "Retained", "erase", "forget", "retain"]
