"""Two runs side by side: aligned by node, with the place where they part."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from omium.orchestration.definition.graph import Structure
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.recorded import cost_of
from omium.orchestration.ids import Digest, NodeId
from omium.orchestration.log.state import NODE_TERMINAL, NodeState, NodeStatus, RunState
from omium.orchestration.service.views import ComparisonView, GivenDifference, NodeDifference, NodeView, RunView

DIFF_LINES = 200
DIFF_NODES = 200
PATCH_LIMIT = 16 * 1024
_LINE = 500
_CONTEXT = 3

Side = tuple[RunState, Structure, Sequence[NodeId], Mapping[NodeId, NodeView]]


def merge_order(a: Sequence[NodeId], b: Sequence[NodeId]) -> list[NodeId]:
    """Both orders in one: the nodes of `b` alone stand before the common node that they stand before in `b`."""
    in_a = set(a)
    place = {node_id: index for index, node_id in enumerate(b)}
    merged: list[NodeId] = []
    taken = 0
    for node_id in a:
        if node_id in place and place[node_id] >= taken:
            merged += [one for one in b[taken : place[node_id]] if one not in in_a]
            taken = place[node_id] + 1
        merged.append(node_id)
    return merged + [one for one in b[taken:] if one not in in_a]


def change_of(a: NodeState | None, b: NodeState | None, same_output: bool | None = None) -> str:
    """How a node of one run stands to the same of the other; what never came to run is in neither. `same_output`: what
    is known of the outputs beyond their digests."""
    a, b = (None if node is None or node.status is NodeStatus.PENDING else node for node in (a, b))
    if a is None or b is None:
        return "same" if a is b else ("only_b" if a is None else "only_a")
    outputs = a.output == b.output if same_output is None else same_output
    alike = (a.status, a.reason, a.failures, _error(a)) == (b.status, b.reason, b.failures, _error(b))
    return "same" if alike and outputs else "changed"


_OF_ONE_RUN = frozenset({"approval", "waited_until", "decided_by", "decided_at", "assurance"})
"""What outputs of gates and waits say of one run alone: its ids and times, and who happened to decide."""


def _is_gate(side: Side, node_id: NodeId) -> bool:
    try:
        return side[1].node_def(node_id).kind in ("approval", "wait")
    except OmiumError:
        return False


def _decision(value: Any) -> Any:
    """Of a gate's output, what a run can be compared by."""
    if not isinstance(value, Mapping):
        return value
    return {name: item for name, item in value.items() if name not in _OF_ONE_RUN}


async def _same_output(ground: Ground, a: Side, b: Side, node_id: NodeId) -> bool | None:
    """Whether two gates gave the same decision, or two waits the same signal; None where the digests say all."""
    first, second = _output(a[0], node_id), _output(b[0], node_id)
    if first is None or second is None or first == second:
        return None
    if not (_is_gate(a, node_id) and _is_gate(b, node_id)):
        return None
    try:
        return bool(_decision(await ground.store.value(first)) == _decision(await ground.store.value(second)))
    except OmiumError:
        return None


async def _outputs_equal(ground: Ground, a: Side, b: Side) -> bool | None:
    """Whether the runs gave the same; None while neither has given anything. What gates gave counts as above."""
    first, second = a[0].output, b[0].output
    if first is None and second is None:
        return None
    if first is None or second is None or first == second:
        return first == second
    try:
        values = [await ground.store.value(one) for one in (first, second)]
    except OmiumError:
        return False
    if any(
        side[1].workflow.outputs is not None or not isinstance(one, dict)
        for side, one in zip((a, b), values, strict=True)
    ):
        return False  # what a workflow declares as its output is compared as it stands
    plain = [
        {name: _decision(item) if _is_gate(side, NodeId(name)) else item for name, item in one.items()}
        for side, one in zip((a, b), values, strict=True)
        if isinstance(one, dict)
    ]
    return plain[0] == plain[1]


def _error(node: NodeState) -> Any:
    error = node.error if node.status is NodeStatus.FAILED else None
    return None if error is None else (error.get("category"), error.get("message"))


