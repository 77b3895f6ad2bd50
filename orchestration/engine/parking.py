"""What waits without a task: timers, decisions, signals, child runs, backoffs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from omium.orchestration.engine import starting
from omium.orchestration.engine.board import Outcome
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import ApprovalState, NodeState, NodeStatus

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution, Turn

CHILD_POLL_US = 60_000_000  # should the word of a child's end get lost in a crash, its parent looks by itself
_REFUSALS = frozenset({"reject", "abort", "expired"})


async def take_parked(run: Execution, turn: Turn) -> None:
    """After building again: note what waits, and take up what no longer has to."""
    for node_id, node in list(run.folded.nodes.items()):
        kind = _waits_for(run, node)
        if kind is not None:
            run.parked[node_id] = kind
    await take_due(run, turn)


def _waits_for(run: Execution, node: NodeState) -> str | None:
    if node.status is NodeStatus.WAITING_APPROVAL:
        return "approval"
    if node.status is NodeStatus.RUNNING and node.wait is not None:
        return str(node.wait["kind"])
    if node.status is NodeStatus.PENDING and node.due_at is not None and node.due_at > run.engine.clock.now_us():
        return "backoff"
    return None


async def take_due(run: Execution, turn: Turn) -> None:
    """Take up everything whose time has come or whose answer is there."""
    now = run.engine.clock.now_us()
    if run.folded.deadline_at is not None and now >= run.folded.deadline_at:
        told = {"category": "timeout", "type": "omium", "code": "timeout", "message": "the run's deadline has passed"}
        turn.commands.append(c.FailRun(told))
        run.closed = True
        return
    taken: dict[str, int] = {}
    for node_id, kind in list(run.parked.items()):
        node = run.folded.node(node_id)
        if kind == "approval":
            _decided(run, turn, node_id, node, now)
        elif kind == "backoff" and (node.due_at or 0) <= now:
            del run.parked[node_id]
            starting.queue(run, node_id, run.structure.node_def(node_id))
        elif kind == "timer" and node.wait is not None and node.wait["due_at"] <= now:
            _end_wait(run, turn, node_id, node, {"waited_until": node.wait["due_at"]})
        elif kind == "signal" and node.wait is not None:
            name = node.wait["name"]
            waiting = run.folded.signals.get(name, [])
            place = taken.get(name, 0)
            if place < len(waiting):
                taken[name] = place + 1
                payload = await run.engine.values.load(waiting[place])  # type: ignore[arg-type]
                _end_wait(run, turn, node_id, node, payload)
        elif kind == "child" and node.wait is not None:
            await _child(run, turn, node_id, node)


def _end_wait(run: Execution, turn: Turn, node_id: NodeId, node: NodeState, value: Any) -> None:
    stored = starting.keep(run, turn, value)
    turn.commands.append(c.CompleteNode(node_id, node.generation, stored.digest, stored.size))
    run.note(node_id, Outcome(NodeStatus.COMPLETED, stored.digest, stored.size))


async def _child(run: Execution, turn: Turn, node_id: NodeId, node: NodeState) -> None:
    assert node.wait is not None
    child = RunId(node.wait["run"])
    row = await run.engine.store.run(child)
    if row is None:
        await run.engine.start_child_again(run, node_id, child)
    elif row.status == "completed" and row.output is not None:
        value = await run.engine.values.load(row.output)
        _end_wait(run, turn, node_id, node, value)
    elif row.status in ("failed", "cancelled"):
        error = dict(row.error or {"category": "unknown", "message": f"child run {child} was cancelled"})
        _fail(run, turn, node_id, node, {**error, "run": child})
    else:
        run.engine.watch_child(child, run)


def _fail(run: Execution, turn: Turn, node_id: NodeId, node: NodeState, error: dict[str, Any]) -> None:
    turn.commands.append(c.FailNode(node_id, node.generation, error, node.approval))
    run.note(node_id, Outcome(NodeStatus.FAILED, error=error))


def _decided(run: Execution, turn: Turn, node_id: NodeId, node: NodeState, now: int) -> None:
    """Go on from a decision, or let the question expire."""
    approval = run.folded.approvals.get(node.approval) if node.approval is not None else None
    if approval is None or node.approval is None:
        return  # the request is in a write that is under way
    if approval.decision is None:
        if now >= approval.expires_at:
            turn.commands.append(c.ExpireApproval(node.approval))
            run.nudge()  # its consequence is drawn once it is committed
        return
    if approval.consumed:
        return
    if approval.decision in _REFUSALS:
        _fail(run, turn, node_id, node, _refusal(run, node, approval))
    elif approval.decision == "skip":
        starting.skip(run, turn, node_id, "decision", approval=node.approval)
    elif approval.scope == "node":
        told = {
            "decision": approval.decision,
            "by": approval.by,
            "feedback": approval.feedback,
            "approval": node.approval,
        }
        stored = starting.keep(run, turn, told)
        turn.commands.append(
            c.CompleteNode(node_id, node.generation, stored.digest, stored.size, approval=node.approval)
        )
        run.note(node_id, Outcome(NodeStatus.COMPLETED, stored.digest, stored.size))
    else:
        _settle_unknown(run, turn, node_id, node)
        del run.parked[node_id]
        starting.queue(run, node_id, run.structure.node_def(node_id))


def _settle_unknown(run: Execution, turn: Turn, node_id: NodeId, node: NodeState) -> None:
    """A human said to try again: what was unknown counts as not having happened."""
    for identity, effect in run.folded.effects.items():
        if effect.node == node_id and effect.generation == node.generation and effect.outcome in (None, "unknown"):
            turn.commands.append(c.SettleEffect(identity, "not_sent", error={"message": "decided by a human"}))


def _refusal(run: Execution, node: NodeState, approval: ApprovalState) -> dict[str, Any]:
    error = (approval.details or {}).get("error") or node.error
    if approval.scope in ("error", "unknown_effect") and error is not None:
        return {**error, "decision": approval.decision}
    what = "expired" if approval.decision == "expired" else "rejected"
    told = {
        "category": "timeout" if what == "expired" else "validation",
        "type": "omium",
        "code": f"approval_{what}",
        "message": f"the approval {node.approval} was {what}" + (f" by {approval.by}" if what == "rejected" else ""),
    }
    if approval.feedback:
        told["feedback"] = approval.feedback
    return told


def next_due(run: Execution) -> int | None:
    """When something here has to be looked at next, microseconds; None if only a control event can change anything."""
    return min(_due_times(run), default=None)


def _due_times(run: Execution) -> Iterator[int]:
    if run.folded.deadline_at is not None:
        yield run.folded.deadline_at
    for node_id, kind in run.parked.items():
        node = run.folded.node(node_id)
        if kind == "backoff" and node.due_at is not None:
            yield node.due_at
        elif kind == "timer" and node.wait is not None:
            yield int(node.wait["due_at"])
        elif kind == "child":
            yield run.engine.clock.now_us() + CHILD_POLL_US
        elif kind == "approval" and node.approval is not None:
            approval = run.folded.approvals.get(node.approval)
            if approval is not None and approval.decision is None:
                yield approval.expires_at
