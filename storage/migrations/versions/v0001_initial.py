"""The schema of the first version: the statements as they were then, whatever the tables have become since."""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

END = "\n-- end of statement\n"  # bodies of triggers contain semicolons


def upgrade() -> None:
    connection = op.get_bind()
    frozen = Path(__file__).with_name(f"v0001_initial.{connection.dialect.name}.sql").read_text("utf-8")
    for statement in frozen.split(END):
        if statement.strip():
            connection.exec_driver_sql(statement)
