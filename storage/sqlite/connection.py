"""The writer's connection: how it is made, how long it waits for other processes, and its write-ahead log."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

_log = logging.getLogger(__name__)

BUSY_MS = 2000  # of one try; see `begin`
JOURNAL_PAGES = 4000  # 16 MB: when the write-ahead log is longer, it is checkpointed to its end and begun again


class Busy(sqlite3.OperationalError):
    """Another process is writing, and this one has not waited, or has waited long enough. Nothing has begun."""


def set_patience(db: sqlite3.Connection, patient: bool) -> None:
    """Whether a connection waits for other processes' locks, and checkpoints."""
    db.execute(f"PRAGMA busy_timeout = {BUSY_MS if patient else 0}")
    db.execute(f"PRAGMA wal_autocheckpoint = {JOURNAL_PAGES if patient else 0}")


def begin(db: sqlite3.Connection, patient: bool) -> None:
    """Take the write lock. SQLite itself waits 2 s for it; three more tries follow before the caller hears of it. That
    is after 9 s, or 18 s for one that came while others waited: clients give up after 30."""
    if db.in_transaction:  # one that could not even be rolled back: the disk was gone
        db.execute("ROLLBACK")
    for pause in (0.1, 0.2, 0.4, None):
        try:
            db.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
            if pause is None or not patient:
                raise Busy(str(error)) from error
            time.sleep(pause)  # this is the writer's own thread: nothing else waits for it


def grow_journal(db: sqlite3.Connection) -> None:
    """Have the write-ahead log at its full size at once. It is written over again and again, but while it still grows
    each commit also syncs the file's new size, which doubles its time. Pages of a transaction that is rolled back stay
    in the file as so much room; a small cache has SQLite write them there. A disk without room leaves it as it is."""
    (cache,) = db.execute("PRAGMA cache_size").fetchone()
    try:
        db.execute("PRAGMA cache_size = 16")
        db.execute("BEGIN IMMEDIATE")
        db.execute("CREATE TABLE room (data BLOB)")
        for _ in range(JOURNAL_PAGES // 256):
            db.execute("INSERT INTO room VALUES (zeroblob(1048576))")
    except sqlite3.Error as error:
        _log.debug("the write-ahead log was not grown: %s", error)
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
        db.execute(f"PRAGMA cache_size = {cache}")


def connect(path: Path, synchronous: str = "FULL") -> sqlite3.Connection:
    """A connection as the writer needs it. `synchronous` FULL: each commit reaches the disk before it returns."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute(f"PRAGMA synchronous = {'FULL' if synchronous == 'FULL' else 'NORMAL'}")
    db.execute("PRAGMA temp_store = MEMORY")
    db.execute(f"PRAGMA wal_autocheckpoint = {JOURNAL_PAGES}")
    db.execute("PRAGMA cache_size = -65536")
    return db
