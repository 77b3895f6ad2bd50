"""The forms of a report."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from omium.orchestration.service.figures_view import Figures, ReportView
from omium.server.audit.writing import csv_row
from omium.server.commands.console import duration, money, safe
from omium.server.commands.wire import rfc3339

COLUMNS: Final = tuple(field.name for field in fields(Figures))
HEADS: Final = (
    *("runs", "completed", "failed", "success", "median", "p95", "retries", "questions", "answered in"),
    *("calls", "tokens", "cost"),
)


def csv_of(report: ReportView) -> bytes:
    """A line for each group with every figure as it is, and one for the total, whose key is `total`."""
    lines = [csv_row(report.by if name == "key" else name for name in COLUMNS)]
    lines += [csv_row(_plain(one, name) for name in COLUMNS) for one in (*report.groups, report.total)]
    return b"".join(lines)


def html_of(report: ReportView, project: str) -> str:
    """A page that needs nothing from elsewhere."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        project=safe(project),
        by=report.by,
        since=rfc3339(report.since_at)[:19],
        until=rfc3339(report.until_at)[:19],
        whole=report.whole,
        heads=HEADS,
        groups=[(safe(one.key), shown(one)) for one in report.groups],
        total=shown(report.total),
    )


def shown(one: Figures) -> tuple[str, ...]:
    """The figures under `HEADS`, for people."""
    unknown = f" and {one.unpriced} of unknown price" if one.unpriced else ""
    return (
        *(str(one.runs), str(one.completed), str(one.failed)),
        "" if one.success is None else f"{one.success:.0%}",
        *(_span(one.p50_ms), _span(one.p95_ms)),
        *(str(one.retries or ""), str(one.questions or ""), _span(one.wait_p50_ms)),
        *(str(one.calls or ""), f"{one.tokens:,}" if one.tokens else ""),
        f"{money(one.cost_usd)}{unknown}" if one.cost_usd or unknown else "",
    )


def _span(ms: int | None) -> str:
    return "" if ms is None else duration(ms)


def _plain(one: Figures, name: str) -> Any:
    value = getattr(one, name)
    return "" if value is None else repr(value) if isinstance(value, float) else value
