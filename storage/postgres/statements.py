"""The writer's statements. A batch is one statement, whatever the number of its rows and tables.

The rows of a table travel as one array of the table's row type, and every table that has rows is one data-modifying
common table expression, so a commit is one round trip. (One array for each column takes the server a third longer, and
the client twice.) All of them depend on `gate`: it locks the runs of the batch in the order of their ids, with their
claims, and holds only if every head and every owner is the one that the batch was computed from. A statement sees the
database as it was when it began, but a locked row as it is now; hence every condition is read from the locked rows, and
none from another table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Any

import orjson
from sqlalchemy import Table

from omium.orchestration.ids import Digest, RunId
from omium.orchestration.log.rows import (
    APPROVAL_COLUMNS,
    DECISION_COLUMNS,
    EFFECT_COLUMNS,
    RUN_COLUMNS,
    RUN_HOT,
    Row,
)
from omium.orchestration.ports import IdempotencyKey
from omium.storage import schema as t
from omium.storage.batch import Rows
from omium.storage.blobs import BlobRow


@dataclass(frozen=True, slots=True)
class _Insert:
    """`columns`: what the rows hold, in their order."""

    table: Table
    columns: Sequence[str]
    conflict: str = ""


def _update(columns: Sequence[str], key: Sequence[str]) -> str:
    sets = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}"


_EVENTS = ("run_id", "seq", "type", "at", "actor", "data", "prev_hash", "hash")
_BLOBS = ("digest", "size", "encoding", "base", "depth", "touched_at", "brought_by", "data")
_SNAPSHOTS = ("run_id", "seq", "document")

_INSERTS: Mapping[str, _Insert] = {
    "events": _Insert(t.events, _EVENTS),
    "new_runs": _Insert(t.runs, RUN_COLUMNS),
    "approvals": _Insert(t.approvals, APPROVAL_COLUMNS, _update(APPROVAL_COLUMNS, ("id",))),
    "effects": _Insert(t.effects, EFFECT_COLUMNS, _update(EFFECT_COLUMNS, ("id",))),
    "labels": _Insert(t.labels, ("run_id", "seq", "label", "at", "note", "tree", "created_at", "actor")),
    "decisions": _Insert(t.decisions, DECISION_COLUMNS),
    "new_claims": _Insert(t.claims, ("run_id", "project", "priority", "worker", "fence", "wake_at")),
    "snapshots": _Insert(t.snapshots, _SNAPSHOTS, _update(_SNAPSHOTS, ("run_id", "seq"))),
    "keys": _Insert(t.keys, ("scope", "key", "arguments", "result", "created_at")),
    "blobs": _Insert(
        t.blobs,
        _BLOBS,
        " ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at"
        # A new copy of a quarantined blob heals it.
        + "".join(
            f", {name} = CASE blobs.encoding WHEN 'bad' THEN excluded.{name} ELSE blobs.{name} END"
            for name in ("encoding", "base", "depth", "data")
        )
        + " RETURNING digest, brought_by",
    ),
    "links": _Insert(t.links, ("run_id", "digest"), " ON CONFLICT DO NOTHING"),
}
# A run whose log names a blob that it was the first to bring needs no link. Who that was is known only of the blobs
# that the statement writes itself: their rows are locked, and seen as they are now.
_BROUGHT = " AND NOT EXISTS (SELECT 1 FROM blobs_ b WHERE b.digest = n.digest AND b.brought_by = n.run_id)"
_LATELY_US = 12 * 3_600_000_000  # half of the time after which the sweep takes what nobody refers to
_RUNS = _Insert(t.runs, (*RUN_HOT, "id", "status"))  # the status: NULL where it stays


class Layout:
    """The order of the columns in the tables of one database: what a row type demands.

    `columns`: by table, as the database has them. A migration may have added some at the end that `schema` has earlier.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        self._arrange = {name: _arranger(i, columns) for name, i in (*_INSERTS.items(), ("runs", _RUNS))}

    def rows(self, name: str, rows: Sequence[Row]) -> Sequence[Row]:
        """Rows as the table's row type has them."""
        arrange = self._arrange[name]
        return rows if arrange is None else [arrange((*row, None)) for row in rows]


def _arranger(insert: _Insert, columns: Mapping[str, Sequence[str]]) -> Callable[[Row], Row] | None:
    present = columns[insert.table.name]
    if tuple(present) == tuple(insert.columns):
        return None
    nothing = len(insert.columns)
    places = [insert.columns.index(name) if name in insert.columns else nothing for name in present]
    return itemgetter(*places)


