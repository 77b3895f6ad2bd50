"""Forget: whole runs that have served their time or that somebody names, or the content of runs while their logs stay.

An event is never removed from a log that is kept, so the chain of a run whose content is gone still verifies: events
name content by its digest only. What branches, labels and other runs still reach is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId, RunId, Seq
from omium.orchestration.log.references import references
from omium.orchestration.log.state import RUN_TERMINAL
from omium.storage.budgets import forget_counters
from omium.storage.maintenance.erasing import (
    RETENTION,
    SYSTEM,
    Beside,
    Erasable,
    Erased,
    being_made,
    end,
    erase,
    note,
    still_stored,
    to_erase,
)
from omium.storage.maintenance.logs import (
    RUN_DROPPED,
    DroppedRun,
    append_event,
    drop_from_history,
    run_events,
)
from omium.storage.maintenance.naming import unlink
from omium.storage.maintenance.tables import Keeper, Tables

_EVER: Final = 2**62
_OWN: Final = (
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
    """What went, and why each other run that was old enough stayed. `pending`: files of contents that were stored this
    very minute; a sweep an hour later takes them. `shared`: contents that were to be erased and stay, also for those
    who look at that run, because logs of others name the same. `rewritten`: no copies are left in gaps of the
    database's pages."""

    dropped: Sequence[RunId] = ()
    erased: Sequence[RunId] = ()
    kept: Mapping[RunId, str] = field(default_factory=dict)
    pending: int = 0
    shared: int = 0
    origins: Sequence[RunId] = ()
    rewritten: bool = True


# --- retention --------------------------------------------------------------------------------------------------------


