"""From the core's views to the tools' answers: what is shown of a run, a checkpoint, a plan, a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from omium.orchestration.service.evidence import evidence
from omium.orchestration.service.views import (
    ApprovalView,
    CheckpointView,
    ComparisonView,
    EffectView,
    HistoryResult,
    NodeDifference,
    NodeView,
    PlanView,
    RunView,
    SimulatedNode,
    WorkflowView,
)
from omium.orchestration.values import Value
from omium.tools.models import (
    ApprovalOut,
    CheckpointOut,
    ComparisonOut,
    Detail,
    DifferenceOut,
    HistoryOut,
    ListedRun,
    NodeOut,
    PlanOut,
    QuestionOut,
    RunLine,
    RunOut,
    RunRef,
    RunState,
    SettledOut,
    StepOut,
    ValueOut,
    WorkflowOut,
)
from omium.tools.present import VALUE_INLINE, fit, line, paragraph, plain_value, some, value_text, when
from omium.tools.uris import node_uri, run_uri

_DETAILS = 800  # characters of what an approval shows beside its question, in lists


def value_out(value: Value, *, offset: int = 0, limit: int = VALUE_INLINE) -> ValueOut:
    """The whole value if it is small and plain; otherwise the piece of its JSON text that starts at `offset`."""
    text = value_text(value)
    plain = plain_value(text) if len(text) <= limit and not offset else None
    if plain is not None:
        return ValueOut(value=plain, size=len(text))
    end = offset + limit
    return ValueOut(text=text[offset:end], size=len(text), next_offset=end if end < len(text) else None)


# --- runs ------------------------------------------------------------------------------------------------------------


def run_ref(run: RunView) -> RunRef:
    return RunRef(run_id=run.id, status=run.status, branch=run.branch, parent=_parent(run))


def run_line(run: RunView) -> RunLine:
    return RunLine(
        **dict(run_ref(run)),
        workflow=run.workflow,
        title=run.title or None,
        progress=round(run.progress, 3),
        updated_at=when(run.updated_at),
        hypothesis=run.hypothesis,
        cost_usd=round(run.cost_usd, 6) or None,
    )


def listed_run(run: RunView) -> ListedRun:
    return ListedRun(
        **dict(run_line(run)),
        children=run.children or None,
        caller=f"{run.caller_run}/{run.caller_node}" if run.caller_run is not None else None,
    )


def _parent(run: RunView) -> str | None:
    if run.parent_run is None:
        return None
    return f"{run.parent_run}@{run.parent_seq}{f' before:{run.parent_before}' if run.parent_before else ''}"


def run_state(run: RunView) -> RunState:
    return RunState(**_state(run))


def run_out(
    run: RunView,
    *,
    detail: bool = False,
    after: str | None = None,
    output: ValueOut | None = None,
    node: str | None = None,
) -> RunOut:
    """A run with `output`, which is `node`'s if that is given; with `detail` the run's own output and a page of its
    nodes, from the one after `after`."""
    nodes, nodes_after = node_page(run.nodes, after) if detail else (None, None)
    if detail and output is None and run.output_digest is not None and run.no_output is None:
        output = value_out(run.output)
    state = _state(run)
    if output is not None:
        state["next"] = _next_of_output(run, output, node)
    return RunOut(
        **state,
        tokens=run.tokens or None,
        created_at=when(run.created_at),
        ended_at=when(run.ended_at),
        workspace=run.workspace,
        output=output,
        nodes=nodes,
        nodes_after=nodes_after,
    )


def _state(run: RunView) -> dict[str, Any]:
    return dict(
        dict(run_line(run)),
        reason=run.reason,
        allowed=list(run.allowed),
        counts=dict(run.counts) or None,
        current=some(run.current) or None,
        seq=run.seq,
        error=_error(run.error),
        approvals=fit((QuestionOut(**_question(one)) for one in run.approvals), 2_500) or None,
        next=_next(run),
    )


def _next(run: RunView) -> str:
    if run.approvals:
        return f"approve(approval_id='{run.approvals[0].id}', decision=...)"
    match run.status:
        case "completed" if run.no_output is not None:
            return f"done; {run.no_output}"
        case "completed":
            return "done: get_run(run_id, detail=true) has the output"
        case "failed":
            return (
                "get_run(run_id, detail=true) for the failed node; play_from_node(run_id, node) to try again from there"
            )
        case "cancelled":
            return "branch(run_id, at, name) to go on from a checkpoint in a new run"
        case "paused":
            return "control_run(run_id, action='resume')"
        case "waiting_approval":
            return "list_approvals(run_id=...)"
        case _:
            return "get_run(run_id, wait_seconds=45)"


def _next_of_output(run: RunView, output: ValueOut, node: str | None) -> str:
    """What to do once an output was seen, or a piece of it."""
    rest = "done" if run.status == "completed" else _next(run)
    if output.next_offset is None:
        return rest
    call = f"get_run(run_id, {f'node={node!r}, ' if node else ''}offset={output.next_offset})"
    whole = node_uri(run.id, node) if node else run_uri(run.id)
    more = f"{call} goes on with the output; the resource {whole} has it in larger pieces"
    return more if run.status == "completed" else f"{more}; {rest}"


def _error(error: Mapping[str, Any] | None) -> Detail | None:
    """The fields of an error, each short; `get_run` with the failed node has no more than that, the log has."""
    if not error:
        return None
    return {line(key): item if isinstance(item, int) else line(str(item), 600) for key, item in error.items() if item}


def node_page(nodes: Sequence[NodeView], after: str | None) -> tuple[list[NodeOut], str | None]:
    rest = _after([node.id for node in nodes], after)
    page = fit(node_out(node) for node in nodes[rest:])
    left = rest + len(page)
    return page, nodes[left - 1].id if page and left < len(nodes) else None


def _after(names: Sequence[str], after: str | None) -> int:
    """Where a page starts; behind everything when `after` names nothing of the list."""
    if after is None:
        return 0
    return names.index(after) + 1 if after in names else len(names)


def node_out(node: NodeView) -> NodeOut:
    return NodeOut(
        id=node.id,
        kind=node.kind,
        status=node.status,
        attempt=node.attempt if node.attempt > 1 else None,
        generation=node.generation if node.generation > 1 else None,
        needs=some(node.needs, 300) or None,
        use=node.use,
        reason=node.reason,
        error=_message(node.error),
        seconds=_seconds(node.started_at, node.ended_at),
        output_size=node.output_size or None,
        due_at=when(node.due_at),
        approval_id=node.approval,
        reused_from=node.reused_from,
    )


def _message(error: Mapping[str, Any] | None) -> str | None:
    if not error:
        return None
    said, shown = str(error.get("message") or dict(error)), evidence(error)
    return f"{said} ({shown})" if shown and shown not in said else said


def _seconds(start: int | None, end: int | None) -> float | None:
    return round((end - start) / 1e6, 3) if start is not None and end is not None else None


# --- approvals -------------------------------------------------------------------------------------------------------


def _question(view: ApprovalView) -> dict[str, Any]:
    return {"approval_id": view.id, "node": view.node, "question": view.question, "options": list(view.options)}


def settled_out(view: ApprovalView) -> SettledOut:
    return SettledOut(**_settled(view))


def _settled(view: ApprovalView) -> dict[str, Any]:
    return dict(
        _question(view),
        run_id=view.run_id,
        status=view.status,
        min_assurance=view.min_assurance,
        decision=view.decision,
        decided_by=view.decided_by,
        assurance=view.assurance,
        feedback=view.feedback,
    )


def approval_out(view: ApprovalView, *, detail: bool = False) -> ApprovalOut:
    room = VALUE_INLINE if detail else _DETAILS
    return ApprovalOut(
        **_settled(view),
        workflow=view.workflow,
        scope=view.scope,
        expires_at=when(view.expires_at),
        consequence=view.consequence or None,
        details=value_out(dict(view.details), limit=room) if view.details else None,
    )


# --- history ---------------------------------------------------------------------------------------------------------


def checkpoint_out(view: CheckpointView) -> CheckpointOut:
    return CheckpointOut(
        position=view.position,
        seq=view.seq,
        at=when(view.at) or "",
        kind=view.kind,
        node=view.node,
        label=view.label,
        note=view.note,
        superseded=view.superseded or None,
        valid=None if view.valid else False,
    )


def _effects(effects: Sequence[EffectView]) -> list[str] | None:
    """A line for each effect: `publish: POST /releases (tool), succeeded, compensated by unpublish: succeeded`."""
    lines = []
    for one in effects:
        undo = f", compensated by {one.compensate}: {one.compensated or 'not yet'}" if one.compensate else ""
        lines.append(line(f"{one.node}: {one.what} ({one.kind}), {one.outcome or 'outcome unknown'}{undo}"))
    return some(lines, 1_500) or None


def _files(files: Sequence[Mapping[str, Any]], room: int, *, patches: bool = False) -> list[str] | None:
    """A line for each changed file, `modified: notes.md`, with its patch below if that is asked for."""
    lines = []
    for file in files:
        named = line(f"{file.get('status', 'changed')}: {file.get('path', '?')}")
        patch = file.get("patch") if patches else None
        lines.append(f"{named}\n{paragraph(str(patch))}" if patch else named)
    return some(lines, room, shown_as=str) or None


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> list[str] | None:
    lines = [f"{one['node']}: a {_decided(one['a'])}, b {_decided(one['b'])}" for one in decisions]
    return some(lines, 1_000) or None


def _decided(side: Mapping[str, Any] | None) -> str:
    if side is None:
        return "not asked"
    if side["decision"] is None:
        return "not decided"
    return f"{side['decision']} ({side['feedback']})" if side.get("feedback") else str(side["decision"])


def plan_out(plan: PlanView, call: str) -> HistoryOut:
    """A preview. `call` is how the operation is written without its token."""
    return HistoryOut(
        plan=PlanOut(
            plan_token=plan.plan_token,
            expires_at=when(plan.expires_at),
            at=plan.at,
            in_place=plan.in_place,
            reruns=some(plan.reruns),
            reused=some(plan.reused) or None,
            asked_again=some(plan.asked_again) or None,
            repeated_effects=_effects(plan.repeated_effects),
            undone_effects=_effects(plan.undone_effects),
            not_undone_effects=_effects(plan.not_undone_effects),
            files=_files(plan.files, 1_500),
            last_cost_usd=round(plan.last_cost_usd, 6),
            last_tokens=plan.last_tokens,
            last_seconds=round(plan.last_ms / 1000, 3),
            saved_cost_usd=round(plan.saved_cost_usd, 6) or None,
            saved_tokens=plan.saved_tokens or None,
        ),
        notes=some(plan.notes) or None,
        next=f"nothing was changed yet; {call} with the same arguments, preview=false and this plan_token does it",
    )


def history_out(result: HistoryResult) -> HistoryOut:
    changes = {"changed": result.files_changed, "added": result.files_added, "removed": result.files_removed}
    return HistoryOut(
        run=run_ref(result.run),
        reset=some(result.reset) or None,
        files=changes if any(changes.values()) else None,
        undone=_effects(result.undone),
        not_undone=_effects(result.not_undone),
        notes=some(result.notes) or None,
        next=_next(result.run),
    )


def comparison_out(view: ComparisonView, *, detail: bool, after: str | None) -> ComparisonOut:
    differing = [one for one in view.nodes if one.change != "same"]
    rest = _after([one.node for one in differing], after)
    page = fit((_difference(one, detail) for one in differing[rest:]), 5_000)
    left = rest + len(page)
    took = [one for one in view.duration_ms if one is not None]
    return ComparisonOut(
        a=run_ref(view.a),
        b=run_ref(view.b),
        outputs_equal=view.outputs_equal,
        first_divergence=view.first_divergence,
        same_nodes=len(view.nodes) - len(differing),
        nodes=page,
        nodes_after=differing[left - 1].node if page and left < len(differing) else None,
        given=_given(view),
        files=_files(view.files, 2_500 if detail else 1_500, patches=detail),
        decisions=_decisions(view.decisions),
        cost_usd=[round(one, 6) for one in view.cost_usd],
        tokens=list(view.tokens),
        seconds=[one / 1000 for one in took] if len(took) == 2 else None,
    )


def _given(view: ComparisonView) -> list[str] | None:
    """A line for each value that the runs were given differently: `inputs.tone: "dry" -> "warm"`."""
    lines = []
    for kind, differences in (("inputs", view.inputs), ("nodes", view.overrides)):
        for one in differences:
            before, after = ("not given" if side is None else line(side, 150) for side in (one.a, one.b))
            lines.append(f"{kind}.{line(one.name)}: {before} -> {after}")
    return some(lines, 1_000) or None


def _difference(one: NodeDifference, detail: bool) -> DifferenceOut:
    return DifferenceOut(
        node=one.node,
        change=one.change,
        a=_state_of(one.a),
        b=_state_of(one.b),
        output_diff=one.output_diff if detail else None,
    )


def _state_of(node: NodeView | None) -> str | None:
    if node is None:
        return None
    error = _message(node.error)
    return f"{node.status}: {error}" if error else node.status


# --- workflows -------------------------------------------------------------------------------------------------------


def workflow_out(view: WorkflowView, *, detail: bool) -> WorkflowOut:
    schema = dict(view.inputs) if view.inputs else None
    required = schema.get("required") if schema else None
    return WorkflowOut(
        name=view.name,
        description=view.description or None,
        nodes=view.nodes,
        inputs=value_out(schema, limit=4_000) if detail and schema else None,
        required=some([str(one) for one in required], 400) if required else None,
        definition=view.definition if detail else None,
    )


def step_out(step: SimulatedNode) -> StepOut:
    return StepOut(
        node=step.node,
        kind=step.kind,
        use=step.use,
        level=step.level,
        asks=step.asks,
        estimate_seconds=None if step.estimate_ms is None else step.estimate_ms / 1000,
        estimate_cost_usd=step.estimate_cost_usd,
        note=step.note or None,
    )
