"""How long a run is likely to take: the nodes on the longest way through its graph."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition.model import ApprovalSpec, Need, NodeDef, WorkflowDef
from omium.orchestration.service.simulating import _longest_way


def node(name: str, *needs: str) -> NodeDef:
    return NodeDef(name, "function", use="f", needs=tuple(Need(one) for one in needs))


def test_the_slower_side_of_a_diamond_decides_and_a_question_takes_no_time() -> None:
    asks = NodeDef("ask", "approval", needs=(Need("left"),), approval=ApprovalSpec("Go on?"))
    nodes = (node("start"), node("left", "start"), node("right", "start"), asks, node("end", "ask", "right"))
    times = {"start": 5, "left": 10, "right": 30, "ask": 86_400_000, "end": 1}
    assert _longest_way(WorkflowDef("w", nodes), times) == (["start", "right", "end"], 36)
    assert _longest_way(WorkflowDef("w", nodes), {**times, "left": 31}) == (["start", "left", "ask", "end"], 37)
    assert _longest_way(WorkflowDef("w", nodes), {}) == ([], None)


@given(st.data())
def test_no_other_way_is_longer(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 8))
    names = [f"n{number}" for number in range(count)]
    nodes = tuple(
        node(name, *sorted(data.draw(st.sets(st.sampled_from(names[:place]))) if place else ()))
        for place, name in enumerate(names)
    )
    times = {name: data.draw(st.integers(0, 100)) for name in names}
    way, total = _longest_way(WorkflowDef("w", nodes), times)
    ends: dict[str, int] = {}
    for one in nodes:
        ends[one.id] = times[one.id] + max((ends[need.node] for need in one.needs), default=0)
    assert total == max(ends.values()) == sum(times[name] for name in way)
    for before, after in pairwise(way):
        assert before in {need.node for one in nodes if one.id == after for need in one.needs}
