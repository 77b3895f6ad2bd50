"""Replay: what a run recorded, fed to a definition as it is now, without executing anything.

Every decision that the engine makes by itself is made again over the recorded results: which nodes there are, which
edges and conditions hold, what a fan-out spreads over, when a loop ends, what each node is given and so the key of
its result, and what the run gives. The first that comes out differently is reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omium.orchestration.definition.address import indexed, key_text
from omium.orchestration.definition.expressions import evaluate, holds, render
from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.model import NodeDef
from omium.orchestration.definition.plan import parse_plan
from omium.orchestration.engine import scopes
from omium.orchestration.engine.inputs import node_key, resolve
from omium.orchestration.engine.programs import Program
from omium.orchestration.engine.starting import given, overridden, skip_verdict
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.comparing import merge_order
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.recorded import Recorded, instances, record
from omium.orchestration.ids import Digest, NodeId
from omium.orchestration.log.state import NODE_TERMINAL, NodeState, NodeStatus, RunState, RunStatus
from omium.orchestration.service.views import ReplayView
from omium.orchestration.values import digest_of

Divergence = Mapping[str, Any]
_COMPUTED_SKIPS = frozenset({"condition", "upstream_failed", "upstream_skipped"})


async def replay(ground: Ground, state: RunState, program: Program) -> ReplayView:
    """Feed what the run recorded to `program`, the definition as it is now. Raises what reading a value raises."""
    old = await ground.recorded(state)
    structure = await with_plans(ground, state, program)
    new = await record(state, structure, program, ground.values, ground.executors)
    steps: list[list[Any]] = []
    found: Divergence | None = None
    known_old, known_new = instances(old.structure, state), instances(structure, state)
    in_old, in_new = set(known_old), set(known_new)
    for node_id in merge_order(known_old, known_new):
        node = state.nodes.get(node_id)
        if node_id not in in_old:
            found = _told(node_id, "node_added", None, structure.node_def(node_id).kind)
        elif node_id not in in_new:
            found = None if node is None else _told(node_id, "node_removed", old.structure.node_def(node_id).kind, None)
        elif node is not None and (node.status in NODE_TERMINAL or node.expansion is not None):
            found = await _check(old, new, node_id, node)
            steps.append([node_id, node.key, node.output, node.status.value])
        if found is not None:
            break
    if found is None and state.status is RunStatus.COMPLETED:
        found = await _check_output(new)
        steps.append([None, None, state.output, state.status.value])
    digest = digest_of([steps, None if found is None else dict(found)])
    return ReplayView(state.run_id, found is None, sum(step[0] is not None for step in steps), digest, found)


async def with_plans(ground: Ground, state: RunState, program: Program) -> Structure:
    """Where the nodes would stand under another definition, with the run's plans as far as they still have a place."""
    structure = program.structure()
    plans = [one for one, node in state.nodes.items() if node.expansion is not None and "plan" in node.expansion]
    for node_id in sorted(plans, key=len):
        expansion = state.nodes[node_id].expansion or {}
        try:
            definition = structure.node_def(node_id)
            steps = parse_plan(
                await ground.values.load(expansion["plan"]),
                inputs=structure.workflow.inputs,
                readable=structure.readable(node_id),
                agent=definition.use if definition.kind == "agent" else None,
            )
            structure.add_plan(node_id, steps)
        except OmiumError as error:
            if error.code in ("integrity", "storage_unavailable"):
                raise
            # The node is gone, gives no plan any more, or would refuse this one: that shows as the divergence.
    return structure


def _told(node_id: NodeId | None, reason: str, recorded: Any, now: Any) -> Divergence:
    return {"node": node_id, "reason": reason, "recorded": recorded, "now": now}


async def _check(old: Recorded, new: Recorded, node_id: NodeId, node: NodeState) -> Divergence | None:
    """How the node comes out differently now; None if it does not."""
    definition = new.structure.node_def(node_id)
    if new.folded.overrides and node.generation != new.folded.generation:
        # It ran before what was overridden since, with inputs that are no longer the run's.
        return _check_hash(old, new, node_id)
    try:
        scope, _ = await new.scope(node_id, definition)
        if not node_id.endswith("]"):
            told = _check_edges(new, node_id, definition, node, scope)
            if told is not None or node.status is NodeStatus.SKIPPED:
                return told
        if "output" in overridden(new.execution, node_id):
            return None  # it was given its output, and would be again
        if node.expansion is not None and not node_id.endswith("]"):
            if definition.for_each is not None:
                return await _check_fan(old, new, node_id, definition, scope)
            if definition.repeat is not None:
                return await _check_loop(new, node_id, definition)
        return await _check_key(old, new, node_id, node)
    except OmiumError as error:
        if error.code in ("integrity", "storage_unavailable", "not_found"):
            raise
        if node.status is NodeStatus.FAILED:
            return None  # it failed then, too; that its own expressions are at fault is as good a reason as any
        return _told(node_id, "definition_changed", node.status.value, f"{error.code}: {error.message}")