async def retain(
    keeper: Keeper,
    policy: Policy,
    now_us: int,
    *,
    actor: Principal = SYSTEM,
    preview: bool = False,
    beside: Beside | None = None,
) -> Retained:
    """Apply a policy; with `preview` only say what it would do. `now_us`: microseconds since the epoch. `beside`
    removes what is not in the database.

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
            family, reason = await keeper.read(partial(_family, root=root, cut=cut, now_us=now_us, gone=gone))
        else:
            family, reason = await keeper.write(partial(_drop, keeper=keeper, root=root, cut=cut, actor=actor))
        if reason is not None:
            kept[root] = reason
        elif policy.forget == "runs":
            dropped += family
            if not preview:
                await end(keeper, family, True, beside)
        else:
            for run_id in family:
                if preview:
                    outcome = len((await keeper.read(partial(to_erase, run_id=run_id, now_us=now_us))).digests)
                else:
                    outcome = (await erase(keeper, run_id, RETENTION, actor, beside)).deleted
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
    tables: Tables, root: RunId, cut: int, now_us: int, gone: frozenset[RunId] = frozenset(), *, named: bool = False
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
        for branch, _ in being_made(tables, run_id, now_us):
            return [], f"{run_id} is where branch {branch} is just being made"
    return family[::-1], None


def _drop(
    tables: Tables, keeper: Keeper, root: RunId, cut: int, actor: Principal, named: bool = False
) -> tuple[list[RunId], str | None]:
    """Drop a family if it still may be dropped: no write comes between the look and the deed."""
    at = keeper.clock.now_us()
    for run_id in _family(tables, root, cut, at, named=named)[0]:
        tables.lock_run(run_id)
    family, reason = _family(tables, root, cut, at, named=named)
    for run_id in family:
        row = tables.first("SELECT project, seq, head FROM runs WHERE id = :run", run=run_id)
        assert row is not None
        run = DroppedRun(run_id, ProjectId(row[0]), Seq(row[1]), bytes(row[2]))
        digests = {digest for event in run_events(tables, run_id) for digest in references(event.data)}
        unlink(tables, run_id, digests)
        drop_from_history(tables, run, at)
        tables.run("DELETE FROM runs WHERE id = :run", run=run_id)
        note(tables, run_id, at, "dropped", actor)  # until what is beside the database is gone
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
    beside: Beside | None = None,
) -> Retained:
    """Drop these runs (`runs`), or erase their content (`blobs`), with the runs that they have called, however young
    they are; with `preview` only say what would go. `reason` stands in the logs of those that are erased.

    A run stays as long as it has not ended, or is part of one that stays; it is not dropped as long as a branch that
    stays came from it. Of one that is erased, what such a branch took over stays: it is `kept` as well then, or only
    that if nothing goes. What is dropped is erased first, so that nothing of it waits for a sweep. `beside` removes
    what is not in the database. Raises `not_found`, `storage_unavailable`. What was interrupted is finished by
    repeating it.
    """
    found: dict[str, list[RunId]] = {"runs": [], "blobs": []}
    pending = 0
    kept: dict[RunId, str] = {}
    roots = await keeper.read(lambda tables: _named(tables, run_ids, kept))
    above = await keeper.read(partial(_above, run_ids=roots))
    for root in roots:  # the youngest first: a branch goes before the run that it came from
        now_us = keeper.clock.now_us()
        if what == "runs":
            if preview:
                gone = frozenset(found["runs"])
                family, why = await keeper.read(
                    partial(_family, root=root, cut=_EVER, now_us=now_us, gone=gone, named=True)
                )
            else:
                family, why = await keeper.read(partial(_family, root=root, cut=_EVER, now_us=now_us, named=True))
                for run_id in family if why is None else ():
                    pending += (await erase(keeper, run_id, reason, actor, beside)).pending
                drop = partial(_drop, keeper=keeper, root=root, cut=_EVER, actor=actor, named=True)
                family, why = await keeper.write(drop)
                if why is None:
                    await end(keeper, family, True, beside)
            if why is None:
                found["runs"] += family
            else:
                kept[root] = why
            continue
        family = await keeper.read(partial(_called, root=root))
        going = await keeper.read(partial(_going, run_ids=family))
        if going is not None:  # nobody's part goes before the whole: what goes on may go back to it
            kept[root] = f"{going} has not ended"
            continue
        for run_id in family:
            try:
                look = partial(to_erase, run_id=run_id, now_us=now_us, gone=found["blobs"])
                content = await keeper.read(look)
                outcome: Erasable | Erased = content
                if content.digests or content.is_noted or not content.inherited:
                    if not preview:
                        outcome = erased = await erase(keeper, run_id, reason, actor, beside)
                        pending += erased.pending
                    found["blobs"].append(run_id)
                if outcome.inherited:
                    kept[run_id] = await keeper.read(partial(_taken_over, outcome=outcome))
            except OmiumError as error:
                if error.code != "not_allowed":
                    raise
                kept[run_id] = f"{run_id} has not ended"
    rewritten = preview or not any(found.values()) or await keeper.rewrite()
    shared = 0 if preview else await keeper.read(partial(still_stored, run_ids=found["blobs"]))
    went = [*found["runs"], *found["blobs"]]
    still = await keeper.read(partial(_origins, above=above, gone=went, now_us=keeper.clock.now_us()))
    origins = [run_id for run_id in still if run_id not in kept]  # of those it is said there
    return Retained(found["runs"], found["blobs"], kept, pending, shared, origins, rewritten)


def _taken_over(tables: Tables, outcome: Erasable | Erased) -> str:
    """Why something of a run that is erased stays."""
    told = []
    for run_id in outcome.branches:
        row = tables.first("SELECT branch FROM runs WHERE id = :run", run=run_id)
        told.append(f"{row[0]} ({run_id})" if row is not None and row[0] else run_id)
    return f"{outcome.inherited} contents stay for branches {', '.join(told)}; erase those too, then this once more"


def _above(tables: Tables, run_ids: Sequence[RunId]) -> dict[RunId, list[RunId]]:
    """For each of the runs those that it came from as a branch, the nearest first."""
    above: dict[RunId, list[RunId]] = {}
    for run_id in run_ids:
        above[run_id], child = [], run_id
        while (row := tables.first("SELECT parent_run FROM runs WHERE id = :run", run=child)) and row[0] is not None:
            child = RunId(row[0])
            above[run_id].append(child)
    return above


def _origins(tables: Tables, above: Mapping[RunId, list[RunId]], gone: Sequence[RunId], now_us: int) -> list[RunId]:
    """The runs above those that are gone which still have content, and are not gone themselves."""
    origins: list[RunId] = []
    for run_id in dict.fromkeys(one for child, those in above.items() if child in gone for one in those):
        try:
            content = None if run_id in gone else to_erase(tables, run_id, now_us, gone=gone)
        except OmiumError as error:
            if error.code == "not_allowed":  # it has not ended
                origins.append(run_id)
            elif error.code != "not_found":
                raise
            continue
        if content is not None and (content.digests or content.inherited):
            origins.append(run_id)
    return origins


def _going(tables: Tables, run_ids: Sequence[RunId]) -> RunId | None:
    """One of them that has not ended."""
    for run_id in run_ids:
        row = tables.first("SELECT status FROM runs WHERE id = :run", run=run_id)
        if row is not None and row[0] not in RUN_TERMINAL:
            return run_id
    return None


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


__all__ = ["Policy", "Retained", "forget", "retain"]
