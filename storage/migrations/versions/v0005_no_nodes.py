"""`nodes` goes: every write of a node kept a row there, and nobody read it. A run's nodes are in its fold. Snapshots go
with it, as they may at any time: what is folded says more by now."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("DROP TABLE nodes")
    op.execute("DELETE FROM snapshots")
