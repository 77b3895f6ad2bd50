"""Fold events into a run's state. The only place where a status changes.

`apply` mutates the state that it is given and notes in `Touched` what a projection has to write. Two events reach back:
a rollback continues from the state at an older position, and a branch begins with its parent's; whoever folds hands
that state in as `base` (see `load`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omium.orchestration.ids import ApprovalId, EffectId, NodeId, Seq
from omium.orchestration.log.again import Again, index_in, is_loop
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.state import (
    NODE_TERMINAL,
    ApprovalState,
    EffectState,
    NodeState,
    Reusable,
    RunState,
    is_unsafe,
)
from omium.orchestration.log.state import NodeStatus as N
from omium.orchestration.log.state import RunStatus as R


@dataclass(slots=True)
class Touched:
    """What changed since the last projection."""

    nodes: set[NodeId] = field(default_factory=set)
    approvals: set[ApprovalId] = field(default_factory=set)
    effects: set[EffectId] = field(default_factory=set)
    forgotten: dict[EffectId, EffectState] = field(default_factory=dict)  # no longer in the state; their rows stay


def apply(
    state: RunState,
    event: Event,
    touched: Touched | None = None,
    *,
    base: RunState | None = None,
    nodes: Iterable[NodeId] = (),
) -> RunState:
    """The state after `event`, which must be the next one. `base`: the state at `to` for a rollback, the parent's at
    the branch point for a branch; `nodes`: those that a play-from or a branch resets. Gives another object only when
    the event continues from `base`."""
    touched = touched if touched is not None else Touched()
    kind, data, at = event.type, event.data, event.at
    if kind is E.RUN_ROLLED_BACK:
        assert base is not None, "a rollback folds onto the state that it goes back to"
        state = _rolled_back(state, base, data, touched)
    elif kind is E.RUN_CREATED:
        _created(state, event)
        if base is not None:
            _inherit(state, base, nodes)
    elif kind is E.RUN_PLAYED_FROM:
        _played_from(state, data, nodes, touched)
    else:
        _APPLY[kind](state, data, at, event.seq, touched)
    state.seq, state.head, state.updated_at = event.seq, event.hash, at
    return state


def _node(state: RunState, data: Mapping[str, Any], touched: Touched) -> NodeState:
    node_id: NodeId = data["node"]
    touched.nodes.add(node_id)
    node = state.nodes.get(node_id)
    if node is None:
        node = state.nodes[node_id] = NodeState(generation=state.generation)
    return node


# --- runs ---------------------------------------------------------------------------------------------------------


def _created(state: RunState, event: Event) -> None:
    data, at = event.data, event.at
    state.owner = data.get("owner") or event.actor
    state.definition, state.workflow, state.inputs = data["definition"], data["workflow"], data["inputs"]
    state.project, state.title = data["project"], data.get("title", "")
    state.priority, state.deadline_at = data.get("priority", 0), data.get("deadline_at")
    state.parent, state.caller = data.get("parent"), data.get("caller")
    state.branch, state.hypothesis = data.get("branch"), data.get("hypothesis")
    state.session, state.overrides = data.get("session"), dict(data.get("overrides", {}))
    state.workspace, state.tree = data.get("workspace"), data.get("tree")
    state.policy, state.agents = data.get("policy"), data.get("agents")
    state.reuse = data.get("reuse", "none")
    state.created_at = at


def _inherit(state: RunState, base: RunState, reset: Iterable[NodeId]) -> None:
    """A branch keeps what its parent had finished by then, less what it resets, and nothing that was under way."""
    state.generation = base.generation + 1
    state.origins = [*base.origins, state.generation]
    again = Again(reset, base)
    state.reusable = base.reusable
    for node_id, node in base.nodes.items():
        if again.reopens(node_id):
            _reopen(node, again.played, node_id, node.seq)
        _revive(node)
        node.called = 0  # that was a position of the parent's
        if stands(node) and not again.resets(node_id):
            state.nodes[node_id] = node
        else:
            _put_aside(state, node_id, node)
    state.completed_nodes = sum(node.status is N.COMPLETED for node in state.nodes.values())
    state.tree = state.tree or base.restoring or base.tree
    state.overrides = merge_overrides(base.overrides, state.overrides)


def stands(node: NodeState) -> bool:
    """A result that outlives a change of course. An expansion is one too: its finished children need not run again."""
    if node.status in NODE_TERMINAL:
        return node.status is not N.CANCELLED
    return node.wait is not None and node.wait["kind"] == "children"


def _revive(node: NodeState) -> None:
    """A container that was cancelled with its run waits for its insides again: it need not expand anew."""
    if node.status is N.CANCELLED and node.expansion is not None:
        node.status, node.wait, node.ended_at = N.RUNNING, {"kind": "children"}, None


def _put_aside(state: RunState, node_id: NodeId, node: NodeState) -> None:
    if node.status is N.COMPLETED and node.key is not None and node.output is not None:
        results = state.reusable.setdefault(node.key, {})
        results.pop(node_id, None)  # the latest is the last
        results[node_id] = Reusable(
            node_id, node.output, node.size, node.tree, node.seq, node.tree_start, node.generation
        )


def merge_overrides(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Later overrides win, per input and per node."""
    merged = {key: dict(value) for key, value in old.items()}
    for key, value in new.items():
        merged.setdefault(key, {}).update(value)
    return merged


