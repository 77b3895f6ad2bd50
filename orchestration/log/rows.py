"""What the projections hold: rows that a store writes in the same transaction as the events.

They are derived from the state alone, so they can be dropped and rebuilt from the log. The column order of each tuple
is the order of its `*_COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from omium.orchestration.ids import ApprovalId, EffectId, NodeId
from omium.orchestration.log.events import Event
from omium.orchestration.log.state import EffectState, NodeState, NodeStatus, RunState

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
NODE_COLUMNS = (
    "run_id", "node", "status", "generation", "attempt", "seq", "output", "size", "started_at", "ended_at", "detail",
)  # fmt: skip
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


def _detail(node: NodeState) -> bytes | None:
    """The rarer fields, as one JSON column; most nodes have none."""
    if (
        node.error is None and node.reason is None and node.wait is None and node.due_at is None and node.tree is None
        and node.approval is None and node.expansion is None and node.usage is None and node.tree_start is None
        and node.reused_from is None and not node.failures
    ):  # fmt: skip
        return None
    names = ("error", "reason", "wait", "due_at", "tree", "tree_start", "approval", "expansion", "usage", "reused_from")
    detail = {name: value for name in names if (value := getattr(node, name)) is not None}
    if node.failures:
        detail["failures"] = node.failures
    return _json(detail)


def node_rows(state: RunState, nodes: Iterable[NodeId]) -> list[Row]:
    """Of what has ended or stands still. A node that executes has none, so that most have theirs written once."""
    run_id, rows = state.run_id, []
    for node_id in nodes:
        n = state.node(node_id)
        if n.status is NodeStatus.RUNNING and n.wait is None:
            continue
        rows.append(
            (
                run_id,
                node_id,
                n.status._value_,  # `value` is a property, and dear where every node passes
                n.generation,
                n.attempt,
                n.seq,
                n.output,
                n.size,
                n.started_at,
                n.ended_at,
                _detail(n),
            )
        )
    return rows


def gone_node_rows(state: RunState, nodes: Iterable[NodeId]) -> list[Row]:
    """(run, node) of those that execute and may have a row from before."""
    found: list[Row] = []
    for node_id in nodes:
        n = state.node(node_id)
        first = n.attempt <= 1 and not n.generation and not n.failures and n.approval is None
        if n.status is NodeStatus.RUNNING and n.wait is None and not first:
            found.append((state.run_id, node_id))
    return found


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
