"""The graph of a scope (sibling nodes) and the structure of a whole run, expansions included.

All of it is deterministic: the same nodes give the same answers in whatever order their edges are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from omium.orchestration.definition.address import child, container_of, index_number, is_index, parse_instance
from omium.orchestration.definition.model import MAX_NODES, NodeDef, WorkflowDef
from omium.orchestration.definition.problems import Problem, invalid_definition
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId

MAX_PLAN_NESTING = 8
"""How many plans may be within each other: an agent that plans to plan must end somewhere."""

_CYCLE_SHOWN = 20
_REACH_BATCH = 4096


class Graph:
    """Sibling nodes and the edges between them, validated.

    nodes: the nodes of one scope; path: where they stand in the document, for problems. Raises
    OmiumError("invalid_definition") with every problem: duplicate and missing ids, edges to itself, a cycle.
    """

    __slots__ = ("_degrees", "_dependents", "_levels", "_positions", "_upstreams", "nodes")

    def __init__(self, nodes: Sequence[NodeDef], path: str = "nodes") -> None:
        problems = graph_problems(nodes, path)
        if problems:
            raise invalid_definition(problems)
        self.nodes: Mapping[str, NodeDef] = {node.id: node for node in nodes}
        self._positions = {node_id: index for index, node_id in enumerate(self.nodes)}
        self._upstreams, self._dependents = _adjacency(nodes)
        self._degrees = {node_id: len(ups) for node_id, ups in self._upstreams.items()}
        self._levels: tuple[tuple[str, ...], ...] | None = None

    def __contains__(self, node_id: object) -> bool:
        return node_id in self.nodes

    def __len__(self) -> int:
        return len(self.nodes)

    def upstreams(self, node_id: str) -> tuple[str, ...]:
        """What it needs directly, in the order of the definition."""
        return self._upstreams[node_id]

    def degrees(self) -> dict[str, int]:
        """How many nodes each one needs directly; the caller's to change."""
        return self._degrees.copy()

    def dependents(self, node_id: str) -> tuple[str, ...]:
        """What needs it directly, in the order of the definition."""
        return self._dependents[node_id]

    def descendants(self, node_id: str) -> set[str]:
        """Everything that needs it, directly or not; never itself."""
        return _closure(node_id, self._dependents)

    def ancestors(self, node_id: str) -> set[str]:
        """Everything that it needs, directly or not; never itself."""
        return _closure(node_id, self._upstreams)

    def roots(self) -> tuple[str, ...]:
        """Nodes that need nothing."""
        return tuple(node_id for node_id in self.nodes if not self._upstreams[node_id])

    def leaves(self) -> tuple[str, ...]:
        """Nodes that nothing needs."""
        return tuple(node_id for node_id in self.nodes if not self._dependents[node_id])

    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Topological levels: each node one level below the lowest that it needs; within a level in the order of the
        definition. For display and layout; scheduling goes by ready set and has no levels."""
        if self._levels is None:
            level: dict[str, int] = {}
            for node_id in self.order():
                level[node_id] = 1 + max((level[up] for up in self._upstreams[node_id]), default=-1)
            rows: list[list[str]] = [[] for _ in range(1 + max(level.values(), default=-1))]
            for node_id in self.nodes:
                rows[level[node_id]].append(node_id)
            self._levels = tuple(tuple(row) for row in rows)
        return self._levels

    def order(self) -> list[str]:
        """All nodes, each after everything that it needs."""
        return _kahn(self._upstreams, self._dependents)[0]

    def unreached(self, pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the pairs (node, upstream) where `upstream` is not upstream of `node`, directly or not."""
        open_pairs = {pair for pair in pairs if pair[1] not in self._upstreams[pair[0]]}
        # Bit sets of the asked-for upstreams flow down the graph, some thousands at a time: asking about every node of
        # a long chain stays linear in practice, where a search for each pair would be quadratic.
        targets = sorted({upstream for _, upstream in open_pairs}, key=self._positions.__getitem__)
        order = self.order() if targets else []
        missing: set[tuple[str, str]] = set()
        for start in range(0, len(targets), _REACH_BATCH):
            bit = {target: 1 << index for index, target in enumerate(targets[start : start + _REACH_BATCH])}
            above: dict[str, int] = {}
            for node_id in order:
                seen = 0
                for up in self._upstreams[node_id]:
                    seen |= above[up] | bit.get(up, 0)
                above[node_id] = seen
            missing.update(pair for pair in open_pairs if pair[1] in bit and not above[pair[0]] & bit[pair[1]])
        return missing

    def to_networkx(self) -> Any:
        """The same graph as a `networkx.DiGraph`, for layout and analysis; nodes carry `kind` and `level`, edges
        `optional` and `when`."""
        import networkx  # type: ignore[import-untyped]

        graph = networkx.DiGraph()
        for level, row in enumerate(self.levels()):
            for node_id in row:
                graph.add_node(node_id, kind=self.nodes[node_id].kind, level=level)
        for node in self.nodes.values():
            graph.add_edges_from(
                (need.node, node.id, {"optional": need.optional, "when": need.when}) for need in node.needs
            )
        return graph