def _rolled_back(now: RunState, base: RunState, data: Mapping[str, Any], touched: Touched) -> RunState:
    """The state at the older position, with everything unfinished pending in a new generation: paused, unless the run
    itself asked for it."""
    generation = int(data["generation"])
    for node in base.nodes.values():
        _revive(node)
    held: dict[NodeId, dict[str, Any]] = {}
    for node_id in [n for n, node in base.nodes.items() if not stands(node)]:
        node = base.nodes.pop(node_id)
        held[node_id] = {**(node.restored or {}), **(node.points or {})}
    for node_id, node in now.nodes.items():
        kept = base.nodes.get(node_id)
        if kept is None or kept != node:
            touched.nodes.add(node_id)
        if kept is None:
            base.nodes[node_id] = NodeState(generation=generation, restored=held.get(node_id) or None)
    for approval_id, approval in now.approvals.items():
        touched.approvals.add(approval_id)
        if approval.decision is None:
            approval.decision = "cancelled"
        base.approvals[approval_id] = approval
    for approval in base.approvals.values():
        approval.decision = approval.decision or "cancelled"
    # An intent that is still unsettled can be settled late, whatever became of its generation.
    touched.forgotten |= now.effects
    base.effects = {k: v for k, v in now.effects.items() if v.outcome in (None, "unknown")}
    base.generation = generation
    base.owed = owed_after(now.owed, base.owed, int(now.seq) + 1, "undo" in data)
    goes_on = "trigger" in data and now.status is not R.PAUSED
    base.status, base.interrupt = (R.EXECUTING, False) if goes_on else (R.PAUSED, True)
    base.setbacks, base.rollbacks = {}, dict(now.rollbacks)  # what was tried stays counted
    if data.get("trigger") == "automatic":
        base.rollbacks[str(data["rule"])] = base.rollbacks.get(str(data["rule"]), 0) + 1
    base.reason = data.get("reason")
    base.output = base.error = base.ended_at = None
    base.started_at = base.started_at or now.started_at
    base.signals, base.branches = now.signals, now.branches
    base.branched, base.erased = now.branched, now.erased
    base.closed, base.adopted = now.closed, now.adopted
    base.called, base.compensable = now.called, now.compensable
    if now.seq > base.seq:
        base.left = [*base.left, [base.seq + 1, int(now.seq)]]
    base.cost_usd, base.tokens = now.cost_usd, now.tokens  # what was spent stays spent
    base.completed_nodes = sum(node.status is N.COMPLETED for node in base.nodes.values())
    base.restoring = data.get("restore")
    base.agents = data.get("agents", now.agents)
    return base


def owed_after(now: Sequence[int], then: Sequence[int], seq: int, undo: bool) -> list[int]:
    """`RunState.owed` after a rollback at `seq`, by what it was before it and where it goes back to. What was left to
    be undone there is left again; of what others have left since, what does not stand again lies behind this one."""
    return [*then, seq] if undo or set(now) - set(then) else [*then]


def _played_from(state: RunState, data: Mapping[str, Any], nodes: Iterable[NodeId], touched: Touched) -> None:
    generation = state.generation = int(data["generation"])
    again = Again((data["node"], *nodes), state)
    for node_id, node in list(state.nodes.items()):
        beneath = "restore" in data and node.in_flight and node.tree_start is not None  # it works with those files
        if again.resets(node_id) or beneath or (node.status is N.CANCELLED and node.expansion is None):
            _put_aside(state, node_id, node)
            state.nodes[node_id] = NodeState(generation=generation)
            touched.nodes.add(node_id)
        elif again.reopens(node_id) or node.status is N.CANCELLED:
            _revive(node)
            if again.reopens(node_id):
                _reopen(node, data["node"], node_id, state.seq)
            touched.nodes.add(node_id)
    for approval_id, approval in state.approvals.items():
        if approval.decision is None and (approval.node is None or again.resets(approval.node)):
            approval.decision = "cancelled"
            touched.approvals.add(approval_id)
    state.overrides = merge_overrides(state.overrides, data.get("overrides", {}))
    state.reuse = data.get("reuse", "none")
    state.status, state.interrupt, state.setbacks = R.EXECUTING, False, {}
    state.output = state.error = state.ended_at = state.reason = None
    state.completed_nodes = sum(node.status is N.COMPLETED for node in state.nodes.values())
    state.restoring = data.get("restore", state.restoring)
    state.agents = data.get("agents", state.agents)


