"""How the benchmark tells its figures: a table for the terminal, JSON for programs, a page for the documentation."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sqlite3
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import psutil

HEADINGS = ("measure", "unit", "ours", "floor", "ratio")


@dataclass(frozen=True, slots=True)
class Row:
    """One measure beside its floor and its peers.

    `ratio` is ours divided by the floor (None without a floor). `peers` maps a peer's name to its figure in the same
    unit; a peer that was not measured is absent. `target` says what is to be reached, in words, and `holds` whether it
    is: None when this run could not tell (a relative target without its peer, or less work than the target names).
    """

    measure: str
    unit: str
    ours: float | None
    floor: float | None = None
    ratio: float | None = None
    peers: dict[str, float] = field(default_factory=dict)
    target: str = ""
    holds: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def ratio(ours: float | None, floor: float | None) -> float | None:
    """`ours / floor` to three digits, None when either is missing."""
    return None if ours is None or not floor else float(f"{ours / floor:.3g}")


def to_json(rows: Sequence[Row]) -> str:
    return json.dumps([row.as_dict() for row in rows], indent=2)


def print_table(rows: Sequence[Row], file: IO[str] | None = None, note: str = "") -> None:
    """The rows as a table on `file` (standard output by default), with `note` below."""
    from rich.console import Console
    from rich.table import Table

    peers = _peers(rows)
    table = Table(caption=note or None, caption_justify="left")
    for heading in ("measure", "unit"):
        table.add_column(heading)
    for heading in ("ours", "floor", "ratio", *peers):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("target")
    table.add_column("holds", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row, peers))
    # A file is as wide as the table needs; only a terminal has a width to keep to.
    console = Console(file=file, highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, markup=False, width=200)
    console.print(table)


def markdown(rows: Sequence[Row], *, command: str, machine: Mapping[str, str], notes: Sequence[str] = ()) -> str:
    """The page `docs/benchmarks.md`: what was run, where, every row, and the targets that were missed by name."""
    peers = _peers(rows)
    headings = [*HEADINGS, *peers, "target", "holds"]
    lines = ["# Benchmarks", "", "Measured by", "", "```sh", command, "```", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += ["", _line(headings), _line(["---", "---", *["---:"] * (3 + len(peers)), "---", "---"])]
    lines += [_line([cell.replace("|", "\\|") for cell in _cells(row, peers)]) for row in rows]
    missed = [
        f"- {row.measure}: {_number(row.ours)} {row.unit}; the target is {row.target}"
        for row in rows
        if row.holds is False
    ]
    lines += ["", "## Shortfalls", "", *(missed or ["None in this run."])]
    if notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in notes)]
    return "\n".join(lines) + "\n"


def machine(directory: Path, *, postgres: str | None = None, peers: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the figures depend on, by name: the date, the machine, and the versions.

    `directory` is where the benchmark's databases lie; `postgres` is the version that the server reports, and `peers`
    the versions of the peers' packages.
    """
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    if postgres:
        versions["PostgreSQL"] = postgres
    versions.update({name: importlib.metadata.version(name) for name in ("asyncpg", "pydantic", "SQLAlchemy")})
    versions.update(peers or {})
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": _file_system(directory),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": _commit(),
    }


def _file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`: fsync on tmpfs costs nothing, and the reader must know."""
    place = str(directory.resolve())
    mounts = [part for part in psutil.disk_partitions(all=True) if Path(place).is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def _peers(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.peers))


def _cells(row: Row, peers: Sequence[str]) -> list[str]:
    figures = [
        _number(row.ours),
        _number(row.floor),
        _number(row.ratio),
        *(_number(row.peers.get(name)) for name in peers),
    ]
    return [row.measure, row.unit, *figures, row.target, {True: "yes", False: "NO", None: "-"}[row.holds]]


def _number(value: float | None) -> str:
    """Three significant digits, in full from a hundred on."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{float(f'{value:.3g}'):g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