def graph_problems(nodes: Sequence[NodeDef], path: str = "nodes") -> list[Problem]:
    """What is wrong with the edges between these siblings; empty if nothing is."""
    if len(nodes) > MAX_NODES:
        return [Problem(path, f"has {len(nodes):,} nodes", f"at most {MAX_NODES:,}")]
    problems: list[Problem] = []
    first: dict[str, int] = {}
    for index, node in enumerate(nodes):
        if first.setdefault(node.id, index) != index:
            earlier = f"{path}[{first[node.id]}]"
            problems.append(
                Problem(f"{path}[{index}].id", f"{node.id!r} is already the id of {earlier}", "ids that differ")
            )
    for index, node in enumerate(nodes):
        seen: set[str] = set()
        for place, need in enumerate(node.needs):
            here = f"{path}[{index}].needs[{place}]"
            if need.node == node.id:
                problems.append(Problem(here, f"{node.id!r} needs itself: {node.id} -> {node.id}", "no cycle"))
            elif need.node not in first:
                problems.append(
                    Problem(here, f"{node.id!r} needs {need.node!r}, which does not exist", _nearest(need.node, first))
                )
            elif need.node in seen:
                problems.append(Problem(here, f"{node.id!r} needs {need.node!r} twice", "one edge"))
            seen.add(need.node)
    if not problems:
        upstreams, dependents = _adjacency(nodes)
        _, left = _kahn(upstreams, dependents)
        if left:
            cycle = _name_cycle(left, upstreams)
            index = first[cycle[0]]
            problems.append(Problem(f"{path}[{index}].needs", f"cycle: {_cycle_text(cycle)}", "no cycle"))
    return problems


def _nearest(wanted: str, known: Iterable[str]) -> str:
    import difflib

    # difflib is quadratic; among thousands of ids a suggestion is not worth the wait.
    names = list(known)
    near = difflib.get_close_matches(wanted, names, n=1) if len(names) <= 1000 else []
    return f"the id of a node beside it, such as {near[0]!r}" if near else "the id of a node beside it"


