"""`python -m tests.freeze_initial_schema` writes the first migration from `storage/schema.py`.

For use until the first release only: from then on a change of the schema is a migration of its own.
"""

from __future__ import annotations

from itertools import groupby

from sqlalchemy import create_mock_engine

from omium.storage.migrate import HISTORY
from omium.storage.schema import metadata

END = "\n-- end of statement\n"


def statements(dialect: str) -> str:
    written: list[str] = []
    driver = {"sqlite": "sqlite://", "postgresql": "postgresql+asyncpg://"}[dialect]
    engine = create_mock_engine(driver, lambda ddl, *_, **__: written.append(str(ddl.compile(dialect=engine.dialect))))
    metadata.create_all(engine, checkfirst=False)
    # The indexes of a table come in no order.
    parts = (list(part) for _, part in groupby(written, lambda ddl: "INDEX" in ddl.split("(")[0]))
    ordered = (ddl for part in parts for ddl in (sorted(part) if "INDEX" in part[0].split("(")[0] else part))
    lines = [line.rstrip() for statement in ordered for line in (*statement.strip().splitlines(), END.strip())]
    return "\n".join(lines) + "\n"


def main() -> None:
    for dialect in ("sqlite", "postgresql"):
        (HISTORY.folder / "versions" / f"v0001_initial.{dialect}.sql").write_text(statements(dialect), "utf-8")


if __name__ == "__main__":
    main()
