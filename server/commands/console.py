"""Printing: a table on a terminal, tab-separated values in a pipe, JSON on demand.

Everything that a person, a model or a program may have chosen (names, titles, outputs, errors) passes `safe` before it
reaches a terminal, so that it can neither move the cursor, nor colour, nor reverse what stands beside it.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click

_COLOURS: Final = {
    "completed": "green",
    "approve": "green",
    "decided": "green",
    "executing": "blue",
    "running": "blue",
    "planning": "blue",
    "waiting_approval": "yellow",
    "pending": "yellow",
    "paused": "magenta",
    "failed": "red",
    "expired": "red",
    "reject": "red",
}
_SHORT: Final = 8  # characters of an id in a table: all random, and what `find_run` takes
_CELL: Final = 60


def many(count: int, what: str) -> str:
    """`1 log`, `2 logs`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def safe(text: object, *, lines: bool = False) -> str:
    """The text with whatever does not print escaped; line breaks stay only with `lines`."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(one if one.isprintable() or (lines and one == "\n") else ascii(one)[1:-1] for one in shown)


def short(identifier: str | None) -> str:
    """The end of an id, which commands take in its place."""
    return identifier[-_SHORT:] if identifier else ""


def duration(ms: float | None) -> str:
    """`40ms`, `1.4s`, `12s`, `3m 20s`, `2h 5m`, `4d 2h`; empty for None."""
    if ms is None:
        return ""
    seconds = max(0.0, ms / 1000)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600}h"


def age(at: int, now: int | None = None) -> str:
    """How long ago (or, for what is to come, in how long) a time in microseconds is, in its largest unit."""
    ahead = at - (time.time_ns() // 1000 if now is None else now)
    seconds = abs(ahead) // 1_000_000
    if ahead > 0:  # what was given a day a moment ago has a day left, not 23 hours
        size = next(s for s in (86_400, 3600, 60, 1) if seconds >= s or s == 1)
        seconds += size // 2
        seconds -= seconds % size
    size, unit = next((s, u) for s, u in ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s")) if seconds >= s or s == 1)
    text = f"{seconds // size}{unit}"
    return f"in {text}" if ahead > 0 else f"{text} ago"


def money(usd: float) -> str:
    return "" if not usd else f"${usd:.4f}" if usd < 1 else f"${usd:,.2f}"


def coloured(stream: Any) -> bool:
    """Whether to use colours there: a terminal that has them, and nobody asked for none (https://no-color.org)."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Console:
    """Where a command prints. `json`: the user wants JSON, so nothing else goes to standard output."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.terminal = sys.stdout.isatty()
        self.colour = coloured(sys.stdout)

    @property
    def interactive(self) -> bool:
        """Whether somebody is there to be asked."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def view(self, view: Any, *, line: bool = False) -> None:
        """A view, or a list of views, as JSON; on one line with `line`."""
        from omium.server.commands.wire import as_json, json_text

        self.text(json_text(as_json(view), indent=None if line else 2))

    def text(self, text: str = "") -> None:
        """A line (or lines) of which everything is known to be harmless."""
        click.echo(text, color=self.colour)

    def note(self, text: str) -> None:
        """A word to the person beside the output: on standard error, and escaped."""
        click.echo(safe(text, lines=True), err=True)

    def paint(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self.colour else text

    def status(self, status: str) -> str:
        return self.paint(safe(status), fg=_COLOURS.get(status))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """On a terminal aligned columns with a heading, the last cut to fit; in a pipe tab-separated lines without one.
        A column whose name is `status`, `change` or `decision` is coloured by its value."""
        cells = [["" if cell is None else safe(cell) for cell in row] for row in rows]
        if not self.terminal:
            for row in cells:
                click.echo("\t".join(row))
            return
        from rich.cells import cell_len, set_cell_size

        widths = [
            min(_CELL, max([len(name), *(cell_len(row[index]) for row in cells)])) for index, name in enumerate(columns)
        ]
        room = shutil.get_terminal_size().columns - sum(widths[:-1]) - 2 * (len(widths) - 1)
        widths[-1] = max(8, min(max([len(columns[-1]), *(cell_len(row[-1]) for row in cells)]), room))

        def fitted(text: str, width: int) -> str:
            return set_cell_size(text, width) if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"

        heading = "  ".join(fitted(name.upper(), width) for name, width in zip(columns, widths, strict=True))
        self.text(self.paint(heading.rstrip(), dim=True))
        for row in cells:
            shown = []
            for name, cell, width in zip(columns, row, widths, strict=True):
                text = fitted(cell, width)
                colour = _COLOURS.get(cell) if name in ("status", "change", "decision") else None
                shown.append(self.paint(text, fg=colour) if colour else text)
            self.text("  ".join(shown).rstrip())

    def fields(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values, a line each; those without a value are left out."""
        given = [(name, value) for name, value in pairs if value not in (None, "")]
        width = max((len(name) for name, _ in given), default=0) + 2
        for name, value in given:
            text = safe(value, lines=True).replace("\n", "\n" + " " * width if self.terminal else "\\n")
            if name == "status":
                text = self.status(text)
            self.text(f"{self.paint(name.ljust(width), dim=True)}{text}" if self.terminal else f"{name}\t{text}")
