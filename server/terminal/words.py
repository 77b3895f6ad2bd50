"""What is on the board as text: harmless, whatever it contains, and in colours for dark and for light."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.text import Text

from omium.clients.processes.listing import ProcessView
from omium.orchestration.definition.address import container_of
from omium.orchestration.ids import NodeId
from omium.orchestration.service.views import ApprovalView, NodeView, RunView
from omium.server.commands.console import age, duration, money, safe, short
from omium.server.commands.render import problem
from omium.server.commands.wire import as_json, json_text, value_as_json
from omium.server.terminal.board import UNHEALTHY, Alert, Going, Line, Waiting

LONGEST: Final = 60_000  # characters of a question that somebody can be said to have seen
_LONGEST_CELL: Final = 200
_FIRST: Final = ("server", "tool")  # of what a question shows, before its arguments; the rest stands below them
_MARKS: Final = {"good": "✓", "bad": "✗", "ask": "?", "quiet": "·"}


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours with a contrast of at least 4.5 to 1 on their background. Every state is also said in a word."""

    good: str
    bad: str
    ask: str
    busy: str
    quiet: str

    def status(self, status: str) -> str:
        return {
            "completed": self.good,
            "failed": self.bad,
            "expired": self.bad,
            "stalled": self.bad,
            "orphaned": self.bad,
            "stopped": self.ask,
            "waiting_approval": self.ask,
            "waiting": self.ask,
            "paused": self.ask,
            "executing": self.busy,
            "planning": self.busy,
            "running": self.busy,
            "adopted": self.busy,
        }.get(status, self.quiet)

    def mark(self, mark: str) -> str:
        return {"good": self.good, "bad": self.bad, "ask": self.ask}.get(mark, self.quiet)


DARK: Final = Palette(good="#7ee787", bad="#ff9a92", ask="#f2cc60", busy="#8ab8ff", quiet="#a8a8a8")
LIGHT: Final = Palette(good="#0b5a1e", bad="#9c0d0d", ask="#664600", busy="#0b3d91", quiet="#474747")

Row = tuple[str, Sequence[Text]]
"""A key, and the cells of a table."""


def cell(text: object, style: str = "") -> Text:
    """One line of harmless text that is never read as markup."""
    return Text(safe("" if text is None else text)[:_LONGEST_CELL], style=style, no_wrap=True, end="")


APPROVALS: Final = ("asked", "expires", "workflow", "node", "question")
RUNS: Final = ("run", "status", "workflow", "done", "age", "cost", "now, or why")
PROCESSES: Final = ("status", "command", "pid", "age", "quiet", "cpu", "memory", "run", "node")
ALERTS: Final = ("alert", "since", "what", "said", "to do")
NODES: Final = ("node", "status", "took", "try", "detail")


def approval_row(one: Waiting, now: int, palette: Palette) -> Row:
    soon = one.row.expires_at - now < 3_600_000_000
    return str(one.row.id), (
        cell(age(one.row.requested_at, now), palette.quiet),
        cell(age(one.row.expires_at, now), palette.bad if soon else palette.quiet),
        cell(one.workflow[:24]),
        cell((one.row.node or "")[:20]),
        cell(one.row.question),
    )


def run_row(one: Going, now: int, palette: Palette) -> Row:
    row = one.row
    told = ", ".join(one.now[:5]) if row.status in ("executing", "planning") else problem(row.error) or row.reason
    if row.status == "completed":
        told = ""
    return str(row.id), (
        cell(short(row.id), palette.quiet),
        cell(row.status.replace("_approval", ""), palette.status(row.status)),
        cell(row.workflow[:20]),
        cell(row.completed_nodes),
        cell(age(row.created_at, now), palette.quiet),
        cell(money(row.cost_usd)),
        cell("  ".join(part for part in (told, row.title) if part)),
    )


def process_row(one: ProcessView, now: int, palette: Palette) -> Row:
    mark = "! " if one.state in UNHEALTHY else ""
    quiet = duration((now - (one.last_output_at or one.started_at)) / 1000)
    return f"{one.run}:{one.node}:{one.pid}:{one.started_at}", (
        cell(mark + one.state, palette.status(one.state)),
        cell(one.command[:20]),
        cell(one.pid),
        cell(duration((now - one.started_at) / 1000)),
        cell(quiet, palette.bad if mark else ""),
        cell("" if one.cpu_percent is None else f"{one.cpu_percent:g}%"),
        cell("" if one.rss is None else f"{one.rss / 1e6:.0f}MB"),
        cell(short(one.run), palette.quiet),
        cell(one.node),
    )


def alert_row(one: Alert, now: int, palette: Palette) -> Row:
    return one.key, (
        cell(one.kind, palette.bad),
        cell("" if one.at is None else age(one.at, now), palette.quiet),
        cell(one.what[:24]),
        cell(one.said),
        cell(one.todo, palette.quiet),
    )


