"""Playing a node again: it and everything that depends on it run anew, the rest keeps its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from omium.orchestration.definition.graph import Structure
from omium.orchestration.engine.inputs import node_key, resolve
from omium.orchestration.engine.starting import REUSABLE, given
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.known import known_below
from omium.orchestration.history.ledger import deeds_of, to_be_reused
from omium.orchestration.history.overrides import check_nodes, merged_inputs
from omium.orchestration.history.plans import Draft
from omium.orchestration.history.recorded import Recorded, cost_of, has_run, instances, record
from omium.orchestration.history.reset import Reset, plan_reset, spared_writers
from omium.orchestration.history.rollback import asked
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.log.below import Below
from omium.orchestration.log.fold import merge_overrides
from omium.orchestration.log.state import NODE_TERMINAL, NodeState, NodeStatus, RunState, RunStatus
from omium.orchestration.service.views import Reuse

IN_A_CHILD = frozenset({RunStatus.COMPLETED, RunStatus.CANCELLED})
"""Runs that have ended so stay as they are: what is played again of them is a new run."""


@dataclass(frozen=True, slots=True)
class Play:
    """A replay, worked out. tree: what the workspace returns to; None when no node that is reset has written files."""

    draft: Draft
    state: RunState
    structure: Structure
    reset: Reset
    tree: str | None
    overrides: Mapping[str, Any]
    reuse: Reuse
    below: Below


async def plan_play(
    ground: Ground, run_id: RunId, node_id: NodeId, overrides: Mapping[str, Any], reuse: Reuse, *, preview: bool
) -> Play:
    """What playing again from a node would do. `overrides` have their form already.

    Raises `not_found` (the node), `invalid_argument` and `forbidden` (the overrides), `integrity`."""
    state = await ground.state(run_id)
    structure = await ground.structure(state)
    reset = plan_reset(structure, state, node_id)
    again = set(reset.nodes) | set(reset.listed)
    check_nodes(overrides, structure, state, lambda one: one in again or not has_run(state, one))
    recorded = await ground.check_loadable(state)
    merged_inputs(structure, recorded.inputs, overrides)
    tree = start_tree(state, reset)
    waiting = to_be_reused(state)
    below = await known_below(ground.store, state, lambda one: one in again)
    reruns = tuple(one for one in reset.nodes if has_run(state, one) or one in waiting)
    reused: tuple[NodeId, ...] = ()
    left = tree
    if preview and reuse == "unchanged":
        reused, left = await predict_reuse(ground, recorded, reset, overrides, tree)
    notes = _notes(structure, state, reset, overrides)
    if reused and not set(reruns) - set(reused) - _containers(state):
        notes += ("Nothing has changed, so every result would be taken over as it is.",)
    draft = Draft(
        operation="play_from_node",
        run_id=run_id,
        at=state.seq,
        arguments={"node": node_id, "overrides": overrides, "reuse": reuse},
        definition=state.definition,
        generation=state.generation,
        in_place=state.status not in IN_A_CHILD,
        reruns=tuple(one for one in reruns if one not in set(reused)),
        reused=reused,
        asked_again=asked(state, reruns),
        repeats=[
            deed for deed in await deeds_of(ground.store, state, lambda one: one in again) if deed.node not in reused
        ],
        files=await ground.changed_files(state.tree, left) if preview else (),
        cost=cost_of(state, reruns),
        saved=cost_of(state, reused)[:2],
        notes=notes,
    )
    return Play(draft, state, structure, reset, tree, overrides, reuse, below)


def _containers(state: RunState) -> set[NodeId]:
    return {node_id for node_id, node in state.nodes.items() if node.expansion is not None}


def _notes(structure: Structure, state: RunState, reset: Reset, overrides: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    lost = spared_writers(structure, state, reset)
    if lost:
        names = ", ".join(lost[:5])
        notes.append(
            f"The files that {names} wrote are gone afterwards, although their results stay: they were written after"
            f" {reset.first_writer} began."
        )
    old = [
        one for one in state.overrides.get("nodes", {}) if one in reset.listed and one not in overrides.get("nodes", {})
    ]
    if old:
        notes.append(f"Earlier overrides stay in force: {', '.join(sorted(old))}. An empty override takes one back.")
    return tuple(notes)


def start_tree(state: RunState, reset: Reset) -> str | None:
    """The files from which the earliest of the writers that are reset started."""
    return None if reset.first_writer is None else state.nodes[reset.first_writer].tree_start


async def predict_reuse(
    ground: Ground, recorded: Recorded, reset: Reset, overrides: Mapping[str, Any], tree: str | None
) -> tuple[tuple[NodeId, ...], str | None]:
    """The nodes whose results will stand because nothing that they depend on changes, and the files with which the
    first that is executed may begin: those of `tree`, to which the workspace returns, with what is taken over. Early
    cut-off may spare more: that shows only when the nodes before them have run."""
    state = recorded.folded
    files, written = tree or state.restoring or state.tree, False  # whether by a node that is executed
    folded = replace(state, overrides=merge_overrides(state.overrides, overrides))
    changed = await record(folded, recorded.structure, recorded.program, ground.values, ground.executors)
    reused: list[NodeId] = []
    again = set(reset.nodes)
    fresh: set[NodeId] = set()  # those that will give something new, as far as is known
    # In the order in which they ended, as what they need and what is inside of them did before, and writers in turn.
    there = [one for one in instances(recorded.structure, state) if one in again]
    for node_id in sorted(there, key=lambda one: _ended(state, state.node(one))):
        around = (node_id, *recorded.structure.containers(node_id))
        upstream = {up for one in around for up in recorded.structure.needs_of(one)}
        node = state.node(node_id)
        kept = node.status is NodeStatus.COMPLETED and not any(one in fresh for one in upstream)
        if node.expansion is not None:
            inside = (one for one in fresh if one.startswith((f"{node_id}[", f"{node_id}.")))
            if not kept or any(inside):
                fresh.add(node_id)
            continue
        use = recorded.structure.node_def(node_id).workspace
        as_before = use == "none" or (not written and node.tree_start == files)
        if kept and as_before and await _same_key(changed, node_id):
            reused.append(node_id)
            files = node.tree or files
        else:
            fresh.add(node_id)
            written = written or use == "write"
    return tuple(reused), tree and files


def _ended(state: RunState, node: NodeState) -> tuple[bool, int, int]:
    """Where a node ended, comparable as `RunState.begun` is; those that have not come last."""
    return node.status not in NODE_TERMINAL, state.begun(node)[0], node.seq


async def _same_key(recorded: Recorded, node_id: NodeId) -> bool:
    """Whether the node, started now, would have the key that its result has."""
    node, known = recorded.structure.node_def(node_id), recorded.folded.node(node_id)
    if known.key is None or node.kind not in REUSABLE or node.expands:
        return False
    if "output" in (recorded.folded.overrides.get("nodes", {}).get(node_id) or {}):
        return False
    return await key_of(recorded, node_id, known.tree_start) == known.key


async def key_of(recorded: Recorded, node_id: NodeId, tree: str | None) -> str | None:
    """The key that a node would have if it were started now; None when its input or its code cannot be had."""
    node = recorded.structure.node_def(node_id)
    try:
        scope, outputs = await recorded.scope(node_id, node)
        form = given(recorded.execution, node_id, resolve(node.input, scope, outputs)[1])
        code = recorded.code(node)
    except OmiumError:
        return None
    return node_key(recorded.program.node(node).hash, code, form, tree)
