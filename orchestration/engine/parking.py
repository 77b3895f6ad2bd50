"""What waits without a task: timers, decisions, signals, child runs, backoffs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from omium.orchestration.engine import starting, steps
from omium.orchestration.engine.board import Outcome
from omium.orchestration.engine.failures import describe
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, NodeId, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import ApprovalState, NodeState, NodeStatus

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution
    from omium.orchestration.engine.turn import Turn

CHILD_POLL_US = 60_000_000  # should the word of a child's end get lost in a crash, its parent looks by itself
_REFUSALS = frozenset({"reject", "abort", "expired"})


async def take_parked(run: Execution, turn: Turn) -> None:
    """After building again: note what waits, and take up what no longer has to."""
    for node_id, node in list(run.folded.nodes.items()):
        kind = _waits_for(run, node)
        if kind is not None:
            run.parked[node_id] = kind
    for node_id in [n for n, kind in run.parked.items() if kind == "child"]:
        if not run.closed:  # one of them may end the run
            await take_child(run, turn, node_id)
    if not run.closed:
        await take_due(run, turn)


def _waits_for(run: Execution, node: NodeState) -> str | None:
    if node.status is NodeStatus.WAITING_APPROVAL:
        return "approval"
    if node.status is NodeStatus.RUNNING and node.wait is not None:
        kind = str(node.wait["kind"])
        return kind if kind != "children" else None  # a container is counted, and does not wait
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
        if run.closed:  # what one of them led to has ended the run
            return
        node = run.folded.node(node_id)
        late = _late_at(run, node_id, node)
        if kind == "approval":
            await _decided(run, turn, node_id, node, now)
        elif kind == "backoff":
            if node.status is NodeStatus.PENDING and (node.due_at or 0) <= now:
                await starting.go_on(run, turn, node_id)
        elif late is not None and late <= now:
            _too_late(run, turn, node_id, node)
        elif kind == "timer" and node.wait is not None and node.wait["due_at"] <= now:
            _end_wait(run, turn, node_id, node, {"waited_until": node.wait["due_at"]})
        elif kind == "signal" and node.wait is not None:
            name = node.wait["name"]
            waiting = run.folded.signals.get(name, [])
            place = taken.get(name, 0)
            if place < len(waiting):
                taken[name] = place + 1
                payload = await run.engine.values.load(Digest(waiting[place]))
                _end_wait(run, turn, node_id, node, payload)


def _late_at(run: Execution, node_id: NodeId, node: NodeState) -> int | None:
    """When the time-out of a node that waits is over, microseconds; None if it has none or does not wait."""
    if node.wait is None or node.started_at is None or node.wait["kind"] == "children":
        return None
    timeout_s = run.structure.node_def(node_id).timeout_s
    return None if timeout_s is None else node.started_at + int(timeout_s * 1e6)


def _too_late(run: Execution, turn: Turn, node_id: NodeId, node: NodeState) -> None:
    assert node.wait is not None
    limit = run.structure.node_def(node_id).timeout_s
    if node.wait["kind"] == "child":
        child = RunId(node.wait["run"])
        run.children.pop(child, None)
        turn.dropped.append((child, f"node {node_id} of its parent {run.run_id} timed out"))
    told = describe(OmiumError("timeout", f"node {node_id} did not get what it waits for within {limit:g} s."))
    steps.failed(run, turn, node_id, told)


def _end_wait(run: Execution, turn: Turn, node_id: NodeId, node: NodeState, value: Any) -> None:
    stored = starting.keep(run, turn, value)
    turn.commands.append(c.CompleteNode(node_id, node.generation, stored.digest, stored.size))
    run.note(node_id, Outcome(NodeStatus.COMPLETED, stored.digest, stored.size))


async def take_child(run: Execution, turn: Turn, node_id: NodeId) -> None:
    """Look at the child run that a node waits for, and go on if it has ended."""
    node = run.folded.node(node_id)
    if run.parked.get(node_id) != "child" or node.wait is None or node.wait["kind"] != "child":
        return
    child = RunId(node.wait["run"])
    run.children[child] = node_id
    run.engine.children.watch(child, run)  # before it is looked at, so that its end is not missed
    row = await run.engine.store.run(child)
    if row is None:
        await run.engine.children.start_again(run, node_id, child)
        return
    if row.ended_at is None:
        return
    run.children.pop(child, None)  # a refused creation may have dropped it meanwhile
    run.engine.children.unwatch(child)
    if row.status == "completed" and row.output is not None:
        _end_wait(run, turn, node_id, node, await run.engine.values.load(row.output))
    else:
        told = {"category": "unknown", "type": "omium", "message": f"run {child} was {row.status}", "run": child}
        steps.failed(run, turn, node_id, {**told, **(row.error or {})})


def _fail(run: Execution, turn: Turn, node_id: NodeId, node: NodeState, error: dict[str, Any]) -> None:
    turn.commands.append(c.FailNode(node_id, node.generation, error, node.approval))
    run.note(node_id, Outcome(NodeStatus.FAILED, error=error))


async def _decided(run: Execution, turn: Turn, node_id: NodeId, node: NodeState, now: int) -> None:
    """Go on from a decision, or let the question expire."""
    approval = run.folded.approvals.get(node.approval) if node.approval is not None else None
    if approval is None or node.approval is None:
        return  # the request is in a write that is under way
    if approval.decision is None:
        if now >= approval.expires_at:
            turn.commands.append(c.ExpireApproval(node.approval))  # that is heard, and its consequence drawn then
        return
    if approval.consumed:
        return
    scope, decision = approval.scope, approval.decision
    if scope == "call" or (scope == "question" and decision not in _REFUSALS):
        # The work finds the decision where it asked; an agent hears why a call was refused, and goes on.
        await starting.go_on(run, turn, node_id)
    elif decision in _REFUSALS:
        _fail(run, turn, node_id, node, _refusal(run, node, approval))
    elif decision == "skip":
        starting.skip(run, turn, node_id, "decision", approval=node.approval)
    elif scope == "plan" and decision in ("approve", "modify"):
        plan = Digest(approval.arguments or (approval.details or {})["arguments"])
        await steps.carry_out_plan(run, turn, node_id, plan, node.approval)
    elif scope == "node":
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
        _settle_unknown(run, turn, node_id)
        await starting.go_on(run, turn, node_id)


def _settle_unknown(run: Execution, turn: Turn, node_id: NodeId) -> None:
    """A human said to try again: what was unknown counts as not having happened."""
    told = {"message": "it counts as not made: a person said to call again"}
    turn.commands += [c.SettleEffect(one, "not_sent", error=told) for one in steps.unsettled_effects(run, node_id)]


def _refusal(run: Execution, node: NodeState, approval: ApprovalState) -> dict[str, Any]:
    error = (approval.details or {}).get("error") or node.error
    if approval.scope in ("error", "unknown_effect") and error is not None:
        return {**error, "decision": approval.decision}
    what = "expired" if approval.decision == "expired" else "rejected"
    told = {
        "category": "timeout" if what == "expired" else "validation",
        "type": "omium",
        "code": f"approval_{what}",
        "message": f"the approval {node.approval} "
        + ("expired" if what == "expired" else f"was rejected by {approval.by}"),
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
        elif kind == "signal" and node.wait is not None and run.folded.signals.get(node.wait["name"]):
            yield run.engine.clock.now_us()
        elif kind == "child":
            yield run.engine.clock.now_us() + CHILD_POLL_US
        elif kind == "approval" and node.approval is not None:
            approval = run.folded.approvals.get(node.approval)
            if approval is not None and approval.decision is None:
                yield approval.expires_at
        late = _late_at(run, node_id, node)
        if late is not None:
            yield late
