"""What there is to show, read from the core and the register of processes. Nothing here draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import anyio.to_thread

from omium.clients.processes.listing import ProcessView
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, RunId
from omium.orchestration.log.state import NodeStatus
from omium.orchestration.ports import ApprovalRow, RunQuery, RunRow
from omium.orchestration.ports_gates import Amounts
from omium.orchestration.service import roles
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import ApprovalView, BudgetView, Caller, EventView
from omium.orchestration.values import Value
from omium.server.commands.live import Nodes, told
from omium.server.commands.render import problem

GOING: Final = ("executing", "planning", "waiting_approval", "paused")
MOST_APPROVALS: Final = 2_000
MOST_RUNS: Final = 300  # of those under way; of the others a third
UNHEALTHY: Final = ("stalled", "orphaned")
_RANK: Final = {status: place for place, status in enumerate(GOING)}
_OF_LATE_US: Final = 24 * 3600 * 1_000_000  # how long a failure is news
_BEFORE: Final = 5  # events of a run under way that are shown when somebody begins to look
_PAGE: Final = 200
_BEHIND: Final = 1_000  # events of one run; whoever is further behind begins anew at its end

Mark = Literal["good", "bad", "ask", "quiet"]


@dataclass(frozen=True, slots=True)
class Waiting:
    """An open question, as far as a list shows it."""

    row: ApprovalRow
    workflow: str


@dataclass(frozen=True, slots=True)
class Going:
    """A run, and which of its nodes are at work."""

    row: RunRow
    now: Sequence[str]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log stream. at: microseconds since the epoch."""

    run: RunId
    workflow: str
    at: int
    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should look at. todo: what to do, as a command."""

    key: str
    kind: Literal["run failed", "process", "budget", "tool changed"]
    what: str
    said: str
    at: int | None = None
    run: RunId | None = None
    todo: str = ""


@dataclass(slots=True)
class _Followed:
    at: int
    workflow: str
    nodes: Nodes = field(default_factory=Nodes)
    known: int = 0  # the position up to which `nodes` has everything already


class Board:
    """What a caller sees. `look` reads what the database says, and is to be called when it has changed; `look_around`
    what does not announce itself: processes, budgets, pins."""

    def __init__(self, core: Core, caller: Caller, processes: Callable[[], Sequence[ProcessView]]) -> None:
        self.core = core
        self.caller = caller
        self.text = ""  # what runs are filtered by
        self.approvals: list[Waiting] = []
        self.runs: list[Going] = []
        self.processes: list[ProcessView] = []
        self._listing = processes
        self._failed: list[Alert] = []
        self._around: list[Alert] = []
        self._workflows: dict[RunId, str] = {}
        self._followed: dict[RunId, _Followed] | None = None
        self._began = core.clock.now_us()

    @property
    def alerts(self) -> list[Alert]:
        return [*self._around, *self._failed]

    @property
    def executing(self) -> int:
        return sum(one.row.status in ("executing", "planning") for one in self.runs)

    @property
    def unhealthy(self) -> int:
        return sum(one.state in UNHEALTHY for one in self.processes)

    async def look(self) -> list[Line]:
        """Read everything that may have changed; what has happened in the runs under way since the last look."""
        roles.check(self.caller, "list_approvals")
        roles.check(self.caller, "list_runs")
        going = await self._query(statuses=GOING, limit=MOST_RUNS)
        self._workflows.update((row.id, row.workflow) for row in going)
        lines = await self._news(going)
        self.runs = await self._listed(going)
        self.approvals = await self._waiting()
        self._failed = [_failed(row) for row in await self._query(statuses=("failed",), limit=50) if self._is_news(row)]
        return lines

    async def look_at_runs(self) -> None:
        """Only the list of runs, after its filter has changed."""
        self.runs = await self._listed(await self._query(statuses=GOING, limit=MOST_RUNS))

    async def look_around(self) -> None:
        """Read what does not announce its changes."""
        self.processes = list(await anyio.to_thread.run_sync(self._listing))
        found = [_unhealthy(one) for one in self.processes if one.state in UNHEALTHY]
        found += [alert for one in await self.core.budgets(self.caller) if (alert := exceeded(one)) is not None]
        for tool in await self.core.list_external_tools(self.caller, statuses=("changed",)):
            said = "is not defined as it was when it was pinned, and cannot be called"
            server = tool.name.partition("/")[0]
            todo = f"omium mcp tools {server}"
            found.append(Alert(f"tool:{tool.name}", "tool changed", tool.name, said, tool.seen_at, todo=todo))
        self._around = found

    async def decide(
        self, shown: ApprovalView, decision: str, feedback: str | None = None, arguments: Value = None
    ) -> ApprovalView:
        """Decide exactly what was shown. Raises `conflict` if it has become another question, and what the core's
        `decide` raises."""
        now = await self.core.get_approval(self.caller, shown.id)
        if _asked(now) != _asked(shown):
            raise OmiumError("conflict", "what was shown is not what is asked.", "Look at it again, then decide.")
        return await self.core.decide(
            self.caller,
            shown.id,
            decision,
            feedback=feedback or None,
            arguments=arguments,
            assurance="elicited",  # somebody with access to this account typed it; no more is known
        )

    async def why_not(self, view: ApprovalView) -> str | None:
        """Why the caller cannot decide this here, in a sentence."""
        if view.status != "pending":
            return f"It is {view.decision or view.status} already."
        if not roles.allows(self.caller.role, "decide"):
            return f"Your role is {self.caller.role}; deciding takes operator, approver or admin."
        best = roles.stronger(await self.core.own_assurance(self.caller, view.id), "elicited")
        known: Mapping[str, int] = {name: place for place, name in enumerate(roles.ASSURANCES)}
        if known[best] < known.get(view.min_assurance, len(known)):
            way = roles.way_to_decide(view.id, view.min_assurance)
            return f"The gate asks for {view.min_assurance}, and a key pressed here is {best}. Elsewhere: {way}"
        return None

    async def approval(self, approval_id: str) -> ApprovalView:
        return await self.core.get_approval(self.caller, ApprovalId(approval_id))

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _query(
        self, *, statuses: tuple[str, ...] = (), text: str | None = None, top: bool = False, limit: int
    ) -> list[RunRow]:
        query = RunQuery(
            projects=(self.caller.project,),
            owner=self.caller.only,
            statuses=statuses,
            text=text,
            top=top,
            limit=limit,
        )
        return await self.core.store.runs(query)

    async def _listed(self, going: list[RunRow]) -> list[Going]:
        if self.text:
            rows = await self._query(text=self.text, limit=MOST_RUNS // 3)
        else:
            there = {row.id for row in going}
            rows = going + [one for one in await self._query(top=True, limit=MOST_RUNS // 3) if one.id not in there]
        rows.sort(key=lambda row: _RANK.get(row.status, len(_RANK)))  # stable: newest first within a status
        followed = self._followed or {}
        return [Going(row, [*followed[row.id].nodes.running] if row.id in followed else ()) for row in rows]

    async def _waiting(self) -> list[Waiting]:
        rows = await self.core.store.approvals(
            projects=[self.caller.project], owner=self.caller.only, limit=MOST_APPROVALS
        )
        for row in rows:
            if row.run_id not in self._workflows:
                self._workflows[row.run_id] = (await self.core.row(self.caller, row.run_id)).workflow
        return [Waiting(row, self._workflows[row.run_id]) for row in rows]

    async def _news(self, going: list[RunRow]) -> list[Line]:
        """The log stream: one question for all runs, then the events of those whose position has moved."""
        lines: list[Line] = []
        first = self._followed is None
        followed = self._followed = self._followed or {}
        for row in going:
            if row.id not in followed:
                followed[row.id] = await self._begin(row, first)
            if row.seq > followed[row.id].at:
                lines += await self._read(row)
        for run_id in followed.keys() - {row.id for row in going}:
            row = await self.core.row(self.caller, run_id)
            if row.seq > followed[run_id].at:
                lines += await self._read(row)
            del followed[run_id]
        return sorted(lines, key=lambda line: line.at)

    async def _begin(self, row: RunRow, first: bool) -> _Followed:
        """Follow a run that is new to us: from its start if it began under our eyes, else from shortly before now."""
        if not first and row.created_at >= self._began:
            return _Followed(0, row.workflow)
        one = _Followed(max(0, row.seq - _BEFORE), row.workflow)
        state = await self.core.store.state(row.id)
        for name, node in state.nodes.items():
            if node.status is NodeStatus.RUNNING:
                one.nodes.running[name] = node.started_at or row.created_at
        one.known = state.seq
        return one

    async def _read(self, row: RunRow) -> list[Line]:
        assert self._followed is not None
        one = self._followed[row.id]
        lines: list[Line] = []
        if row.seq - one.at > _BEHIND:
            lines.append(Line(row.id, row.workflow, row.updated_at, "quiet", "… events left out"))
            one.at = row.seq - _PAGE
        while one.at < row.seq and (page := await self.core.events(self.caller, row.id, after=one.at, limit=_PAGE)):
            for event in page:
                lines += [Line(row.id, row.workflow, event.at, mark, text) for mark, text in _told(event, one.nodes)]
                if event.seq > one.known:
                    one.nodes.take(event)
            one.at = page[-1].seq
        return lines

    def _is_news(self, row: RunRow) -> bool:
        return row.closed is None and row.updated_at >= self.core.clock.now_us() - _OF_LATE_US


def _told(event: EventView, nodes: Nodes) -> list[tuple[Mark, str]]:
    """The words of the command line for an event, or its type for one of which that says nothing."""
    found: list[tuple[Mark, str]] = [(_mark(mark), text) for mark, text in told(event, nodes)]
    if found:
        return found
    node = str(event.data.get("node") or "")
    if event.type == "run.failed":
        error = event.data.get("error")
        return [("bad", f"the run failed: {problem(error if isinstance(error, dict) else None) or ''}")]
    mark: Mark = "good" if event.type == "run.completed" else "quiet"
    return [(mark, f"{node}  {event.type}" if node else event.type)]


def _mark(mark: str) -> Mark:
    return mark if mark in ("good", "bad", "ask") else "quiet"  # type: ignore[return-value]


def _asked(view: ApprovalView) -> tuple[object, ...]:
    return view.question, tuple(view.options), view.details, view.arguments, view.scope, view.min_assurance


def _failed(row: RunRow) -> Alert:
    what = f"{row.workflow} {row.title}".strip()
    said = problem(row.error) or row.reason or "it does not say why"
    return Alert(f"run:{row.id}", "run failed", what, said, row.ended_at or row.updated_at, row.id, "Enter opens it")


def _unhealthy(one: ProcessView) -> Alert:
    quiet = int(max(0.0, time.time() - (one.last_output_at or one.started_at) / 1e6))
    said = f"{one.state}: pid {one.pid} of node {one.node}, quiet for {quiet}s"
    key, run = f"process:{one.run}:{one.pid}", RunId(one.run)
    return Alert(key, "process", one.command, said, one.started_at, run, "Enter opens its run")


def exceeded(view: BudgetView) -> Alert | None:
    """An alert for a budget of the present period of which nothing is left."""
    if not view.present:
        return None
    over = []
    for unit, limit in view.limits.items():
        allowed = limit + _of(view.extra, unit)
        used = _of(view.spent, unit) + _of(view.held, unit)
        if used >= allowed:
            over.append(f"{used:,.4g} of {allowed:,.4g} {unit}")
    if not over:
        return None
    todo = f"omium raise-budget {view.name}"
    return Alert(f"budget:{view.name}", "budget", view.name, f"used up: {', '.join(over)}", todo=todo)


def _of(amounts: Amounts, unit: str) -> float:
    return float(getattr(amounts, unit))
