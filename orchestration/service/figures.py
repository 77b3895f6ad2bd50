"""What the runs of a time came to: how many, how they ended, how long they took, what they cost, by what one likes.

Every amount is counted once, whatever it is grouped by, so the sums are the same. Times are microseconds UTC since the
epoch, durations milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Final

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.state import RunStatus
from omium.orchestration.ports import RunQuery, RunRow
from omium.orchestration.service import roles
from omium.orchestration.service.figures_view import BY, By, Figures, ReportView
from omium.orchestration.service.hints import hints
from omium.orchestration.service.reading import Reading
from omium.orchestration.service.views import Caller

if TYPE_CHECKING:
    from omium.orchestration.ports import Clock

MOST_RUNS: Final = 10_000
_PAGE: Final = 500
_MOST_EVENTS: Final = 200_000  # of one page of runs
_TOLD: Final = (
    EventType.NODE_USAGE,
    EventType.NODE_RETRY_STARTED,
    EventType.APPROVAL_REQUESTED,
    EventType.APPROVAL_DECIDED,
)
NONE: Final = "(none)"  # of no session, by no agent, of a model that was not told


@dataclass(slots=True)
class _Sums:
    runs: dict[RunId, RunRow] = field(default_factory=dict)
    retries: int = 0
    waits: list[int] = field(default_factory=list)
    questions: int = 0
    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def figures(self, key: str) -> Figures:
        ends = [row.status for row in self.runs.values()]
        completed, failed, cancelled = (
            ends.count(one) for one in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)
        )
        took = sorted(_durations(self.runs.values()))
        return Figures(
            key=key,
            runs=len(ends),
            completed=completed,
            failed=failed,
            cancelled=cancelled,
            going_on=len(ends) - completed - failed - cancelled,
            success=completed / (completed + failed) if completed + failed else None,
            p50_ms=percentile(took, 50),
            p95_ms=percentile(took, 95),
            retries=self.retries,
            questions=self.questions,
            wait_p50_ms=int(median(self.waits)) if self.waits else None,
            calls=self.calls,
            tokens=self.tokens,
            cost_usd=round(self.cost_usd, 9),
            unpriced=self.unpriced,
        )


class FiguresService(Reading):
    """The verb `report`."""

    if TYPE_CHECKING:
        clock: Clock

    async def report(
        self, caller: Caller, *, by: str = "workflow", since: int, until: int | None = None, workflow: str | None = None
    ) -> ReportView:
        """The figures of the runs that the caller may see and that were created in [since, until), those that other
        runs have started among them. until: now, unless given. Raises `invalid_argument`."""
        roles.check(caller, "report")
        found: By | None = next((one for one in BY if one == by), None)
        end = self.clock.now_us() if until is None else until
        if found is None or not 0 <= since < end:
            what = f"{by!r:.40} is nothing to report by" if found is None else "the time ends before it begins"
            raise OmiumError("invalid_argument", f"{what}.", f"By: {', '.join(BY)}.")
        total, groups, whole = _Sums(), dict[str, _Sums](), True
        async for rows, more in self._runs_between(caller, since, end, workflow):
            told = await self.store.events_among([row.id for row in rows], _TOLD, _MOST_EVENTS)
            whole = whole and not more and len(told) < _MOST_EVENTS
            by_run: dict[RunId, list[Event]] = {}
            for event in told:
                by_run.setdefault(event.run_id, []).append(event)
            for row in rows:
                mine = by_run.get(row.id, [])
                for key, counted in _parts(found, row, mine, await self._agents(found, row, mine)):
                    _add(groups.setdefault(key, _Sums()), row, counted)
                _add(total, row, _whole(row, mine))
        lines = [sums.figures(key) for key, sums in groups.items()]
        if found in ("day", "hour"):
            lines.sort(key=lambda one: one.key)
        else:
            lines.sort(key=lambda one: (-one.cost_usd, -one.runs, one.key))
        return ReportView(found, since, end, lines, total.figures("total"), whole, hints(found, lines))

    async def _runs_between(
        self, caller: Caller, since: int, until: int, workflow: str | None
    ) -> AsyncIterator[tuple[list[RunRow], bool]]:
        """Runs, newest first, and whether there are more that are not given. Ids are in the order of their creation,
        so the first that is older ends it."""
        before, left = None, MOST_RUNS
        while True:
            page = await self.store.runs(
                RunQuery((caller.project,), owner=caller.only, workflow=workflow, before=before, limit=_PAGE)
            )
            rows = [row for row in page if since <= row.created_at < until]
            older = len(page) < _PAGE or page[-1].created_at < since
            left -= len(rows)
            yield rows, left <= 0 and not older
            if older or left <= 0:
                return
            before = page[-1].id

    async def _agents(self, by: By, row: RunRow, told: Sequence[Event]) -> Mapping[str, str]:
        """Which agent, or coding CLI, each node that has called a model runs, by the run's definition."""
        if by != "agent" or not any(event.type is EventType.NODE_USAGE for event in told):
            return {}
        names: dict[str, str] = {}
        try:
            structure = await self.structure(await self.store.state(row.id))
            for event in told:
                if event.type is EventType.NODE_USAGE:
                    node = structure.node_def(event.data["node"])
                    names[event.data["node"]] = node.use or node.kind
        except OmiumError:  # what is damaged or erased costs a name, and not the report
            return names
        return names


