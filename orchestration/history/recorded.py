"""A run as its log tells it, for whoever reads its expressions without executing anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from omium.orchestration.definition.address import child, container_of, indexed
from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.model import NodeDef, walk
from omium.orchestration.engine import scopes
from omium.orchestration.engine.board import Board
from omium.orchestration.engine.programs import Program
from omium.orchestration.engine.recall import Recall
from omium.orchestration.engine.values import ValueCache
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, NodeId
from omium.orchestration.log.state import NodeStatus, RunState
from omium.orchestration.ports import Executor

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution


class Recorded:
    """What the engine's readings of a run need (`engine.scopes`, `engine.starting`), filled from a fold.

    folded: the state; structure and program: of the definition that is read with it, which need not be its own."""

    def __init__(
        self,
        folded: RunState,
        structure: Structure,
        program: Program,
        values: ValueCache,
        inputs: Any,
        executors: Callable[[NodeDef], Executor] | None = None,
    ) -> None:
        self.folded = folded
        self.structure = structure
        self.program = program
        self.values = values
        self.inputs = inputs
        self.engine = self  # the readings ask the engine for nothing but values
        self.board = Board(structure)
        self.board.restore(folded)
        self._executors = executors
        self._items: dict[NodeId, tuple[Any, Sequence[str] | None]] = {}
        self.recall = Recall(self.execution)

    @property
    def execution(self) -> Execution:
        """This, for the engine's own readings: they only look at what is here."""
        return cast("Execution", self)

    async def items_of(self, node_id: NodeId) -> tuple[Any, Sequence[str] | None]:
        """The items of a fan-out and their keys, as they were when it expanded."""
        if node_id not in self._items:
            expansion = self.folded.node(node_id).expansion or {}
            self._items[node_id] = (await self.values.load(expansion["items"]), expansion.get("keys"))
        return self._items[node_id]

    def code(self, node: NodeDef) -> str:
        """The digest of the code behind a node. Raises `unsupported` and `not_registered`, as starting it would."""
        if self._executors is None:
            raise OmiumError("unsupported", f"this process does not execute nodes of kind {node.kind!r}.")
        return self._executors(node).digest(node.use or "")

    async def scope(self, node_id: NodeId, node: NodeDef) -> tuple[dict[str, Any], dict[str, Digest]]:
        """The variables for a node's expressions, and the digests of the outputs among them."""
        program = self.program.node(node)
        return await scopes.build(self.execution, node_id, program.names, program.every)


async def record(
    folded: RunState,
    structure: Structure,
    program: Program,
    values: ValueCache,
    executors: Callable[[NodeDef], Executor] | None = None,
) -> Recorded:
    """A recorded run with its inputs, overridden ones included. Raises what loading a value raises."""
    stored: Any = await values.load(folded.inputs)
    return Recorded(folded, structure, program, values, {**stored, **folded.overrides.get("inputs", {})}, executors)


def instances(structure: Structure, state: RunState) -> list[NodeId]:
    """Every node that there is, in an order in which what is needed comes first and what is inside before its
    container: those of the definition, and of what has expanded."""
    inside: dict[NodeId | None, list[NodeId]] = {}
    for node_id in state.nodes:
        inside.setdefault(container_of(node_id), []).append(node_id)
    found: list[NodeId] = []

    def visit(node_id: NodeId) -> None:
        node = structure.node_def(node_id)
        expansion = state.node(node_id).expansion
        whole = node_id.endswith("]") or not (node.for_each or node.repeat)
        if expansion is not None and whole and ("plan" in expansion or node.kind == "group"):
            visit_scope(node_id)
        elif expansion is not None:
            for expanded in expansions(node_id, expansion, inside.get(node_id, ())):
                visit(expanded)
        found.append(node_id)

    def visit_scope(container: NodeId | None) -> None:
        for name in structure.scope(container).order():
            visit(child(container, name))

    visit_scope(None)
    return found


def expansions(node_id: NodeId, expansion: Mapping[str, Any], known: Iterable[NodeId]) -> list[NodeId]:
    """The expansions of a node in their order, without what an earlier expansion of it left."""
    there = set(known)
    return [one for one in expected(node_id, expansion) if one in there]


def expected(node_id: NodeId, expansion: Mapping[str, Any]) -> list[NodeId]:
    """All that a node expands to, in their order, be there anything of them or not."""
    keys = expansion.get("keys")
    return [indexed(node_id, name) for name in (keys if keys is not None else range(int(expansion.get("count", 0))))]


def read_next(recorded: Recorded) -> dict[Digest, str]:
    """The values that are read when the run goes on from here, each with what it is: the outputs that unfinished nodes
    mention, the run's inputs, the items and plans of what is open. Others may be read by a human, not by the run."""
    state, structure = recorded.folded, recorded.structure
    found: dict[Digest, str] = {state.inputs: "the inputs"}

    def note(instance: NodeId | None) -> None:
        outcome = recorded.board.outcomes.get(instance) if instance is not None else None
        if outcome is not None and outcome.output is not None:
            found[outcome.output] = f"the output of {instance}"

    for node_id in instances(structure, state):
        node = state.node(node_id)
        for kind in ("items", "plan"):
            if node.expansion is not None and kind in node.expansion:
                found[node.expansion[kind]] = f"the {kind} of {node_id}"
        if node_id in recorded.board.outcomes:
            continue
        for call, held in {**(node.restored or {}), **(node.points or {})}.items():
            found[held] = f"what the checkpoint {call} of {node_id} holds"
        for name in _mentioned(recorded, structure.node_def(node_id), structure, node_id):
            note(structure.resolve(node_id, name))
    workflow = recorded.program.workflow
    names, every = recorded.program.names(workflow.outputs) if workflow.outputs is not None else ((), False)
    root = structure.scope(None)
    last: Iterable[str] = root.nodes if every else names if workflow.outputs is not None else root.leaves()
    for name in last:
        note(NodeId(name))
    return found


def _mentioned(recorded: Recorded, node: NodeDef, structure: Structure, node_id: NodeId) -> set[str]:
    names: set[str] = set()
    for _, inner in walk((node,)):
        program = recorded.program.node(inner)
        names |= set(program.names)
        if program.every:
            names |= set(structure.scope(container_of(node_id) if not node_id.endswith("]") else None).nodes)
    return names


def cost_of(state: RunState, nodes: Iterable[NodeId]) -> tuple[float, int, int]:
    """What nodes took when they last ran: US dollars, tokens, milliseconds. Containers have none of their own."""
    dollars, tokens, us = 0.0, 0, 0
    for node_id in nodes:
        node = state.node(node_id)
        usage = node.usage or {}
        dollars += float(usage.get("cost_usd") or 0.0)
        tokens += int(usage.get("tokens") or 0)
        if node.started_at is not None and node.ended_at is not None and node.expansion is None:
            us += node.ended_at - node.started_at
    return dollars, tokens, us // 1000


def has_run(state: RunState, node_id: NodeId) -> bool:
    """Whether anything became of the node in its present generation."""
    node = state.nodes.get(node_id)
    return node is not None and (node.status is not NodeStatus.PENDING or node.attempt > 0)
