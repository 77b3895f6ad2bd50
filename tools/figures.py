"""The tool that reports what runs came to: how they ended, how long they took, what they cost."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

from pydantic import Field

from omium.orchestration.service.figures_view import By, Figures
from omium.tools.desk import Ctx, desk_of
from omium.tools.models import Answer, Line
from omium.tools.present import LIST_ROOM, fit, when

_HOUR_US = 3_600_000_000
_HINTS = 10
_MS = ("p50_ms", "p95_ms", "wait_p50_ms")


class FiguresOut(Answer):
    """`success`: completed of completed and failed. `wait_p50_seconds`: until people answered. `unpriced`: calls whose
    price is not known, which count as nothing in `cost_usd`."""

    key: Line
    runs: int
    completed: int
    failed: int
    cancelled: int
    going_on: int
    success: float | None = None
    p50_seconds: float | None = None
    p95_seconds: float | None = None
    retries: int
    questions: int
    wait_p50_seconds: float | None = None
    calls: int
    tokens: int
    cost_usd: float
    unpriced: int


class ReportOut(Answer):
    by: str
    since: str | None
    groups: list[FiguresOut]
    count: int
    total: FiguresOut
    hints: list[Line] | None = None
    next: Line


async def report_runs(
    ctx: Ctx,
    by: Annotated[By, Field(description="What makes a line")] = "workflow",
    hours: Annotated[float, Field(gt=0, le=87_600, description="Runs created within this time")] = 720,
    workflow: Annotated[str | None, Field(description="Only of this workflow", max_length=200)] = None,
) -> ReportOut:
    """Report how runs ended, how long they took and what they cost. The lines add up whatever makes one. Changes
    nothing."""
    core, caller = desk_of(ctx)
    begin = max(0, core.clock.now_us() - int(hours * _HOUR_US))
    found = await core.report(caller, by=by, since=begin, workflow=workflow)
    return ReportOut(
        by=found.by,
        since=when(found.since_at),
        groups=fit((_line(one) for one in found.groups), LIST_ROOM),
        count=len(found.groups),
        total=_line(found.total),
        hints=list(found.hints[:_HINTS]) or None,
        next="list_runs names the runs themselves"
        if found.whole
        else "there were more runs than are counted: take fewer hours",
    )


def _line(one: Figures) -> FiguresOut:
    told = {field.name: getattr(one, field.name) for field in fields(one) if field.name not in _MS}
    seconds = {
        name.replace("_ms", "_seconds"): None if (ms := getattr(one, name)) is None else ms / 1000 for name in _MS
    }
    return FiguresOut.model_validate({**told, **seconds})
