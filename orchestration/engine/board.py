"""Which nodes may go on: counters over the graph, with no input or output.

Every node that ends lowers a counter of each node that needs it, and of what it is inside of; one that reaches zero
comes out. So a completion costs what it has dependents, whatever the size of the run, and nothing waits for a level.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omium.orchestration.definition.address import child, container_of
from omium.orchestration.definition.graph import Graph, Structure
from omium.orchestration.ids import Digest, NodeId
from omium.orchestration.log.state import NODE_TERMINAL, NodeStatus, RunState
from omium.orchestration.records import record


@record
class Outcome:
    """How a node ended."""

    status: NodeStatus
    output: Digest | None = None
    size: int = 0
    reason: str | None = None
    error: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Scope:
    graph: Graph
    missing: dict[str, int]  # upstreams that have not ended
    left: int  # nodes that have not ended


@dataclass(slots=True)
class _Fan:
    """Expansions of one node: all items of a fan-out, or the present round of a loop."""

    children: Sequence[NodeId]
    width: int  # how many may be under way
    stop_early: bool  # no new child starts once one has failed
    ahead: Container[NodeId] = ()  # under way already when this was opened
    next: int = 0
    under_way: int = 0
    left: int = 0
    failed: bool = False


class Board:
    """The counters of one run. Take what is in `ready` (nodes all of whose upstreams have ended) and in `closing`
    (containers whose insides have ended; None is the run) and clear them."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.outcomes: dict[NodeId, Outcome] = {}
        self.ready: list[NodeId] = []
        self.closing: list[NodeId | None] = []
        self._scopes: dict[NodeId | None, _Scope] = {}
        self._fans: dict[NodeId, _Fan] = {}

    def open_scope(self, container: NodeId | None) -> None:
        """Count what is directly inside a container: a group, a plan, or the run."""
        graph = self.structure.scope(container)
        ended: set[str] = set()
        if self.outcomes:
            ended = {name for name in graph.nodes if child(container, name) in self.outcomes}
        missing = graph.degrees()
        for name in ended:
            for dependent in graph.dependents(name):
                missing[dependent] -= 1
        self._scopes[container] = _Scope(graph, missing, len(graph) - len(ended))
        if len(ended) == len(graph):
            self.closing.append(container)
        self.ready += [child(container, name) for name in graph.nodes if name not in ended and not missing[name]]

    def open_fan(
        self,
        container: NodeId,
        children: Sequence[NodeId],
        width: int | None,
        stop_early: bool,
        ahead: frozenset[NodeId] = frozenset(),
    ) -> None:
        """Count the expansions of a node; at most `width` are under way at once. Those `ahead` are already, and do not
        come out."""
        known = [self.outcomes.get(one) for one in children]
        fan = _Fan(children, width or max(1, len(children)), stop_early, ahead, under_way=len(ahead))
        fan.left = sum(outcome is None for outcome in known)
        fan.failed = any(outcome is not None and outcome.status is NodeStatus.FAILED for outcome in known)
        self._fans[container] = fan
        if not self._feed(fan):
            self.closing.append(container)

    def _feed(self, fan: _Fan) -> bool:
        """Bring out children while there is room; whether anything is left to wait for."""
        stopped = fan.failed and fan.stop_early
        while not stopped and fan.under_way < fan.width and fan.next < len(fan.children):
            one = fan.children[fan.next]
            fan.next += 1
            if one not in self.outcomes and one not in fan.ahead:
                fan.under_way += 1
                self.ready.append(one)
        return fan.under_way > 0 if stopped else fan.left > 0

    def ended(self, node: NodeId, outcome: Outcome) -> None:
        """Note the end of a node. A second end of the same node changes nothing."""
        if node in self.outcomes:
            return
        self.outcomes[node] = outcome
        container = container_of(node)
        if node.endswith("]"):
            assert container is not None
            fan = self._fans.get(container)
            if fan is not None:
                fan.left -= 1
                fan.under_way -= 1
                fan.failed = fan.failed or outcome.status is NodeStatus.FAILED
                if not self._feed(fan):
                    self.closing.append(container)
            return
        scope = self._scopes.get(container)
        if scope is None:
            return
        name = node if container is None else node[len(container) + 1 :]
        for dependent in scope.graph.dependents(name):
            scope.missing[dependent] -= 1
            if not scope.missing[dependent]:
                self.ready.append(child(container, dependent) if container is not None else NodeId(dependent))
        scope.left -= 1
        if not scope.left:
            self.closing.append(container)

    def restore(self, state: RunState) -> None:
        """Start over from what is committed: ends only. The caller opens scopes and fans, containers first."""
        self.ready, self.closing = [], []
        self._scopes, self._fans = {}, {}
        self.outcomes = {
            node_id: Outcome(node.status, node.output, node.size, node.reason, node.error)
            for node_id, node in state.nodes.items()
            if node.status in NODE_TERMINAL
        }

    def last_of(self, container: NodeId) -> NodeId | None:
        """The expansion of a node that came last."""
        fan = self._fans.get(container)
        return fan.children[-1] if fan is not None and fan.children else None

    def collect(self, children: Iterable[NodeId]) -> list[Digest | None]:
        """The outputs of expansions in order; None for one that gave none."""
        return [outcome.output if (outcome := self.outcomes.get(one)) else None for one in children]
