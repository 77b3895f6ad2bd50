"""The graph of sibling nodes: validation, order, closures."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition import Graph, Need, NodeDef
from omium.orchestration.definition.graph import graph_problems
from omium.orchestration.errors import OmiumError


def node(node_id: str, *needs: str) -> NodeDef:
    return NodeDef(node_id, "function", use="f", needs=tuple(Need(need) for need in needs))


def problems_of(*nodes: NodeDef) -> list[dict[str, Any]]:
    with pytest.raises(OmiumError) as caught:
        Graph(nodes)
    assert caught.value.code == "invalid_definition"
    found: list[dict[str, Any]] = caught.value.data["problems"]
    return found


def test_a_cycle_is_named_in_the_direction_of_work_from_its_first_node() -> None:
    (problem,) = problems_of(node("start"), node("a", "c", "start"), node("b", "a"), node("c", "b"), node("end", "c"))
    assert "a -> b -> c -> a" in problem["message"]
    assert problem["path"] == "nodes[1].needs"


def test_a_long_cycle_is_shortened() -> None:
    count = 1000
    (problem,) = problems_of(*(node(f"n{i}", f"n{(i - 1) % count}") for i in range(count)))
    assert problem["message"].startswith("cycle: n0 -> n1 -> n2")
    assert "(980 more) -> n0" in problem["message"]


def test_a_node_that_needs_itself() -> None:
    (problem,) = problems_of(node("a", "a"))
    assert problem["message"] == "'a' needs itself: a -> a"
    assert problem["path"] == "nodes[0].needs[0]"


def test_a_missing_id_names_both_and_suggests_the_nearest() -> None:
    (problem,) = problems_of(node("collect"), node("draft", "colect"))
    assert "'draft'" in problem["message"] and "'colect'" in problem["message"]
    assert "'collect'" in problem["expected"]


def test_duplicate_ids_and_edges_are_all_reported() -> None:
    found = problems_of(node("a"), node("a"), node("b", "a", "a"), node("c", "x"))
    assert [problem["path"] for problem in found] == ["nodes[1].id", "nodes[2].needs[1]", "nodes[3].needs[0]"]
    assert "nodes[0]" in found[0]["message"]


def test_levels_follow_the_longest_way_and_the_order_of_the_definition() -> None:
    graph = Graph([node("d", "c", "a"), node("a"), node("c", "b"), node("b", "a"), node("e")])
    assert graph.levels() == (("a", "e"), ("b",), ("c",), ("d",))
    assert graph.roots() == ("a", "e")
    assert graph.leaves() == ("d", "e")


def test_no_nodes_have_no_levels() -> None:
    assert Graph([]).levels() == ()


def test_neighbours_and_closures() -> None:
    graph = Graph([node("a"), node("b", "a"), node("c", "a"), node("d", "c", "b"), node("e", "d")])
    assert graph.upstreams("d") == ("b", "c")
    assert graph.dependents("a") == ("b", "c")
    assert graph.descendants("b") == {"d", "e"}
    assert graph.ancestors("e") == {"a", "b", "c", "d"}
    assert graph.ancestors("a") == set()
    assert "a" in graph and "z" not in graph and len(graph) == 5


def test_to_networkx_carries_kinds_levels_and_edges() -> None:
    gated = NodeDef("b", "agent", use="x", needs=(Need("a", optional=True, when="nodes.a.output"),))
    drawn = Graph([node("a"), gated]).to_networkx()
    assert drawn.nodes["b"] == {"kind": "agent", "level": 1}
    assert drawn.edges["a", "b"] == {"optional": True, "when": "nodes.a.output"}


@st.composite
def dags(draw: st.DrawFn) -> list[NodeDef]:
    """Random acyclic graphs whose nodes are written in any order."""
    count = draw(st.integers(1, 12))
    nodes = [
        node(f"n{i}", *(f"n{j}" for j in sorted(draw(st.sets(st.integers(0, i - 1), max_size=4))))) if i else node("n0")
        for i in range(count)
    ]
    return draw(st.permutations(nodes))


@given(dags(), st.randoms(use_true_random=False))
def test_the_order_in_which_edges_are_written_changes_nothing(nodes: list[NodeDef], rng: random.Random) -> None:
    shuffled = []
    for one in nodes:
        needs = list(one.needs)
        rng.shuffle(needs)
        shuffled.append(NodeDef(one.id, one.kind, use=one.use, needs=tuple(needs)))
    first, second = Graph(nodes), Graph(shuffled)
    assert first.levels() == second.levels()
    assert first.order() == second.order()
    for one in nodes:
        assert first.upstreams(one.id) == second.upstreams(one.id)
        assert first.dependents(one.id) == second.dependents(one.id)


@given(dags())
def test_closures_and_levels_agree_with_networkx(nodes: list[NodeDef]) -> None:
    import networkx

    graph = Graph(nodes)
    drawn = graph.to_networkx()
    for one in nodes:
        assert graph.descendants(one.id) == networkx.descendants(drawn, one.id)
        assert graph.ancestors(one.id) == networkx.ancestors(drawn, one.id)
    assert [set(level) for level in graph.levels()] == [set(row) for row in networkx.topological_generations(drawn)]


@given(dags(), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30))
def test_unreached_is_what_is_not_among_the_ancestors(nodes: list[NodeDef], asked: list[tuple[int, int]]) -> None:
    graph = Graph(nodes)
    pairs = [(f"n{a}", f"n{b}") for a, b in asked if f"n{a}" in graph and f"n{b}" in graph]
    assert graph.unreached(pairs) == {pair for pair in pairs if pair[1] not in graph.ancestors(pair[0])}


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=20))
def test_a_graph_is_refused_exactly_if_it_has_a_cycle(edges: list[tuple[int, int]]) -> None:
    import networkx

    needs: dict[int, set[int]] = {i: set() for i in range(8)}
    for up, down in edges:
        needs[down].add(up)
    nodes = [node(f"n{i}", *(f"n{up}" for up in needs[i])) for i in range(8)]
    cyclic = not networkx.is_directed_acyclic_graph(networkx.DiGraph(edges))
    assert bool(graph_problems(nodes)) == cyclic
