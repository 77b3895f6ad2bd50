"""Check a database against itself: every chain, every projection, every blob, every reference.

All of it happens on one snapshot, log by log, so its memory is bounded by the largest run. What turns out
damaged is quarantined afterwards.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, NodeId, RunId, Seq
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.events import EventType
from omium.orchestration.log.fold import Touched
from omium.orchestration.log.state import NodeStatus, RunState
from omium.orchestration.ports import Damage
from omium.storage.blobfiles import BlobFiles
from omium.storage.maintenance.contents import Contents, quarantine, runs_needing
from omium.storage.maintenance.logs import (
    Follower,
    Row,
    check_anchor,
    check_head,
    project_log,
    project_rows,
    projects,
    recorded_heads,
    run_ids,
    run_rows,
)
from omium.storage.maintenance.projections import Folder, Projection, differences, same_state, strangers
from omium.storage.maintenance.tables import Keeper, Tables
from omium.storage.reads import CHECKPOINTS, as_event

_RUNS_NAMED: Final = 20
# What folding raises when an event, though linked, was never one of ours, or when a blob that it needs is damaged.
_UNFOLDABLE: Final = (OmiumError, AssertionError, AttributeError, KeyError, TypeError, ValueError)


async def verify(
    keeper: Keeper, run_ids: Sequence[RunId] | None = None, anchor: Mapping[str, Any] | None = None
) -> list[Damage]:
    """Everything that is wrong, in a stable order; an empty list is good. With `run_ids` only these runs, and the blobs
    that they name. `anchor` is what `export_heads` gave earlier: only there a truncated log shows for certain.

    Damaged blobs are quarantined. Raises `storage_unavailable`, `not_found` for an unknown run, `invalid_argument` for
    an anchor that cannot be read.
    """

    def work(tables: Tables) -> list[Damage]:
        return list(check(tables, keeper.files, keeper.chain, run_ids, anchor))

    found = await keeper.read(work)
    for damage in found:
        if damage.kind == "blob":
            await quarantine(keeper, Digest(damage.subject))
    return found


def check(
    tables: Tables,
    files: BlobFiles | None,
    chain: Chain,
    only: Sequence[RunId] | None = None,
    anchor: Mapping[str, Any] | None = None,
) -> Iterator[Damage]:
    """`verify` on one snapshot, which it does not change."""
    checking = _Checking(tables, files, chain)
    if only is not None:
        for run_id in only:
            if tables.first("SELECT 1 FROM runs WHERE id = :run", run=run_id) is None and not _has_events(
                tables, run_id
            ):
                raise OmiumError("not_found", f"there is no run {run_id}.", "List the runs to see their ids.")
            yield from checking.guarded(run_id, partial(checking.run, run_id))
        if anchor is not None:
            yield from check_anchor(tables, anchor, only)
        return
    yield from (Damage("database", table, text) for table, text in tables.complaints())
    yield from checking.guarded("events", checking.runs)
    yield from checking.guarded("runs", checking.runs_without_log)
    yield from checking.guarded("project_events", checking.projects)
    yield from checking.guarded("blobs", checking.blobs)
    if anchor is not None:
        yield from checking.guarded("events", partial(check_anchor, tables, anchor))


def _has_events(tables: Tables, run_id: str) -> bool:
    return tables.first("SELECT 1 FROM events WHERE run_id = :run LIMIT 1", run=run_id) is not None


class _Checking:
    def __init__(self, tables: Tables, files: BlobFiles | None, chain: Chain) -> None:
        self._tables = tables
        self._chain = chain
        self._contents = Contents(tables, files)
        self._folder = Folder(tables, self._contents)
        self._faults: dict[Digest, OmiumError | None] = {}

    def guarded(self, subject: str, part: Callable[[], Iterator[Damage]]) -> Iterator[Damage]:
        """The findings of one part, and that it could not be read to its end where a page of it is damaged."""
        try:
            yield from part()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # locked, gone: that is no damage
            yield Damage("database", subject, f"it cannot be read: {error}", {"cause": str(error)})

    def runs(self) -> Iterator[Damage]:
        for run_id in run_ids(self._tables):
            yield from self.guarded(run_id, partial(self.run, run_id, blobs=False))

    def run(self, run_id: RunId, *, blobs: bool = True) -> Iterator[Damage]:
        """One log: its chain, its end, its projections, its snapshots, and what it refers to."""
        follower, projection = Follower(self._chain, run_id), Projection(run_id, self._folder)
        snapshots = {seq for (seq,) in self._tables.all("SELECT seq FROM snapshots WHERE run_id = :run", run=run_id)}
        folding = True
        for row in run_rows(self._tables, run_id):
            problem = follower.follow(row)
            if problem is not None:
                yield follower.damage(problem)
                continue
            if not follower.sound or not folding:
                self._refer(projection, row)
                continue
            try:
                projection.add(as_event(row))
            except _UNFOLDABLE as error:
                folding = False
                yield from self._unfoldable(follower, error)
                continue
            if follower.seq in snapshots:
                yield from self._snapshot(projection.folded)
        yield from self._end(follower)
        if follower.sound and folding and follower.seq:
            yield from differences(self._tables, projection)
        yield from self._references(run_id, projection, blobs)

    def _refer(self, projection: Projection, row: Row) -> None:
        """What a row names, as far as it can be read, although the log up to it cannot be folded."""
        try:
            projection.refer(as_event(row))
        except (OmiumError, KeyError, TypeError, ValueError):
            return  # the chain has said so

    def _unfoldable(self, follower: Follower, error: Exception) -> Iterator[Damage]:
        if isinstance(error, OmiumError) and "digest" in error.data:
            return  # the blob is reported, and that the run refers to it
        yield follower.damage(f"it cannot be applied: {error!r}")

    def _snapshot(self, state: RunState) -> Iterator[Damage]:
        run_id, seq = state.run_id, state.seq
        row = self._tables.first(
            "SELECT document FROM snapshots WHERE run_id = :run AND seq = :seq", run=run_id, seq=seq
        )
        try:
            same = row is not None and same_state(orjson.loads(row[0]), state)
        except ValueError:
            same = False
        if same:
            self._folder.trust(run_id, seq)
        else:
            data = {"run": run_id, "table": "snapshots", "key": str(seq), "columns": ["document"]}
            yield Damage("projection", run_id, f"snapshots[{seq}] is not the state at that position", data)

    def _end(self, follower: Follower) -> Iterator[Damage]:
        run_id = follower.log
        row = self._tables.first("SELECT seq, head FROM runs WHERE id = :run", run=run_id)
        if row is not None and (row[0] > follower.seq or (row[0] == follower.seq and bytes(row[1]) != follower.head)):
            data = {"log": run_id, "seq": follower.seq}
            if row[0] == follower.seq:
                yield Damage(
                    "chain", f"{run_id}@{row[0]}", "the log does not end in the event that its run names", data
                )
            else:
                problem = f"the log ends here, and its run has seen it reach {row[0]}: events are missing"
                yield Damage("chain", f"{run_id}@{follower.seq}", problem, data)

    def _references(self, run_id: RunId, projection: Projection, blobs: bool) -> Iterator[Damage]:
        """`blobs`: also whether what is there is sound; else somebody looks at every blob anyway."""
        for name in sorted(projection.named):
            digest = Digest(name)
            if self._tables.first("SELECT 1 FROM blobs WHERE digest = :digest", digest=digest) is None:
                data = {"run": run_id, "digest": digest}
                yield Damage("reference", run_id, f"its log names blob {digest}, which is not stored", data)
            elif blobs:
                yield from self._blob(digest)

    def runs_without_log(self) -> Iterator[Damage]:
        for table, run_id in strangers(self._tables):
            if table == "runs":
                data = {"log": run_id, "seq": 0}
                yield Damage("chain", f"{run_id}@0", "all events of the run are missing", data)
            elif self._tables.first("SELECT 1 FROM runs WHERE id = :run", run=run_id) is None:
                data = {"run": run_id, "table": table, "key": "", "columns": []}
                yield Damage("projection", run_id, f"{table} has rows of a run that has no log", data)

    def projects(self) -> Iterator[Damage]:
        for project in projects(self._tables):
            follower = Follower(self._chain, project_log(project))
            for row in project_rows(self._tables, project):
                problem = follower.follow(row)
                if problem is not None:
                    yield follower.damage(problem)
                elif follower.sound:
                    for run_id, seq, head in recorded_heads(row):
                        yield from check_head(self._tables, run_id, seq, head, f"{follower.log}@{follower.seq}")

    def blobs(self) -> Iterator[Damage]:
        # Not in any order: as they were stored, blobs come after those that they are patches upon.
        for (digest,) in self._tables.each("SELECT digest FROM blobs"):
            yield from self._blob(Digest(digest))

    def _blob(self, digest: Digest) -> Iterator[Damage]:
        fault = self._contents.fault(digest)
        if fault is None:
            return
        at_fault = str(fault.data.get("digest", digest))
        row = self._contents.row(digest)
        needing = runs_needing(self._tables, digest)
        data = {
            "digest": digest,
            "cause": at_fault,
            "size": row.size if row is not None else None,
            "runs": needing[:_RUNS_NAMED],
        }
        problem = (
            fault.message if at_fault == digest else f"it is a patch upon blob {at_fault}, which is damaged or missing"
        )
        if needing:
            more = f" and {len(needing) - _RUNS_NAMED} more" if len(needing) > _RUNS_NAMED else ""
            problem = f"{problem} Needed by {', '.join(needing[:_RUNS_NAMED])}{more}."
        yield Damage("blob", digest, problem, data)


# --- what can still be gone back to -----------------------------------------------------------------------------------


async def nearest_valid_checkpoint(keeper: Keeper, run_id: RunId, before: Seq | None = None) -> Seq | None:
    """The newest checkpoint of a run, at a position below `before`, whose state can be had: the chain holds up to there
    and every blob that its nodes have produced or wait for is sound. None when there is none."""

    def work(tables: Tables) -> Seq | None:
        return _nearest(tables, keeper.files, keeper.chain, run_id, before if before is not None else Seq(2**62))

    return await keeper.read(work)


def _nearest(tables: Tables, files: BlobFiles | None, chain: Chain, run_id: RunId, before: Seq) -> Seq | None:
    contents = Contents(tables, files)
    folder, follower, state = Folder(tables, contents), Follower(chain, run_id), RunState(run_id)
    sound: dict[Digest, bool] = {}
    lacking: set[str] = set()  # nodes whose results are damaged, as the state stands
    found: Seq | None = None

    def is_sound(digest: Digest | None) -> bool:
        if digest and digest not in sound:
            sound[digest] = contents.fault(digest) is None
        return not digest or sound[digest]

    def look(nodes: Iterable[NodeId]) -> None:
        for node_id in nodes:
            node = state.nodes.get(node_id)
            needs = [] if node is None else [node.output if node.status is NodeStatus.COMPLETED else None]
            if node is not None and node.expansion is not None:
                needs += [node.expansion.get("items"), node.expansion.get("plan")]
            if all(is_sound(digest) for digest in needs):
                lacking.discard(node_id)
            else:
                lacking.add(node_id)

    for row in run_rows(tables, run_id, before - 1):
        if follower.follow(row) is not None:
            break
        event, touched = as_event(row), Touched()
        try:
            state = folder.next(state, event, touched)
        except _UNFOLDABLE:
            break
        # A branch begins with all that it takes over, which no event of its own touches.
        look(set(state.nodes) if event.type is EventType.RUN_CREATED else touched.nodes)
        waiting = [Digest(d) for queue in state.signals.values() for d in queue]
        rest = all(is_sound(digest) for digest in (state.definition, state.inputs, *waiting))
        if event.type in CHECKPOINTS and rest and not lacking:
            found = event.seq
    return found


__all__ = ["check", "nearest_valid_checkpoint", "verify"]
