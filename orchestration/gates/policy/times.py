"""Windows of the week: `during: {days: [mon], from: '09:00', to: '17:00', zone: Europe/Berlin}`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from omium.orchestration.gates.policy.fields import Unclear

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def during(window: Mapping[str, Any]) -> Callable[[datetime | None], bool]:
    """Whether a moment lies in a window. Raises Unclear when it is not known when it is asked."""
    from zoneinfo import ZoneInfo

    zone = ZoneInfo(window["zone"])
    days = frozenset(DAYS.index(day) for day in window["days"])
    start, end = _minutes(window["from"]), _minutes(window["to"])

    def holds(at: datetime | None) -> bool:
        if at is None or at.tzinfo is None:
            raise Unclear("it is not known when this is asked")
        local = at.astimezone(zone)
        minute, day = local.hour * 60 + local.minute, local.weekday()
        if start < end:
            return day in days and start <= minute < end
        return (day in days and minute >= start) or ((day - 1) % 7 in days and minute < end)

    return holds


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)
