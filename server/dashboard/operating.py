"""What holds runs in check: budgets, external servers and their pins, and what policy decided and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.views import BudgetView, DecisionView
from omium.server.dashboard import show
from omium.server.dashboard.site import Page
from omium.tools.desk import committed

DECISIONS: Final = 200
EFFECTS: Final = ("allow", "deny", "require_approval")
_UNITS: Final = ("usd", "tokens", "calls")


@dataclass(frozen=True, slots=True)
class Part:
    """One unit of a counter. share: of what is allowed, 0 to 1; None where nothing bounds it."""

    unit: str
    spent: str
    held: str
    limit: str
    share: float | None


async def budgets_page(page: Page) -> Response:
    found = await page.core.budgets(page.caller)
    now = [(view, _parts(view)) for view in found if view.present]
    data = {
        "now": now,
        "before": [(view, _parts(view)) for view in found if not view.present],
        "waiting": len(await page.core.list_approvals(page.caller)),
    }
    return page.show("budgets.html", data)


def _parts(view: BudgetView) -> list[Part]:
    found = []
    for unit in _UNITS:
        spent, held = float(getattr(view.spent, unit)), float(getattr(view.held, unit))
        limit = view.limits.get(unit)
        allowed = None if limit is None else limit + float(getattr(view.extra, unit))
        if spent or held or allowed is not None:
            share = None if allowed is None else min(1.0, (spent + held) / allowed) if allowed else 1.0
            found.append(Part(unit, _told(unit, spent), _told(unit, held), _told(unit, allowed), share))
    return found


def _told(unit: str, amount: float | None) -> str:
    if amount is None:
        return "no limit"
    return show.money(amount) if unit == "usd" else show.count(round(amount))


async def raised(page: Page) -> Response:
    """Allow more of a budget. A repeat of the same form does nothing, since each raise would count."""
    name = page.field("name", 400)
    amounts = {unit: _amount(page, unit) for unit in _UNITS}
    if not page.site.sessions.first(page.key):
        return page.go("/budgets", "raised")
    try:
        await committed(page.core.raise_budget(page.caller, name, **amounts))
    except OmiumError:
        page.site.sessions.again(page.key)
        raise
    return page.go("/budgets", "raised")


def _amount(page: Page, unit: str) -> float:
    given = page.field(unit, 40).strip() or "0"
    try:
        return float(given)
    except ValueError:
        raise OmiumError("invalid_argument", f"{given!r} is no amount of {unit}.", "Such as 2.5.") from None


async def servers_page(page: Page) -> Response:
    pattern = page.query.get("tools", "")[:200].strip()
    data = {
        "servers": await page.core.list_external_servers(page.caller),
        "tools": await page.core.list_external_tools(page.caller, pattern or "*"),
        "pattern": pattern,
        "waiting": len(await page.core.list_approvals(page.caller)),
    }
    return page.show("servers.html", data)


async def decisions_page(page: Page) -> Response:
    """What policy decided about calls, of all runs."""
    chosen = tuple(one for one in EFFECTS if one in page.request.query_params.getlist("effect"))
    found = await page.core.decisions(page.caller, effects=chosen, limit=DECISIONS)
    data = {
        "decisions": told(found),
        "chosen": chosen,
        "effects": EFFECTS,
        "waiting": len(await page.core.list_approvals(page.caller)),
    }
    return page.show("decisions.html", data)


def told(found: Sequence[DecisionView]) -> list[Mapping[str, Any]]:
    """Decisions as they are shown, each with what it was asked."""
    return [
        {"row": one.row, "asked": None if one.question is None else show.shown(one.question, 2_000)} for one in found
    ]
