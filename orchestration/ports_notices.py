"""Who is told of what happens in runs: the outbox that remembers it, and those who carry it out.

The log itself is what nothing is lost from: for each endpoint the outbox knows up to which position of each run events
were looked at, and the notices that came of them until they are delivered. Events are therefore found whoever wrote
them, and whichever process died in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from omium.orchestration.ids import ProjectId, RunId, Seq
from omium.orchestration.log.events import Event

NoticeStatus = Literal["waiting", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class NoticeRow:
    """One event that one endpoint is to be told of. Times are microseconds since the epoch. attempts: how often its
    delivery was begun; due_at: when it is to be tried next, or, while it is being tried, when whoever tries it is taken
    for dead; ended_at: when it was delivered or given up; problem: why the last attempt failed."""

    id: str
    project: ProjectId
    endpoint: str
    run_id: RunId
    seq: Seq
    type: str
    status: NoticeStatus
    attempts: int
    due_at: int
    created_at: int
    ended_at: int | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Unannounced:
    """A run whose log goes further than an endpoint has looked: after `seen`, up to `head`."""

    run_id: RunId
    seen: Seq
    head: Seq


class Outbox(Protocol):
    """Part of the store. Each method may raise OmiumError("storage_unavailable"), and then nothing was changed."""

    async def endpoint_since(self, project: ProjectId, endpoint: str) -> int:
        """Have the endpoint be known. It is told of nothing that happened before: all runs that there are then count as
        looked at. No time would do, since clocks are set back. 0, but for endpoints that earlier versions have known
        since a time: that."""

    async def unannounced(self, project: ProjectId, endpoint: str, since_us: int, limit: int) -> list[Unannounced]:
        """Runs that changed at `since_us` or later, and were not looked at since; at most `limit`."""

    async def events_of(self, run_id: RunId, after: Seq, upto: Seq, types: Sequence[str]) -> list[Event]:
        """The events of these types with after < seq <= upto, in order."""

    async def announce(self, endpoint: str, notices: Sequence[NoticeRow], seen: Mapping[RunId, Seq]) -> None:
        """Store notices and how far was looked, in one transaction. A notice of an event that the endpoint has one of
        is left out, and a position never goes back: several processes may do this at once."""

    async def take_notices(
        self, project: ProjectId, endpoint: str, now_us: int, until_us: int, limit: int
    ) -> list[NoticeRow]:
        """Begin the delivery of notices that are due, the longest due first; `until_us` becomes when they are due
        again, should this process not settle them. Nobody else gets them before."""

    async def settle_notice(
        self,
        notice_id: str,
        attempt: int,
        status: NoticeStatus,
        *,
        due_us: int,
        ended_us: int | None = None,
        problem: str | None = None,
    ) -> bool:
        """How the attempt of this number ended; False when it is not the last one any more. With status `waiting` it is
        due again at `due_us`."""

    async def retry_notices(self, project: ProjectId, ids: Sequence[str] | None, now_us: int) -> int:
        """Have dead notices (None: all of the project) delivered again, from their first attempt; how many."""

    async def notices(
        self, project: ProjectId, *, status: NoticeStatus | None = None, endpoint: str | None = None, limit: int = 100
    ) -> list[NoticeRow]:
        """Newest first."""

    async def next_notice(self, project: ProjectId, endpoints: Sequence[str]) -> int | None:
        """When the next notice of these endpoints is due; None when none waits."""

    async def notice_counts(self, project: ProjectId) -> dict[tuple[str, NoticeStatus], int]:
        """How many notices there are, by endpoint and status."""


class Notifier(Protocol):
    """Carries one notice to one kind of receiver."""

    async def send(self, notice_id: str, document: Mapping[str, object]) -> None:
        """Deliver the document, at least once: a repeat has the same id. Raises OmiumError when that failed."""
