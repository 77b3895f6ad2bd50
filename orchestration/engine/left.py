"""The runs that this process gave up lately, as they were then: who waited for one asks for it next."""

from __future__ import annotations

from collections import OrderedDict

from omium.orchestration.ids import RunId
from omium.orchestration.log.state import RunState


class StatesLeft:
    """The last states put in, bounded by the nodes that they hold."""

    def __init__(self, max_nodes: int = 20_000) -> None:
        self._states: OrderedDict[RunId, tuple[RunState, int]] = OrderedDict()
        self._max_nodes = max_nodes
        self._nodes = 0

    def put(self, state: RunState) -> None:
        self._drop(state.run_id)
        weight = len(state.nodes) + 4
        self._states[state.run_id] = (state, weight)
        self._nodes += weight
        while self._nodes > self._max_nodes:
            self._drop(next(iter(self._states)))

    def get(self, run_id: RunId) -> RunState | None:
        found = self._states.get(run_id)
        return None if found is None else found[0]

    def _drop(self, run_id: RunId) -> None:
        found = self._states.pop(run_id, None)
        if found is not None:
            self._nodes -= found[1]
