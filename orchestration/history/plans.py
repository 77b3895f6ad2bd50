"""Previews and their tokens: what was looked at is what is done, or the token is void."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ledger import Deed
from omium.orchestration.ids import Digest, NodeId, PlanToken, RunId, Seq, new_id
from omium.orchestration.ports import Clock, PlanRow, Store
from omium.orchestration.service.views import Caller, EffectView, PlanView
from omium.orchestration.values import digest_of

VALID_US = 600 * 1_000_000

Operation = Literal["rollback", "branch", "play_from_node"]


@dataclass(frozen=True, slots=True)
class Draft:
    """A history operation, worked out and not done. `generation`: the run's, which every reset of any of its nodes
    raises; when it has changed, the operation would do something else than was previewed.

    repeats: effects that are known to have happened and would happen again; undone: those that a rollback goes
    behind."""

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
    undone: Sequence[Deed] = ()
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
        """What may not be repeated without having been looked at."""
        return [deed for deed in self.repeats if deed.unsafe]


async def issue(store: Store, clock: Clock, caller: Caller, draft: Draft) -> PlanView:
    """Store the plan under a fresh token: good for one use by this caller within ten minutes."""
    now = clock.now_us()
    token = PlanToken(new_id("plan", now // 1000))
    document = {"generation": draft.generation}
    row = PlanRow(token, caller.principal, draft.run_id, draft.operation, draft.binding, now + VALID_US, document)
    await store.put_plan(row)
    return view(draft, token, row.expires_at)


def view(draft: Draft, token: PlanToken, expires_at: int) -> PlanView:
    dollars, tokens, ms = draft.cost
    return PlanView(
        token=token,
        expires_at=expires_at,
        operation=draft.operation,
        run_id=draft.run_id,
        at=draft.at,
        reruns=draft.reruns,
        reused=draft.reused,
        asked_again=draft.asked_again,
        repeated_effects=_views(draft.repeats),
        undone_effects=_views(draft.undone),
        files=draft.files,
        last_cost_usd=dollars,
        last_tokens=tokens,
        last_ms=ms,
        saved_cost_usd=draft.saved[0],
        saved_tokens=draft.saved[1],
        in_place=draft.in_place,
        notes=draft.notes,
    )


def _views(deeds: Sequence[Deed]) -> list[EffectView]:
    return [deed.view() for deed in deeds]


async def redeem(store: Store, clock: Clock, caller: Caller, token: str, draft: Draft) -> None:
    """Use a token up for this operation. Raises `plan_expired` when it is not good for it (any more)."""
    row = await store.take_plan(PlanToken(token), caller.principal, clock.now_us())
    if row is None:
        problem = "it is unknown, was used before, has expired, or is somebody else's"
    elif row.binding != draft.binding:
        problem = "it was given for another operation, or for other arguments"
    elif row.document["generation"] != draft.generation:
        problem = "the history of the run has changed since"
    else:
        return
    raise OmiumError(
        "plan_expired", f"the plan {token} cannot be carried out: {problem}.", "Preview the operation again."
    )


def required(plan: PlanView) -> OmiumError:
    """The refusal of an operation that would repeat what must not be repeated unseen."""
    again = plan.repeated_effects
    calls = ", ".join(f"{effect.node}: {effect.call or effect.kind}" for effect in again[:5])
    return OmiumError(
        "plan_required",
        f"{plan.operation} on run {plan.run_id} would repeat {len(again)} call(s) that have happened: {calls}.",
        "Look at the plan; to carry it out, call again with its token.",
        plan=plain(plan),
    )


def plain(plan: PlanView) -> dict[str, Any]:
    """A plan as JSON."""
    from dataclasses import asdict

    document: dict[str, Any] = asdict(plan)
    return document
