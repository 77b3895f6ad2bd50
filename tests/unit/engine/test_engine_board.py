"""The counters that say what may go on: whatever the graph and the order, each node comes out once, and in time."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.model import ForEach, Need, NodeDef, WorkflowDef
from omium.orchestration.engine.board import Board, Outcome
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.log.state import NodeState, NodeStatus, RunState

DONE = Outcome(NodeStatus.COMPLETED)
BAD = Outcome(NodeStatus.FAILED)


@st.composite
def graphs(draw: Any) -> dict[str, list[str]]:
    """Node -> what it needs, among those before it."""
    size = draw(st.integers(1, 14))
    names = [f"n{number}" for number in range(size)]
    return {
        name: draw(st.lists(st.sampled_from(names[:place]), unique=True, max_size=4)) if place else []
        for place, name in enumerate(names)
    }


def board_of(graph: dict[str, list[str]]) -> Board:
    nodes = tuple(
        NodeDef(name, "function", use="f", needs=tuple(Need(up) for up in needs)) for name, needs in graph.items()
    )
    return Board(Structure(WorkflowDef("w", nodes)))


def take(board: Board) -> tuple[list[NodeId], list[NodeId | None]]:
    ready, closing = list(board.ready), list(board.closing)
    board.ready.clear()
    board.closing.clear()
    return ready, closing


@given(graphs(), st.randoms(use_true_random=False))
def test_each_node_comes_out_once_after_all_that_it_needs_and_the_run_closes_last(
    graph: dict[str, list[str]], rng: random.Random
) -> None:
    board = board_of(graph)
    board.open_scope(None)
    under_way, closing = take(board)
    seen = list(under_way)
    ended: set[str] = set()
    while under_way:
        assert not closing
        node = under_way.pop(rng.randrange(len(under_way)))
        board.ended(node, DONE)
        ended.add(node)
        ready, closing = take(board)
        for one in ready:
            assert set(graph[one]) <= ended
        seen += ready
        under_way += ready
    assert sorted(seen) == sorted(graph)
    assert closing == [None]


@given(graphs(), st.randoms(use_true_random=False))
def test_a_node_comes_out_as_soon_as_the_last_one_that_it_needs_has_ended(
    graph: dict[str, list[str]], rng: random.Random
) -> None:
    board = board_of(graph)
    board.open_scope(None)
    out = set(take(board)[0])
    ended: set[str] = set()
    while waiting := sorted(out - ended):
        node = rng.choice(waiting)
        board.ended(NodeId(node), DONE)
        ended.add(node)
        out |= set(take(board)[0])
        assert out == {name for name, needs in graph.items() if set(needs) <= ended}


@given(graphs(), st.randoms(use_true_random=False))
def test_what_is_built_again_half_way_goes_on_as_if_nothing_had_happened(
    graph: dict[str, list[str]], rng: random.Random
) -> None:
    board = board_of(graph)
    board.open_scope(None)
    out = take(board)[0]
    ended: list[NodeId] = []
    for _ in range(rng.randrange(len(graph) + 1)):
        if not out:
            break
        node = out.pop(rng.randrange(len(out)))
        ended.append(node)
        board.ended(node, DONE)
        out += take(board)[0]
    state = RunState(RunId("run_x"))
    state.nodes = {node: NodeState(status=NodeStatus.COMPLETED) for node in ended}
    again = board_of(graph)
    again.restore(state)
    again.open_scope(None)
    ready, closing = take(again)
    assert sorted(ready) == sorted(out)
    assert closing == ([None] if len(ended) == len(graph) else [])


def test_the_second_end_of_a_node_changes_nothing() -> None:
    board = board_of({"a": [], "b": ["a"]})
    board.open_scope(None)
    take(board)
    board.ended(NodeId("a"), DONE)
    board.ended(NodeId("a"), BAD)
    assert take(board) == (["b"], [])
    assert board.outcomes[NodeId("a")] is DONE


def fan(size: int) -> tuple[Board, list[NodeId]]:
    node = NodeDef("f", "function", use="f", for_each=ForEach(list(range(size))))
    return Board(Structure(WorkflowDef("w", (node,)))), [NodeId(f"f[{number}]") for number in range(size)]


@given(st.integers(0, 12), st.one_of(st.none(), st.integers(1, 5)), st.randoms(use_true_random=False))
def test_a_fan_out_is_as_wide_as_allowed_and_closes_once(size: int, width: int | None, rng: random.Random) -> None:
    board, children = fan(size)
    board.open_fan(NodeId("f"), children, width, False)
    under_way, closing = take(board)
    seen = list(under_way)
    while under_way:
        assert closing == []
        assert len(under_way) == min(width or size, size - len(seen) + len(under_way))
        board.ended(under_way.pop(rng.randrange(len(under_way))), rng.choice([DONE, BAD]))
        ready, closing = take(board)
        under_way += ready
        seen += ready
    assert seen == children
    assert closing == ["f"]


@given(st.integers(1, 12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_after_a_failure_no_other_starts_and_the_whole_closes_when_the_last_has_ended(
    size: int, width: int, rng: random.Random
) -> None:
    board, children = fan(size)
    board.open_fan(NodeId("f"), children, width, True)
    under_way, _ = take(board)
    board.ended(under_way.pop(rng.randrange(len(under_way))), BAD)
    while under_way:
        assert take(board) == ([], [])
        board.ended(under_way.pop(), DONE)
    assert take(board) == ([], ["f"])


@given(st.integers(1, 12), st.integers(1, 4), st.data())
def test_those_that_are_under_way_already_count_against_the_width_and_do_not_come_out(
    size: int, width: int, data: st.DataObject
) -> None:
    board, children = fan(size)
    ahead = frozenset(data.draw(st.lists(st.sampled_from(children), unique=True, max_size=width)))
    board.open_fan(NodeId("f"), children, width, False, ahead)
    under_way = sorted(ahead)
    out, _ = take(board)
    seen = list(out)
    while under_way or out:
        assert len(under_way) + len(out) <= width
        one = (under_way or out).pop()
        board.ended(one, DONE)
        more, closing = take(board)
        out += more
        seen += more
    assert sorted(seen) == sorted(set(children) - ahead)
    assert closing == ["f"]


def test_outputs_are_collected_in_order_with_nothing_for_what_gave_nothing() -> None:
    board, children = fan(3)
    board.open_fan(NodeId("f"), children, None, False)
    board.ended(children[2], Outcome(NodeStatus.COMPLETED, "d2"))  # type: ignore[arg-type]
    board.ended(children[0], BAD)
    assert board.collect(children) == [None, None, "d2"]
    assert board.last_of(NodeId("f")) == "f[2]"
