"""Which nodes playing again from a node resets, and to which files the workspace returns. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from omium.orchestration.definition.address import child, container_of, vertex_of
from omium.orchestration.definition.graph import Structure
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.recorded import expansions
from omium.orchestration.ids import NodeId
from omium.orchestration.log.again import Again
from omium.orchestration.log.state import NodeState, RunState


@dataclass(frozen=True, slots=True)
class Reset:
    """listed: what the log records, the played node first; nodes: those of them that the run knows and that run again;
    first_writer: the one whose start tree the workspace returns to, None when no node that is reset wrote files."""

    listed: tuple[NodeId, ...]
    nodes: tuple[NodeId, ...]
    first_writer: NodeId | None


def plan_reset(structure: Structure, state: RunState, node_id: NodeId) -> Reset:
    """What playing again from this node does. Raises `not_found` when the run has no such node."""
    check_exists(structure, state, node_id)
    around = set(state.nodes)
    for container in (None, *structure.containers(node_id)):
        if container is None or not _is_expanded(structure, container):
            around |= set(structure.children_of(container))
    listed = (node_id, *sorted(structure.affected(node_id, around) - {node_id}))
    again = Again(listed, state)
    nodes = {one for one in state.nodes if again.resets(one)}
    writer = _first_writer(structure, state, nodes)
    if writer is not None:
        # The files go back beneath whatever works with them now, so that starts again as well.
        busy = [one for one, node in state.nodes.items() if _uses_files(structure, one, node) and one not in nodes]
        listed, nodes = (*listed, *sorted(busy)), nodes | set(busy)
    return Reset(listed, tuple(sorted(nodes)), writer)


def _is_expanded(structure: Structure, container: NodeId) -> bool:
    """Whether what is directly inside of it are its expansions (`fan` of `fan[3]`), and no scope of the definition."""
    node = structure.node_def(container)
    return not container.endswith("]") and (node.for_each is not None or node.repeat is not None)


def check_exists(structure: Structure, state: RunState, node_id: NodeId) -> None:
    """Raises `not_found`, with the nearest ids, unless the run has this node, or would have it if it came so far."""
    problem = _missing(structure, state, node_id)
    if problem is None:
        return
    names = {*state.nodes, *structure.children_of(None)}
    close = difflib.get_close_matches(node_id, sorted(names), n=20) if len(names) <= 2000 else []
    near = [one for one in close if _missing(structure, state, NodeId(one)) is None][:3]
    hint = f"Did you mean {', '.join(near)}?" if near else "Look at the run to see its nodes."
    raise OmiumError("not_found", f"run {state.run_id} has no node {node_id!r}: {problem}.", hint)


def _missing(structure: Structure, state: RunState, node_id: NodeId) -> str | None:
    """Why there is no such node; None when there is."""
    try:
        structure.node_def(node_id)
    except OmiumError as error:
        if error.code == "invalid_argument":
            raise
        return f"the workflow {structure.workflow.name!r} has no such node"
    around = (node_id, *structure.containers(node_id))
    unknown = [one for one in around if one.endswith("]") and not _has_expanded(state, one)]
    return f"{unknown[-1]!r} has not expanded in this run" if unknown else None


def _has_expanded(state: RunState, instance: NodeId) -> bool:
    """Whether there is this instance now; the log may know of one from before a rollback, or from an earlier round."""
    container = container_of(instance)
    expansion = state.node(container).expansion if container is not None else None
    return expansion is not None and instance in expansions(NodeId(container or ""), expansion, state.nodes)


def _first_writer(structure: Structure, state: RunState, nodes: Iterable[NodeId]) -> NodeId | None:
    wrote = [
        (state.begun(state.nodes[one]), one)
        for one in nodes
        if state.nodes[one].tree is not None or state.nodes[one].tree_start is not None
        if structure.node_def(one).workspace == "write"
    ]
    return min(wrote)[1] if wrote else None


def _uses_files(structure: Structure, node_id: NodeId, node: NodeState) -> bool:
    return node.in_flight and structure.node_def(node_id).workspace != "none"


def readers(structure: Structure, state: RunState) -> frozenset[str]:
    """The vertices that use the files and do not write: those of the definition, and of plans as far as they began."""
    began = (one for one, node in state.nodes.items() if node.tree_start is not None)
    found = {vertex_of(one) for one in began if structure.node_def(one).workspace == "read"}
    todo = [(child(None, node.id), node) for node in structure.workflow.nodes]
    while todo:
        name, node = todo.pop()
        if node.workspace == "read":
            found.add(name)
        todo += [(child(name, one.id), one) for one in node.body]
    return frozenset(found)


def spared_writers(structure: Structure, state: RunState, reset: Reset) -> list[NodeId]:
    """Nodes that keep their results although the files that they wrote are not in the tree that is returned to."""
    if reset.first_writer is None:
        return []
    began = state.begun(state.nodes[reset.first_writer])
    kept = set(state.nodes) - set(reset.nodes)
    return sorted(
        one
        for one in kept
        if state.nodes[one].tree is not None
        and state.begun(state.nodes[one]) >= began
        and structure.node_def(one).workspace == "write"
    )
