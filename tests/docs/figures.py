"""Tables of figures on pages, taken from docs/benchmarks.md and from nowhere else.

A table stands behind `<!-- figures: MEASURE ... -->`; `python -m tests.docs.generate` writes it.
"""

from __future__ import annotations

import re

_TABLE = re.compile(r"(<!-- figures: ([\w ]+) -->\n)(?:\|.*\n)*")
_COLUMNS = ("measure", "unit", "ours", "langgraph", "dbos")
_HEADINGS = ("measure", "unit", "Omium", "LangGraph", "DBOS")


def measured(benchmarks: str) -> dict[str, dict[str, str]]:
    """The rows of the page of benchmarks by measure, their cells by heading."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in benchmarks.splitlines() if line.startswith("|")
    ]
    headings, _, *rows = lines
    return {row[0]: dict(zip(headings, row, strict=True)) for row in rows}


def with_figures(page: str, benchmarks: str) -> str:
    """The page with its tables of figures as they were measured."""
    rows = measured(benchmarks)

    def table(match: re.Match[str]) -> str:
        lines = [_HEADINGS, ("---", "---", "---:", "---:", "---:")]
        lines += [tuple(rows[name].get(column, "-") for column in _COLUMNS) for name in match[2].split()]
        return match[1] + "".join(f"| {' | '.join(line)} |\n" for line in lines)

    return _TABLE.sub(table, page)