def percentile(ordered: Sequence[int], percent: float) -> int | None:
    """The smallest value that at least so many percent do not exceed; None of nothing."""
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)] if ordered else None


def _durations(rows: Iterable[RunRow]) -> Iterator[int]:
    for row in rows:
        if row.started_at is not None and row.ended_at is not None:
            yield (row.ended_at - row.started_at) // 1000


def _parts(by: By, row: RunRow, told: Sequence[Event], agents: Mapping[str, str]) -> Iterator[tuple[str, _Sums]]:
    """What a run adds to which lines. By agent and model its calls are told apart; what its row counts beyond them
    (a node that said in the end what it had used) is of none."""
    if by not in ("agent", "model"):
        yield _key(by, row), _whole(row, told)
        return
    found: dict[str, _Sums] = {}
    left = _whole(row, told)
    for event in told:
        if event.type is EventType.NODE_USAGE:
            key = agents.get(event.data["node"], NONE) if by == "agent" else event.data.get("model") or NONE
            _use(found.setdefault(key, _Sums()), event)
            _use(left, event, -1)
    if not found or left.tokens > 0 or left.cost_usd > 1e-9:
        rest = found.setdefault(NONE, _Sums())
        rest.tokens += max(0, left.tokens)
        rest.cost_usd += max(0.0, left.cost_usd)
    yield from found.items()


def _key(by: By, row: RunRow) -> str:
    if by in ("day", "hour"):
        moment = datetime.fromtimestamp(row.created_at / 1e6, UTC)
        return moment.strftime("%Y-%m-%d" if by == "day" else "%Y-%m-%dT%H:00Z")
    return {"workflow": row.workflow, "session": row.session, "owner": row.owner}[by] or NONE


def _whole(row: RunRow, told: Sequence[Event]) -> _Sums:
    """All of a run. Its row is what its log comes to."""
    sums = _Sums(tokens=row.tokens, cost_usd=row.cost_usd)
    asked: dict[str, int] = {}
    for event in told:
        if event.type is EventType.NODE_USAGE:
            sums.calls += int(event.data["calls"])
            sums.unpriced += bool(event.data.get("unpriced"))
        elif event.type is EventType.NODE_RETRY_STARTED:
            sums.retries += 1
        elif event.type is EventType.APPROVAL_REQUESTED:
            sums.questions += 1
            asked[event.data["approval"]] = event.at
        elif event.data["approval"] in asked:
            sums.waits.append((event.at - asked[event.data["approval"]]) // 1000)
    return sums


def _use(sums: _Sums, event: Event, sign: int = 1) -> None:
    sums.calls += sign * int(event.data["calls"])
    sums.tokens += sign * int(event.data["tokens"])
    sums.cost_usd += sign * float(event.data["cost_usd"])
    sums.unpriced += sign * bool(event.data.get("unpriced"))


def _add(sums: _Sums, row: RunRow, part: _Sums) -> None:
    sums.runs[row.id] = row
    sums.waits += part.waits
    for name in ("retries", "questions", "calls", "tokens", "cost_usd", "unpriced"):
        setattr(sums, name, getattr(sums, name) + getattr(part, name))
