"""A part of a workflow by its phases: what they need comes along, and what a text asks for is found by whole words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition.check import check_workflow
from omium.orchestration.definition.model import FailureRule, Need, NodeDef, WorkflowDef
from omium.orchestration.definition.phases import asked_for, up_to
from omium.orchestration.errors import OmiumError

PHASES = ("architect", "agree", "implement", "test", "review", "release", "merge")


def flow(outputs: Any = None, rules: tuple[FailureRule, ...] = ()) -> WorkflowDef:
    """The phases one after the other, and `docs`, which only needs the first."""
    nodes = [
        NodeDef(name, "function", use="f", needs=() if before is None else (Need(before, optional=name == "merge"),))
        for before, name in zip((None, *PHASES), PHASES, strict=False)
    ]
    nodes.append(NodeDef("docs", "function", use="f", needs=(Need("architect", when="inputs.docs"),)))
    return WorkflowDef("epic", tuple(nodes), outputs=outputs, on_failure=rules)


def ids(definition: WorkflowDef) -> list[str]:
    return [node.id for node in definition.nodes]


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        (["architect"], ["architect"]),
        (["test"], ["architect", "agree", "implement", "test"]),
        (["test", "docs"], ["architect", "agree", "implement", "test", "docs"]),
        (["docs", "docs"], ["architect", "docs"]),
        (["merge"], [*PHASES]),
    ],
)
def test_what_a_phase_needs_comes_along(asked: list[str], kept: list[str]) -> None:
    assert ids(up_to(flow(), asked)) == kept


@given(st.sets(st.sampled_from([*PHASES, "docs"]), min_size=1))
def test_nobody_gets_past_a_phase_that_is_needed(asked: set[str]) -> None:
    part = up_to(flow(), asked)
    kept = set(ids(part))
    assert asked <= kept
    whole = {node.id: node for node in flow().nodes}
    for node in part.nodes:
        assert node == whole[node.id]  # with all its needs, conditions and gates
        assert {need.node for need in node.needs} <= kept


def test_all_of_it_is_the_workflow_itself() -> None:
    definition = flow("${{ nodes.merge.output }}")
    assert up_to(definition, ["merge", "docs"]) is definition


@pytest.mark.parametrize(
    ("outputs", "kept"),
    [
        ("${{ nodes.merge.output }}", None),
        ({"plan": "${{ nodes.architect.output }}", "x": ["${{ nodes.test.state }}"]}, None),
        ({"plan": "${{ nodes.architect.output }}"}, {"plan": "${{ nodes.architect.output }}"}),
        ("${{ size(nodes) > 0 ? 1 : 2 }}", None),
        ("${{ inputs.goal }}", "${{ inputs.goal }}"),
        (None, None),
    ],
)
def test_outputs_that_would_read_what_is_left_out_are_those_of_the_last_phases(outputs: Any, kept: Any) -> None:
    assert up_to(flow(outputs), ["agree"]).outputs == kept


def test_rules_for_failures_that_cannot_apply_are_left_out() -> None:
    rule = FailureRule("rollback")
    rules = (
        replace(rule, to="node:agree", nodes=("agree",)),
        replace(rule, to="node:test", nodes=("a*",)),
        replace(rule, nodes=("test",)),
        replace(rule, nodes=("impl*", "test")),
        replace(rule, nodes=("impl*", "r*")),  # of what is left, the one before fits all that this one does
        replace(rule, do="ask"),
    )
    assert check_workflow(flow(rules=rules)) is None
    part = up_to(flow(rules=rules), ["implement"])
    assert part.on_failure == (rules[0], replace(rule, nodes=("impl*",)), rules[5])


@pytest.mark.parametrize(
    ("asked", "hint"),
    [(["arhcitect"], "architect"), (["pr"], "Phases: architect"), ([], "Phases: architect"), (["test.loop"], "test")],
)
def test_a_phase_that_there_is_not(asked: list[str], hint: str) -> None:
    with pytest.raises(OmiumError) as refused:
        up_to(flow(), asked)
    assert refused.value.code == "invalid_argument" and hint in refused.value.hint


# --- what a text asks for -----------------------------------------------------------------------------------------

SENTENCES = [
    ("Improve the approval prompt", None),
    ("Only plan the migration to the new store.", ("architect",)),
    ("Give every page a slug. Stop after the tests.", ("test",)),
    ("Plan only: give every page a slug.", ("architect",)),
    ("Write the parser, then stop after implementation.", ("implement",)),
    ("Please go no further than review.", ("review",)),
    ("Rewrite the planner (up to and including the review)", ("review",)),
    ("Only review and test the change of last week.", ("test", "review")),
    ("Only test users may log in before the release.", None),
    ("Test the page that reviews only pull requests.", None),
    ("Print the prices of all products in the preview.", None),
    ("Merge the two tables and plan for more.", None),
]


@pytest.mark.parametrize(("text", "phases"), SENTENCES)
def test_a_text_asks_for_phases_by_whole_words_or_for_all(text: str, phases: tuple[str, ...] | None) -> None:
    assert asked_for(text, PHASES) == phases
    assert asked_for(text.upper(), PHASES) == phases


def test_a_workflow_has_its_own_words() -> None:
    mine = ("plan", "implement", "pr", "load_data")
    assert asked_for("Improve the approval prompt", mine) is None
    assert asked_for("Prepare it all, and go up to PR.", mine) == ("pr",)
    assert asked_for("Stop after the pull request.", mine) == ("pr",)
    assert asked_for("Only load data, please.", mine) == asked_for("load_data only", mine) == ("load_data",)
    assert asked_for("Plan only", mine) == ("plan",) and asked_for("Design only", mine) is None
    assert asked_for("Only plan it", ()) is None


@given(st.text(max_size=200))
def test_any_text_asks_for_phases_that_there_are(text: str) -> None:
    found = asked_for(text, PHASES)
    assert found is None or (found and set(found) <= set(PHASES))


@given(st.sampled_from(PHASES), st.text("abcdefghij", min_size=1, max_size=5))
def test_part_of_a_word_is_none(phase: str, more: str) -> None:
    known = ("architect", "agree", "implement", "test", "review", "release", "merge")
    for word in (phase + more, more + phase):
        assert asked_for(f"Stop after {word}.", known) in (None, (phase,) if word == f"{phase}s" else None)
