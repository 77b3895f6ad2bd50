"""What becomes of a node that has failed for good, by the rules of its workflow: the run is taken back, ends, or asks.

Taking a run back takes two commits. The first says that the node failed under a rule; from then on nothing starts, and
what is in flight is stopped. Then effects are undone, and the second goes back. A crash in between leaves the first
one's mark in the state (`RunState.setbacks`), and the next owner goes on from there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.definition.failing import rule_for
from omium.orchestration.definition.model import FailureRule
from omium.orchestration.engine import gates
from omium.orchestration.engine.board import Outcome
from omium.orchestration.engine.failures import without_traceback
from omium.orchestration.ids import EffectId, Fence, NodeId, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import NodeStatus, RunState

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution
    from omium.orchestration.engine.turn import Turn


@dataclass(frozen=True, slots=True)
class Back:
    """The way back, worked out, with what could be undone undone; `command` None: only with a person's consent.

    why: what stands against it; effects: the calls that it would repeat, as a question shows them, with their ids;
    possible: it can be done if a person says so; undone: something was undone before it came to a stop."""

    command: c.RollBack | None
    why: str = ""
    effects: Sequence[Mapping[str, Any]] = ()
    possible: bool = True
    undone: bool = False


TakeBack: TypeAlias = Callable[
    [RunState, Fence, NodeId, FailureRule, Mapping[str, Any], frozenset[EffectId]], Awaitable[Back | None]
]
"""Works out how a run goes back for a node and a rule, and undoes effects, as its owner only; None when the worker
stops before it is through. The last two: the setback as in `RunState.setbacks`, and the calls that a person has agreed
to have repeated."""


Undo: TypeAlias = Callable[[RunId, Fence], Awaitable[None]]
"""Undoes what a rollback of the run has still to undo, as its owner only, and notes that in the log. As long as it is
not noted there, nothing of the run goes on, and it is tried again."""


async def nothing(run_id: RunId, fence: Fence) -> None:
    """A worker without a history leaves it to the next one."""


async def nobody(
    state: RunState,
    fence: Fence,
    node_id: NodeId,
    rule: FailureRule,
    setback: Mapping[str, Any],
    agreed: frozenset[EffectId],
) -> Back:
    """A worker without a history cannot go back by itself."""
    return Back(None, "This worker cannot take the run back.", possible=False)


def follow_rule(run: Execution, turn: Turn, node_id: NodeId, told: dict[str, Any]) -> bool:
    """Do what the workflow says about this failure; False when the node simply fails."""
    workflow = run.program.workflow
    index = rule_for(workflow.on_failure, node_id, told["category"])
    if index is None:
        if workflow.approvals == "on_error":
            _ask_about(run, turn, node_id, told)
        return workflow.approvals == "on_error"
    rule, state = workflow.on_failure[index], run.folded.node(node_id)
    retries = run.structure.node_def(node_id).retry.max_attempts > 1
    if rule.do == "fail":
        return False
    if rule.do == "ask":
        _ask_about(run, turn, node_id, told)
    elif rule.do == "abort":
        turn.commands.append(c.FailAttempt(node_id, state.generation, state.attempt, told, retries=retries))
        turn.commands.append(c.FailRun({"node": node_id, **without_traceback(told)}, run.folded.generation))
        run.note(node_id, Outcome(NodeStatus.FAILED, error=told))
        run.closed = True
    elif run.folded.rollbacks.get(str(index), 0) >= rule.max:
        spec = gates.setback_gate(node_id, told, f"{_times(rule.max)} by itself; what now?")
        about = _about(run.folded, index, rule, told)
        now = run.engine.clock.now_us()
        request = gates.request(node_id, state.generation, spec, {}, now, kind="error", details=about)
        ask_instead(run, turn, node_id, told, request)
    else:
        turn.commands.append(c.FailAttempt(node_id, state.generation, state.attempt, told, retries=retries, rule=index))
        run.closed = True  # nothing more starts; once this is durable, all is built again and `take_up` goes on
    return True


def _times(count: int) -> str:
    return "The run has been taken back " + ("once" if count == 1 else f"{count} times")


def _ask_about(run: Execution, turn: Turn, node_id: NodeId, told: dict[str, Any]) -> None:
    spec, about = gates.error_gate(node_id, told), {"error": without_traceback(told)}
    generation, now = run.folded.node(node_id).generation, run.engine.clock.now_us()
    request = gates.request(node_id, generation, spec, {}, now, kind="error", details=about)
    ask_instead(run, turn, node_id, told, request)


def ask_instead(run: Execution, turn: Turn, node_id: NodeId, told: dict[str, Any], request: c.RequestApproval) -> None:
    """Note a failure as one that may be retried at once, and leave it to somebody whether it is."""
    state, now = run.folded.node(node_id), run.engine.clock.now_us()
    turn.commands += [c.FailAttempt(node_id, state.generation, state.attempt, told, retry_at=now), request]
    run.parked[node_id] = "approval"
    turn.wake(request.expires_at)


def _about(state: RunState, index: int, rule: FailureRule, error: Mapping[str, Any]) -> dict[str, Any]:
    done = state.rollbacks.get(str(index), 0)
    return {"error": without_traceback(error), "on_failure": index, "rollbacks": done, "max": rule.max, "to": rule.to}


async def take_up(run: Execution) -> None:
    """Have the run taken back for the first node that waits for it, or a person asked, who decides for all that wait.
    What was in flight has been stopped and settled."""
    node_id, setback = next(iter(run.folded.setbacks.items()))
    index = int(setback["rule"])
    rule = run.program.workflow.on_failure[index]
    crash_point("setback.noted")
    back = await run.engine.take_back(run.folded, run.fence, node_id, rule, setback, _agreed(run.folded, setback))
    if back is None:
        run.stopping = run.stopping or "handover"  # which it is about to be told; the next owner goes on from here
        return
    if back.command is not None:
        crash_point("setback.undone")
        await run.commit([back.command])
        return
    node = run.folded.node(node_id)
    error = node.error or {"category": setback["category"], "message": ""}
    about = _about(run.folded, index, rule, error)
    if back.effects:
        about["effects"] = [dict(one) for one in back.effects]
    spec = gates.setback_gate(node_id, error, back.why, possible=back.possible, undone=back.undone)
    now = run.engine.clock.now_us()
    await run.commit([gates.request(node_id, node.generation, spec, {}, now, kind="error", details=about)])


def _agreed(state: RunState, setback: Mapping[str, Any]) -> frozenset[EffectId]:
    """The calls that the person saw who had the run taken back."""
    approval = state.approvals.get(setback["approval"]) if "approval" in setback else None
    shown = (approval.details or {}).get("effects", []) if approval is not None else []
    return frozenset(EffectId(one["id"]) for one in shown)
