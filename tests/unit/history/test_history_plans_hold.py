"""Properties of every plan of history, over random graphs and random pasts: the real fold applies them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from omium.orchestration.definition import NodeDef
from omium.orchestration.history.reset import plan_reset
from omium.orchestration.history.rollback import went_back
from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.fold import stands
from omium.orchestration.log.state import NodeState, NodeStatus, RunState
from tests.history_help import Log, dags, look, step, structure_of

choices = st.lists(st.integers(0, 1000), max_size=30)
few = settings(max_examples=60, deadline=None)


def past(nodes: tuple[NodeDef, ...], moves: list[int]) -> tuple[Log, RunId]:
    """A run in which some things happened, an earlier replay and rollback perhaps among them."""
    log, structure = Log(), structure_of(*nodes)
    run_id = log.new_run()
    for move in moves:
        if move % 11 == 0:
            log.write(run_id, c.RollBack(Seq(1 + move % log.state(run_id).seq)), c.ResumeRun())
        elif move % 7 == 0:
            played = NodeId(nodes[move % len(nodes)].id)
            log.play(run_id, played, plan_reset(structure, log.state(run_id), played).listed)
        elif not step(log, run_id, structure, move):
            break
    return log, run_id


def standing(state: RunState) -> dict[NodeId, NodeState]:
    return {node_id: node for node_id, node in state.nodes.items() if stands(node)}


def check_touched(log: Log, run_id: RunId) -> None:
    """Who looks only at the nodes that each event touches sees what the whole state gives."""
    state, seen = log.state(run_id), log.looks[run_id]
    own = [one for one in state.nodes if one in seen]
    assert [seen[one] for one in own] == [look(state, one) for one in own]


@few
@given(dags(), choices, st.integers(0, 1000))
def test_playing_a_node_again_resets_it_and_its_descendants_and_nothing_else(
    nodes: tuple[NodeDef, ...], moves: list[int], which: int
) -> None:
    log, run_id = past(nodes, moves)
    structure, before = structure_of(*nodes), log.state(run_id)
    played = NodeId(nodes[which % len(nodes)].id)
    after = log.play(run_id, played, plan_reset(structure, before, played).listed)
    affected = {played, *structure.scope(None).descendants(played)}
    for node_id, was in before.nodes.items():
        if node_id in affected:
            assert after.nodes[node_id] == NodeState(generation=before.generation + 1)
        else:
            assert after.nodes[node_id] == was
    assert after.completed_nodes == sum(one.status is NodeStatus.COMPLETED for one in after.nodes.values())
    assert log.state(run_id) == after
    check_touched(log, run_id)


@few
@given(dags(), choices, st.integers(0, 1000))
def test_going_back_and_forward_again_gives_the_same_state(
    nodes: tuple[NodeDef, ...], moves: list[int], where: int
) -> None:
    log, run_id = past(nodes, moves)
    there = log.state(run_id)
    to = Seq(1 + where % there.seq)
    back = log.write(run_id, c.RollBack(to))
    base = log.state(run_id, to)
    assert standing(back) == standing(base)
    assert back.status == "paused"
    assert {one for one in back.nodes if not stands(back.nodes[one])} >= set(went_back(there, base)) - set(
        standing(base)
    )
    check_touched(log, run_id)
    forward = log.write(run_id, c.RollBack(there.seq))
    assert standing(forward) == standing(there)
    assert (forward.completed_nodes, forward.overrides, forward.tree) == (
        there.completed_nodes,
        there.overrides,
        there.tree,
    )
    assert forward.generation == there.generation + 2
    assert log.state(run_id) == forward
    check_touched(log, run_id)


@few
@given(dags(), choices, st.integers(0, 1000))
def test_a_branch_has_what_its_parent_had_and_changes_nothing_of_it(
    nodes: tuple[NodeDef, ...], moves: list[int], where: int
) -> None:
    log, run_id = past(nodes, moves)
    before, events = log.state(run_id), list(log.events[run_id])
    at = 1 + where % before.seq
    child = log.state(log.branch(run_id, at))
    assert child.nodes == standing(log.state(run_id, at))
    assert child.status == "executing"
    assert child.generation == log.state(run_id, at).generation + 1
    after = log.state(run_id)
    assert log.events[run_id][: len(events)] == events
    assert (after.nodes, after.status, after.generation) == (before.nodes, before.status, before.generation)
    assert list(after.branches.values())[-1] == child.run_id


@few
@given(dags(), choices, st.integers(0, 1000))
def test_a_branch_before_a_node_keeps_everything_but_its_descendants(
    nodes: tuple[NodeDef, ...], moves: list[int], which: int
) -> None:
    log, run_id = past(nodes, moves)
    structure, before = structure_of(*nodes), log.state(run_id)
    played = NodeId(nodes[which % len(nodes)].id)
    listed = plan_reset(structure, before, played).listed
    child = log.state(log.branch(run_id, before.seq, listed))
    affected = {played, *structure.scope(None).descendants(played)}
    assert child.nodes == {one: node for one, node in standing(before).items() if one not in affected}


@few
@given(dags(), choices, st.integers(0, 1000), st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_a_plan_holds_although_the_run_went_on_meanwhile(
    nodes: tuple[NodeDef, ...], moves: list[int], which: int, later: list[int]
) -> None:
    log, run_id = past(nodes, moves)
    structure = structure_of(*nodes)
    played = NodeId(nodes[which % len(nodes)].id)
    listed = plan_reset(structure, log.state(run_id), played).listed
    for move in later:
        step(log, run_id, structure, move)
    after = log.play(run_id, played, listed)
    affected = {played, *structure.scope(None).descendants(played)}
    assert all(node == NodeState(generation=after.generation) for one, node in after.nodes.items() if one in affected)
