"""The tables that follow from the log: computed again from its events, compared, and rebuilt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, RunId
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.fold import Touched
from omium.orchestration.log.load import Need, NeedEvents, NeedSnapshot, NeedValue, step
from omium.orchestration.log.references import references
from omium.orchestration.log.rows import (
    APPROVAL_COLUMNS,
    DECISION_COLUMNS,
    EFFECT_COLUMNS,
    RUN_COLUMNS,
    approval_rows,
    decision_row,
    effect_rows,
    run_row,
)
from omium.orchestration.log.state import RunState, from_document, to_document
from omium.orchestration.ports import Damage
from omium.storage.batch import SNAPSHOT_EVERY, drive
from omium.storage.maintenance.contents import Contents
from omium.storage.maintenance.logs import Follower, Row, run_ids, run_rows
from omium.storage.maintenance.naming import counts, is_unrecorded, record_names
from omium.storage.maintenance.tables import Keeper, Tables
from omium.storage.reads import as_event

LABEL_COLUMNS: Final = ("run_id", "seq", "label", "at", "note", "tree", "created_at", "actor")
TABLES: Final[Mapping[str, tuple[Sequence[str], Sequence[str]]]] = {  # name -> columns, key (the run's id aside)
    "runs": (RUN_COLUMNS, ("id",)),
    "approvals": (APPROVAL_COLUMNS, ("id",)),
    "effects": (EFFECT_COLUMNS, ("id",)),
    "labels": (LABEL_COLUMNS, ("seq",)),
    "decisions": (DECISION_COLUMNS, ("seq",)),
}


class Folder:
    """Folds logs from their beginnings within one transaction. Of the stored snapshots it uses only those that it was
    told to trust; after a rollback it keeps one of its own, so that folding many of them stays linear."""

    def __init__(self, tables: Tables, contents: Contents, trusted: dict[RunId, list[int]] | None = None) -> None:
        """`trusted`: positions of snapshots, run by run; it grows by `trust`."""
        self._tables = tables
        self._contents = contents
        self._trusted = trusted if trusted is not None else {}
        self._own: list[tuple[int, bytes]] = []  # of the run that is being folded
        self._run: RunId | None = None

    def trust(self, run_id: RunId, seq: int) -> None:
        self._trusted.setdefault(run_id, []).append(seq)

    def next(self, state: RunState, event: Event, touched: Touched) -> RunState:
        """The state after the next event. Raises `integrity` or `not_found` when a list of nodes that the event names
        is damaged, and whatever folding raises for an event that was never ours."""
        if state.run_id != self._run:
            self._run, self._own = state.run_id, []
        state = drive(step(state, event, touched), self._answer)
        if event.type is EventType.RUN_ROLLED_BACK:
            self._own.append((event.seq, orjson.dumps(to_document(state))))
        return state

    def _answer(self, need: Need) -> Any:
        if isinstance(need, NeedValue):
            return self._contents.value(need.digest)
        if isinstance(need, NeedEvents):
            last = need.upto if need.upto is not None else 2**62
            rows = self._tables.each(_EVENTS, run=need.run_id, after=need.after, upto=last)
            return [as_event(row) for row in rows]
        assert isinstance(need, NeedSnapshot)
        upto = need.upto if need.upto is not None else 2**62
        seq = max((seq for seq in self._trusted.get(need.run_id, ()) if seq <= upto), default=0)
        own = [kept for kept in self._own if kept[0] <= upto] if need.run_id == self._run else []
        if own and own[-1][0] > seq:
            return orjson.loads(own[-1][1])
        row = self._tables.first(_SNAPSHOT, run=need.run_id, seq=seq) if seq else None
        return None if row is None else orjson.loads(row[0])


_EVENTS: Final = (
    "SELECT run_id, seq, type, at, actor, data, prev_hash, hash FROM events"
    " WHERE run_id = :run AND seq > :after AND seq <= :upto ORDER BY seq"
)
_SNAPSHOT: Final = "SELECT document FROM snapshots WHERE run_id = :run AND seq = :seq"


class Projection:
    """What the tables must say of one run, gathered event by event."""

    def __init__(self, run_id: RunId, folder: Folder) -> None:
        self.folded = RunState(run_id)
        self.named: set[Digest] = set()
        self.erased: set[Digest] = set()
        self._folder = folder
        self._approvals: set[ApprovalId] = set()
        self._effects: dict[str, Row] = {}
        self._labels: list[Row] = []
        self._decisions: list[Row] = []

    def add(self, event: Event) -> None:
        """Raises what `Folder.next` raises."""
        touched = Touched()
        self.folded = self._folder.next(self.folded, event, touched)
        self._approvals |= touched.approvals
        for row in effect_rows(self.folded, touched.effects, touched.forgotten):
            self._effects[row[0]] = row
        self.refer(event)
        if event.type is EventType.CHECKPOINT_CREATED:
            d, run_id = event.data, event.run_id
            self._labels.append(
                (run_id, event.seq, d["label"], d["at"], d.get("note"), d.get("tree"), event.at, event.actor)
            )
        elif event.type is EventType.POLICY_DECIDED:
            self._decisions.append(decision_row(event))

    def refer(self, event: Event) -> None:
        """What the event names is referred to, until an event says that it is erased."""
        named = references(event.data)
        self.named.update(named)
        self.erased.difference_update(named)
        if event.type is EventType.ERASED:
            self.named.difference_update(event.data["digests"])
            self.erased.update(event.data["digests"])

    def rows(self, table: str) -> list[Row]:
        """The rows of one of `TABLES`."""
        if table == "runs":
            return [run_row(self.folded)]
        if table == "approvals":
            return list(approval_rows(self.folded, self._approvals))
        if table == "effects":
            return list(self._effects.values())
        return self._labels if table == "labels" else self._decisions


def stored_rows(tables: Tables, table: str, run_id: RunId) -> list[Row]:
    columns, _ = TABLES[table]
    key = "id" if table == "runs" else "run_id"
    return list(tables.each(f"SELECT {', '.join(columns)} FROM {table} WHERE {key} = :run", run=run_id))  # noqa: S608


def differences(tables: Tables, projection: Projection) -> Iterator[Damage]:
    """Where the tables do not say what the log says."""
    run_id = projection.folded.run_id
    for table, (columns, key) in TABLES.items():
        places = [columns.index(name) for name in key]
        expected = {tuple(row[i] for i in places): tuple(row) for row in projection.rows(table)}
        found = {tuple(row[i] for i in places): _plain(row) for row in stored_rows(tables, table, run_id)}
        for name in sorted(expected.keys() | found.keys(), key=str):
            was, is_ = expected.get(name), found.get(name)
            if was is None or is_ is None:
                problem = "has a row that the log does not give" if was is None else "lacks a row that the log gives"
                yield _differs(run_id, table, name, problem, [])
                continue
            wrong = [c for c, a, b in zip(columns, was, is_, strict=True) if a != b and not _late(table, c, b, was)]
            if wrong:
                yield _differs(run_id, table, name, f"differs from the log in {', '.join(wrong)}", wrong)
    missing = [digest for digest in sorted(projection.named) if is_unrecorded(tables, run_id, digest)]
    if missing:
        yield _differs(run_id, "links", (missing[0],), f"lacks {len(missing)} of the blobs that the log names", [])


_INHERITED: Final = ("generation", "completed_nodes")


def _late(table: str, column: str, found: Any, expected: Row) -> bool:
    """A branch is created without folding its parent: what it takes over from there stands in its row from its next
    write on, and until then these columns are 0."""
    branch = table == "runs" and bool(expected[RUN_COLUMNS.index("parent_run")])
    return branch and column in _INHERITED and bool(found == 0)


def _plain(row: Row) -> tuple[Any, ...]:
    return tuple(bytes(value) if isinstance(value, memoryview) else value for value in row)


def _differs(run_id: RunId, table: str, name: tuple[Any, ...], problem: str, columns: list[str]) -> Damage:
    place = "/".join(str(part) for part in name)
    data = {"run": run_id, "table": table, "key": place, "columns": columns}
    return Damage("projection", run_id, f"{table}[{place}] {problem}", data)


def same_state(document: Mapping[str, Any], state: RunState) -> bool:
    """Whether a snapshot is of this state."""
    try:
        return bool(to_document(from_document(dict(document))) == orjson.loads(orjson.dumps(to_document(state))))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


# --- rebuilding -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """How many runs were rebuilt, and those whose logs do not allow it: their tables were left alone."""

    runs: int
    broken: Sequence[Damage]


async def rebuild(keeper: Keeper) -> Rebuilt:
    """Compute every projection and snapshot again from the logs and replace what the tables hold.

    Each run is rebuilt in a transaction of its own, so whoever works meanwhile waits only for that, and an interrupted
    rebuild is simply repeated. Raises `storage_unavailable`.
    """
    ids = await keeper.read(lambda tables: list(run_ids(tables)))
    named = await keeper.read(counts)
    trusted: dict[RunId, list[int]] = {}
    broken: list[Damage] = []
    for run_id in ids:  # by age, mostly: parents come before their branches, which then find their snapshots

        def work(tables: Tables, run_id: RunId = run_id) -> None:
            folder = Folder(tables, Contents(tables, keeper.files), trusted)
            _rebuild_run(tables, folder, keeper.chain, run_id, named.get(run_id, 0))

        try:
            await keeper.write(work)
        except OmiumError as error:
            if error.code not in ("integrity", "not_found"):
                raise
            broken.append(Damage("chain", run_id, error.message, error.data))
            trusted.pop(run_id, None)
        crash_point("rebuild.run")
    await _remove_strangers(keeper)
    return Rebuilt(len(ids) - len(broken), broken)


def _rebuild_run(tables: Tables, folder: Folder, chain: Chain, run_id: RunId, on_record: int) -> None:
    tables.lock_run(run_id)
    tables.run("DELETE FROM snapshots WHERE run_id = :run", run=run_id)
    projection, follower, snapshot_at = Projection(run_id, folder), Follower(chain, run_id), 0
    for row in run_rows(tables, run_id):
        problem = follower.follow(row)
        if problem is not None:
            raise OmiumError("integrity", f"{problem} (event {follower.seq})", run=run_id, seq=follower.seq)
        event = as_event(row)
        projection.add(event)
        due = event.seq - snapshot_at >= max(SNAPSHOT_EVERY, len(projection.folded.nodes))
        if due or event.type is EventType.RUN_ROLLED_BACK:
            snapshot_at = event.seq
            document = orjson.dumps(to_document(projection.folded))
            tables.run(_NEW_SNAPSHOT, run=run_id, seq=event.seq, document=document)
            folder.trust(run_id, event.seq)
    for table, (columns, _) in TABLES.items():
        key = "id" if table == "runs" else "run_id"
        marks = ", ".join(f":{name}" for name in columns)
        tables.run(f"DELETE FROM {table} WHERE {key} = :run", run=run_id)  # noqa: S608 - names of ours
        insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - names of ours
        tables.many(insert, [dict(zip(columns, row, strict=True)) for row in projection.rows(table)])
    record_names(tables, run_id, projection.named, on_record)


_NEW_SNAPSHOT: Final = "INSERT INTO snapshots (run_id, seq, document) VALUES (:run, :seq, :document)"


def strangers(tables: Tables) -> Iterator[tuple[str, str]]:
    """Rows of projections whose run has no log: (table, run)."""
    for table in (*TABLES, "links", "snapshots"):
        key = "id" if table == "runs" else "run_id"
        yield from (
            (table, run_id)
            for (run_id,) in tables.each(
                f"SELECT DISTINCT {key} FROM {table} WHERE NOT EXISTS"  # noqa: S608 - names of ours
                f" (SELECT 1 FROM events e WHERE e.run_id = {table}.{key})"
            )
        )


async def _remove_strangers(keeper: Keeper) -> None:
    found = await keeper.read(lambda tables: list(strangers(tables)))

    def work(tables: Tables) -> None:
        for table, run_id in found:
            key = "id" if table == "runs" else "run_id"
            tables.run(
                f"DELETE FROM {table} WHERE {key} = :run AND NOT EXISTS"  # noqa: S608 - names of ours
                " (SELECT 1 FROM events WHERE run_id = :run)",
                run=run_id,
            )

    if found:
        await keeper.write(work)
