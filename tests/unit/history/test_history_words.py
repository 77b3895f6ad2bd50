"""What people write and what they are shown: positions, labels, overrides, orders, changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition import ForEach
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.branching import check_name
from omium.orchestration.history.comparing import change_of, merge_order
from omium.orchestration.history.overrides import check_form
from omium.orchestration.history.playing import start_tree
from omium.orchestration.history.positions import is_left, label_refusal, parse, parse_run
from omium.orchestration.history.reset import check_exists, plan_reset, spared_writers
from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.again import Again
from omium.orchestration.log.state import NodeState, NodeStatus, RunState
from tests.history_help import Log, node, structure_of

RUN, OTHER = RunId("run_" + "0" * 26), RunId("run_" + "1" * 26)


def code_of(call: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(OmiumError) as caught:
        call(*args, **more)
    return caught.value.code


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        pytest.param(412, "seq", 412, id="number"),
        ("412", "seq", 412),
        (" 412 ", "seq", 412),
        (f"{RUN}@7", "seq", 7),
        ("start", "start", ""),
        ("node:fan[3].x", "after", "fan[3].x"),
        ("before the storm", "label", "before the storm"),
        ("début", "label", "début"),
    ],
)
def test_positions_are_read(text: str | int, kind: str, value: object) -> None:
    place = parse(text, RUN)
    assert (place.kind, place.seq if kind == "seq" else place.name) == (kind, value)


@pytest.mark.parametrize("text", ["", "last", "@7", f"{RUN}@", f"{RUN}@x", "run@7", "a@b", "before:x", True, None, 1.5])
def test_what_is_no_position_is_refused(text: Any) -> None:
    assert code_of(parse, text, RUN) == "invalid_argument"


def test_a_position_of_another_run_is_told_apart() -> None:
    assert code_of(parse, f"{OTHER}@7", RUN) == "not_allowed"
    assert parse("before:x", RUN, before=True).name == "x"
    assert (parse_run(RUN), parse_run(f"{RUN}@3")) == ((RUN, None), (RUN, 3))
    assert code_of(parse_run, "last") == "invalid_argument"


@given(st.text(max_size=12))
def test_a_label_never_reads_as_anything_else(text: str) -> None:
    if not label_refusal(text):
        assert (parse(text, RUN).kind, parse(text, RUN).name) == ("label", text)


@pytest.mark.parametrize("name", ["main", "a/b", "v1.2_x-y", "0"])
def test_names_of_branches(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a..b", "a//b", "a/", "a.", "x.lock", "a b", "a\n", "ä", "a" * 101])
def test_names_that_git_would_not_take_either(name: str) -> None:
    assert code_of(check_name, name) == "invalid_argument"


@pytest.mark.parametrize(
    "given_",
    [
        [],
        {"x": 1},
        {"inputs": []},
        {"nodes": {"a": 1}},
        {"nodes": {"a": {"with": 1}}},
        {"nodes": {"a": {"with": {}, "output": 1}}},
        {"nodes": {"a": {"prompt": ""}}},
        {"inputs": {"a": b""}},
        {"inputs": {"a": float("nan")}},
        {"inputs": {1: 1}},
    ],
)
def test_overrides_that_mean_nothing_are_refused(given_: Any) -> None:
    if given_ == []:
        assert check_form(given_) == {}
        return
    assert code_of(check_form, given_) in ("invalid_argument", "invalid_value")


def test_overrides_are_plain_and_without_empty_parts() -> None:
    assert check_form(None) == check_form({"inputs": {}, "nodes": {}}) == {}
    full = {"inputs": {"a": 1}, "nodes": {"n": {"output": None}, "m": {"with": {"x": [1]}}, "back": {}}}
    assert check_form(full) == full


@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9), unique=True))
def test_two_orders_merge_into_one_that_has_everything_once(a: Sequence[int], b: Sequence[int]) -> None:
    one, two = [NodeId(f"n{x}") for x in a], [NodeId(f"n{x}") for x in b]
    merged = merge_order(one, two)
    assert sorted(merged) == sorted({*one, *two})
    assert [x for x in merged if x in one] == one


def test_an_inserted_node_stands_where_it_was_inserted() -> None:
    order = merge_order([NodeId("a"), NodeId("c")], [NodeId("a"), NodeId("b"), NodeId("c"), NodeId("d")])
    assert order == ["a", "b", "c", "d"]


def test_changes_between_two_nodes() -> None:
    done = NodeState(NodeStatus.COMPLETED, output="x" * 64)  # type: ignore[arg-type]
    other = NodeState(NodeStatus.COMPLETED, output="y" * 64)  # type: ignore[arg-type]
    assert change_of(done, NodeState(NodeStatus.COMPLETED, output=done.output, started_at=5)) == "same"
    assert change_of(done, other) == "changed"
    assert (change_of(done, None), change_of(None, done)) == ("only_a", "only_b")
    assert change_of(NodeState(), None) == change_of(None, None) == "same"
    failed = [NodeState(NodeStatus.FAILED, error={"category": "timeout", "message": str(n)}) for n in range(2)]
    assert (change_of(*failed), change_of(failed[0], failed[0])) == ("changed", "same")


def test_what_rollbacks_left_behind_is_known_position_by_position() -> None:
    log = Log()
    run_id = log.new_run()
    for number in range(5):
        log.write(run_id, c.Label(Seq(1), f"l{number}"))  # positions 4 to 8
    state = log.write(run_id, c.RollBack(Seq(5)))  # 9
    assert [seq for seq in range(1, 10) if is_left(state, seq)] == [6, 7, 8]
    state = log.write(run_id, c.RollBack(Seq(7)))  # 10: forward, onto what was left
    assert [seq for seq in range(1, 11) if is_left(state, seq)] == [8, 9]
    state = log.write(run_id, c.RollBack(Seq(2)))
    assert [seq for seq in range(1, 12) if is_left(state, seq)] == [3, 4, 5, 6, 7, 8, 9, 10]


def test_what_came_after_the_plan_is_reset_with_what_it_is_inside_of() -> None:
    state = RunState(RUN)
    state.nodes[NodeId("fix")] = NodeState(expansion={"count": 3})
    state.nodes[NodeId("fan")] = NodeState(expansion={"count": 9, "items": "x"})
    listed = [NodeId(one) for one in ("fix[1].a", "fix[1].b", "fix", "fix[1]", "after", "grp")]
    again = Again(listed, state)
    resets = ("fix[1].a", "fix[1].b[2].x", "fix[2]", "fix[10].a", "after", "after[3].y", "grp.inner")
    stays = ("fix", "fix[1]", "fix[0]", "fix[0].a", "fix[1].c", "afterwards", "fan[2]", "grp2.inner")
    assert [one for one in (*resets, *stays) if again.resets(NodeId(one))] == list(resets)
    assert [one for one in (*resets, *stays) if again.reopens(NodeId(one))] == ["fix", "fix[1]"]
    items = Again([NodeId("fan[1].x"), NodeId("fan"), NodeId("fan[1]")], state)
    assert not items.resets(NodeId("fan[2]")), "items of a fan-out do not follow each other"


def test_the_first_writer_is_known_by_the_logs_and_not_by_the_clock() -> None:
    structure = structure_of(
        node("top"), node("own", "top", workspace="write"), node("inherited", "top", workspace="write")
    )
    state = RunState(RUN, origins=[1], generation=1)
    state.nodes = {
        NodeId("top"): NodeState(NodeStatus.COMPLETED, began=2),
        NodeId("own"): NodeState(NodeStatus.COMPLETED, 1, began=3, started_at=100, tree_start="2", tree="3"),
        NodeId("inherited"): NodeState(NodeStatus.COMPLETED, 0, began=9, started_at=200, tree_start="1", tree="2"),
    }
    reset = plan_reset(structure, state, NodeId("top"))
    assert (reset.first_writer, start_tree(state, reset)) == ("inherited", "1")
    reset = plan_reset(structure, state, NodeId("own"))
    assert spared_writers(structure, state, reset) == []
    reset = plan_reset(structure, state, NodeId("inherited"))
    assert spared_writers(structure, state, reset) == ["own"]


def test_what_is_suggested_for_a_node_that_is_not_there_is_there() -> None:
    structure = structure_of(node("sub", for_each=ForEach("${{ [1, 2] }}")), node("subs"))
    state = RunState(RUN, nodes={NodeId(one): NodeState() for one in ("sub[0]", "sub[1]")})  # from before a rollback
    with pytest.raises(OmiumError) as caught:
        check_exists(structure, state, NodeId("sub[0]"))
    assert "sub[" not in caught.value.hint and "subs" in caught.value.hint
    state.nodes[NodeId("sub")] = NodeState(expansion={"count": 1, "items": "x"})
    check_exists(structure, state, NodeId("sub[0]"))
    with pytest.raises(OmiumError) as caught:
        check_exists(structure, state, NodeId("sub[1]"))
    assert "sub[0]" in caught.value.hint and "sub[1]" not in caught.value.hint
