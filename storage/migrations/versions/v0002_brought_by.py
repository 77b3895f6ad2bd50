"""A blob says which run has brought it, and in SQLite lies in a table of rows. `nodes` has no key, and no row for what
executes."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

# What executes waits for nothing. A text within the JSON cannot look so: its quotes are escaped.
_EXECUTES = {
    "sqlite": "status = 'running' AND instr(coalesce(detail, x''), CAST('\"wait\":' AS BLOB)) = 0",
    "postgresql": "status = 'running' AND position('\"wait\":'::bytea IN coalesce(detail, ''::bytea)) = 0",
}
_SQLITE = (
    "DROP INDEX blobs_by_base",
    "ALTER TABLE blobs RENAME TO blobs_before",
    """
CREATE TABLE blobs (
	digest TEXT NOT NULL,
	size BIGINT NOT NULL,
	encoding TEXT NOT NULL,
	base TEXT,
	depth BIGINT NOT NULL,
	touched_at BIGINT NOT NULL,
	brought_by TEXT,
	data BLOB NOT NULL,
	PRIMARY KEY (digest)
)
""",
    "INSERT INTO blobs (digest, size, encoding, base, depth, touched_at, data)"
    " SELECT digest, size, encoding, base, depth, touched_at, data FROM blobs_before",
    "DROP TABLE blobs_before",
    "CREATE INDEX blobs_by_base ON blobs (base) WHERE base IS NOT NULL",
    "ALTER TABLE nodes RENAME TO nodes_before",
    """
CREATE TABLE nodes (
	run_id TEXT NOT NULL,
	node TEXT NOT NULL,
	status TEXT NOT NULL,
	generation BIGINT NOT NULL,
	attempt BIGINT NOT NULL,
	seq BIGINT NOT NULL,
	output TEXT,
	size BIGINT NOT NULL,
	started_at BIGINT,
	ended_at BIGINT,
	detail BLOB,
	PRIMARY KEY (run_id, node)
)
 WITHOUT ROWID
""",
    f"DELETE FROM nodes_before WHERE {_EXECUTES['sqlite']}",  # noqa: S608 - a condition of ours
    "INSERT INTO nodes SELECT run_id, node, status, generation, attempt, seq, output, size, started_at, ended_at,"
    " detail FROM nodes_before",
    "DROP TABLE nodes_before",
)
_POSTGRESQL = (
    "ALTER TABLE blobs ADD COLUMN brought_by TEXT",
    'ALTER TABLE nodes DROP COLUMN "key"',
    f"DELETE FROM nodes WHERE {_EXECUTES['postgresql']}",  # noqa: S608 - a condition of ours
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in _SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL:
        connection.exec_driver_sql(statement.strip())
