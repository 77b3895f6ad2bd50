"""A report as callers see it. Times are microseconds UTC since the epoch, durations milliseconds, costs US dollars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

By: TypeAlias = Literal["workflow", "session", "owner", "day", "hour", "agent", "model"]
BY: Final[tuple[By, ...]] = get_args(By)


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of a report. runs: that have a part in it; by agent and model one run may be in several lines. success:
    completed of those that completed or failed; None without any. p50_ms, p95_ms: of runs that have ended, waiting
    included. questions: that people were asked; wait_p50_ms: until they were answered. unpriced: calls whose price is
    not known, which cost nothing here."""

    key: str
    runs: int
    completed: int
    failed: int
    cancelled: int
    going_on: int
    success: float | None
    p50_ms: int | None
    p95_ms: int | None
    retries: int
    questions: int
    wait_p50_ms: int | None
    calls: int
    tokens: int
    cost_usd: float
    unpriced: int


@dataclass(frozen=True, slots=True)
class ReportView:
    """groups: the most expensive first, by time in their order. since_at, until_at: between which the runs were
    created. whole: false when there were more runs than are counted; then the oldest are left out. hints: what the
    figures suggest to look at."""

    by: By
    since_at: int
    until_at: int
    groups: Sequence[Figures]
    total: Figures
    whole: bool
    hints: Sequence[str] = ()
