"""What can be told of many runs at once without folding them: counts for health and metrics, and what failed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from omium.orchestration.ids import ProjectId, RunId
from omium.orchestration.log.events import Event, EventType


@dataclass(frozen=True, slots=True)
class Counted:
    """runs: by status; approvals: how many wait for a decision; oldest_approval_at: when the first of them was asked
    (microseconds), None without any; cost_usd and tokens: of all runs together."""

    runs: Mapping[str, int] = field(default_factory=dict)
    approvals: int = 0
    oldest_approval_at: int | None = None
    cost_usd: float = 0.0
    tokens: int = 0


class Counts(Protocol):
    """Part of the store."""

    async def count(self, project: ProjectId) -> Counted:
        """Raises `storage_unavailable`. It looks at every run of the project: a scrape, not a request, asks."""

    async def events_among(self, runs: Sequence[RunId], kinds: Collection[EventType], limit: int) -> list[Event]:
        """The events of these kinds in the logs of these runs, by run and position, at most `limit`."""
