"""Inputs and outputs against their JSON Schemas."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omium.orchestration.definition import NodeDef, WorkflowDef, validate_inputs, value_problems
from omium.orchestration.definition.json_schema import MISSING, checker_of, schema_at, schema_problems
from omium.orchestration.errors import OmiumError


def taking(schema: dict[str, Any] | None) -> WorkflowDef:
    return WorkflowDef("w", (NodeDef("a", "function", use="f"),), inputs=schema)


SCHEMA = {
    "type": "object",
    "properties": {
        "repo": {"type": "string", "pattern": "^[a-z]+$"},
        "count": {"type": "integer", "default": 5},
        "to": {"type": "object", "properties": {"tags": {"type": "array", "default": []}}, "default": {}},
        "mail": {"$ref": "#/$defs/mail"},
    },
    "required": ["repo"],
    "additionalProperties": False,
    "$defs": {"mail": {"type": "string", "pattern": "@"}},
}


def test_defaults_are_filled_in_and_the_given_stays_as_it_is() -> None:
    given = {"repo": "omium", "to": {}}
    filled = validate_inputs(taking(SCHEMA), given)
    assert filled == {"repo": "omium", "count": 5, "to": {"tags": []}}
    assert given == {"repo": "omium", "to": {}}
    filled["to"]["tags"].append("x")
    assert validate_inputs(taking(SCHEMA), given)["to"]["tags"] == [], "a default is not shared"


def test_every_reason_is_listed_with_its_path() -> None:
    with pytest.raises(OmiumError) as caught:
        validate_inputs(taking(SCHEMA), {"count": "many", "to": {"tags": 1}, "mail": "nobody", "more": 1})
    assert caught.value.code == "invalid_argument"
    paths = [problem["path"] for problem in caught.value.data["problems"]]
    assert paths == ["inputs", "inputs", "inputs.count", "inputs.mail", "inputs.to.tags"]


def test_without_a_schema_any_object_is_taken() -> None:
    assert validate_inputs(taking(None), {"x": 1}) == {"x": 1}
    for wrong in ([], "x", None):
        with pytest.raises(OmiumError) as caught:
            validate_inputs(taking(None), wrong)  # type: ignore[arg-type]
        assert caught.value.code == "invalid_argument"


def test_patterns_do_not_backtrack() -> None:
    started = time.perf_counter()
    assert value_problems({"type": "string", "pattern": "(a+)+$"}, "a" * 5000 + "!")
    assert value_problems({"patternProperties": {"^(a+)+$": {"type": "integer"}}}, {"a" * 5000: "x"})
    assert time.perf_counter() - started < 2


def test_a_schema_without_end_is_a_problem() -> None:
    assert value_problems({"$ref": "#"}, 1)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"properties": 1},
        {"$ref": "file:///etc/passwd"},
        {"items": {"$ref": "http://169.254.169.254/"}},
        {"anyOf": [{"$dynamicRef": "other.json#x"}]},
        {"$ref": "#/properties/none"},
        {"$defs": {"a": {"$id": "http://example.org/"}}},
        {"pattern": "(?<=a)b"},
        {"properties": {"x": {"patternProperties": {"(?!a)": {}}}}},
    ],
)
def test_schemas_that_are_refused(schema: dict[str, Any]) -> None:
    assert schema_problems(schema, "inputs")


def test_a_value_named_like_a_reference_is_a_value() -> None:
    schema = {"const": {"$ref": "http://example.org/"}, "properties": {"pattern": {"type": "string"}}}
    assert schema_problems(schema, "inputs") == []


OPEN: dict[str, Any] = {
    "type": "object",
    "properties": {
        "list": {"type": "array", "items": {"$ref": "#/$defs/item"}},
        "pair": {"type": "array", "prefixItems": [{"type": "string"}], "items": False},
        "maybe": {"type": ["object", "null"], "properties": {"x": {"type": "integer"}}},
        "any": {},
        "either": {"anyOf": [{"type": "string"}, {"type": "object"}]},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"v": {}}}},
        "closed": {"type": "object", "additionalProperties": False},
        "endless": {"$ref": "#/properties/endless"},
    },
    "$defs": {"item": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


@pytest.mark.parametrize(
    ("steps", "known"),
    [
        (("list", 0, "name"), True),
        (("list", 0, "nme"), False),
        (("list", "name"), False),
        (("lst",), False),
        (("pair", 0), True),
        (("maybe", "x"), True),
        (("maybe", "y"), False),
        (("any", "thing"), None),
        (("either", "x"), None),
        (("map", "k", "v"), True),
        (("map", "k", "w"), False),
        (("closed", "x"), False),
        (("endless", "x"), None),
        ((0,), False),
    ],
)
def test_what_a_schema_says_about_a_path(steps: tuple[str | int, ...], known: bool | None) -> None:
    at, _ = schema_at(OPEN, steps)
    assert {True: at is not MISSING and at is not None, False: at is MISSING, None: at is None}[known]


_small = st.integers(-3, 3)
_leaf = (
    st.none()
    | st.booleans()
    | _small
    | st.sampled_from([1.0, 0.5, 2**53 + 1, 10**400])
    | st.text("a\u00e9\U0001f600\ud800", max_size=3)
)
_values = st.recursive(
    _leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
_types = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
_bounds = st.fixed_dictionaries(
    {},
    optional={
        "type": _types | st.lists(_types, min_size=1, max_size=3, unique=True),
        **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _small),
        **dict.fromkeys(
            ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), st.integers(0, 3)
        ),
        "uniqueItems": st.booleans(),
        "required": st.lists(st.sampled_from("abc"), unique=True, max_size=2),
        "const": _values,
        "enum": st.lists(_values, min_size=1, max_size=3),
    },
)


def _wider(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    parts = st.fixed_dictionaries(
        {},
        optional={
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            "items": inner,
            "additionalProperties": st.booleans() | inner,
            **dict.fromkeys(("anyOf", "allOf"), st.lists(inner, min_size=1, max_size=2)),
        },
    )
    return st.builds(lambda one, other: {**one, **other}, _bounds, parts)


@given(schema=st.recursive(_bounds, _wider, max_leaves=4), value=_values)
@settings(max_examples=400)
def test_what_the_quick_checker_lets_pass_has_no_problems(schema: dict[str, Any], value: Any) -> None:
    assert bool(checker_of(schema)(value, "v")) == bool(value_problems(schema, value, "v"))


def test_values_that_are_no_json_are_told_and_not_raised() -> None:
    check = checker_of({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False})
    assert [str(one) for one in check({"a": b"x"}, "v")] and check({1: 2}, "v") and check({"a": object()}, "v")
    assert not check({"a": 10**400}, "v") and not check({"a": 2}, "v")
    assert checker_of({"enum": [float("nan")]})(None, "v"), "a number that is not finite is no null"
