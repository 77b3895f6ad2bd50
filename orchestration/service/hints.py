"""What the figures of runs suggest to look at. Each hint follows from a rule and says what it rests on; none is acted
upon."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from omium.orchestration.service.figures_view import Figures

FEW: Final = 5  # runs, or questions, below which nothing is concluded
_HOUR_MS: Final = 3_600_000


def hints(by: str, groups: Sequence[Figures]) -> list[str]:
    """At most three of each line, the lines in their order."""
    return [hint for one in groups for hint in list(_of(by, one))[:3]]


def _of(by: str, one: Figures) -> Iterator[str]:
    ended = one.completed + one.failed
    if one.success is not None and ended >= FEW and one.success < 0.8:
        yield f"{one.key}: {one.failed} of {ended} runs failed; the newest says why (omium runs --status failed)."
    if one.runs >= FEW and one.retries >= one.runs:
        yield f"{one.key}: {one.retries / one.runs:.1f} retries a run; see at what (omium show RUN --retries)."
    if one.questions >= FEW and one.wait_p50_ms is not None and one.wait_p50_ms >= _HOUR_MS:
        hours = one.wait_p50_ms / _HOUR_MS
        yield f"{one.key}: half of its questions wait {hours:.1f} h or more; tell who decides (notify in omium.yaml)."
    if one.p50_ms and one.p95_ms is not None and ended >= 4 * FEW and one.p95_ms >= 10 * one.p50_ms:
        yield f"{one.key}: one run in twenty takes ten times as long as most; a timeout of its nodes would end it."
    if one.unpriced:
        what = "its price" if by == "model" else "the price of its models"
        yield f"{one.key}: {one.unpriced} calls cost nobody knows what; give {what} (model.price in omium.yaml)."
