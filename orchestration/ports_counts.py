"""What can be counted of a project without reading its runs: what health and metrics show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from omium.orchestration.ids import ProjectId


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
