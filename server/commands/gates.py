"""What the gates did, and how much is left: `decisions`, `budgets`, `raise-budget`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from omium.server.commands.base import Invocation, Number, command
from omium.server.commands.console import safe
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.orchestration.ports_gates import Amounts
    from omium.orchestration.service.views import BudgetView


@command("omium decisions last", "omium decisions --denied --limit 20")
@click.argument("run", required=False)
@click.option("--denied", is_flag=True, help="Only what was refused.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at most.")
async def decisions(invocation: Invocation, run: str | None, denied: bool, limit: int) -> None:
    """List what policy decided about calls. The newest comes first; of a RUN, or of all. Where a version on trial
    (`shadow`) would have decided otherwise, that stands behind the reason."""
    from omium.server.commands.render import identifier, when

    console = invocation.console
    async with opened(invocation, lists=True) as (core, caller):
        run_id = await core.find_run(caller, run) if run else None
        found = await core.decisions(caller, run_id=run_id, effects=("deny",) if denied else (), limit=limit)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("policy has decided about no call.")
        return
    console.table(
        ("when", "run", "node", "call", "decision", "rule", "us", "why"),
        [
            (
                when(console, row.at),
                identifier(console, row.run_id),
                row.node,
                f"{row.server}/{row.tool}" if row.server else row.tool,
                row.effect,
                row.rule or "default",
                "" if row.micros is None else f"{row.micros:.0f}",
                _why(row.reason, row.shadow),
            )
            for row in (one.row for one in found)
        ],
    )


def _why(reason: str | None, shadow: str | None) -> str | None:
    return reason if shadow is None else f"{reason or ''} (on trial: {shadow.partition(' of ')[0]})"


@command("omium budgets", "omium budgets --json")
@click.option("--all", "past", is_flag=True, help="Also those of periods that are over.")
async def budgets(invocation: Invocation, past: bool) -> None:
    """List what calls have cost by budget. Beside it stands how much each still allows."""
    console = invocation.console
    async with opened(invocation, lists=True) as (core, caller):
        found = [one for one in await core.budgets(caller) if past or one.present]
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("there are no budgets. Declare them under `budgets:` in omium.yaml.")
        return
    console.table(
        ("budget", "usd", "tokens", "calls", "held", "raised by"),
        [
            (one.name, *(_used(one, unit) for unit in ("usd", "tokens", "calls")), _sum(one.held), _sum(one.extra))
            for one in found
        ],
    )


@command("omium raise-budget daily:2026-11-21 --usd 5", name="raise-budget")
@click.argument("budget")
@click.option("--usd", type=Number(0), default=0.0, help="US dollars more.")
@click.option("--tokens", type=click.IntRange(0), default=0, help="Tokens more.")
@click.option("--calls", type=click.IntRange(0), default=0, help="Calls more.")
async def raise_budget(invocation: Invocation, budget: str, usd: float, tokens: int, calls: int) -> None:
    """Allow more of a budget. BUDGET is a name as `omium budgets` lists it; the project's log records who
    did it."""
    console = invocation.console
    async with opened(invocation) as (core, caller):
        raised = await core.raise_budget(caller, budget, usd=usd, tokens=tokens, calls=calls)
    if console.json:
        console.view(raised)
    else:
        console.text(f"{safe(raised.name)}\traised by {_sum(raised.extra)}")


def _used(one: BudgetView, unit: str) -> str:
    spent, limit = getattr(one.spent, unit), one.limits.get(unit)
    if limit is None:
        return _number(unit, spent) if spent else ""
    return f"{_number(unit, spent)} of {_number(unit, limit + getattr(one.extra, unit))}"


def _number(unit: str, amount: float) -> str:
    return f"${amount:,.4g}" if unit == "usd" else f"{amount:,.0f}"


def _sum(amounts: Amounts) -> str:
    parts = [(unit, getattr(amounts, unit)) for unit in ("usd", "tokens", "calls")]
    return ", ".join(_number(unit, one) if unit == "usd" else f"{one:,.0f} {unit}" for unit, one in parts if one)
