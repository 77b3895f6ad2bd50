"""Snapshots go, as they may at any time: what a reset puts aside is kept by node as well as by key."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("DELETE FROM snapshots")
