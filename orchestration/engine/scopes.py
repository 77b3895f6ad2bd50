"""What the expressions of a node see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from omium.orchestration.definition.address import container_of
from omium.orchestration.ids import Digest, NodeId
from omium.orchestration.log.state import NodeStatus

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution


async def build(
    run: Execution, node_id: NodeId | None, names: Iterable[str], every: bool
) -> tuple[dict[str, Any], dict[str, Digest]]:
    """The variables for a node's expressions (for the run's own when None), and the digests of the outputs among them.

    Only what `names` mentions is read, unless `every` asks for all siblings."""
    wanted = set(names)
    if every:
        wanted |= set(run.structure.scope(container_of(node_id) if node_id is not None else None).nodes)
    nodes: dict[str, Any] = {}
    outputs: dict[str, Digest] = {}
    for name in wanted:
        instance = run.structure.resolve(node_id, name) if node_id is not None else NodeId(name)
        if instance is None:
            continue
        outcome = run.board.outcomes.get(instance)
        if outcome is None:
            continue
        told: dict[str, Any] = {"state": outcome.status._value_, "output": None, "error": None}
        if outcome.output is not None:
            found = run.engine.values.at_hand(outcome.output)
            told["output"] = found[0] if found else await run.engine.values.load(outcome.output, outcome.size)
            outputs[name] = outcome.output
        elif outcome.status is NodeStatus.FAILED:
            told["error"] = outcome.error
        nodes[name] = told
    scope: dict[str, Any] = {"inputs": run.inputs, "nodes": nodes, "run": _about(run)}
    if node_id is not None and "[" in node_id:
        scope.update(await _expansion(run, node_id))
    return scope, outputs


def _about(run: Execution) -> Mapping[str, Any]:
    state = run.folded
    return {
        "id": state.run_id,
        "workflow": state.workflow,
        "project": state.project,
        "title": state.title,
        "generation": state.generation,
    }


async def _expansion(run: Execution, node_id: NodeId) -> dict[str, Any]:
    """`item`, `index` and `key` of the innermost fan-out that the node is inside of; `iteration` and `previous` of the
    innermost loop."""
    found: dict[str, Any] = {}
    at: NodeId | None = node_id
    while at is not None:
        outer = container_of(at)
        if at.endswith("]") and outer is not None:
            definition = run.structure.node_def(outer)
            index = at[len(outer) + 1 : -1]
            if definition.for_each is not None and "item" not in found:
                items, _, places = await run.recall.items_of(outer)
                place = places[index] if places is not None else int(index)
                found |= {"item": items[place], "index": place, "key": index}
            if definition.repeat is not None and "iteration" not in found:
                found |= {"iteration": int(index), "previous": await _previous(run, outer, int(index))}
        at = outer
    return found


async def _previous(run: Execution, loop: NodeId, index: int) -> Any:
    outcome = run.board.outcomes.get(NodeId(f"{loop}[{index - 1}]"))
    if outcome is None or outcome.output is None:
        return None
    return await run.engine.values.load(outcome.output)
