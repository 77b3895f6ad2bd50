"""What the projections hold: rows that a store writes in the same transaction as the events.

They are derived from the state alone, so they can be dropped and rebuilt from the log. The column order of each tuple
is the order of its `*_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from omium.orchestration.ids import ApprovalId, EffectId
from omium.orchestration.log.events import Event
from omium.orchestration.log.state import EffectState, RunState

RUN_COLUMNS = (
    "id", "project", "workflow", "title", "definition", "inputs", "status", "reason", "priority", "generation",
    "created_at", "updated_at", "started_at", "ended_at", "seq", "head", "output", "error", "parent_run", "parent_seq",
    "caller_run", "caller_node", "branch", "hypothesis", "closed", "session", "completed_nodes", "cost_usd", "tokens",
    "owner",
)  # fmt: skip
# What changes after creation and is in no index: an update of these touches one page.
RUN_HOT = (
    "reason", "priority", "generation", "updated_at", "started_at", "ended_at", "seq", "head", "output", "error",
    "closed", "completed_nodes", "cost_usd", "tokens",
)  # fmt: skip
# What the end or the start of a node changes of that.
RUN_STEP = ("updated_at", "seq", "head", "completed_nodes", "cost_usd", "tokens")
APPROVAL_COLUMNS = (
    "id", "run_id", "node", "generation", "scope", "status", "question", "options", "min_assurance", "requested_at",
    "expires_at", "decision", "decided_by", "assurance", "feedback", "decided_at", "consumed", "binding", "details",
    "arguments",
)  # fmt: skip
EFFECT_COLUMNS = (
    "id", "run_id", "node", "generation", "attempt", "call", "kind", "on_unknown", "outcome", "result", "error",
    "compensate", "detail", "approval",
)  # fmt: skip
DECISION_COLUMNS = (
    "run_id", "seq", "node", "call", "action", "server", "tool", "agent", "effect", "rule", "reason", "input",
    "version", "micros", "shadow", "at",
)  # fmt: skip

Row = tuple[Any, ...]


def _json(value: Any) -> bytes | None:
    return None if value is None else orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def run_row(s: RunState) -> Row:
    parent, caller = s.parent, s.caller
    return (
        s.run_id, s.project, s.workflow, s.title, s.definition, s.inputs, s.status.value, s.reason, s.priority,
        s.generation, s.created_at, s.updated_at, s.started_at, s.ended_at, s.seq, s.head, s.output, _json(s.error),
        parent["run"] if parent else None, parent["seq"] if parent else None,
        caller["run"] if caller else None, caller["node"] if caller else None,
        s.branch, s.hypothesis, s.closed, s.session, s.completed_nodes, s.cost_usd, s.tokens,
        s.owner,
    )  # fmt: skip


def hot_run_row(s: RunState) -> Row:
    """`RUN_HOT`, then the id."""
    return (
        s.reason, s.priority, s.generation, s.updated_at, s.started_at, s.ended_at, s.seq, s.head, s.output,
        _json(s.error), s.closed, s.completed_nodes, s.cost_usd, s.tokens, s.run_id,
    )  # fmt: skip


def approval_rows(state: RunState, approvals: Iterable[ApprovalId]) -> list[Row]:
    rows: list[Row] = []
    for approval_id in approvals:
        a = state.approvals[approval_id]
        status = {None: "pending", "expired": "expired", "cancelled": "cancelled"}.get(a.decision, "decided")
        rows.append(
            (
                approval_id,
                state.run_id,
                a.node,
                a.generation,
                a.scope,
                status,
                a.question,
                _json(a.options),
                a.min_assurance,
                a.requested_at,
                a.expires_at,
                a.decision,
                a.by,
                a.assurance,
                a.feedback,
                a.decided_at,
                int(a.consumed),
                a.binding,
                _json(a.details),
                a.arguments,
            )
        )
    return rows


def effect_rows(state: RunState, effects: Iterable[EffectId], forgotten: Mapping[EffectId, EffectState]) -> list[Row]:
    """`forgotten`: effects that the state no longer holds, though their last change is not written yet."""
    rows: list[Row] = []
    for effect_id in effects:
        e = state.effects.get(effect_id) or forgotten.get(effect_id)
        if e is not None:
            rows.append(
                (
                    effect_id,
                    state.run_id,
                    e.node,
                    e.generation,
                    e.attempt,
                    e.call,
                    e.kind,
                    e.on_unknown,
                    e.outcome,
                    e.result,
                    _json(e.error),
                    e.compensate,
                    _json(e.detail),
                    e.approval,
                )
            )
    return rows


def decision_row(event: Event) -> Row:
    """What policy said of a call, from the event that says it."""
    told = event.data
    return (event.run_id, event.seq, *(told.get(name) for name in DECISION_COLUMNS[2:-1]), event.at)
