"""How things are shown: times, durations, amounts, and text of anybody, made harmless and cut where it is long.

Everything that a person, an agent or a program has chosen goes through `line`, `text` or `shown`, which replace what is
no visible text by its visible escape; templates escape the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from omium.orchestration.service.evidence import evidence
from omium.orchestration.service.views import NodeView, RunView
from omium.orchestration.values import Value
from omium.server.commands.console import age, duration, short
from omium.server.commands.wire import json_text, value_as_json
from omium.tools import present

NOTHING: Final = "\u2013"  # stands where there is no amount
CUT: Final = 4_000  # characters of a value that are shown where it occurs

WORDS: Final[Mapping[str, str]] = {
    "waiting_approval": "needs a decision",
    "completed": "done",
    "not_sent": "not sent",
}
"""What statuses are called where people read; others by their name."""

ICONS: Final[Mapping[str, str]] = {
    "completed": "M2 8.5 6 12.5 14 3.5",
    "done": "M2 8.5 6 12.5 14 3.5",
    "failed": "M3.5 3.5 12.5 12.5 M12.5 3.5 3.5 12.5",
    "running": "M4 2.5 13 8 4 13.5Z",
    "executing": "M4 2.5 13 8 4 13.5Z",
    "planning": "M4 2.5 13 8 4 13.5Z",
    "pending": "M8 2a6 6 0 1 0 .01 0",
    "draft": "M8 2a6 6 0 1 0 .01 0",
    "waiting_approval": "M5 5.6a3 3 0 1 1 4.6 2.5C8.5 8.9 8 9.4 8 10.5 M8 13.7v.1",
    "unknown": "M5 5.6a3 3 0 1 1 4.6 2.5C8.5 8.9 8 9.4 8 10.5 M8 13.7v.1",
    "paused": "M5.5 3v10 M10.500 3v10",
    "skipped": "M3 3.5 8 8 3 12.5 M8.5 3.5 13.5 8 8.5 12.5",
    "cancelled": "M8 2a6 6 0 1 0 .01 0 M4 12 12 4",
}
"""A shape for each status, in a box of 16 by 16, so that none is told by its colour alone."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A text to be shown. `size`: characters of the whole; `cut`: whether this is only its beginning."""

    text: str
    size: int
    cut: bool
    kind: str = "json"


def line(value: object, limit: int = present.LINE) -> str:
    """One harmless line."""
    return present.line(str(value), limit)


def text(value: object, limit: int = present.TEXT) -> str:
    """A harmless text of several lines."""
    return present.paragraph(str(value), limit)


def whole(value: Value) -> tuple[str, str]:
    """All of a value as harmless text, and what it is: a text as it stands, anything else as indented JSON."""
    if isinstance(value, str):
        return present.paragraph(value, len(value)), "text"
    return json_text(value_as_json(value)), "json"


def shown(value: Value, limit: int = CUT) -> Shown:
    """A value where it occurs."""
    if isinstance(value, str) and len(value) > limit:  # nothing beyond the cut is worth its escaping
        return Shown(present.paragraph(value[:limit], limit), len(value), True, "text")
    found, kind = whole(value)
    return Shown(found[:limit], len(found), len(found) > limit, kind)


def given(value: Any, limit: int = CUT) -> Shown:
    """A mapping or list of ours (an error's data, a call's detail), whatever is in it."""
    found = json_text(_plain(value))
    return Shown(found[:limit], len(found), len(found) > limit)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def when(at: int | None) -> str:
    """`2026-11-20 09:30:00`, UTC; empty for None."""
    return "" if at is None else _moment(at).strftime("%Y-%m-%d %H:%M:%S")


def clock(at: int | None) -> str:
    """`09:30:00.123`, UTC: beside others of the same day."""
    return "" if at is None else _moment(at).strftime("%H:%M:%S.%f")[:-3]


def iso(at: int) -> str:
    return _moment(at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1_000_000, UTC)


def took(start: int | None, end: int | None, now: int) -> str:
    """How long it took, or has taken up to now; empty when it has not begun."""
    return "" if start is None else duration(((end if end is not None else now) - start) / 1000)


def money(usd: float | None) -> str:
    """`$0.0123`, `$12.30`; a dash for what is not known, and for nothing."""
    if usd is None or usd == 0:
        return NOTHING
    return f"${usd:.4f}" if usd < 1 else f"${usd:,.2f}"


def count(number: float | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def size(octets: int) -> str:
    """`512 B`, `1.4 kB`, `10 MB`."""
    amount = float(octets)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def word(status: str) -> str:
    """A status as people read it."""
    return WORDS.get(status, line(status).replace("_", " "))


def status_class(status: str) -> str:
    """The class of a status: one of ours, whatever is stored."""
    return f"s-{status}" if status in ICONS else "s-pending"


def name_of(run: RunView) -> str:
    """What a run is called: its title, or its workflow."""
    return line(run.title or run.workflow, 160)


def run_url(run_id: str, view: str = "", **query: Any) -> str:
    """Where a view of a run is; what is None is left out."""
    given = {name: value for name, value in query.items() if value is not None and value != ""}
    path = f"/runs/{quote(run_id, safe='')}" + (f"/{view}" if view else "")
    return f"{path}?{urlencode(given, doseq=True)}" if given else path


def why_failed(run: RunView) -> list[tuple[NodeView, str, str]]:
    """The nodes that failed by themselves, first the first: (node, category, message)."""
    failed = [node for node in run.nodes if node.status == "failed" and node.error is not None]
    found = sorted(failed, key=lambda node: node.ended_at or 0)
    below = [one for one in found if not any(_inside(other.id, one.id) for other in found)]
    return [(node, *_told(node.error)) for node in (below or found)]


def _inside(inner: str, outer: str) -> bool:
    return inner.startswith((f"{outer}.", f"{outer}["))


def _told(error: Mapping[str, Any] | None) -> tuple[str, str]:
    told = error or {}
    return str(told.get("category") or told.get("code") or told.get("type") or "error"), str(told.get("message") or "")


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "line": line, "text": text, "shown": shown, "given": given, "when": when, "clock": clock, "iso": iso, "age": age,
    "money": money, "count": count, "size": size, "word": word, "status_class": status_class, "short": short,
    "took_ms": duration, "evidence": evidence,
}  # fmt: skip
GLOBALS: Final[dict[str, Any]] = {
    "icons": ICONS, "run_url": run_url, "name_of": name_of, "took": took, "why_failed": why_failed,
}  # fmt: skip
