"""A dry run: the order of the nodes, where it would ask, and what it is likely to take. Nothing is executed or
stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from omium.orchestration.definition.failing import fits
from omium.orchestration.definition.graph import Graph
from omium.orchestration.definition.hashing import definition_hash
from omium.orchestration.definition.json_schema import validate_inputs
from omium.orchestration.definition.model import NodeDef, WorkflowDef
from omium.orchestration.engine.gates import step_gate
from omium.orchestration.log.state import NodeStatus
from omium.orchestration.ports import RunQuery
from omium.orchestration.service import roles
from omium.orchestration.service.reading import Reading
from omium.orchestration.service.views import Caller, SimulatedNode, SimulationView

_DOES = {"ask": "asks", "abort": "the run fails", "fail": "only the node fails"}
_BEFORE = ""  # stands before the first nodes; no node has this id
_SAMPLES = 5  # completed runs of the workflow whose times stand for the next one's


class SimulationService(Reading):
    """The verb `simulate`."""

    async def simulate(self, caller: Caller, workflow: str, inputs: Mapping[str, Any] | None = None) -> SimulationView:
        """What a run of a registered workflow would do. Inputs, when given, are checked as for a run.

        Estimates are medians over the last completed runs of the same workflow, waiting for decisions left out; None
        where there is none. Raises `not_found`, `invalid_argument`."""
        roles.check(caller, "simulate")
        _, definition = await self.get_workflow(caller, workflow)
        if inputs is not None:
            validate_inputs(definition, dict(inputs))
        times, costs = await self._history(caller, workflow)
        way, longest_ms = _longest_way(definition, times)
        order = [
            _simulated(definition, node, path, level, times.get(path), costs.get(path))
            for path, node, level in _ordered(definition.nodes, "", 0)
        ]
        known = [one.estimate_cost_usd for one in order if one.estimate_cost_usd is not None]
        return SimulationView(
            workflow=definition.name,
            definition=definition_hash(definition),
            order=order,
            approvals=sum(one.asks is not None for one in order),
            estimate_ms=longest_ms,
            longest_way=way,
            estimate_cost_usd=sum(known) if known else None,
            warnings=[str(problem) for problem in self.catalog.warnings(definition)],
        )

    async def _history(self, caller: Caller, workflow: str) -> tuple[dict[str, int], dict[str, float]]:
        """Median milliseconds and US dollars by node, over the last completed runs."""
        query = RunQuery(
            projects=(caller.project,), owner=caller.only, statuses=("completed",), workflow=workflow, limit=_SAMPLES
        )
        times: dict[str, list[int]] = {}
        costs: dict[str, list[float]] = {}
        for row in await self.store.runs(query):
            state = await self.store.state(row.id)
            for node_id, node in state.nodes.items():
                if node.status is not NodeStatus.COMPLETED or node.started_at is None or node.ended_at is None:
                    continue
                times.setdefault(node_id, []).append((node.ended_at - node.started_at) // 1000)
                if node.usage and node.usage.get("cost_usd") is not None:
                    costs.setdefault(node_id, []).append(float(node.usage["cost_usd"]))
        return (
            {node_id: int(median(found)) for node_id, found in times.items()},
            {node_id: float(median(found)) for node_id, found in costs.items()},
        )


def _ordered(nodes: tuple[NodeDef, ...], container: str, above: int) -> Iterator[tuple[str, NodeDef, int]]:
    """Every node in the order in which it may start, with its address and level; what is inside a group below it."""
    if not nodes:
        return
    for level, row in enumerate(Graph(nodes).levels()):
        for name in row:
            node = next(one for one in nodes if one.id == name)
            path = f"{container}{name}"
            yield path, node, above + level
            yield from _ordered(node.body, f"{path}.", above + level + 1)


def _simulated(
    workflow: WorkflowDef, node: NodeDef, path: str, level: int, ms: int | None, cost: float | None
) -> SimulatedNode:
    return SimulatedNode(
        node=path,
        kind=node.kind,
        use=node.use,
        level=level,
        asks=_question(workflow, node),
        estimate_ms=None if node.kind == "approval" else ms,
        estimate_cost_usd=cost,
        note=", ".join([*_notes(node), *_on_failure(workflow, path)]),
    )


def _question(workflow: WorkflowDef, node: NodeDef) -> str | None:
    """What is asked at a node, unrendered. Conditions of the mode `custom` are not known before the run."""
    if node.kind == "approval" and node.approval is not None:
        return node.approval.prompt
    if workflow.approvals == "custom" and node.approval is None:
        return None
    found = step_gate(workflow, node, {})
    return None if found is None else found.prompt


def _notes(node: NodeDef) -> list[str]:
    notes = []
    if node.for_each is not None:
        notes.append("once for each item")
    if node.repeat is not None:
        notes.append(f"up to {node.repeat.max} times")
    if node.when is not None:
        notes.append(f"when {node.when}")
    if node.expands:
        notes.append("its output expands into further nodes")
    return notes


def _on_failure(workflow: WorkflowDef, path: str) -> Iterator[str]:
    """What the rules of the workflow say about a failure of this node for good, in the order in which they count."""
    for rule in workflow.on_failure:
        if rule.nodes is not None and not fits(rule.nodes, path):
            continue
        what = " or ".join(rule.categories) if rule.categories is not None else "any failure"
        if rule.do == "rollback":
            times = "once" if rule.max == 1 else f"up to {rule.max} times"
            yield f"on {what}: back to {rule.to} {times}, then asks"
        else:
            yield f"on {what}: {_DOES[rule.do]}"


def _longest_way(workflow: WorkflowDef, times: Mapping[str, int]) -> tuple[list[str], int | None]:
    """The nodes that decide how long a run takes, in their order, and their time together in milliseconds; decisions
    take none of it. Empty and None without any history."""
    if not times:
        return [], None
    import networkx  # type: ignore[import-untyped] # takes a tenth of a second, so only where it is asked for

    graph = Graph(workflow.nodes)
    own = {name: 0 if node.kind == "approval" else times.get(name, 0) for name, node in graph.nodes.items()}
    drawn = graph.to_networkx()
    drawn.add_edges_from((_BEFORE, name) for name in graph.roots())
    for _, name, edge in drawn.edges(data=True):
        edge["weight"] = own[name] + 1e-6  # of two ways that take as long, the one with more nodes
    way = networkx.dag_longest_path(drawn)[1:]
    return way, sum(own[name] for name in way)