def _adjacency(nodes: Sequence[NodeDef]) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Upstreams and dependents by id, each in the order of the definition."""
    positions = {node.id: index for index, node in enumerate(nodes)}
    upstreams: dict[str, tuple[str, ...]] = {}
    dependents: dict[str, list[str]] = {node.id: [] for node in nodes}
    for node in nodes:
        names = [need.node for need in node.needs]
        if len(names) > 1:
            names.sort(key=positions.__getitem__)
        upstreams[node.id] = tuple(names)
        for name in names:
            dependents[name].append(node.id)
    return upstreams, {node_id: tuple(names) for node_id, names in dependents.items()}


def _kahn(
    upstreams: Mapping[str, tuple[str, ...]], dependents: Mapping[str, tuple[str, ...]]
) -> tuple[list[str], list[str]]:
    """(an order in which all needs come first, the nodes that no such order can hold: on a cycle or behind one)."""
    waiting = {node_id: len(names) for node_id, names in upstreams.items()}
    order = [node_id for node_id, count in waiting.items() if not count]
    for node_id in order:  # grows while it is walked
        for dependent in dependents[node_id]:
            waiting[dependent] -= 1
            if not waiting[dependent]:
                order.append(dependent)
    return order, [node_id for node_id, count in waiting.items() if count]


def _name_cycle(left: Sequence[str], upstreams: Mapping[str, tuple[str, ...]]) -> list[str]:
    """One cycle among the nodes that Kahn's algorithm left: in the direction of work, from the one defined first.

    Each of them needs another one of them, so walking from need to need must come back to a node already seen.
    """
    remaining = set(left)
    trail: dict[str, int] = {}
    at = left[0]
    while at not in trail:
        trail[at] = len(trail)
        at = next(up for up in upstreams[at] if up in remaining)
    cycle = list(trail)[trail[at] :]
    cycle.reverse()
    place = {node_id: index for index, node_id in enumerate(left)}
    start = min(range(len(cycle)), key=lambda index: place[cycle[index]])
    return cycle[start:] + cycle[:start]


def _cycle_text(cycle: list[str]) -> str:
    shown = cycle if len(cycle) <= _CYCLE_SHOWN else [*cycle[:_CYCLE_SHOWN], f"({len(cycle) - _CYCLE_SHOWN} more)"]
    return " -> ".join([*shown, cycle[0]])


def _closure(start: str, edges: Mapping[str, tuple[str, ...]]) -> set[str]:
    found: set[str] = set()
    stack = list(edges[start])
    while stack:
        node_id = stack.pop()
        if node_id not in found:
            found.add(node_id)
            stack.extend(edges[node_id])
    return found


class Structure:
    """Where every instance of a run stands: definitions, edges and containment, with the plans that have expanded.

    One per run in memory; it knows no states. Instance ids that fit no node raise OmiumError("not_found").
    """

    def __init__(self, workflow: WorkflowDef, root: Graph | None = None) -> None:
        """`root`: the graph of the workflow's own nodes, if it is at hand; graphs do not change."""
        self.workflow = workflow
        self._root = Graph(workflow.nodes) if root is None else root
        self._top = self._root.nodes  # most instances are these: asked for first
        self._bodies: dict[int, Graph] = {}  # by identity of the group, which the workflow or the plan keeps alive
        self._scopes: dict[str, Graph] = {}  # by container: insides of groups and expanded plans

    def scope(self, container: str | None) -> Graph:
        """The graph of the nodes directly inside a container: None is the workflow, then a group's instance (`grp`,
        `fan[3]`) or a node whose plan has expanded."""
        if container is None:
            return self._root
        found = self._scopes.get(container)
        if found is not None:
            return found
        node = self.node_def(container)
        if node.kind != "group":
            raise OmiumError("not_found", f"{container!r} has no nodes inside it.")
        found = self._bodies.get(id(node))
        if found is None:
            found = self._bodies[id(node)] = Graph(node.body, f"{node.id}.nodes")
        self._scopes[container] = found
        return found

    def node_def(self, instance_id: str) -> NodeDef:
        """The definition behind an instance; `fan` and `fan[3]` have the same."""
        known = self._top.get(instance_id)
        if known is not None:
            return known
        outer = container_of(instance_id)
        if outer is not None and instance_id.endswith("]"):
            if not outer.endswith("]") and is_index(instance_id[len(outer) + 1 : -1]):
                node = self.node_def(outer)
                if node.for_each is not None or node.repeat is not None:
                    return node
        else:
            scope = self.scope(outer)
            name = instance_id if outer is None else instance_id[len(outer) + 1 :]
            if name in scope:
                return scope.nodes[name]
        parse_instance(instance_id)  # says so if it is no address at all
        raise OmiumError("not_found", f"The workflow {self.workflow.name!r} has no node {instance_id!r}.")

    def needs_of(self, instance_id: str) -> tuple[NodeId, ...]:
        """The instances that it needs directly, in its own scope. An expansion (`fan[3]`) needs what `fan` needs."""
        _, outer, name = self._place(instance_id)
        return tuple(child(outer, up) for up in self.scope(outer).upstreams(name))

    def children_of(self, container: str | None) -> tuple[NodeId, ...]:
        """The nodes directly inside a container, in the order of the definition."""
        return tuple(child(container, name) for name in self.scope(container).nodes)

    def resolve(self, instance_id: str, name: str) -> NodeId | None:
        """Which instance an expression at `instance_id` means by `nodes.<name>`: a sibling, or else the nearest node of
        that id beside one of its containers. None if there is none. Whether it is upstream is checked on loading."""
        if instance_id in self._top:
            return NodeId(name) if name in self._top else None
        at: str | None = instance_id
        while at is not None:
            _, outer, _ = self._place(at)
            if name in self.scope(outer):
                return child(outer, name)
            at = outer
        return None

    def readable(self, instance_id: str) -> set[str]:
        """The ids that `nodes.<id>` may name in the steps of a plan by this instance: what is upstream of it or of
        one of its containers."""
        found: set[str] = set()
        at: str | None = instance_id
        while at is not None:
            _, outer, name = self._place(at)
            found |= self.scope(outer).ancestors(name)
            at = outer
        return found

    def add_plan(self, instance_id: str, nodes: tuple[NodeDef, ...]) -> tuple[NodeId, ...]:
        """Put the steps of a plan inside the node that made it, in place of any earlier plan of the same instance;
        gives their instance ids. The steps must form a valid graph."""
        node = self.node_def(instance_id)
        if not node.expands:
            raise OmiumError("invalid_argument", f"The node {instance_id!r} does not expand into a plan.")
        above = sum(self.node_def(one).expands for one in self.containers(instance_id) if not one.endswith("]"))
        if above >= MAX_PLAN_NESTING:
            raise OmiumError(
                "invalid_definition", f"{instance_id!r} is a plan within {above} plans, the most there may be."
            )
        graph = Graph(nodes)
        # Whatever stood inside an earlier plan of this instance is gone, expansions of its steps included.
        inside = (f"{instance_id}.", f"{instance_id}[")
        self._scopes = {at: scope for at, scope in self._scopes.items() if not at.startswith(inside)}
        # Groups of the old plan may be freed and their identities used again.
        self._bodies.clear()
        self._scopes[instance_id] = graph
        return self.children_of(instance_id)

    def affected(self, instance_id: str, known: Iterable[str]) -> set[NodeId]:
        """What playing again from `instance_id` resets, among the instances in `known`:

        the instance with everything inside it, what depends on it in its scope with everything inside that, later
        iterations of a loop that it is part of, and then the same for its container, upwards. Containers themselves are
        in the result because they have to complete again; their other insides are not.
        """
        wholes: set[str] = {instance_id}
        containers: set[str] = set()
        later: dict[str, int] = {}  # loop -> iteration after which everything counts
        at: str | None = instance_id
        while at is not None:
            base, outer, name = self._place(at)
            if base != at:
                containers.add(base)
                number = index_number(at[len(base) + 1 : -1])
                if self.node_def(base).repeat is not None and number is not None:
                    later[base] = number
            wholes.update(child(outer, down) for down in self.scope(outer).descendants(name))
            if outer is not None:
                containers.add(outer)
            at = outer
        inside: dict[str, bool] = {}  # instance -> whether it is in one of the wholes; containers are shared by many
        result = {NodeId(one) for one in known if one in containers or _within(one, wholes, later, inside)}
        return result | {NodeId(instance_id)} | {NodeId(one) for one in containers}

    def containers(self, instance_id: str) -> Iterator[NodeId]:
        """What it is inside of, innermost first: `fix[2].test` gives `fix[2]`, `fix`."""
        at = container_of(instance_id)
        while at is not None:
            yield at
            at = container_of(at)

    def _place(self, instance_id: str) -> tuple[NodeId, NodeId | None, str]:
        """(the instance without its own index, the container of that, the node's id), for an instance that exists."""
        node = self.node_def(instance_id)
        base = NodeId(instance_id[: instance_id.rindex("[")] if instance_id.endswith("]") else instance_id)
        return base, container_of(base), node.id


def _within(instance: str, wholes: set[str], later: Mapping[str, int], memo: dict[str, bool]) -> bool:
    """Whether `instance` is one of `wholes` or inside one, or in an iteration after the one given for its loop."""
    answer = memo.get(instance)
    if answer is None:
        outer = container_of(instance)
        answer = instance in wholes
        if not answer and outer is not None:
            after = later.get(outer) if instance.endswith("]") else None
            number = None if after is None else index_number(instance[len(outer) + 1 : -1])
            answer = after is not None and number is not None and number > after
            answer = answer or _within(outer, wholes, later, memo)
        memo[instance] = answer
    return answer
