"""Transitions that only record: what a node drew, kept, saved and used, and what policy said. See `transitions`."""

from __future__ import annotations

from typing import Any, TypeAlias

from omium.orchestration.log import commands as c
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.state import RunState

Draft: TypeAlias = tuple[E, dict[str, Any]]


def present(**data: Any) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value is not None}


def artifact(state: RunState, m: c.SaveArtifact, at: int) -> list[Draft]:
    data = present(
        node=m.node, generation=m.generation, name=m.name, digest=m.digest, size=m.size, media_type=m.media_type
    )
    return [(E.ARTIFACT_SAVED, data)]


def compensation(state: RunState, m: c.NoteCompensation, at: int) -> list[Draft]:
    if m.rollback is not None and m.rollback not in state.owed:
        return []
    data = present(effect=m.effect, outcome=m.outcome, result=m.result, error=dict(m.error) if m.error else None)
    return [(E.EFFECT_COMPENSATED, data)]


def draw(state: RunState, m: c.DrawValue, at: int) -> list[Draft]:
    data = {"node": m.node, "generation": m.generation, "attempt": m.attempt, "call": m.call, "value": m.value}
    return [(E.VALUE_DRAWN, data)]


def keep(state: RunState, m: c.KeepState, at: int) -> list[Draft]:
    told = {"node": m.node, "generation": m.generation, "attempt": m.attempt, "digest": m.digest, "size": m.size}
    return [(E.STATE_KEPT, told)]


def set_point(state: RunState, m: c.SetPoint, at: int) -> list[Draft]:
    data = present(
        at=state.seq + 1,  # its own position: what it holds is there when the run comes back to it
        label=m.label,
        note=m.note,
        tree=state.tree,
        valid=True,
        node=m.node,
        generation=m.generation,
        attempt=m.attempt,
        call=m.call,
        state=m.state,
        size=m.size,
    )
    return [(E.CHECKPOINT_CREATED, data)]


def end_point(state: RunState, m: c.EndPoint, at: int) -> list[Draft]:
    data = present(
        node=m.node,
        generation=m.generation,
        attempt=m.attempt,
        label=m.label,
        call=m.call,
        outcome=m.outcome,
        error=dict(m.error) if m.error else None,
        state=m.state,
        size=m.size or None,
    )
    return [(E.CHECKPOINT_ENDED, data)]


def note_budget(state: RunState, m: c.NoteBudget, at: int) -> list[Draft]:
    data = {"budget": m.budget, "unit": m.unit, "percent": m.percent, "spent": m.spent, "limit": m.limit}
    return [(E.BUDGET_REACHED, data)]


def note_usage(state: RunState, m: c.NoteUsage, at: int) -> list[Draft]:
    data = present(
        node=m.node,
        generation=m.generation,
        attempt=m.attempt,
        tokens=m.tokens,
        cost_usd=m.cost_usd,
        calls=m.calls,
        model=m.model,
        unpriced=m.unpriced or None,
    )
    return [(E.NODE_USAGE, data)]


def note_decision(state: RunState, m: c.NoteDecision, at: int) -> list[Draft]:
    data = present(
        node=m.node,
        generation=m.generation,
        attempt=m.attempt,
        call=m.call,
        action=m.action,
        tool=m.tool,
        effect=m.effect,
        input=m.input,
        version=m.version,
        server=m.server,
        agent=m.agent,
        rule=m.rule,
        reason=m.reason,
        micros=m.micros,
        shadow=m.shadow,
    )
    return [(E.POLICY_DECIDED, data)]
