"""Where a run asks before it goes on: the gate that a node states, and the gates of the run's approval mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omium.orchestration.definition.expressions import holds, render
from omium.orchestration.definition.model import ApprovalSpec, Assurance, NodeDef, WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, NodeId, new_id
from omium.orchestration.log import commands as c

STEP_OPTIONS = ("approve", "reject", "skip")
ERROR_OPTIONS = ("retry", "skip", "abort")
UNKNOWN_OPTIONS = ("retry", "skip", "abort")
PLAN_OPTIONS = ("approve", "reject", "modify", "retry")


def step_gate(workflow: WorkflowDef, node: NodeDef, scope: Mapping[str, Any]) -> ApprovalSpec | None:
    """The question to ask before the node runs; None when there is none. A condition that fails to evaluate asks."""
    if node.kind == "approval":
        return None  # the node is itself the question
    if node.approval is not None:
        return node.approval
    if node.kind in ("group", "wait"):
        return None  # what is inside is asked about; waiting does nothing
    if workflow.approvals in ("before_each_step", "manual"):
        return ApprovalSpec(f"Run {node.id}?", STEP_OPTIONS)
    if workflow.approvals == "custom":
        about = {"id": node.id, "kind": node.kind, "use": node.use, "workspace": node.workspace}
        for condition in workflow.approval_conditions:
            try:
                asked = holds(condition, {**scope, "node": about})
            except OmiumError:
                asked = True
            if asked:
                return ApprovalSpec(f"Run {node.id}? ({condition})", STEP_OPTIONS)
    return None


def request(
    node_id: NodeId,
    generation: int,
    spec: ApprovalSpec,
    scope: Mapping[str, Any],
    now_us: int,
    *,
    kind: str,
    binding: Digest | None = None,
    details: Mapping[str, Any] | None = None,
) -> c.RequestApproval:
    """The command that asks. The question and what is shown are rendered now: they are what is decided on."""
    question = render(spec.prompt, scope)
    told = dict(details or {})
    if spec.show is not None:
        told["show"] = render(spec.show, scope)
    return c.RequestApproval(
        approval=ApprovalId(new_id("apr", now_us // 1000)),
        node=node_id,
        generation=generation,
        scope=kind,
        question=question if isinstance(question, str) else str(question),
        options=spec.options,
        expires_at=now_us + int(spec.expires_s * 1e6),
        min_assurance=spec.min_assurance,
        binding=binding,
        details=told or None,
    )


def error_gate(node_id: NodeId, error: Mapping[str, Any]) -> ApprovalSpec:
    """What is asked when a node has failed for good and the run asks on errors."""
    return ApprovalSpec(_literal(f"{node_id} failed ({error['category']}): {error['message']}"), ERROR_OPTIONS)


def setback_gate(
    node_id: NodeId, error: Mapping[str, Any], why: str, *, possible: bool = True, undone: bool = False
) -> ApprovalSpec:
    """What is asked when a node has failed under a rule that takes the run back, and that cannot be done unasked.
    possible: it can be done if a person says so; undone: something has been undone for it already, so that going on
    from here as if nothing had happened is no choice."""
    options = ERROR_OPTIONS if not undone else ("abort",)
    text = f"{node_id} failed ({error.get('category', 'unknown')}): {error.get('message', '')}. {why}"
    return ApprovalSpec(_literal(text), ("rollback", *options) if possible else options)


STOPPED = "stopped in the middle of a call"
"""Why it is asked where nothing has crashed."""


def unknown_gate(
    node_id: NodeId,
    calls: Sequence[str],
    min_assurance: Assurance = "elicited",
    why: str = "was interrupted by a crash",
) -> ApprovalSpec:
    """What is asked when it was left unknown whether a call happened. min_assurance: what the decision was worth
    that let the call through: who says that it is made again must be good for as much."""
    what = f"the call{'s' if len(calls) > 1 else ''} {', '.join(calls)}" if calls else "its work"
    text = f"{node_id} {why}, and it is unknown whether {what} happened. Run it again?"
    return ApprovalSpec(_literal(text), UNKNOWN_OPTIONS, min_assurance=min_assurance)


def plan_gate(node_id: NodeId, steps: int) -> ApprovalSpec:
    """What is asked before a plan is carried out: `retry` has it planned again, with what was said of it."""
    return ApprovalSpec(_literal(f"{node_id} has planned {steps} step(s). Carry them out?"), PLAN_OPTIONS)


def _literal(text: str) -> str:
    """A prompt that says just this: what it holds is data, and no template."""
    return text.replace("${{", "$${{")
