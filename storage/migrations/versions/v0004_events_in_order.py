"""In SQLite events lie in the order in which they come, so that a commit writes few pages, however many runs it is of.
Before, each run's lay together, and each commit touched a page of every run."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

_REFUSAL = "BEGIN SELECT RAISE(ABORT, 'history is append-only'); END"
_KEPT = "SELECT 1 FROM dropped_runs d WHERE d.run_id = OLD.run_id"
_SQLITE = (
    "DROP TRIGGER events_no_update",
    "DROP TRIGGER events_no_delete",
    "ALTER TABLE events RENAME TO events_before",
    """
CREATE TABLE events (
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	type TEXT NOT NULL,
	at BIGINT NOT NULL,
	actor TEXT NOT NULL,
	data BLOB NOT NULL,
	prev_hash BLOB NOT NULL,
	hash BLOB NOT NULL,
	PRIMARY KEY (run_id, seq)
)
""",
    "INSERT INTO events SELECT run_id, seq, type, at, actor, data, prev_hash, hash FROM events_before",
    "DROP TABLE events_before",
    f"CREATE TRIGGER events_no_update BEFORE UPDATE ON events {_REFUSAL}",
    f"CREATE TRIGGER events_no_delete BEFORE DELETE ON events WHEN NOT EXISTS ({_KEPT}) {_REFUSAL}",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in _SQLITE if connection.dialect.name == "sqlite" else ():
        connection.exec_driver_sql(statement.strip())
