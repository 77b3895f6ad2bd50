"""Budgets that an operator declares: what is counted together, over what time, and how much of it is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

from omium.orchestration.log.state import RunState
from omium.orchestration.ports_gates import Counter

Scope: TypeAlias = Literal["project", "run", "session", "workflow", "agent", "owner"]
Period: TypeAlias = Literal["hour", "day", "week", "month"]


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """One budget.

    scope: what is counted together: everything of the project, of a run, of a session, of a workflow, of an agent, of
    the principal whose runs they are. period: it begins anew with each, by UTC; None: never. workflow, agent: globs of
    what it covers. usd, tokens, calls: what is allowed; None: not limited. A run without a session counts as its own.
    """

    name: str
    scope: Scope = "project"
    period: Period | None = None
    usd: float | None = None
    tokens: float | None = None
    calls: float | None = None
    workflow: str = "*"
    agent: str = "*"

    def covers(self, workflow: str, agent: str | None) -> bool:
        """Whether calls of this workflow, by this agent if it is one, count."""
        if not fnmatchcase(workflow, self.workflow):
            return False
        return self.agent == "*" if agent is None else fnmatchcase(agent, self.agent)

    def counter(self, run: RunState, agent: str, now_us: int) -> Counter:
        """The counter of a call of this run at this time."""
        subject = {
            "project": "",
            "run": run.run_id,
            "session": run.session or run.run_id,
            "workflow": run.workflow,
            "agent": agent,
            "owner": run.owner,
        }[self.scope]
        name = ":".join(part for part in (self.name, subject, window(self.period, now_us)) if part)
        return Counter(name, self.usd, self.tokens, self.calls)


BudgetsNow: TypeAlias = Callable[[], Sequence[BudgetRule]]
"""The budgets that hold when it is called."""


def no_budgets() -> Sequence[BudgetRule]:
    return ()


def window(period: Period | None, now_us: int) -> str:
    """The name of the period that holds this moment, such as `2026-11-21`, `2026-W47`; empty without one."""
    if period is None:
        return ""
    moment = datetime.fromtimestamp(now_us / 1e6, UTC)
    if period == "week":
        year, week, _ = moment.isocalendar()
        return f"{year}-W{week:02}"
    return moment.strftime({"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "month": "%Y-%m"}[period])
