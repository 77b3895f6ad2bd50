"""A definition as the engine reads it: parsed once per process, however many runs use it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from omium.orchestration.definition.expressions import references
from omium.orchestration.definition.graph import Graph, Structure
from omium.orchestration.definition.hashing import node_hash
from omium.orchestration.definition.model import NodeDef, WorkflowDef, walk
from omium.orchestration.definition.schema import WorkflowFile, to_workflow
from omium.orchestration.engine.gates import step_gate
from omium.orchestration.ids import Digest

_KEEP = 256


@dataclass(frozen=True, slots=True)
class NodeProgram:
    """hash: of what the node computes; names: ids of nodes that its templates and conditions read; every: it reads
    `nodes` as a whole; plain: whether it may start says its edges alone, so that nothing is read to decide it; ungated:
    and nobody is asked before."""

    hash: str
    names: tuple[str, ...]
    every: bool
    plain: bool
    ungated: bool


class Program:
    """A workflow with what is worth computing once."""

    def __init__(self, workflow: WorkflowDef) -> None:
        self.workflow = workflow
        self.conditions: tuple[tuple[str, ...], bool] = ((), False)  # what the conditions of its approvals read
        if workflow.approvals == "custom":
            self.conditions = _names("${{ " + condition + " }}" for condition in workflow.approval_conditions)
        nodes = [node for _, node in walk(workflow.nodes)]
        self.has_plans = any(node.expands for node in nodes)
        self.has_children = self.has_plans or any(node.kind == "workflow" for node in nodes)
        self._nodes: dict[int, tuple[NodeDef, NodeProgram]] = {}  # by identity; the definition is kept alive with it
        self._graph: Graph | None = None

    def structure(self) -> Structure:
        """A structure for one run, which its plans will change; the graph of the workflow is shared by all."""
        if self._graph is None:
            self._graph = Graph(self.workflow.nodes)
        return Structure(self.workflow, self._graph)

    def node(self, node: NodeDef) -> NodeProgram:
        known = self._nodes.get(id(node))
        if known is None:
            names, every = _names(sources(node))
            plain = self.workflow.approvals != "custom" and _is_plain(node)
            ungated = plain and step_gate(self.workflow, node, {}) is None
            known = self._nodes[id(node)] = (node, NodeProgram(node_hash(node), names, every, plain, ungated))
        return known[1]

    def names(self, template: Any) -> tuple[tuple[str, ...], bool]:
        """The node ids that a template of the workflow itself reads, and whether it reads `nodes` as a whole."""
        return _names([template])


def _is_plain(node: NodeDef) -> bool:
    return (
        node.kind in ("function", "agent", "tool", "cli")
        and node.when is None
        and node.approval is None
        and node.for_each is None
        and node.repeat is None
        and all(need.when is None for need in node.needs)
    )


def sources(node: NodeDef) -> list[Any]:
    """Every template of a node, conditions made into templates."""
    sources: list[Any] = [node.input, node.output]
    conditions: list[str | None] = [node.when, *node.requires, *node.expects, *(need.when for need in node.needs)]
    if node.for_each is not None:
        sources.append(node.for_each.items)
        conditions.append(node.for_each.key)
    if node.repeat is not None:
        conditions.append(node.repeat.until)
    if node.approval is not None:
        sources += [node.approval.prompt, node.approval.show]
    if node.wait is not None:
        sources += [node.wait.seconds, node.wait.until]
    return sources + ["${{ " + condition + " }}" for condition in conditions if condition]


def _names(templates: Iterable[Any]) -> tuple[tuple[str, ...], bool]:
    mentioned = set().union(*(references(template) for template in templates if template is not None), set())
    names = sorted(name.removeprefix("nodes.") for name in mentioned if name.startswith("nodes."))
    return tuple(names), "nodes" in mentioned


class Programs:
    """The definitions used lately, by digest."""

    def __init__(self) -> None:
        self._known: OrderedDict[Digest, Program] = OrderedDict()

    def get(self, digest: Digest) -> Program | None:
        found = self._known.get(digest)
        if found is not None:
            self._known.move_to_end(digest)
        return found

    def put(self, digest: Digest, document: Any) -> Program:
        """Parse the stored document of a definition, which was validated before it was stored."""
        return self.keep(digest, Program(to_workflow(WorkflowFile.model_validate(document))))

    def keep(self, digest: Digest, program: Program) -> Program:
        self._known[digest] = program
        if len(self._known) > _KEEP:
            self._known.popitem(last=False)
        return program
