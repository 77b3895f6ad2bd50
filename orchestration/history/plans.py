"""Previews and their tokens: what was looked at is what is done, or the token is void."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ledger import Deed
from omium.orchestration.ids import Digest, EffectId, NodeId, PlanToken, RunId, Seq, made_at_ms, new_id
from omium.orchestration.ports import Clock, PlanRow, Store
from omium.orchestration.service.views import Caller, EffectView, PlanView
from omium.orchestration.values import digest_of

VALID_US = 600 * 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_USED = Digest("")  # the binding of what is left of a plan that was carried out

Operation = Literal["rollback", "branch", "play_from_node"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A history operation, worked out and not done. `generation`: the run's, which every reset of any of its nodes
    raises; when it has changed, the operation would do something else than was previewed. So it would when calls were
    made since; any other progress leaves a plan good.

    repeats: calls that have happened, or may have, and would happen again; behind: those that a rollback goes
    behind, whether they are undone or not."""

    operation: Operation
    run_id: RunId
    at: Seq
    arguments: Mapping[str, Any]
    definition: Digest
    generation: int
    in_place: bool = True
    reruns: Sequence[NodeId] = ()
    reused: Sequence[NodeId] = ()
    asked_again: Sequence[NodeId] = ()
    repeats: Sequence[Deed] = ()
    behind: Sequence[Deed] = ()
    files: Sequence[Mapping[str, Any]] = ()
    cost: tuple[float, int, int] = (0.0, 0, 0)  # US dollars, tokens, milliseconds
    saved: tuple[float, int] = (0.0, 0)
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def binding(self) -> Digest:
        """What a token is good for: this operation with these arguments on this definition."""
        return digest_of([self.operation, self.run_id, dict(self.arguments), self.definition])

    @property
    def unsafe(self) -> list[Deed]:
        """What may not be done without having been looked at: calls that would be made again, and those that would be
        undone by a call of their compensation."""
        return [deed for deed in self.repeats if deed.unsafe] + [deed for deed in self.behind if deed.can_be_undone]

    @property
    def shown(self) -> dict[EffectId, str]:
        """What would become of these calls, by their ids: what a token has been given for."""
        repeated = {deed.id: "repeated" for deed in self.repeats if deed.unsafe}
        return repeated | {deed.id: "undone" for deed in self.behind if deed.can_be_undone}


async def issue(store: Store, clock: Clock, caller: Caller, draft: Draft) -> PlanView:
    """Store the plan under a fresh token: good for one use by this caller within ten minutes."""
    now = clock.now_us()
    token = PlanToken(new_id("plan", now // 1000))
    document = {"generation": draft.generation, "shown": draft.shown}
    row = PlanRow(token, caller.principal, draft.run_id, draft.operation, draft.binding, now + VALID_US, document)
    await store.put_plan(row)
    return view(draft, token, row.expires_at)


def view(draft: Draft, token: PlanToken, expires_at: int) -> PlanView:
    dollars, tokens, ms = draft.cost
    return PlanView(
        plan_token=token,
        expires_at=expires_at,
        operation=draft.operation,
        run_id=draft.run_id,
        at=draft.at,
        reruns=draft.reruns,
        reused=draft.reused,
        asked_again=draft.asked_again,
        repeated_effects=_views(draft.repeats),
        undone_effects=_views([deed for deed in draft.behind if _undone(deed)]),
        not_undone_effects=_views([deed for deed in draft.behind if not _undone(deed)]),
        files=draft.files,
        last_cost_usd=dollars,
        last_tokens=tokens,
        last_ms=ms,
        saved_cost_usd=draft.saved[0],
        saved_tokens=draft.saved[1],
        in_place=draft.in_place,
        notes=draft.notes,
    )


def _undone(deed: Deed) -> bool:
    return deed.compensated == "done" or deed.can_be_undone


def _views(deeds: Sequence[Deed]) -> list[EffectView]:
    return [deed.view() for deed in deeds]


@asynccontextmanager
async def redeemed(store: Store, clock: Clock, caller: Caller, token: str, draft: Draft) -> AsyncIterator[None]:
    """Use a token up for the operation that the block carries out: a try that is refused, here or there, leaves it as
    good as it was. Raises `plan_expired`, with the cause, when it is not good for it (any more)."""
    now = clock.now_us()
    row = await store.take_plan(PlanToken(token), caller.principal, now)
    if row is None:
        old = made_at_ms(token) * 1000 + VALID_US <= now
        raise _void(token, "it has expired" if made_at_ms(token) and old else "there is none of this token for you")
    used = row.binding == _USED
    problem = None
    if used:
        problem = "it was carried out already"
    elif row.binding != draft.binding:
        problem = "it was given for another operation, or for other arguments"
    elif row.document["generation"] != draft.generation:
        problem = "the history of the run has changed since"
    elif new := draft.shown.items() - row.document.get("shown", {}).items():
        problem = f"{len(new)} call(s) that it did not show would be repeated or undone"
    if problem is not None:
        await store.put_plan(row)
        raise _void(token, problem)
    try:
        yield
    except OmiumError:
        await store.put_plan(row)
        raise
    await store.put_plan(replace(row, binding=_USED, document={}))


def _void(token: str, problem: str) -> OmiumError:
    return OmiumError(
        "plan_expired",
        f"the plan {token} cannot be carried out: {problem}.",
        "Preview the operation again. Where the run goes on steadily, pause it first.",
    )


def required(plan: PlanView) -> OmiumError:
    """The refusal of an operation that would repeat, or undo, what must not be repeated or undone unseen."""
    found = []
    for effects, verb in ((plan.repeated_effects, "repeat"), (plan.undone_effects, "undo")):
        if effects:
            calls = ", ".join(f"{effect.node}: {effect.what or effect.kind}" for effect in effects[:5])
            more = f" and {len(effects) - 5} more" if len(effects) > 5 else ""
            found.append(f"{verb} {len(effects)} call(s) that have happened: {calls}{more}")
    return OmiumError(
        "plan_required",
        f"{plan.operation} on run {plan.run_id} would {', and '.join(found)}.",
        "Look at the plan; to carry it out, call again with its plan_token.",
        plan=plain(plan),
    )


def plain(plan: PlanView) -> dict[str, Any]:
    """A plan as JSON: times are RFC 3339 in UTC, as everywhere outside."""
    document: dict[str, Any] = asdict(plan)
    at = _EPOCH + timedelta(microseconds=plan.expires_at)
    document["expires_at"] = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return document
