"""The writer's statements: plain SQL over plain tuples, kept compiled by the connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import chain
from typing import Any

import orjson

from omium.orchestration.ids import Digest, RunId, Seq
from omium.orchestration.log.events import Event
from omium.orchestration.log.rows import (
    APPROVAL_COLUMNS,
    DECISION_COLUMNS,
    EFFECT_COLUMNS,
    RUN_COLUMNS,
    RUN_HOT,
    RUN_STEP,
    Row,
)
from omium.orchestration.ports import IdempotencyKey
from omium.storage.batch import Rows
from omium.storage.blobs import BlobRow
from omium.storage.reads import as_document, as_event


class _Insert:
    """An insert of many rows by few statements. The connection gives up the interpreter's lock at every step of a
    statement, and may wait milliseconds to have it back when the event loop is busy: one step should write many
    rows."""

    _SIZES = (64, 16, 4, 2, 1)  # a fixed few, so that each stays compiled

    def __init__(self, head: str, width: int, tail: str = "") -> None:
        row = "(" + ", ".join("?" * width) + ")"
        # Names of tables and columns come from this package only; values are always bound.
        self._statements = {size: f"{head} VALUES {', '.join([row] * size)}{tail}" for size in self._SIZES}

    def of(self, count: int) -> str:
        """The statement for so many rows, if there is one."""
        return self._statements[count]

    def __call__(self, db: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> int:
        """How many rows were written."""
        if len(rows) == 1:
            return db.execute(self._statements[1], rows[0]).rowcount
        return self.flat(db, len(rows), list(chain.from_iterable(rows)))

    def flat(self, db: sqlite3.Connection, count: int, values: Sequence[Any]) -> int:
        """The same for `count` rows whose values stand one after the other."""
        statement = self._statements.get(count)
        if statement is not None:
            return db.execute(statement, values).rowcount
        width, start, written = len(values) // max(count, 1), 0, 0
        for size in self._SIZES:
            while count >= size:
                written += db.execute(self._statements[size], values[start : start + size * width]).rowcount
                start, count = start + size * width, count - size
        return written


def _insert(table: str, columns: Sequence[str], tail: str = "", verb: str = "INSERT") -> _Insert:
    return _Insert(f"{verb} INTO {table} ({', '.join(columns)})", len(columns), tail)


def _upsert(table: str, columns: Sequence[str], key: Sequence[str]) -> _Insert:
    sets = ", ".join(f"{c} = excluded.{c}" for c in columns if c not in key)
    return _insert(table, columns, f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {sets}")


EVENTS = _insert("events", ("run_id", "seq", "type", "at", "actor", "data", "prev_hash", "hash"))
_NEW_RUNS = _insert("runs", RUN_COLUMNS)
_RUNS = f"UPDATE runs SET {', '.join(f'{c} = ?' for c in RUN_HOT)} WHERE id = ?"  # noqa: S608
STEP = f"UPDATE runs SET {', '.join(f'{c} = ?' for c in RUN_STEP)} WHERE id = ?"  # noqa: S608
# Apart from the rest, because SQLite rewrites the index entries of every column that a statement names.
_STATUSES = "UPDATE runs SET status = ? WHERE id = ?"
_APPROVALS = _upsert("approvals", APPROVAL_COLUMNS, ("id",))
_EFFECTS = _upsert("effects", EFFECT_COLUMNS, ("id",))
_LABELS = _insert("labels", ("run_id", "seq", "label", "at", "note", "tree", "created_at", "actor"))
_DECISIONS = _insert("decisions", DECISION_COLUMNS)
_LINKS = _insert("links", ("run_id", "digest"), verb="INSERT OR IGNORE")
_IS_BROUGHT = "SELECT 1 FROM blobs WHERE brought_by = ? AND digest = ?"
_BLOB_COLUMNS = ("digest", "size", "encoding", "base", "depth", "touched_at", "brought_by", "data")
_NEW_BLOBS = _insert("blobs", _BLOB_COLUMNS, verb="INSERT OR IGNORE")
NEW_BLOB = _NEW_BLOBS.of(1)
_BLOBS = _insert(
    "blobs",
    _BLOB_COLUMNS,
    " ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at,"
    # A new copy of a quarantined blob heals it.
    " encoding = CASE encoding WHEN 'bad' THEN excluded.encoding ELSE encoding END,"
    " base = CASE encoding WHEN 'bad' THEN excluded.base ELSE base END,"
    " depth = CASE encoding WHEN 'bad' THEN excluded.depth ELSE depth END,"
    " data = CASE encoding WHEN 'bad' THEN excluded.data ELSE data END",
)
_CLAIMS = _insert("claims", ("run_id", "project", "priority", "worker", "fence", "wake_at"))
_WAKE = "UPDATE claims SET wake_at = ? WHERE run_id = ? AND worker IS NULL"
_KEYS = _insert("keys", ("scope", "key", "arguments", "result", "created_at"))
_SNAPSHOTS = _insert("snapshots", ("run_id", "seq", "document"), verb="INSERT OR REPLACE")


def insert(
    db: sqlite3.Connection, rows: Rows, blobs: Sequence[BlobRow], keys: Sequence[tuple[IdempotencyKey, int]]
) -> None:
    """Write the rows of a batch; the order keeps what is referred to before what refers."""
    insert_contents(db, rows.at, rows.links, blobs)
    for table, write in (
        (rows.events, EVENTS),
        (rows.new_runs, _NEW_RUNS),
        (rows.new_claims, _CLAIMS),
        (rows.approvals, _APPROVALS),
        (rows.effects, _EFFECTS),
        (rows.labels, _LABELS),
        (rows.decisions, _DECISIONS),
        (rows.snapshots, _SNAPSHOTS),
    ):
        if table:
            write(db, table)
    for changes, statement in (
        (rows.runs, _RUNS),
        (rows.statuses, _STATUSES),
        (rows.wake, _WAKE),
    ):
        if len(changes) == 1:
            db.execute(statement, changes[0])
        elif changes:
            db.executemany(statement, changes)
    if keys:
        _KEYS(db, [(key.scope, key.key, key.arguments, orjson.dumps(key.result), at) for key, at in keys])


def insert_contents(db: sqlite3.Connection, at: int, links: Sequence[Row], blobs: Sequence[BlobRow]) -> None:
    """Write contents, and which of them and of older ones the log of a run names (run, digest)."""
    if blobs:
        brought = _insert_blobs(db, at, links, blobs)
        links = [link for link in links if link not in brought]
    if links:  # what a run has brought earlier needs none either
        links = [link for link in links if db.execute(_IS_BROUGHT, link).fetchone() is None]
    if links:
        _LINKS(db, links)


def _insert_blobs(db: sqlite3.Connection, at: int, links: Sequence[Row], blobs: Sequence[BlobRow]) -> set[Row]:
    """The links that are not to be written, as far as that is known: of what a run was the first to bring."""
    run_of = {digest: run_id for run_id, digest in reversed(links)}
    new = [(b.digest, b.size, b.encoding, b.base, b.depth, at, run_of.get(b.digest), b.data) for b in blobs]
    if _NEW_BLOBS(db, new) == len(new):
        return {(run_of[b.digest], b.digest) for b in blobs if b.digest in run_of}
    _BLOBS(db, new)  # some were there, or come twice
    return set()


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
    return None if row is None else as_document(row[0])


def events(db: sqlite3.Connection, run_id: RunId, after: Seq, upto: Seq | None) -> list[Event]:
    rows = db.execute(
        "SELECT run_id, seq, type, at, actor, data, prev_hash, hash FROM events"
        " WHERE run_id = ? AND seq > ? AND seq <= ? ORDER BY seq",
        (run_id, after, upto if upto is not None else 2**62),
    )
    return [as_event(row) for row in rows]


def is_committed(db: sqlite3.Connection, event: Event) -> bool:
    found = db.execute(
        "SELECT 1 FROM events WHERE run_id = ? AND seq = ? AND hash = ?", (event.run_id, event.seq, event.hash)
    )
    return found.fetchone() is not None


def blob_row(db: sqlite3.Connection, digest: Digest) -> BlobRow | None:
    row = db.execute(
        "SELECT digest, size, encoding, base, depth, data FROM blobs WHERE digest = ?", (digest,)
    ).fetchone()
    return None if row is None else BlobRow(*row)


def is_sound(db: sqlite3.Connection, digest: Digest) -> bool:
    """Whether the blob is stored and not quarantined."""
    return db.execute("SELECT 1 FROM blobs WHERE digest = ? AND encoding <> 'bad'", (digest,)).fetchone() is not None