async def compare(ground: Ground, run_a: RunView, run_b: RunView, a: Side, b: Side) -> ComparisonView:
    """The comparison of two states. Output diffs are bounded in lines and number; what cannot be read is said there."""
    order = merge_order(a[2], b[2])
    known = [one for one in order if one in a[0].nodes or one in b[0].nodes]
    differences: list[NodeDifference] = []
    first: NodeId | None = None
    shown = 0
    for node_id in known:
        alike = await _same_output(ground, a, b, node_id)
        change: Any = change_of(a[0].nodes.get(node_id), b[0].nodes.get(node_id), alike)
        if change == "same" and node_id not in a[3] and node_id not in b[3]:
            continue
        text = None
        if change != "same":
            first = first or node_id
            if shown < DIFF_NODES:
                text = await output_diff(ground, _output(a[0], node_id), _output(b[0], node_id), node_id)
                shown += text is not None
        differences.append(NodeDifference(node_id, change, a[3].get(node_id), b[3].get(node_id), text))
    costs = [
        cost_of(state, [one for one in state.nodes if state.nodes[one].status in NODE_TERMINAL])
        for state in (a[0], b[0])
    ]
    return ComparisonView(
        a=run_a,
        b=run_b,
        first_divergence=first,
        nodes=differences,
        files=await ground.changed_files(a[0].tree, b[0].tree, PATCH_LIMIT),
        cost_usd=(costs[0][0], costs[1][0]),
        tokens=(costs[0][1], costs[1][1]),
        duration_ms=(_duration(a[0]), _duration(b[0])),
        decisions=await _decisions(ground, a[0], b[0]),
        outputs_equal=await _outputs_equal(ground, a, b),
        inputs=_given_differences(await _inputs(ground, a[0]), await _inputs(ground, b[0])),
        overrides=_given_differences(_changed_nodes(a[0]), _changed_nodes(b[0])),
    )


async def _inputs(ground: Ground, state: RunState) -> dict[str, Any]:
    """What the run was given, with what was changed later."""
    try:
        given = await ground.store.value(state.inputs)
    except OmiumError as error:
        return {"(all)": f"cannot be read: {error.code}"}
    first = dict(given) if isinstance(given, Mapping) else {}
    return {**first, **state.overrides.get("inputs", {})}


def _changed_nodes(state: RunState) -> dict[str, Any]:
    """The overrides of nodes that are in force, one entry for each value."""
    found: dict[str, Any] = {}
    for node_id, change in state.overrides.get("nodes", {}).items():
        if "output" in change:
            found[f"{node_id}.output"] = change["output"]
        for name, value in (change.get("with") or {}).items():
            found[f"{node_id}.with.{name}"] = value
    return found


def _given_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[GivenDifference]:
    """By name; at most as many as there are diffs of nodes."""
    texts = [{name: _json(value) for name, value in side.items()} for side in (a, b)]
    names = [name for name in sorted({*a, *b}) if texts[0].get(name) != texts[1].get(name)]
    return [
        GivenDifference(name, *(_short(side[name]) if name in side else None for side in texts))
        for name in names[:DIFF_NODES]
    ]


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _short(text: str) -> str:
    return text if len(text) <= _LINE else f"{text[:_LINE]}..."


def _output(state: RunState, node_id: NodeId) -> Digest | None:
    node = state.nodes.get(node_id)
    return node.output if node is not None else None


def _duration(state: RunState) -> int | None:
    """Milliseconds from start to end; None while it has not ended."""
    return None if state.started_at is None or state.ended_at is None else (state.ended_at - state.started_at) // 1000


async def output_diff(ground: Ground, a: Digest | None, b: Digest | None, name: str) -> str | None:
    """A unified diff of two values as indented JSON; None when they are equal."""
    if a == b:
        return None
    old, new = await _lines(ground, a), await _lines(ground, b)
    lines = list(difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", lineterm="", n=_CONTEXT))
    if len(lines) > DIFF_LINES:
        lines = [*lines[:DIFF_LINES], f"... {len(lines) - DIFF_LINES} more lines"]
    return "\n".join(line if len(line) <= _LINE else f"{line[:_LINE]}..." for line in lines)


async def _lines(ground: Ground, digest: Digest | None) -> list[str]:
    if digest is None:
        return []
    try:
        value = await ground.store.value(digest)
    except OmiumError as error:
        return [f"(cannot be read: {error.code})"]
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, default=str)
    lines = text.splitlines()
    # difflib is quadratic at worst: beyond this only the beginnings are told apart.
    return lines if len(lines) <= 2_000 else [*lines[:2_000], f"... {len(lines) - 2_000} more lines, {digest[:12]}"]


async def _decisions(ground: Ground, a: RunState, b: RunState) -> list[Mapping[str, Any]]:
    """Where humans decided differently, or one of the runs asked and the other did not."""
    old, new = await _decided(ground, a), await _decided(ground, b)
    return [
        {"node": node_id, "a": old.get(node_id), "b": new.get(node_id)}
        for node_id in sorted({*old, *new})
        if old.get(node_id) != new.get(node_id)
    ]


async def _decided(ground: Ground, state: RunState) -> dict[NodeId, dict[str, Any]]:
    """Of the nodes that have asked; the decision is None as long as there is none."""
    found: dict[NodeId, dict[str, Any]] = {}
    for node_id, node in state.nodes.items():
        if node.approval is None:
            continue
        own = state.approvals.get(node.approval)
        row = own if own is not None else await ground.store.approval(node.approval)  # a branch has its parent's
        if row is not None:
            found[node_id] = {"decision": row.decision, "feedback": row.feedback}
    return found
