"""Inputs and keys: the value that a node is given, and when two of them are the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition.expressions import render
from omium.orchestration.engine.inputs import node_key, resolve
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest

SCOPE: dict[str, Any] = {
    "inputs": {"x": 5, "t": "text"},
    "nodes": {"a": {"output": {"deep": [1, 2]}, "state": "completed"}, "b": {"output": "b", "state": "completed"}},
}
OUTPUTS = {"a": Digest("a" * 64), "b": Digest("b" * 64)}

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-100, 100),
    st.sampled_from(
        [
            "plain", "${{ inputs.x }}", "${{ nodes.a.output }}", "  ${{ nodes.b.output }}", "${{nodes.a.output}}",
            "${{ nodes.a.output.deep }}", "x ${{ nodes.b.output }}", "$${{ nodes.a.output }}", "${{ inputs.t }}!",
        ]
    ),
)  # fmt: skip
templates = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(templates)
def test_a_resolved_template_is_what_rendering_gives(template: Any) -> None:
    value, _ = resolve(template, SCOPE, OUTPUTS)
    assert value == render(template, SCOPE)


@given(templates)
def test_in_the_key_a_whole_output_stands_as_its_digest_and_everything_else_as_it_is(template: Any) -> None:
    _, form = resolve(template, SCOPE, OUTPUTS)
    assert form == _expected(template)


def _expected(template: Any) -> Any:
    if isinstance(template, dict):
        return {name: _expected(item) for name, item in template.items()}
    if isinstance(template, list):
        return [_expected(item) for item in template]
    for name, digest in OUTPUTS.items():
        if template in (f"${{{{ nodes.{name}.output }}}}", f"${{{{nodes.{name}.output}}}}"):
            return {"$output": digest}
    return render(template, SCOPE)


def test_an_output_whose_digest_is_not_known_enters_by_value() -> None:
    assert resolve("${{ nodes.a.output }}", SCOPE, {}) == ({"deep": [1, 2]}, {"deep": [1, 2]})


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("around", [0, 1, 10, 62, 63])
def test_what_is_too_deep_is_refused_as_rendering_refuses_it(around: int) -> None:
    for depth in (64 - around, 65 - around):
        scope = {"nodes": {"a": {"output": nested(depth)}}}
        template = nested_template(around)
        outcomes = []
        for attempt in (
            lambda t=template, s=scope: render(t, s),
            lambda t=template, s=scope: resolve(t, s, OUTPUTS)[0],
        ):
            try:
                outcomes.append(attempt())
            except OmiumError as refused:
                outcomes.append(refused.code)
        assert outcomes[0] == outcomes[1], (around, depth)


def nested_template(depth: int) -> Any:
    template: Any = "${{ nodes.a.output }}"
    for _ in range(depth):
        template = [template]
    return template


def test_an_expression_that_fails_says_so() -> None:
    with pytest.raises(OmiumError, match="expression_error"):
        resolve({"a": "${{ nodes.z.output }}"}, SCOPE, OUTPUTS)


KEY = ("n" * 64, "code", {"x": 1}, "tree")


def test_equal_keys_mean_equal_definition_code_inputs_and_tree() -> None:
    assert node_key(*KEY) == node_key("n" * 64, "code", {"x": 1}, "tree")
    assert len(node_key(*KEY)) == 64
    others: list[tuple[str, str, Any, str | None]] = [
        ("m" * 64, "code", {"x": 1}, "tree"),
        ("n" * 64, "code2", {"x": 1}, "tree"),
        ("n" * 64, "code", {"x": 2}, "tree"),
        ("n" * 64, "code", {"x": 1.0}, "tree"),
        ("n" * 64, "code", {"x": True}, "tree"),
        ("n" * 64, "code", {"x": 1}, None),
    ]
    assert len({node_key(*one) for one in (KEY, *others)}) == 7


@given(
    st.dictionaries(st.text("ab", max_size=2), st.integers(0, 2), max_size=3),
    st.dictionaries(st.text("ab", max_size=2), st.integers(0, 2), max_size=3),
)
def test_keys_are_equal_exactly_when_inputs_are_whatever_their_order(
    one: dict[str, int], other: dict[str, int]
) -> None:
    turned = dict(reversed(list(one.items())))
    assert node_key("h", "c", one, None) == node_key("h", "c", turned, None)
    assert (node_key("h", "c", one, None) == node_key("h", "c", other, None)) == (one == other)