def _reopen(node: NodeState, played: str, node_id: str, seq: int) -> None:
    """The containers of a node that is played again wait for their children once more; a loop forgets later rounds."""
    node.status, node.wait, node.seq = N.RUNNING, {"kind": "children"}, seq
    node.output, node.size, node.key, node.ended_at, node.error = None, 0, None, None, None
    number = index_in(played, node_id)
    if node.expansion is not None and is_loop(node.expansion) and number is not None:
        node.expansion = {**node.expansion, "count": number + 1}


def _undone(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.owed = [one for one in state.owed if one != data["rollback"]]


def _status(status: R) -> Callable[..., None]:
    def change(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
        state.status, state.reason = status, data.get("reason")

    return change


def _started(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.status, state.started_at = R.EXECUTING, at


def _paused(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.status, state.reason, state.interrupt = R.PAUSED, data.get("reason"), bool(data.get("interrupt"))


def _resumed(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.status, state.reason, state.interrupt = R.EXECUTING, data.get("reason"), False


def _completed(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.status, state.output, state.ended_at = R.COMPLETED, data["output"], at


def _ended(status: R) -> Callable[..., None]:
    """Failed or cancelled: everything that has not ended is cancelled with the run, in the same event."""

    def change(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
        state.status, state.ended_at = status, at
        state.error, state.reason, state.setbacks = data.get("error"), data.get("reason"), {}
        for node_id, node in state.nodes.items():
            if node.status not in NODE_TERMINAL:
                node.status, node.ended_at, node.seq = N.CANCELLED, at, seq
                node.wait = node.due_at = None
                touched.nodes.add(node_id)
        for approval_id, approval in state.approvals.items():
            if approval.decision is None:
                approval.decision, approval.decided_at = "cancelled", at
                touched.approvals.add(approval_id)

    return change


def _nothing(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    """An event that is a record only."""


def _branched(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    if "name" in data:
        state.branches[data["name"]] = data["child"]
    state.branched = seq


def _erased(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.erased = seq


def _closed(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.closed = data["status"]


def _adopted(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.adopted = {"run": data["child"], "seq": data["at"], "name": data["name"]}
    state.restoring = data.get("restore", state.restoring)


# --- nodes --------------------------------------------------------------------------------------------------------


def _node_started(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    node.status, node.attempt, node.seq = N.RUNNING, data["attempt"], seq
    node.started_at, node.ended_at, node.due_at, node.wait = at, None, None, None
    node.key, node.tree_start = data.get("key"), data.get("tree")
    node.agent = data.get("agent")
    node.began = node.began or seq


def _node_waiting(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    node.seq = seq
    if "due_at" in data:
        node.wait = {"kind": "timer", "due_at": data["due_at"]}
    elif "signal" in data:
        node.wait = {"kind": "signal", "name": data["signal"]}
    else:
        node.wait = {"kind": "child", "run": data["child"]}


def _node_expanded(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    node.seq, node.wait = seq, {"kind": "children"}
    if node.expansion is None:
        node.expansion = {k: data[k] for k in ("count", "items", "keys", "plan") if k in data}
    else:
        node.expansion = {**node.expansion, "count": data.get("first", 0) + data["count"]}


def _node_completed(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    if node.wait is not None and node.wait["kind"] == "signal":
        arrived = state.signals.get(node.wait["name"])
        if arrived:
            arrived.pop(0)  # one signal wakes one node
    node.status, node.seq, node.ended_at, node.wait, node.draws = N.COMPLETED, seq, at, None, None
    node.kept = node.points = node.restored = node.tree_made = None
    node.output, node.size = data["output"], data["size"]
    node.error = None
    if "key" in data:
        node.key = data["key"]
    if "tree" in data:
        node.tree = state.tree = data["tree"]
    usage = data.get("usage")
    if node.usage is not None:  # it was counted call by call
        node.usage = {**(usage or {}), **node.usage}
    elif usage:
        node.usage = usage
        state.cost_usd += float(usage.get("cost_usd") or 0.0)
        state.tokens += int(usage.get("tokens") or 0)
    state.completed_nodes += 1
    if state.effects:
        _forget_effects(state, data["node"], touched)


def _forget_effects(state: RunState, node_id: NodeId, touched: Touched) -> None:
    """A completed node never asks for its settled effects again; the ledger's rows stay."""
    for effect_id in [k for k, v in state.effects.items() if v.node == node_id and v.outcome == "done"]:
        touched.forgotten[effect_id] = state.effects.pop(effect_id)


def _node_reused(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    node.started_at, node.reused_from = at, data["source"]
    node.began = node.began or seq
    node.tree_start = next(iter(state.reusable[data["key"]].values())).tree_start  # a part of the key, and so the same
    _node_completed(state, data, at, seq, touched)


def _attempt_failed(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    _count_work(node, at)
    node.failures += 1
    node.error, node.seq, node.draws = data["error"], seq, None
    if "rule" in data:  # the run is taken back for it, or somebody is asked
        node.status, node.wait = N.PENDING, None
        state.setbacks[data["node"]] = {"rule": data["rule"], "category": data["error"].get("category", "unknown")}


def _count_work(node: NodeState, at: int) -> None:
    """An attempt that does not complete its node has ended."""
    if node.wait is None and node.started_at is not None:
        node.worked_us += max(0, at - node.started_at)


def _backoff(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    node.status, node.due_at, node.seq, node.wait = N.PENDING, data["due_at"], seq, None


def _node_failed(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    node.status, node.error, node.ended_at, node.seq, node.wait = N.FAILED, data["error"], at, seq, None


def _node_skipped(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    node.status, node.reason, node.ended_at, node.seq = N.SKIPPED, data["reason"], at, seq


def _node_interrupted(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    if data["reason"] != "owner_lost":  # of a crash nobody knows when it was
        _count_work(node, at)
    node.status = N.PAUSED if data["reason"] == "paused" else N.PENDING
    node.seq, node.wait, node.reason = seq, None, data["reason"]


# --- approvals, effects, the rest -----------------------------------------------------------------------------------


def _approval_requested(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    approval_id: ApprovalId = data["approval"]
    touched.approvals.add(approval_id)
    state.approvals[approval_id] = ApprovalState(
        node=data["node"],
        generation=data["generation"],
        scope=data["scope"],
        question=data["question"],
        options=list(data["options"]),
        expires_at=data["expires_at"],
        min_assurance=data["min_assurance"],
        requested_at=at,
        binding=data.get("binding"),
        details=data.get("details"),
    )
    if data["node"] is not None:
        node = _node(state, data, touched)
        if node.status is N.RUNNING:
            _count_work(node, at)
        node.status, node.approval, node.seq, node.wait = N.WAITING_APPROVAL, approval_id, seq, None
        state.setbacks.pop(data["node"], None)


def _approval_decided(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    approval = state.approvals[data["approval"]]
    touched.approvals.add(data["approval"])
    approval.decision, approval.by, approval.assurance = data["decision"], data["by"], data["assurance"]
    approval.feedback, approval.decided_at = data.get("feedback"), at
    approval.arguments = data.get("arguments")
    if approval.scope == "error" and approval.decision == "rollback" and approval.node is not None:
        node, about = state.nodes[approval.node], approval.details or {}
        if node.approval == data["approval"] and node.status is N.WAITING_APPROVAL and "on_failure" in about:
            touched.nodes.add(approval.node)
            node.status, node.seq = N.PENDING, seq
            told = {"rule": about["on_failure"], "category": (node.error or {}).get("category", "unknown")}
            state.setbacks[approval.node] = {**told, "approval": data["approval"]}


def _approval_expired(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    approval = state.approvals[data["approval"]]
    touched.approvals.add(data["approval"])
    approval.decision, approval.by, approval.decided_at = "expired", "system", at


def _approval_consumed(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    touched.approvals.add(data["approval"])
    state.approvals[data["approval"]].consumed = True


def _effect_intended(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    touched.effects.add(data["effect"])
    if "compensate" in data:
        state.compensable = seq
    if is_unsafe(data["kind"], data["on_unknown"]):
        state.called = seq
        if data["node"] in state.nodes:
            state.nodes[data["node"]].called = seq
    state.effects[data["effect"]] = EffectState(
        node=data["node"],
        generation=data["generation"],
        attempt=data["attempt"],
        call=data["call"],
        kind=data["kind"],
        on_unknown=data["on_unknown"],
        compensate=data.get("compensate"),
        detail=data.get("detail"),
        approval=data.get("approval"),
    )


def _effect_settled(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    touched.effects.add(data["effect"])
    effect = state.effects.get(data["effect"])
    if effect is not None:
        effect.outcome, effect.result, effect.error = data["outcome"], data.get("result"), data.get("error")
        node = state.nodes.get(effect.node) if "tree" in data else None
        if node is not None and node.generation == effect.generation:
            node.tree_made = data["tree"]


def _drawn(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = state.nodes.get(data["node"])
    if node is not None:
        node.draws = {**(node.draws or {}), data["call"]: data["value"]}


def _kept(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = state.nodes.get(data["node"])
    if node is not None:
        node.kept = data["digest"]


def _used(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = _node(state, data, touched)
    before = node.usage or {}
    node.usage = {
        **before,
        **{unit: before.get(unit, 0) + data[unit] for unit in ("tokens", "cost_usd", "calls")},
    }
    if data.get("unpriced"):
        node.usage["unpriced"] = before.get("unpriced", 0) + 1
    state.cost_usd += data["cost_usd"]
    state.tokens += data["tokens"]


def _signal(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.signals.setdefault(data["name"], []).append(data["payload"])


def _checkpoint(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    node = state.nodes.get(data["node"]) if "state" in data else None
    if node is not None:
        node.points = {**(node.points or {}), data["call"]: data["state"]}
        if node.restored is not None and data["call"] in node.restored:
            node.restored = {one: held for one, held in node.restored.items() if one != data["call"]} or None


def _captured(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.tree = data["tree"]


def _restore_started(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.restoring = data["tree"]


def _restored(state: RunState, data: Mapping[str, Any], at: int, seq: int, touched: Touched) -> None:
    state.restoring, state.tree = None, data["tree"]


_APPLY: Mapping[E, Callable[[RunState, Mapping[str, Any], int, Seq, Touched], None]] = {
    E.RUN_PLANNING: _status(R.PLANNING),
    E.RUN_STARTED: _started,
    E.RUN_WAITING: _status(R.WAITING_APPROVAL),
    E.RUN_PAUSED: _paused,
    E.RUN_RESUMED: _resumed,
    E.RUN_COMPLETED: _completed,
    E.RUN_FAILED: _ended(R.FAILED),
    E.RUN_CANCELLED: _ended(R.CANCELLED),
    E.RUN_RECOVERED: _nothing,
    E.RUN_UNDONE: _undone,
    E.RUN_BRANCHED: _branched,
    E.RUN_CLOSED: _closed,
    E.RUN_ADOPTED: _adopted,
    E.NODE_STARTED: _node_started,
    E.NODE_WAITING: _node_waiting,
    E.NODE_EXPANDED: _node_expanded,
    E.NODE_PROGRESS: _nothing,
    E.NODE_COMPLETED: _node_completed,
    E.NODE_REUSED: _node_reused,
    E.NODE_ATTEMPT_FAILED: _attempt_failed,
    E.NODE_RETRY_BACKOFF: _backoff,
    E.NODE_RETRY_STARTED: _node_started,
    E.NODE_RETRY_SUCCEEDED: _nothing,
    E.NODE_RETRY_EXHAUSTED: _nothing,
    E.NODE_FAILED: _node_failed,
    E.NODE_SKIPPED: _node_skipped,
    E.NODE_INTERRUPTED: _node_interrupted,
    E.APPROVAL_REQUESTED: _approval_requested,
    E.APPROVAL_DECIDED: _approval_decided,
    E.APPROVAL_EXPIRED: _approval_expired,
    E.APPROVAL_CONSUMED: _approval_consumed,
    E.EFFECT_INTENDED: _effect_intended,
    E.EFFECT_SETTLED: _effect_settled,
    E.EFFECT_COMPENSATED: _nothing,
    E.SIGNAL_RECEIVED: _signal,
    E.CHECKPOINT_CREATED: _checkpoint,
    E.CHECKPOINT_ENDED: _nothing,
    E.WORKSPACE_CAPTURED: _captured,
    E.WORKSPACE_RESTORE_STARTED: _restore_started,
    E.WORKSPACE_RESTORED: _restored,
    E.ARTIFACT_SAVED: _nothing,
    E.NODE_USAGE: _used,
    E.BUDGET_REACHED: _nothing,
    E.STATE_KEPT: _kept,
    E.POLICY_DECIDED: _nothing,
    E.VALUE_DRAWN: _drawn,
    E.ERASED: _erased,
}
