"""What the gates did and hold: decisions of policy, and budgets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import window
from omium.orchestration.ids import Digest, RunId
from omium.orchestration.ports import Clock, RunRow, Store
from omium.orchestration.ports_gates import Amounts, BudgetRow
from omium.orchestration.service import roles
from omium.orchestration.service.views import BudgetView, Caller, DecisionView
from omium.orchestration.values import Value

if TYPE_CHECKING:
    from omium.orchestration.gates.budgets import BudgetRule, BudgetsNow

_UNITS = ("usd", "tokens", "calls")
_MOST = 1_000


class GateService:
    """Part of the core."""

    if TYPE_CHECKING:
        store: Store
        clock: Clock
        budgets_now: BudgetsNow

        async def row(self, caller: Caller, run_id: RunId) -> RunRow: ...

        async def _content(self, digest: Digest) -> Value: ...

    async def decisions(
        self,
        caller: Caller,
        *,
        run_id: RunId | None = None,
        effects: Sequence[str] = (),
        limit: int = 50,
    ) -> list[DecisionView]:
        """What policy decided about calls, newest first. effects: only these of `allow`, `deny`, `require_approval`.
        Raises `not_found`, `invalid_argument`."""
        roles.check(caller, "decisions")
        unknown = [one for one in effects if one not in ("allow", "deny", "require_approval")]
        if unknown or not 1 <= limit <= _MOST:
            what = f"{unknown[0]!r} is no effect" if unknown else f"a page of {limit} is not between 1 and {_MOST}"
            raise OmiumError("invalid_argument", f"{what}.", "Effects: allow, deny, require_approval.")
        if run_id is not None:
            await self.row(caller, run_id)
        rows = await self.store.decisions(
            projects=[caller.project], owner=caller.only, run_id=run_id, effects=effects, limit=limit
        )
        return [DecisionView(row, await self._content(row.input)) for row in rows]

    async def budgets(self, caller: Caller) -> list[BudgetView]:
        """What is counted, and how much of it is left: the declared budgets of now, and every counter that has been
        used."""
        roles.check(caller, "budgets")
        rows = await self.store.budgets(caller.project)
        declared = self.budgets_now()
        rules = {rule.name: rule for rule in declared}
        now = self.clock.now_us()
        views = [_view(row, rules.get(row.name.partition(":")[0]), now) for row in rows]
        used = {view.name for view in views}
        views += [
            BudgetView(_counter(rule, now), rule.name, Amounts(), Amounts(), Amounts(), _limits(rule), True)
            for rule in declared
            if rule.scope == "project" and _counter(rule, now) not in used
        ]
        return sorted(views, key=lambda view: view.name)

    async def raise_budget(
        self, caller: Caller, name: str, *, usd: float = 0.0, tokens: float = 0.0, calls: float = 0.0
    ) -> BudgetView:
        """Allow more of a counter than its budget says. Raises `invalid_argument`, `not_found`."""
        roles.check(caller, "raise_budget")
        amounts = (usd, tokens, calls)
        if not all(math.isfinite(one) and one >= 0 for one in amounts) or not any(amounts):
            raise OmiumError("invalid_argument", "a budget is raised by an amount above 0 of usd, tokens or calls.")
        known = [view.name for view in await self.budgets(caller)]
        if name not in known:
            raise OmiumError("not_found", f"there is no budget {name!r}.", f"There are: {', '.join(known) or 'none'}.")
        await self.store.raise_budget(caller.project, name, Amounts(*amounts), caller.principal)
        return next(view for view in await self.budgets(caller) if view.name == name)


def _counter(rule: BudgetRule, now_us: int) -> str:
    """The name of the present counter of a budget of the project."""
    period = window(rule.period, now_us)
    return f"{rule.name}:{period}" if period else rule.name


def _limits(rule: BudgetRule | None) -> dict[str, float]:
    if rule is None:
        return {}
    return {unit: float(limit) for unit in _UNITS if (limit := getattr(rule, unit)) is not None}


def _view(row: BudgetRow, rule: BudgetRule | None, now_us: int) -> BudgetView:
    period = window(rule.period, now_us) if rule is not None else ""
    present = not period or row.name.endswith(f":{period}")
    budget = rule.name if rule is not None else None
    return BudgetView(row.name, budget, row.spent, row.held, row.extra, _limits(rule), present)
