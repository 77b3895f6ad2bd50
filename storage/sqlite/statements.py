"""The writer's statements: plain SQL over plain tuples, kept compiled by the connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from omium.orchestration.ids import Digest, Principal, RunId, Seq
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.rows import APPROVAL_COLUMNS, EFFECT_COLUMNS, NODE_COLUMNS, RUN_COLUMNS, RUN_HOT
from omium.orchestration.ports import IdempotencyKey
from omium.storage.batch import Rows
from omium.storage.blobs import BlobRow


def _upsert(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    sets = ", ".join(f"{c} = excluded.{c}" for c in columns if c not in key)
    marks = ", ".join("?" * len(columns))
    names = ", ".join(columns)
    # Names of tables and columns come from this package only; values are always bound.
    return f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}"  # noqa: S608


_EVENTS = "INSERT INTO events (run_id, seq, type, at, actor, data, prev_hash, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_NEW_RUNS = f"INSERT INTO runs ({', '.join(RUN_COLUMNS)}) VALUES ({', '.join('?' * len(RUN_COLUMNS))})"  # noqa: S608
_RUNS = f"UPDATE runs SET {', '.join(f'{c} = ?' for c in RUN_HOT)} WHERE id = ?"  # noqa: S608
# Apart from the rest, because SQLite rewrites the index entries of every column that a statement names.
_STATUSES = "UPDATE runs SET status = ? WHERE id = ?"
_NODES = _upsert("nodes", NODE_COLUMNS, ("run_id", "node"))
_APPROVALS = _upsert("approvals", APPROVAL_COLUMNS, ("id",))
_EFFECTS = _upsert("effects", EFFECT_COLUMNS, ("id",))
_LABELS = "INSERT INTO labels (run_id, seq, label, at, note, tree, created_at, actor) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_LINKS = "INSERT OR IGNORE INTO links (run_id, digest) VALUES (?, ?)"
_BLOBS = (
    "INSERT INTO blobs (digest, size, encoding, base, depth, touched_at, data) VALUES (?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at,"
    # A new copy of a quarantined blob heals it.
    " encoding = CASE encoding WHEN 'bad' THEN excluded.encoding ELSE encoding END,"
    " base = CASE encoding WHEN 'bad' THEN excluded.base ELSE base END,"
    " depth = CASE encoding WHEN 'bad' THEN excluded.depth ELSE depth END,"
    " data = CASE encoding WHEN 'bad' THEN excluded.data ELSE data END"
)
_CLAIMS = "INSERT INTO claims (run_id, project, priority, worker, fence, wake_at) VALUES (?, ?, ?, ?, ?, ?)"
_WAKE = "UPDATE claims SET wake_at = ? WHERE run_id = ? AND worker IS NULL"
_KEYS = "INSERT INTO keys (scope, key, arguments, result, created_at) VALUES (?, ?, ?, ?, ?)"
_SNAPSHOTS = "INSERT OR REPLACE INTO snapshots (run_id, seq, document) VALUES (?, ?, ?)"


def insert(
    db: sqlite3.Connection, rows: Rows, blobs: Sequence[BlobRow], keys: Sequence[tuple[IdempotencyKey, int]]
) -> None:
    """Write the rows of a batch; the order keeps what is referred to before what refers."""
    if blobs:
        touched = rows.at
        db.executemany(_BLOBS, [(b.digest, b.size, b.encoding, b.base, b.depth, touched, b.data) for b in blobs])
    for statement, table in (
        (_EVENTS, rows.events),
        (_NEW_RUNS, rows.new_runs),
        (_RUNS, rows.runs),
        (_STATUSES, rows.statuses),
        (_NODES, rows.nodes),
        (_LINKS, rows.links),
        (_CLAIMS, rows.new_claims),
        (_WAKE, rows.wake),
        (_APPROVALS, rows.approvals),
        (_EFFECTS, rows.effects),
        (_LABELS, rows.labels),
        (_SNAPSHOTS, rows.snapshots),
    ):
        if table:
            db.executemany(statement, table)
    for key, at in keys:
        db.execute(_KEYS, (key.scope, key.key, key.arguments, orjson.dumps(key.result), at))


def heads(db: sqlite3.Connection, runs: Sequence[RunId]) -> list[tuple[RunId, Seq]]:
    found: list[tuple[RunId, Seq]] = []
    for start in range(0, len(runs), 500):
        part = runs[start : start + 500]
        marks = ", ".join("?" * len(part))
        found += db.execute(f"SELECT id, seq FROM runs WHERE id IN ({marks})", part).fetchall()  # noqa: S608
    return found


def fence(db: sqlite3.Connection, run_id: RunId) -> int:
    """The present fencing token of a run that somebody owns; -1 when nobody does."""
    row = db.execute("SELECT fence FROM claims WHERE run_id = ? AND worker IS NOT NULL", (run_id,)).fetchone()
    return int(row[0]) if row is not None else -1


def key(db: sqlite3.Connection, scope: str, name: str) -> tuple[str, bytes] | None:
    row = db.execute("SELECT arguments, result FROM keys WHERE scope = ? AND key = ?", (scope, name)).fetchone()
    return None if row is None else (row[0], row[1])


def snapshot(db: sqlite3.Connection, run_id: RunId, upto: Seq | None) -> dict[str, Any] | None:
    row = db.execute(
        "SELECT document FROM snapshots WHERE run_id = ? AND seq <= ? ORDER BY seq DESC LIMIT 1",
        (run_id, upto if upto is not None else 2**62),
    ).fetchone()
    return None if row is None else orjson.loads(row[0])


def events(db: sqlite3.Connection, run_id: RunId, after: Seq, upto: Seq | None) -> list[Event]:
    rows = db.execute(
        "SELECT run_id, seq, type, at, actor, data, prev_hash, hash FROM events"
        " WHERE run_id = ? AND seq > ? AND seq <= ? ORDER BY seq",
        (run_id, after, upto if upto is not None else 2**62),
    )
    return [event(row) for row in rows]


def event(row: Sequence[Any]) -> Event:
    run_id, seq, kind, at, actor, data, prev_hash, digest = row
    return Event(
        RunId(run_id), Seq(seq), EventType(kind), at, Principal(actor), orjson.loads(data), bytes(prev_hash), bytes(digest)
    )  # fmt: skip


def blob_row(db: sqlite3.Connection, digest: Digest) -> BlobRow | None:
    row = db.execute(
        "SELECT digest, size, encoding, base, depth, data FROM blobs WHERE digest = ?", (digest,)
    ).fetchone()
    return None if row is None else BlobRow(*row)