LAYOUT = (
    "SELECT c.relname::text, array_agg(a.attname::text ORDER BY a.attnum) FROM pg_class c"
    " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    " WHERE c.oid = ANY($1::text[]::regclass[]) GROUP BY c.relname"
)
TABLES = sorted({insert.table.name for insert in (*_INSERTS.values(), _RUNS)})


@dataclass(slots=True)
class Based:
    """What a batch was computed from, run by run: `seq`, and the fencing token if a member of the batch needs one.
    `wake`: the run's claim, if nobody owns it, is to be woken at `wake_at`."""

    run_id: RunId
    seq: int
    fence: int | None = None
    wake: bool = False
    wake_at: int | None = None


_RUNS_HOLD = (
    "head AS MATERIALIZED (SELECT r.id,"
    " r.seq = b.seq AND (b.fence IS NULL OR (c.worker IS NOT NULL AND c.fence = b.fence)) AS holds,"
    " b.wake AND c.worker IS NULL AS wake, b.wake_at"
    " FROM unnest($1::text[], $2::int8[], $3::int8[], $4::bool[], $5::int8[]) AS b (id, seq, fence, wake, wake_at)"
    " JOIN runs r ON r.id = b.id JOIN claims c ON c.run_id = b.id ORDER BY r.id FOR UPDATE OF r, c)",
    "(SELECT count(*) FILTER (WHERE holds) = cardinality($1::text[]) FROM head)",
)
# What a new patch rests upon must be there, and stay: the lock keeps it from being deleted, and one that was touched
# lately is none that the sweep takes.
_BASES = (
    "base AS MATERIALIZED (SELECT digest FROM blobs WHERE digest = ANY(${place}::text[]) AND encoding <> 'bad'"
    " AND touched_at > ${time}::int8 ORDER BY digest FOR KEY SHARE)",
    "(SELECT count(*) = cardinality(${place}::text[]) FROM base)",
)
_WAKE = "wake AS (UPDATE claims SET wake_at = h.wake_at FROM head h WHERE claims.run_id = h.id AND h.wake AND {gate})"


@lru_cache(maxsize=256)
def _statement(tables: tuple[str, ...], based: bool, bases: bool, wakes: bool) -> str:
    parts, conditions, place = [], [], 1
    if based:
        parts.append(_RUNS_HOLD[0])
        conditions.append(_RUNS_HOLD[1])
        place += 5
    if bases:
        parts.append(_BASES[0].format(place=place, time=place + 1))
        conditions.append(_BASES[1].format(place=place))
        place += 2
    gate = "(SELECT holds FROM gate)" if conditions else "true"
    if conditions:
        parts.append(f"gate AS MATERIALIZED (SELECT {' AND '.join(conditions)} AS holds)")
    if wakes:
        parts.append(_WAKE.format(gate=gate))
    # Names of tables and columns come from the schema; values are always bound.
    for number, name in enumerate(tables, place):
        if name == "runs":
            sets = ", ".join(f"{column} = u.{column}" for column in RUN_HOT)
            parts.append(
                f"runs_ AS (UPDATE runs r SET {sets}, status = coalesce(u.status, r.status)"  # noqa: S608
                f" FROM unnest(${number}::runs[]) AS u WHERE r.id = u.id AND {gate})"
            )
            continue
        insert = _INSERTS[name]
        columns = ", ".join(insert.columns)
        condition = gate
        if name == "links":
            condition += _BROUGHT if "blobs" in tables else ""
        parts.append(
            f"{name}_ AS (INSERT INTO {insert.table.name} ({columns})"  # noqa: S608
            f" SELECT {columns} FROM unnest(${number}::{insert.table.name}[]) n WHERE {condition}{insert.conflict})"
        )
    return f"WITH {', '.join(parts)} SELECT {gate}"


@dataclass(slots=True)
class Statement:
    """One statement with its arguments; its only row and column says whether it wrote."""

    text: str
    arguments: list[Any] = field(default_factory=list)


def statement(
    layout: Layout,
    based: Iterable[Based],
    rows: Rows,
    blobs: Sequence[BlobRow] = (),
    keys: Sequence[tuple[IdempotencyKey, int]] = (),
    bases: Sequence[Digest] = (),
) -> Statement | None:
    """All rows of a batch, to be written only if the runs are as they were when it was computed, and if the `bases` of
    its patches are stored. None: nothing to do."""
    tables = _tables(rows, blobs, keys)
    created = {row[0] for row in rows.new_claims}
    wakes = {run_id: wake_at for wake_at, run_id in rows.wake if run_id not in created}
    ordered = sorted(based, key=lambda base: base.run_id)
    for base in ordered:
        if base.run_id in wakes:
            base.wake, base.wake_at = True, wakes[base.run_id]
    present = tuple(name for name, table in tables.items() if table)
    if not present and not ordered:
        return None
    arguments: list[Any] = []
    if ordered:
        arguments += zip(*((b.run_id, b.seq, b.fence, b.wake, b.wake_at) for b in ordered), strict=True)
    if bases:
        arguments += [bases, rows.at - _LATELY_US]
    arguments += [layout.rows(name, tables[name]) for name in present]
    return Statement(_statement(present, bool(ordered), bool(bases), bool(wakes)), arguments)


