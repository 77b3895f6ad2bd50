"""The chained logs, row by row: those of the runs, and one for each project for what belongs to no run.

A project's log is linked as a run's is, under the name `project:<id>`. It tells of runs that were dropped or erased,
and of the heads that runs had (`runs.heads`), so that a log that was truncated later shows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, ProjectId, RunId, Seq
from omium.orchestration.log.chain import GENESIS, Chain
from omium.orchestration.log.events import Event
from omium.orchestration.ports import Damage
from omium.storage.maintenance.tables import Keeper, Tables
from omium.storage.reads import as_event

Row: TypeAlias = Sequence[Any]  # run_id or project, seq, type, at, actor, data, prev_hash, hash

_CHUNK: Final = 500
_BEFORE: Final = -(2**62)  # every position, that of a damaged row too
_TYPE: Final = re.compile(r"[a-z_]+(\.[a-z_]+)+")
_EVENT: Final = "seq, type, at, actor, data, prev_hash, hash"

RUN_DROPPED: Final = "run.dropped"
RUN_ERASED: Final = "run.erased"
RUNS_HEADS: Final = "runs.heads"


def project_log(project: str) -> str:
    """The name under which the events of a project are linked."""
    return f"project:{project}"


# --- reading ----------------------------------------------------------------------------------------------------------


def run_ids(tables: Tables) -> Iterator[RunId]:
    """Every run that has events, in the order of their ids: one step of the index for each."""
    row = tables.first("SELECT min(run_id) FROM events")
    while row is not None and row[0] is not None:
        yield RunId(row[0])
        row = tables.first("SELECT min(run_id) FROM events WHERE run_id > :last", last=row[0])


def projects(tables: Tables) -> Iterator[ProjectId]:
    row = tables.first("SELECT min(project) FROM project_events")
    while row is not None and row[0] is not None:
        yield ProjectId(row[0])
        row = tables.first("SELECT min(project) FROM project_events WHERE project > :last", last=row[0])


def run_rows(tables: Tables, run_id: str, upto: int = 2**62, after: int = _BEFORE) -> Iterator[Row]:
    """The log of a run as it is stored, in pieces of bounded size."""
    return _rows(tables, "events", "run_id", run_id, upto, after)


def project_rows(tables: Tables, project: str) -> Iterator[Row]:
    return _rows(tables, "project_events", "project", project, 2**62)


def _rows(tables: Tables, table: str, key: str, name: str, upto: int, after: int = _BEFORE) -> Iterator[Row]:
    statement = (
        f"SELECT {key}, {_EVENT} FROM {table} WHERE {key} = :name AND seq > :after AND seq <= :upto"  # noqa: S608
        " ORDER BY seq LIMIT :most"
    )
    while True:
        rows = tables.all(statement, name=name, after=after, upto=upto, most=_CHUNK)
        yield from rows
        if len(rows) < _CHUNK:
            return
        after = rows[-1][1]


def run_events(tables: Tables, run_id: str, upto: int = 2**62, after: int = _BEFORE) -> Iterator[Event]:
    """The events of a run that is known to be sound."""
    return (as_event(row) for row in run_rows(tables, run_id, upto, after))


class Follower:
    """Follows one log from its beginning and says where the chain does not hold. `sound` is false after the first such
    place; `seq` and `head` are those of the last row."""

    def __init__(self, chain: Chain, log: str) -> None:
        self._chain = chain
        self.log = log
        self.seq = 0
        self.head = GENESIS
        self.sound = True

    def follow(self, row: Row) -> str | None:
        """What is wrong with the next row, if anything is."""
        _, seq, kind, at, actor, raw, prev_hash, digest = row
        problem: str | None = None
        if seq != self.seq + 1:
            problem = f"event {self.seq + 1} is missing, {seq} follows"
        elif prev_hash != self.head:
            problem = "it does not follow from the event before it"
        try:
            stored, expected = self._chain.link(prev_hash, self.log, seq, kind, at, actor, orjson.loads(raw))
        except (OmiumError, TypeError, ValueError):  # a column that holds something else than we ever write
            problem = problem or "it cannot be read"
        else:
            if stored != raw or expected != digest:
                problem = problem or "its content does not match its hash"
        self.seq, self.head = seq, digest
        self.sound = self.sound and problem is None
        return problem

    def damage(self, problem: str) -> Damage:
        return Damage("chain", f"{self.log}@{self.seq}", problem, {"log": self.log, "seq": self.seq})


# --- heads ------------------------------------------------------------------------------------------------------------


async def export_heads(keeper: Keeper) -> dict[str, Any]:
    """Where every log ends, as JSON to be kept where whoever can write the database cannot write:
    `{"version": 1, "at": microseconds, "runs": {id: [seq, hash]}, "projects": {id: [seq, hash]}}`."""

    def work(tables: Tables) -> dict[str, Any]:
        runs, projects_ = "SELECT id, seq, head FROM runs ORDER BY id", _PROJECT_HEADS
        return {
            "version": 1,
            "at": keeper.clock.now_us(),
            "runs": {name: [seq, bytes(head).hex()] for name, seq, head in tables.each(runs)},
            "projects": {name: [seq, bytes(head).hex()] for name, seq, head in tables.each(projects_)},
        }

    return await keeper.read(work)


_PROJECT_HEADS: Final = (
    "SELECT p.project, p.seq, p.hash FROM project_events p"
    " WHERE p.seq = (SELECT max(seq) FROM project_events q WHERE q.project = p.project) ORDER BY p.project"
)


def check_anchor(tables: Tables, anchor: Mapping[str, Any], only: Iterable[str] | None = None) -> Iterator[Damage]:
    """Where the logs are not what `export_heads` saw. Raises `invalid_argument` for an anchor of another form."""
    try:
        runs = {str(name): (int(seq), bytes.fromhex(head)) for name, (seq, head) in anchor["runs"].items()}
        logs = {str(name): (int(seq), bytes.fromhex(head)) for name, (seq, head) in anchor["projects"].items()}
        if anchor["version"] != 1:
            raise ValueError(f"version {anchor['version']}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise OmiumError(
            "invalid_argument", f"the anchor cannot be read: {error}.", "Give a file that the export of heads wrote."
        ) from error
    wanted = runs.keys() if only is None else runs.keys() & set(only)
    for name in sorted(wanted):
        yield from check_head(tables, name, *runs[name], "the anchor")
    for name, (seq, head) in sorted(logs.items() if only is None else ()):
        row = tables.first("SELECT hash FROM project_events WHERE project = :name AND seq = :seq", name=name, seq=seq)
        yield from _compare(project_log(name), seq, head, row, "the anchor")


def check_head(tables: Tables, run_id: str, seq: int, head: bytes, witness: str) -> Iterator[Damage]:
    """Whether the log of a run still holds what `witness` saw at its end; one that was dropped says so instead."""
    row = tables.first("SELECT hash FROM events WHERE run_id = :run AND seq = :seq", run=run_id, seq=seq)
    if row is None:
        dropped = tables.first("SELECT seq FROM dropped_runs WHERE run_id = :run", run=run_id)
        if dropped is not None and dropped[0] >= seq:
            return
    yield from _compare(run_id, seq, head, row, witness)


def _compare(log: str, seq: int, head: bytes, row: tuple[Any, ...] | None, witness: str) -> Iterator[Damage]:
    data = {"log": log, "seq": seq}
    if row is None:
        yield Damage("anchor", f"{log}@{seq}", f"the event is missing: {witness} saw the log reach it", data)
    elif bytes(row[0]) != head:
        yield Damage("anchor", f"{log}@{seq}", f"the event is not the one that {witness} saw", data)


# --- the log of a project ---------------------------------------------------------------------------------------------


async def append_project_event(
    keeper: Keeper, project: ProjectId, kind: str, actor: Principal, data: Mapping[str, Any]
) -> Seq:
    """Log something that belongs to no run, such as a pin or a token (never the secret). `kind`: words joined by dots;
    `data`: small JSON, which is never erased. Gives its position. Raises `invalid_argument`,
    `invalid_value`, `storage_unavailable`."""
    at = keeper.clock.now_us()
    return await keeper.write(lambda tables: append_event(tables, keeper.chain, project, kind, at, actor, data))


def append_event(
    tables: Tables, chain: Chain, project: str, kind: str, at: int, actor: str, data: Mapping[str, Any]
) -> Seq:
    """`append_project_event` within a transaction. `at`: microseconds."""
    if not _TYPE.fullmatch(kind):
        raise OmiumError("invalid_argument", f"{kind!r} is not a type of event.", "Give words joined by dots.")
    log = project_log(project)
    tables.lock(log)
    last = tables.first(
        "SELECT seq, hash FROM project_events WHERE project = :project ORDER BY seq DESC LIMIT 1", project=project
    )
    seq, prev_hash = (last[0] + 1, bytes(last[1])) if last is not None else (1, GENESIS)
    stored, digest = chain.link(prev_hash, log, seq, kind, at, actor, data)
    tables.run(
        "INSERT INTO project_events (project, seq, type, at, actor, data, prev_hash, hash)"
        " VALUES (:project, :seq, :type, :at, :actor, :data, :prev_hash, :hash)",
        project=project, seq=seq, type=kind, at=at, actor=actor, data=stored, prev_hash=prev_hash, hash=digest,
    )  # fmt: skip
    return Seq(seq)


async def record_heads(keeper: Keeper, actor: Principal) -> int:
    """Log, in its project, where the log of every run ends that has grown since the last time; how many there were.

    From then on a truncation shows in this database itself, to whoever cannot rewrite the project's log as well."""

    def changed(tables: Tables) -> list[tuple[Any, ...]]:
        since: dict[str, int] = dict(tables.all(_LAST_RECORD, type=RUNS_HEADS))
        known = {
            (run_id, seq)
            for project, at in since.items()
            for (data,) in tables.all(_RECORDS_OF, type=RUNS_HEADS, project=project, at=at)
            for run_id, (seq, _) in orjson.loads(data)["runs"].items()
        }
        rows = tables.each("SELECT project, id, seq, head, updated_at FROM runs ORDER BY project, id")
        return [row[:4] for row in rows if row[4] >= since.get(row[0], 0) and (row[1], row[2]) not in known]

    rows = await keeper.read(changed)
    at = keeper.clock.now_us()
    for start in range(0, len(rows), _CHUNK):
        heads: dict[str, dict[str, Any]] = {}
        for project, run_id, seq, head in rows[start : start + _CHUNK]:
            heads.setdefault(project, {})[run_id] = [seq, bytes(head).hex()]

        def log(tables: Tables, heads: dict[str, dict[str, Any]] = heads) -> None:
            for project, runs in heads.items():
                append_event(tables, keeper.chain, project, RUNS_HEADS, at, actor, {"runs": runs})

        await keeper.write(log)
    return len(rows)


_LAST_RECORD: Final = "SELECT project, max(at) FROM project_events WHERE type = :type GROUP BY project"
_RECORDS_OF: Final = "SELECT data FROM project_events WHERE project = :project AND at = :at AND type = :type"


def recorded_heads(row: Row) -> Iterator[tuple[str, int, bytes]]:
    """The heads that a sound row of a project's log tells of."""
    if row[2] == RUNS_HEADS:
        for run_id, (seq, head) in orjson.loads(row[5])["runs"].items():
            yield run_id, seq, bytes.fromhex(head)


@dataclass(frozen=True, slots=True)
class DroppedRun:
    """Where the log of a run ended that is no longer here."""

    run_id: RunId
    project: ProjectId
    seq: Seq
    head: bytes


def drop_from_history(tables: Tables, run: DroppedRun, at: int) -> None:
    """Delete the events of a run. The row comes first: without it the database refuses to delete any."""
    tables.run(
        "INSERT INTO dropped_runs (run_id, project, seq, head, at) VALUES (:run, :project, :seq, :head, :at)",
        run=run.run_id, project=run.project, seq=run.seq, head=run.head, at=at,
    )  # fmt: skip
    tables.run("DELETE FROM events WHERE run_id = :run", run=run.run_id)
