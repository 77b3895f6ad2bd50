"""Which nodes a history operation resets, once its plan meets the state that it is applied to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from omium.orchestration.definition.address import container_of
from omium.orchestration.ids import NodeId
from omium.orchestration.log.state import RunState


class Again:
    """What playing a node again does to every other node, by the list that was planned: the node itself, then all that
    depend on it and all that contain it.

    Nodes that came to be after the plan was made are covered too: what is inside of a node that is reset is reset with
    it, and so are later rounds of a loop that the played node is inside of."""

    def __init__(self, nodes: Iterable[NodeId], state: RunState) -> None:
        listed = list(nodes)
        self.played: NodeId = listed[0] if listed else NodeId("")
        self._listed = set(listed)
        self._answers: dict[NodeId, bool] = {}
        self._rounds: dict[NodeId, int] = {}  # loop -> the round of it that is played
        for container in (one for one in self._listed if is_inside(self.played, one)):
            known = state.nodes.get(container)
            number = index_in(self.played, container)
            if number is not None and known is not None and known.expansion is not None and is_loop(known.expansion):
                self._rounds[container] = number

    def reopens(self, node_id: NodeId) -> bool:
        """Whether the node contains the one that is played, so that it only waits for its insides once more."""
        return node_id in self._listed and is_inside(self.played, node_id)

    def resets(self, node_id: NodeId) -> bool:
        """Whether the node runs again."""
        known = self._answers.get(node_id)
        if known is None:
            known = self._answers[node_id] = not self.reopens(node_id) and (
                node_id in self._listed or self._is_in_one(node_id)
            )
        return known

    def _is_in_one(self, node_id: NodeId) -> bool:
        outer = container_of(node_id)
        if outer is None:
            return False
        number = index_in(node_id, outer)
        return self.resets(outer) or (number is not None and number > self._rounds.get(outer, number))


def index_in(node_id: str, container: str) -> int | None:
    """The number of the expansion of `container` that an instance is, or is inside of."""
    text = node_id[len(container) + 1 : node_id.find("]", len(container))]
    return int(text) if node_id[len(container) : len(container) + 1] == "[" and text.isdigit() else None


def is_loop(expansion: Mapping[str, Any]) -> bool:
    return not {"items", "plan"} & expansion.keys()


def is_inside(node_id: str, container: str) -> bool:
    """Whether an instance lies within another: `fix[2].test` is inside `fix` and inside `fix[2]`."""
    return node_id.startswith(container) and node_id[len(container) : len(container) + 1] in ("[", ".")
