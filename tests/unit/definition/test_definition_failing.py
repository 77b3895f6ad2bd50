"""Rules about failures: how they are written, what is wrong with them and where, and what they fit."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition import definition_hash, load_workflow, workflow
from omium.orchestration.definition.failing import fits, plain, rule_for
from omium.orchestration.definition.model import FAILURE_CATEGORIES, FailureRule
from omium.orchestration.definition.schema import WorkflowFile, to_document, to_workflow
from omium.orchestration.errors import OmiumError

NODES = """
nodes:
  - {id: a, kind: function, use: f}
  - id: g
    kind: group
    nodes:
      - {id: inner, kind: function, use: f, for_each: [1, 2]}
"""


def load(rules: str) -> tuple[FailureRule, ...]:
    return load_workflow(f"name: w\non_failure:\n{rules}{NODES}", source="w.yaml").on_failure


def test_all_that_a_rule_can_say() -> None:
    rules = """
  - {do: abort, categories: permission_error, nodes: g.inner}
  - {do: rollback, categories: [timeout, api_error], nodes: ["g.*", a], to: "node:g.inner", max: 3}
  - {do: rollback}
"""
    assert load(rules) == (
        FailureRule("abort", ("permission_error",), ("g.inner",)),
        FailureRule("rollback", ("timeout", "api_error"), ("g.*", "a"), "node:g.inner", 3),
        FailureRule("rollback"),
    )


def test_one_rule_needs_no_list() -> None:
    assert load("  {do: ask}") == (FailureRule("ask"),)


@pytest.mark.parametrize(
    ("rule", "path", "said"),
    [
        ("{do: rolback}", "on_failure[0].do", "rolback"),
        ("{do: rollback, too: start}", "on_failure[0].too", "unknown key"),
        ("{to: start}", "on_failure[0]", "missing"),
        ("{do: rollback, categories: [timeot]}", "on_failure[0].categories[0]", "no category"),
        ("{do: rollback, categories: []}", "on_failure[0]", "fits no category"),
        ("{do: rollback, nodes: [b]}", "on_failure[0].nodes[0]", "no node"),
        ("{do: rollback, nodes: ['x*']}", "on_failure[0].nodes[0]", "no node"),
        ("{do: rollback, nodes: []}", "on_failure[0].nodes", "0 items"),
        ("{do: rollback, to: 'node:b'}", "on_failure[0].to", "after no node"),
        ("{do: rollback, to: '12'}", "on_failure[0].to", "no place"),
        ("{do: rollback, to: 'before:a'}", "on_failure[0].to", "no place"),
        ('{do: rollback, to: "a\\tb"}', "on_failure[0].to", "not a label"),
        ("{do: rollback, max: 0}", "on_failure[0].max", "0"),
        ("{do: rollback, max: 101}", "on_failure[0].max", "101"),
        ("{do: ask, to: start}", "on_failure[0]", "does not roll back"),
        ("{do: abort, max: 2}", "on_failure[0]", "does not roll back"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(rule: str, path: str, said: str) -> None:
    with pytest.raises(OmiumError) as refused:
        load(f"  - {rule}")
    [problem] = refused.value.data["problems"]
    assert (problem["path"], problem["file"], problem["line"]) == (path, "w.yaml", 3)
    assert said in problem["message"] + problem["expected"]


def test_a_rule_that_never_counts_is_a_mistake() -> None:
    with pytest.raises(OmiumError, match=r"on_failure\[1\]: never counts"):
        load("  - {do: ask}\n  - {do: abort, categories: [timeout]}")
    with pytest.raises(OmiumError, match="never counts"):
        load("  - {do: ask, categories: [timeout, unknown]}\n  - {do: abort, categories: [timeout]}")
    load("  - {do: ask, nodes: [a]}\n  - {do: abort}")


def test_steps_of_a_plan_may_be_named_before_there_is_one() -> None:
    text = "name: w\non_failure: [{do: ask, nodes: ['p.*', p.step]}, {do: rollback, to: 'node:p.step'}]\n"
    assert load_workflow(text + "nodes: [{id: p, kind: function, use: f, expands: true}]").on_failure


def test_yaml_json_and_python_are_one_definition() -> None:
    rule = {"do": "rollback", "categories": ["timeout"], "max": 2}
    yaml = "name: w\non_failure: {do: rollback, categories: timeout, to: previous, max: 2}\n"
    yaml += "nodes: [{id: a, kind: function, use: f}]"
    written = {"name": "w", "on_failure": [rule], "nodes": [{"id": "a", "kind": "function", "use": "f"}]}
    built = workflow("w", on_failure=[rule])
    built.function("a", use="f")
    hashes = {
        definition_hash(one)
        for one in (load_workflow(yaml), load_workflow(json.dumps(written), format="json"), built.build())
    }
    assert len(hashes) == 1
    without = workflow("w")
    without.function("a", use="f")
    assert definition_hash(without.build()) not in hashes


RULES = st.builds(
    FailureRule,
    st.just("rollback"),
    st.none() | st.lists(st.sampled_from(FAILURE_CATEGORIES), min_size=1, unique=True).map(tuple),
    st.none() | st.just(("a",)),
    st.sampled_from(["previous", "start", "node:a", "a label"]),
    st.integers(1, 100),
)


@given(RULES)
def test_a_rule_and_its_document_are_the_same(rule: FailureRule) -> None:
    built = workflow("w", on_failure=[])
    built.function("a", use="f")
    from dataclasses import replace

    defined = replace(built.build(), on_failure=(rule,))
    assert to_workflow(WorkflowFile.model_validate(to_document(defined))) == defined


@given(st.lists(RULES, max_size=4), st.sampled_from(FAILURE_CATEGORIES), st.sampled_from(["a", "b", "a[3]"]))
def test_the_first_rule_that_fits_is_the_one(rules: list[FailureRule], category: str, node: str) -> None:
    fitting = [
        place
        for place, rule in enumerate(rules)
        if (rule.categories is None or category in rule.categories) and (rule.nodes is None or node != "b")
    ]
    assert rule_for(rules, node, category) == (fitting[0] if fitting else None)


def test_expansions_are_meant_by_the_name_of_the_whole() -> None:
    assert plain("fix[2].test") == "fix.test"
    assert plain("fan[a.b/c:d]") == "fan"
    assert fits(["fix.*"], "fix[2].test") and fits(["fan"], "fan[x]") and not fits(["fan"], "fan.inner")
