"""Tools for looking at the gates: what policy decided about calls, and what calls have cost by budget. Nothing here
changes a policy or a budget: that is the operator's business."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from omium.orchestration.ids import RunId
from omium.orchestration.ports_gates import Amounts
from omium.orchestration.service.views import BudgetView, DecisionView
from omium.tools.desk import Ctx, desk_of, the_run
from omium.tools.models import Answer, Detail, Line
from omium.tools.present import LIST_ROOM, fit, harmless, value_text, when

_ARGUMENTS = 600  # characters of what a call would have sent


class PolicyDecisionOut(Answer):
    """`question`: what policy was asked, with secrets taken out; cut when it is long."""

    run_id: str
    node: Line
    call: Line
    effect: str
    rule: Line | None = None
    reason: Line | None = None
    microseconds: float | None = None
    version: str
    at: str | None = None
    question: Line | None = None


class PolicyDecisionsOut(Answer):
    decisions: list[PolicyDecisionOut]
    count: int
    next: Line


class BudgetOut(Answer):
    """Amounts by unit: usd, tokens, calls. `raised`: what was allowed beyond the limit."""

    name: Line
    spent: Detail
    held: Detail | None = None
    limits: Detail
    raised: Detail | None = None


class BudgetsOut(Answer):
    budgets: list[BudgetOut]
    count: int
    next: Line


async def list_policy_decisions(
    ctx: Ctx,
    run_id: Annotated[str | None, Field(description="Only of this run", min_length=4, max_length=64)] = None,
    denied: Annotated[bool, Field(description="Only refused calls")] = False,
    limit: Annotated[int, Field(ge=1, le=100)] = 20,
) -> PolicyDecisionsOut:
    """List what policy decided about calls, newest first: which rule, why, and on what. Changes nothing."""
    core, caller = desk_of(ctx)
    found: RunId | None = await the_run(core, caller, run_id) if run_id is not None else None
    views = await core.decisions(caller, run_id=found, effects=("deny",) if denied else (), limit=limit)
    shown = fit((_decision(one) for one in views), LIST_ROOM)
    return PolicyDecisionsOut(
        decisions=shown,
        count=len(views),
        next="the operator's `omium policy explain` says why a call is decided as it is"
        if views
        else "policy was asked about no such call",
    )


def _decision(one: DecisionView) -> PolicyDecisionOut:
    row = one.row
    return PolicyDecisionOut(
        run_id=row.run_id,
        node=row.node,
        call=f"{row.server}/{row.tool}" if row.server else row.tool,
        effect=row.effect,
        rule=row.rule,
        reason=row.reason,
        microseconds=row.micros,
        version=row.version,
        at=when(row.at),
        question=value_text(harmless(one.question))[:_ARGUMENTS] if one.question is not None else None,
    )


async def list_budgets(ctx: Ctx) -> BudgetsOut:
    """List what calls have cost by budget, and how much each still allows. Changes nothing."""
    core, caller = desk_of(ctx)
    found = [one for one in await core.budgets(caller) if one.present]
    return BudgetsOut(
        budgets=fit((_budget(one) for one in found), LIST_ROOM),
        count=len(found),
        next="what is used up stays so until the operator raises it: omium raise-budget NAME",
    )


def _budget(one: BudgetView) -> BudgetOut:
    return BudgetOut(
        name=one.name,
        spent=_amounts(one.spent),
        held=_amounts(one.held) or None,
        limits=dict(one.limits),
        raised=_amounts(one.extra) or None,
    )


def _amounts(amounts: Amounts) -> dict[str, float]:
    pairs = {"usd": amounts.usd, "tokens": amounts.tokens, "calls": amounts.calls}
    return {unit: round(amount, 6) for unit, amount in pairs.items() if amount}