def _tables(
    rows: Rows, blobs: Sequence[BlobRow], keys: Sequence[tuple[IdempotencyKey, int]]
) -> dict[str, Sequence[Row]]:
    status = {run_id: value for value, run_id in rows.statuses}
    # A statement can touch a row once, and rows that runs share are locked in one order by everybody.
    run_of = {digest: run_id for run_id, digest in reversed(rows.links)}
    unique = {
        b.digest: (b.digest, b.size, b.encoding, b.base, b.depth, rows.at, run_of.get(b.digest), b.data) for b in blobs
    }
    return {
        "blobs": [unique[digest] for digest in sorted(unique)],
        "keys": sorted((k.scope, k.key, k.arguments, orjson.dumps(k.result), at) for k, at in keys),
        "events": rows.events,
        "new_runs": rows.new_runs,
        "runs": [(*row, status.get(row[-1])) for row in rows.runs],
        "links": rows.links,
        "new_claims": _claims(rows),
        "approvals": rows.approvals,
        "effects": rows.effects,
        "labels": rows.labels,
        "decisions": rows.decisions,
        "snapshots": rows.snapshots,
    }


def _claims(rows: Rows) -> list[Row]:
    """The claims of new runs. One that was woken in the batch that creates it is inserted as woken."""
    woken = {run_id: wake_at for wake_at, run_id in rows.wake}
    return [(*row[:5], woken[row[0]]) if row[0] in woken and row[3] is None else row for row in rows.new_claims]


# --- what the writer reads ------------------------------------------------------------------------------------------

LOCK = (
    "SELECT r.id, r.seq, CASE WHEN c.worker IS NULL THEN -1 ELSE c.fence END AS fence"
    " FROM runs r JOIN claims c ON c.run_id = r.id WHERE r.id = ANY($1::text[]) ORDER BY r.id FOR UPDATE OF r, c"
)
HEADS = (
    "SELECT r.id, r.seq, CASE WHEN c.worker IS NULL THEN -1 ELSE c.fence END AS fence"
    " FROM runs r JOIN claims c ON c.run_id = r.id WHERE r.id = ANY($1::text[])"
)
SNAPSHOTS = (
    "SELECT DISTINCT ON (run_id) run_id, seq, document FROM snapshots WHERE run_id = ANY($1::text[])"
    " ORDER BY run_id, seq DESC"
)
TAILS = (
    f"SELECT {', '.join(f'e.{name}' for name in _EVENTS)}"  # noqa: S608
    " FROM unnest($1::text[], $2::int8[]) AS w (run_id, after)"
    " JOIN events e ON e.run_id = w.run_id AND e.seq > w.after ORDER BY e.run_id, e.seq"
)
SNAPSHOT = "SELECT document FROM snapshots WHERE run_id = $1 AND seq <= $2 ORDER BY seq DESC LIMIT 1"
EVENTS = f"SELECT {', '.join(_EVENTS)} FROM events WHERE run_id = $1 AND seq > $2 AND seq <= $3 ORDER BY seq"  # noqa: S608
KEYS = (
    "SELECT k.scope, k.key, k.arguments, k.result FROM unnest($1::text[], $2::text[]) AS w (scope, key)"
    " JOIN keys k ON k.scope = w.scope AND k.key = w.key"
)
CHAINS = (
    "WITH RECURSIVE chain (digest, base) AS ("
    "SELECT digest, base FROM blobs WHERE digest = ANY($1::text[])"
    " UNION SELECT b.digest, b.base FROM chain JOIN blobs b ON b.digest = chain.base"
    ") SELECT digest, b.size, b.encoding, b.base, b.depth, b.data FROM chain JOIN blobs b USING (digest)"
)
TOUCH = (  # gives those of the blobs that are stored, and keeps them from being deleted
    "WITH held AS (SELECT digest FROM blobs WHERE digest = ANY($1::text[]) AND encoding <> 'bad'"
    " ORDER BY digest FOR NO KEY UPDATE)"
    " UPDATE blobs b SET touched_at = $2 FROM held WHERE b.digest = held.digest RETURNING b.digest"
)
IS_COMMITTED = "SELECT true FROM events WHERE run_id = $1 AND seq = $2 AND hash = $3"


def blob_rows(records: Sequence[Any]) -> dict[Any, BlobRow]:
    return {row[0]: BlobRow(*row) for row in records}
