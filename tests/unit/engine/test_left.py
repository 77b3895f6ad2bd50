from __future__ import annotations

from omium.orchestration.engine.left import StatesLeft
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.log.state import NodeState, RunState


def state(name: str, nodes: int) -> RunState:
    made = RunState(RunId(name))
    made.nodes = {NodeId(f"n{number}"): NodeState() for number in range(nodes)}
    return made


def test_the_oldest_states_make_room_by_their_nodes() -> None:
    left = StatesLeft(max_nodes=20)
    for name in ("a", "b", "c"):
        left.put(state(name, 4))  # eight each, with their own weight
    assert left.get(RunId("a")) is None
    assert left.get(RunId("b")) is not None and left.get(RunId("c")) is not None


def test_a_run_that_comes_again_counts_once() -> None:
    left = StatesLeft(max_nodes=20)
    later = state("a", 5)
    for one in (state("a", 4), state("b", 4), later):
        left.put(one)
    assert left.get(RunId("a")) is later and left.get(RunId("b")) is not None


def test_one_that_is_too_large_is_not_kept() -> None:
    left = StatesLeft(max_nodes=20)
    left.put(state("a", 50))
    assert left.get(RunId("a")) is None
