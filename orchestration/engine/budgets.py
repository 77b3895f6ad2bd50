"""Budgets of calls: what covers an attempt, a part held before a call, and what it cost noted after it.

A budget that is used up refuses until somebody raises it. What is held for a call when its worker dies counts as spent:
nobody knows whether it was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from omium.orchestration.engine.files import ENGINE
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import new_id
from omium.orchestration.log import commands as c
from omium.orchestration.ports import IdempotencyKey, Write
from omium.orchestration.ports_calls import Allowed, Call
from omium.orchestration.ports_gates import Amounts, BudgetRow, Counter
from omium.orchestration.values import digest_of

if TYPE_CHECKING:
    from omium.orchestration.engine.attempt import NodeAttempt


_log = logging.getLogger(__name__)

Unit: TypeAlias = Literal["usd", "tokens", "calls"]
SHARES: Final = (50, 75, 90, 100)
"""Percent of a budget at which it is told how far it is used up."""
_MOST_TOLD: Final = 10_000  # counters that this process remembers to have told of; the store knows the others


class Held:
    """See `ports_calls.Reservation`. Without a counter that limits anything, settling only notes what was used."""

    def __init__(
        self, attempt: NodeAttempt, hold: str | None, *, noted: bool = True, counters: Sequence[Counter] = ()
    ) -> None:
        self._attempt = attempt
        self._hold = hold
        self._counters = counters
        self._noted = noted
        self._settled = False

    async def settle(
        self, *, tokens: int = 0, usd: float | None = 0.0, calls: int = 1, model: str | None = None
    ) -> None:
        if self._settled:
            return
        self._settled = True
        attempt = self._attempt
        if self._noted and (tokens or usd or usd is None):
            attempt.later(
                c.NoteUsage(
                    attempt.node_id, attempt.generation, attempt.attempt, tokens, usd or 0.0, calls, model, usd is None
                )
            )
        if self._hold is not None:
            await attempt.engine.store.settle_hold(self._hold, Amounts(usd or 0.0, tokens, calls))
            await tell_what_is_reached(attempt, self._counters)


async def reserve(attempt: NodeAttempt, what: str, *, tokens: int, usd: float | None) -> Held:
    """See `ports.Attempt.reserve`."""
    counters = list(_covering(attempt))
    if usd is None and any(counter.usd is not None for counter in counters):
        names = ", ".join(counter.name for counter in counters if counter.usd is not None)
        raise OmiumError(
            "budget_exceeded",
            f"the price of {what} is not known, and the budget {names} counts money.",
            "Give the model's price in omium.yaml, or limit tokens instead.",
            budgets=[counter.name for counter in counters if counter.usd is not None],
            sent=False,
        )
    return Held(attempt, await _hold(attempt, what, counters, Amounts(usd or 0.0, tokens, 1)), counters=counters)


async def reserve_for(attempt: NodeAttempt, call: Call, allowed: Allowed) -> Held | None:
    """The budgets of a call that the gate allows, and the rate that its rule allows. None when nothing counts it."""
    counters = [*_covering(attempt), *_of_rule(attempt, allowed)]
    hold = await _hold(attempt, call.tool, counters, Amounts(call.usd, 0.0, 1)) if counters else None
    return Held(attempt, hold, counters=counters) if hold is not None or call.usd else None


async def _hold(attempt: NodeAttempt, what: str, counters: Sequence[Counter], amounts: Amounts) -> str | None:
    if not counters:
        return None
    engine, hold = attempt.engine, new_id("hold")
    over = await engine.store.hold(hold, attempt.run.project, engine.worker, counters, amounts)
    if not over:
        return hold
    if all(name.startswith("rate:") for name in over):
        raise OmiumError(
            "rate_limited", f"{what}: policy allows no more calls for now ({', '.join(over)}).", rates=over, sent=False
        )
    await tell_what_is_reached(attempt, [one for one in counters if one.name in over], refused=True)
    raise OmiumError(
        "budget_exceeded",
        f"{what}: nothing, or not enough, is left of {', '.join(over)}.",
        f"Look at `omium budgets`; allow more with `omium raise-budget {over[0]}`.",
        budgets=over,
        sent=False,
    )


async def tell_what_is_reached(attempt: NodeAttempt, counters: Sequence[Counter], *, refused: bool = False) -> None:
    """Log, in the run whose call it was, that a declared budget is at a half, three quarters, 90 or 100 percent: each
    once for a counter, whichever process sees it. refused: they have just refused a call, which counts as 100. That it
    cannot be told keeps nobody from working."""
    engine, project = attempt.engine, attempt.run.project
    rules = {rule.name for rule in engine.budgets()}
    told = engine.shares_told
    watched = {
        one.name: one
        for one in counters
        if one.name.partition(":")[0] in rules and told.get(f"{project}/{one.name}", 0) < SHARES[-1]
    }
    if not watched:
        return
    try:
        for row in await engine.store.budgets(project, list(watched)):
            share, unit, spent, limit = _share(watched[row.name], row)
            for percent in SHARES:
                reached = percent <= share or (refused and percent == SHARES[-1])
                if reached and told.get(f"{project}/{row.name}", 0) < percent:
                    note = c.NoteBudget(row.name, unit, percent, spent, limit)
                    key = f"{row.name}@{percent}"
                    once = IdempotencyKey(f"{project}/budget", key, digest_of(key), {})
                    await engine.store.write(Write(attempt.run_id, [note], ENGINE, idempotency=once))
                    if len(told) >= _MOST_TOLD:
                        told.clear()
                    told[f"{project}/{row.name}"] = percent
    except OmiumError as error:
        _log.warning("how far budgets of %s are used up cannot be told: %s", project, error)


def _share(counter: Counter, row: BudgetRow) -> tuple[float, Unit, float, float]:
    """The largest share, in percent, of what the counter allows that is spent; of which unit, how much of how much."""
    found: list[tuple[float, Unit, float, float]] = [(0.0, "calls", 0.0, 0.0)]
    units: tuple[Unit, ...] = get_args(Unit)
    for unit in units:
        limit = getattr(counter, unit)
        if limit is not None:
            spent, most = getattr(row.spent, unit), limit + getattr(row.extra, unit)
            found.append((100.0 * spent / most if most > 0 else 100.0, unit, spent, most))
    return max(found)


def _covering(attempt: NodeAttempt) -> Iterator[Counter]:
    """The counters of this attempt: its node's own budget, and those of the project that mean it."""
    own = attempt.node.budget
    if own:
        place = f"node:{attempt.run_id}/{attempt.node_id}@{attempt.generation}"
        yield Counter(place, _limit(own, "usd"), _limit(own, "tokens"), _limit(own, "calls"))
    for rule in attempt.engine.budgets():
        if rule.covers(attempt.run.workflow, attempt.node.use if attempt.node.kind == "agent" else None):
            yield rule.counter(attempt.run, attempt.node.use or attempt.node_id, attempt.engine.clock.now_us())


def _limit(budget: Mapping[str, int | float], unit: str) -> float | None:
    found = budget.get(unit)
    return None if found is None else float(found)


def _of_rule(attempt: NodeAttempt, allowed: Allowed) -> Iterator[Counter]:
    rule, limits = allowed.rule or "default", allowed.limits
    if limits.rate is not None:
        calls, seconds = limits.rate
        window = int(attempt.engine.clock.now_us() / 1e6 // seconds)
        yield Counter(f"rate:{rule}/{calls}per{seconds:g}s@{window}", calls=calls)
    if limits.run_budget_usd is not None:
        yield Counter(f"policy:{rule}/{attempt.run_id}", usd=limits.run_budget_usd)