def node_row(one: NodeView, now: int, palette: Palette) -> Row:
    depth, above = 0, container_of(one.id)
    while above is not None:
        depth, above = depth + 1, container_of(NodeId(above))
    took = None if one.started_at is None else ((one.ended_at or now) - one.started_at) / 1000
    return str(one.id), (
        cell("  " * depth + one.id),
        cell(one.status, palette.status(one.status)),
        cell(duration(took) if one.status != "pending" else ""),
        cell(one.attempt or ""),
        cell(problem(one.error) or one.reason or ""),
    )


def log_line(one: Line, palette: Palette) -> Text:
    style = palette.mark(one.mark)
    at = time.strftime("%H:%M:%S", time.localtime(one.at / 1e6))
    return Text.assemble(
        (f"{at} ", palette.quiet),
        (f"{short(one.run)} ", palette.quiet),
        f"{safe(one.workflow)[:16]:<16} ",
        (f"{_MARKS[one.mark]} ", style),
        (safe(one.text)[:500], style if one.mark != "quiet" else palette.quiet),
        no_wrap=True,
        end="",
    )


def fields(pairs: Sequence[tuple[str, object]], palette: Palette) -> Text:
    """Names and values, a line each; those without a value are left out."""
    text = Text(end="")
    for name, value in pairs:
        if value not in (None, ""):
            text.append(f"{safe(name)[:40]:<8} ", palette.quiet)
            text.append(safe(value, lines=True).replace("\n", "\n" + " " * 9) + "\n")
    return text


def approval_text(view: ApprovalView, now: int, palette: Palette) -> tuple[Text, bool]:
    """Everything that a decision rests on, and whether that is all of it: what is longer than `LONGEST` is cut."""
    details: dict[str, Any] = dict(view.details or {})
    details.pop("arguments", None)
    about = [f"{view.workflow}, run {short(view.run_id)}", f"node {view.node}" if view.node else ""]
    due = f"asked {age(view.requested_at, now)}, expires {age(view.expires_at, now)}"
    needs = "" if view.min_assurance == "none" else f" (needs {view.min_assurance})"
    first = [name for name in _FIRST if name in details]
    head = [
        ("of", ", ".join(part for part in about if part)),
        ("when", due),
        ("options", ", ".join(view.options) + needs),
        ("then", view.consequence),
        *((name, _shown(details[name])) for name in first),
    ]
    text = Text(end="")
    text.append(safe(view.question, lines=True) + "\n", "bold")
    text.append_text(fields(head, palette))
    if view.arguments is not None:
        text.append("exactly:\n", palette.ask)
        text.append("\n".join(f"  {line}" for line in json_text(value_as_json(view.arguments)).splitlines()) + "\n")
    text.append_text(fields([(name, _shown(value)) for name, value in details.items() if name not in first], palette))
    if len(text) <= LONGEST:
        return text, True
    text.truncate(LONGEST)
    return text, False


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json_text(as_json(value))


def run_text(view: RunView, now: int, palette: Palette) -> Text:
    """The head of a run: why it failed comes first."""
    text = Text(end="")
    error = problem(view.error)
    if error and view.status == "failed":
        text.append(f"failed: {safe(error)}\n", f"bold {palette.bad}")
    text.append(view.status.replace("_", " "), f"bold {palette.status(view.status)}")
    took = None if view.started_at is None else ((view.ended_at or now) - view.started_at) / 1000
    counts = ", ".join(f"{count} {status}" for status, count in view.counts.items())
    rest = [duration(took), counts, money(view.cost_usd), view.title]
    if view.reason and view.status in ("paused", "cancelled"):
        rest.insert(0, view.reason)
    text.append("  " + "  ".join(safe(part) for part in rest if part))
    text.append(f"\nkeys: {', '.join(_verbs(view))}" if _verbs(view) else "", palette.quiet)
    return text


def _verbs(view: RunView) -> list[str]:
    keys: Mapping[str, str] = {"pause": "p pause", "resume": "u resume", "cancel": "c cancel"}
    return [key for verb, key in keys.items() if may(view, verb)]


def may(view: RunView, verb: str) -> bool:
    """Whether the run takes this verb now. A draft is started by resuming it."""
    return verb in view.allowed or (verb == "resume" and view.status == "draft")


def node_text(one: NodeView, now: int, palette: Palette) -> Text:
    error = one.error or {}
    return fields(
        [
            ("node", one.id),
            ("status", one.status),
            ("error", problem(one.error)),
            ("hint", error.get("hint")),
            ("reason", one.reason),
            ("stderr", str(error.get("stderr") or "").rstrip()[:4_000]),
            ("kind", f"{one.kind} {one.use or ''}".strip()),
            ("needs", ", ".join(one.needs)),
            ("started", "" if one.started_at is None else age(one.started_at, now)),
            ("failures", one.failures or None),
            ("due", "" if one.due_at is None else age(one.due_at, now)),
            ("usage", json_text(as_json(one.usage), indent=None) if one.usage else None),
            ("output", f"{one.output_size} bytes: omium show RUN --node {one.id} --output" if one.output else None),
        ],
        palette,
    )
