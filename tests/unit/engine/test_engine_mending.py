"""What failed and what mended it, told from events."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.engine.mending import Mended, RunFailings, Tally, mended_before, tallied
from omium.orchestration.ids import NodeId, Principal, RunId, Seq
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E


class Told:
    """A run whose events a test writes down."""

    def __init__(self, run: str = "run_1") -> None:
        self.failings = RunFailings(RunId(run))
        self.seq = 0

    def __call__(self, kind: E, **data: Any) -> Told:
        self.seq += 1
        run = self.failings.run
        self.failings.hear(Event(run, Seq(self.seq), kind, self.seq * 10, Principal("engine"), data, b"", b""))
        return self

    def fails(self, node: str, category: str = "timeout", generation: int = 0) -> Told:
        return self(E.NODE_ATTEMPT_FAILED, node=node, generation=generation, error={"category": category})

    def gives(self, node: str, generation: int = 0) -> Told:
        return self(E.NODE_COMPLETED, node=node, generation=generation)


def test_attempts_are_one_failure_until_the_node_gives_a_result() -> None:
    told = Told().fails("a").fails("a").gives("a").fails("a", "api_error", 1)
    first, second = told.failings.failings
    assert (first.attempts, first.mended, first.mended_at, first.seq) == (2, "tried again", 3, 2)
    assert (second.attempts, second.mended, second.category) == (1, None, "api_error")
    tally = told.failings.tallies["timeout"]
    assert (tally.tried, tally.helped) == (2, 1)


def test_the_end_of_a_node_is_not_another_failure() -> None:
    told = Told().fails("a")(E.NODE_FAILED, node="a", generation=0, error={"category": "timeout"})
    assert [one.attempts for one in told.failings.failings] == [1]
    asked = Told()(E.NODE_FAILED, node="ask", generation=0, error={"category": "permission_error"})
    assert [one.node for one in asked.failings.failings] == ["ask"]


def test_what_people_said_and_what_was_changed_is_what_mended_it() -> None:
    told = Told().fails("a")(E.APPROVAL_REQUESTED, approval="apr_1", node="a")
    told(E.APPROVAL_DECIDED, approval="apr_1", decision="retry", feedback="use metres").gives("a")
    assert told.failings.failings[0].mended == "a person said: use metres"
    changed = {"inputs": {"x": 1}, "nodes": {"a": {"with": {"y": 2}}}}
    again = Told().fails("a")(E.RUN_PLAYED_FROM, node="a", generation=1, overrides=changed).gives("a", 1)
    assert again.failings.failings[0].mended == "run again from a with other inputs.x, a.with"
    later = Told().fails("a")(E.RUN_PLAYED_FROM, node="a", generation=1, overrides=changed)
    later.fails("a", generation=1).gives("a", 1)  # what was changed then still is
    assert later.failings.failings[0].mended == again.failings.failings[0].mended
    back = Told().fails("a")(E.RUN_ROLLED_BACK, to=3, generation=1).gives("a", 1)
    assert back.failings.failings[0].mended == "rolled back to 3 and run again"
    assert not back.failings.tallies  # nothing was tried as it was


def test_containers_fail_with_what_is_in_them() -> None:
    told = Told().fails("fan[1].in")(E.NODE_FAILED, node="fan[1]", generation=0, error={})
    told(E.NODE_FAILED, node="fan", generation=0, error={})
    assert [one.node for one in told.failings.causes()] == ["fan[1].in"]


def test_what_mended_the_same_node_by_a_change_comes_first() -> None:
    plain = Told("run_1").fails("a").gives("a")
    other = Told("run_2").fails("b").gives("b")
    changed = Told("run_3").fails("a")(E.RUN_PLAYED_FROM, node="a", generation=1, overrides=None).gives("a", 1)
    lost = Told("run_4").fails("a")
    parent = {"run": "run_4", "seq": 1}
    branch = Told("run_5")(E.RUN_CREATED, parent=parent, branch="smaller", hypothesis="half of it").gives("a")
    learnt = [one.failings for one in (plain, other, changed, lost, branch)]
    found = mended_before(learnt, NodeId("a"), "timeout", most=4)
    assert [(one.run, one.how) for one in found] == [
        ("run_3", "run again from a"),
        ("run_5", "branch smaller: half of it"),
        ("run_1", "tried again"),
        ("run_2", "tried again"),
    ]
    assert mended_before(learnt, NodeId("a"), "api_error") == []
    assert found[1] == Mended(RunId("run_5"), NodeId("a"), Seq(2), "timeout", "branch smaller: half of it")


def test_the_estimate_moves_from_what_is_expected_to_what_was_seen() -> None:
    assert (Tally().chance("timeout"), Tally().chance("permission_error")) == (0.5, 0.1)
    assert Tally(20, 18).chance("permission_error") == pytest.approx(18.2 / 22)
    assert Tally(20, 1).chance("timeout") < 0.1
    told = [Told(f"run_{n}").fails("a").gives("a").failings for n in range(20)]
    assert tallied(told)["timeout"].chance("timeout") > 0.95


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sampled_from(["timeout", "type_error", "odd"]))
def test_an_estimate_is_between_0_and_1(one: int, other: int, category: str) -> None:
    tally = Tally(max(one, other), min(one, other))
    assert 0 < tally.chance(category) < 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from([E.NODE_ATTEMPT_FAILED, E.NODE_FAILED, E.NODE_COMPLETED, E.NODE_SKIPPED, E.NODE_REUSED]),
            st.sampled_from(["a", "f", "f[0]", "f[0].b"]),
            st.integers(0, 2),
        ),
        max_size=40,
    )
)
def test_whatever_happened_a_failure_is_open_once_at_most(events: list[tuple[E, str, int]]) -> None:
    told = Told()
    for kind, node, generation in events:
        told(kind, node=node, generation=generation, error={"category": "timeout"})
    left = [one.node for one in told.failings.failings if one.mended is None]
    assert len(left) == len(set(left))
    assert all(one.attempts >= 1 for one in told.failings.failings)
    assert all(one.helped <= one.tried for one in told.failings.tallies.values())