def _check_edges(
    new: Recorded, node_id: NodeId, definition: NodeDef, node: NodeState, scope: Mapping[str, Any]
) -> Divergence | None:
    ups = [new.structure.resolve(node_id, need.node) for need in definition.needs]
    if any(up not in new.board.outcomes for up in ups):
        return _told(node_id, "definition_changed", "ready", "waits for a node that has not ended")
    verdict = skip_verdict(new.execution, node_id, definition, scope)
    now = None if verdict is None else verdict[0]
    was = node.reason if node.status is NodeStatus.SKIPPED else None
    if was is not None and was not in _COMPUTED_SKIPS and now is None:
        return None  # a human left it out
    if was != now:
        return _told(
            node_id, "condition_changed", f"skipped: {was}" if was else "run", f"skipped: {now}" if now else "run"
        )
    return None


async def _check_fan(
    old: Recorded, new: Recorded, node_id: NodeId, definition: NodeDef, scope: Mapping[str, Any]
) -> Divergence | None:
    assert definition.for_each is not None
    expansion = new.folded.node(node_id).expansion or {}
    items = render(definition.for_each.items, scope)
    if not isinstance(items, list):
        return _told(node_id, "items_changed", expansion.get("count"), type(items).__name__)
    if digest_of(items) != expansion.get("items"):
        return _told(node_id, "items_changed", expansion.get("count"), len(items))
    key = definition.for_each.key
    if key is not None:
        keys = [key_text(evaluate(key, {**scope, "item": item, "index": place})) for place, item in enumerate(items)]
        if keys != expansion.get("keys"):
            return _told(node_id, "keys_changed", (expansion.get("keys") or [])[:20], keys[:20])
    elif expansion.get("keys") is not None:
        return _told(node_id, "keys_changed", expansion["keys"][:20], None)
    return _check_hash(old, new, node_id)


async def _check_loop(new: Recorded, node_id: NodeId, definition: NodeDef) -> Divergence | None:
    """Whether the loop goes on after each round as it did."""
    assert definition.repeat is not None
    count = int((new.folded.node(node_id).expansion or {}).get("count", 1))
    program = new.program.node(definition)
    for round_ in range(count):
        latest = indexed(node_id, round_)
        outcome = new.board.outcomes.get(latest)
        if outcome is None or outcome.output is None:
            return None
        scope, _ = await scopes.build(new.execution, latest, program.names, program.every)
        output = await new.values.load(outcome.output)
        done = holds(definition.repeat.until, {**scope, "output": output, "iteration": round_})
        ends = done or round_ + 1 >= definition.repeat.max
        if ends and round_ + 1 < count:
            return _told(node_id, "condition_changed", f"{count} rounds", f"{round_ + 1} rounds")
        if not ends and round_ + 1 == count and new.folded.node(node_id).status is NodeStatus.COMPLETED:
            return _told(node_id, "condition_changed", f"{count} rounds", "more rounds")
    return None


async def _check_key(old: Recorded, new: Recorded, node_id: NodeId, node: NodeState) -> Divergence | None:
    """Whether the node is the same, is given the same, and runs the same code."""
    changed = _check_hash(old, new, node_id)
    if node.key is None or node.expansion is not None:
        return changed
    before, after = await _form(old, node_id), await _form(new, node_id)
    definition = new.structure.node_def(node_id)
    try:
        code = new.code(definition)
    except OmiumError as error:
        if error.code == "not_registered":
            return changed or _told(node_id, "code_changed", definition.use, error.message)
        code = None  # this process has no code of that kind: only what it is given can be compared
    if changed is not None:
        return changed
    if digest_of(before) != digest_of(after):
        return _told(node_id, "inputs_changed", digest_of(before), digest_of(after))
    if code is not None and node_key(new.program.node(definition).hash, code, after, node.tree_start) != node.key:
        return _told(node_id, "code_changed", node.key, code)
    return None


def _check_hash(old: Recorded, new: Recorded, node_id: NodeId) -> Divergence | None:
    was = old.program.node(old.structure.node_def(node_id)).hash
    now = new.program.node(new.structure.node_def(node_id)).hash
    return None if was == now else _told(node_id, "definition_changed", was, now)


async def _form(recorded: Recorded, node_id: NodeId) -> Any:
    node = recorded.structure.node_def(node_id)
    scope, outputs = await recorded.scope(node_id, node)
    return given(recorded.execution, node_id, resolve(node.input, scope, outputs)[1])


async def _check_output(new: Recorded) -> Divergence | None:
    """What the run itself gives."""
    workflow, state = new.program.workflow, new.folded
    value: Any
    if workflow.outputs is not None:
        names, every = new.program.names(workflow.outputs)
        scope, _ = await scopes.build(new.execution, None, names, every)
        value = render(workflow.outputs, scope)
    else:
        value = {}
        for name in new.structure.scope(None).leaves():
            outcome = new.board.outcomes.get(NodeId(name))
            if outcome is not None and outcome.output is not None:
                value[name] = await new.values.load(outcome.output)
    now: Digest = digest_of(value)
    return None if now == state.output else _told(None, "outputs_changed", state.output, now)
