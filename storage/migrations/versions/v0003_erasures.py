"""An erasure is on record until it has come to its end, so that one that was interrupted can be finished."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        """
CREATE TABLE erasures (
	run_id TEXT NOT NULL,
	begun_at BIGINT NOT NULL,
	reason TEXT NOT NULL,
	actor TEXT NOT NULL,
	PRIMARY KEY (run_id)
)
""".strip()
    )
