"""Every condition of `when`: where it holds, where it does not, and where it cannot tell."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from omium.orchestration.gates.policy.matchers import MATCHERS
from tests.policy_help import grants, withholds

# (condition, values of which it holds, of which it does not, of which it cannot tell)
TABLE: list[tuple[dict[str, Any], list[Any], list[Any], list[Any]]] = [
    ({"eq": "a"}, ["a"], ["A", "a\n", "b", None], [1, True, ["a"], {"a": 1}]),
    ({"eq": 1}, [1, 1.0], [2, None], ["1", True, [1]]),
    ({"eq": True}, [True], [False, None], [1, "true"]),
    ({"eq": None}, [None], [], ["", 0, False, []]),
    ({"in": ["a", 2]}, ["a", 2], ["b", 3, None], [True, ["a"]]),
    ({"re": "^a+$"}, ["a", "aa"], ["b", "a\n", "xa"], [None, 1, ["a"]]),
    ({"re": ["^a$", "b"]}, ["a", "abc"], ["c"], [3]),
    ({"re": "é"}, ["café"], ["cafe"], ["\ud800"]),
    ({"glob": "a*"}, ["a", "ab"], ["b", "a/b"], [None, 1, ["a"]]),
    ({"lt": 3}, [2, 2.9, -1], [3, 4], ["2", None, True, [1]]),
    ({"le": 3}, [3], [4], ["3"]),
    ({"gt": 3}, [4, Decimal("3.5")], [3, 2], ["4", None]),
    ({"ge": 3}, [3], [2], ["3"]),
    ({"ge": 1, "lt": 3}, [1, 2], [0, 3], ["1"]),
    ({"path_under": "/srv"}, ["/srv", "/srv/a", "/srv/./a//b"], ["/srvx", "/", "srv/a"], ["/srv/../etc", "~", None, 7]),
    ({"path_under": ["src", "."]}, ["src/a", "other", "./x"], ["/src"], ["../x"]),
    (
        {"host_in": "example.com"},
        ["example.com", "https://Example.COM:443/x"],
        ["a.example.com", "evil.com"],
        ["", None],
    ),
    (
        {"host_in": "*.example.com"},
        ["a.example.com", "https://a.b.example.com./"],
        ["example.com"],
        [["a.example.com"]],
    ),
    ({"host_in": ["10.0.0.0/8", "::1"]}, ["10.1.2.3", "http://[::1]:8/"], ["11.0.0.1", "ten.example"], ["0x0a.1"]),
    ({"host_in": "10.0.0.1"}, ["http://[::ffff:10.0.0.1]/"], ["10.0.0.2"], ["http://[::ffff:10.0.0.1"]),
    ({"host_in": "*"}, ["anything.example"], [], ["http://a@b/", None]),
    ({"size": {"max": 3}}, ["abc", [1, 2], {}], ["abcd", "éé", [1, 2, 3, 4]], [3, None, True]),
    ({"size": {"min": 2, "max": "1k"}}, ["ab"], ["a", "x" * 1025], [9]),
    ({"type": "text"}, ["a"], [1, None, [], {}, True], []),
    ({"type": "number"}, [1, 1.5], ["1", True], []),
    ({"exists": True}, [None, "a", 0], [], []),
    ({"absent": False}, [None, "a"], [], []),
    ({"exists": True, "eq": "a"}, ["a"], ["b"], [1]),
    ({"not": {"eq": "a"}}, ["b", None], ["a"], [1, ["a"]]),
    ({"not": {"path_under": "/srv"}}, ["/etc"], ["/srv/a"], ["/srv/../etc", 3]),
    ({"not": {"not": {"eq": "a"}}}, ["a"], ["b"], [1]),
]
CASES = [
    (condition, value, expected)
    for condition, true, false, unclear in TABLE
    for values, expected in ((true, True), (false, False), (unclear, None))
    for value in values
]


@pytest.mark.parametrize(("condition", "value", "expected"), CASES)
def test_a_condition(condition: dict[str, Any], value: Any, expected: bool | None) -> None:
    arguments = {"x": value}
    assert grants({"args.x": condition}, arguments) is (expected is True)
    assert withholds({"args.x": condition}, arguments) is (expected is not False)


def test_every_condition_is_in_the_table() -> None:
    assert {name for condition, *_ in TABLE for name in condition} == set(MATCHERS)


@pytest.mark.parametrize("condition", [condition for condition, *_ in TABLE])
def test_what_is_absent_meets_no_condition(condition: dict[str, Any]) -> None:
    assert not grants({"args.x": condition}, {})
    assert not withholds({"args.x": condition}, {})


def test_absence_is_a_condition_of_its_own() -> None:
    for condition in ({"absent": True}, {"exists": False}):
        assert grants({"args.x": condition}, {})
        assert not grants({"args.x": condition}, {"x": None})
        assert withholds({"args.x": condition}, {"y": 1})


@pytest.mark.parametrize(
    ("place", "arguments", "grants_it", "withholds_it"),
    [
        ("args.a.b", {"a": {"b": "x"}}, True, True),
        ("args.a.b", {"a": {}}, False, False),
        ("args.a.b", {"a": None}, False, False),
        ("args.a.b", {"a": "b"}, False, True),
        ('args["a.b"]', {"a.b": "x"}, True, True),
        ("args.a[1]", {"a": ["y", "x"]}, True, True),
        ("args.a[1]", {"a": ["x"]}, False, False),
        ("args.a[1]", {"a": {"1": "x"}}, False, True),
        ("args.a[*]", {"a": ["x", "x"]}, True, True),
        ("args.a[*]", {"a": ["x", "y"]}, False, True),
        ("args.a[*]", {"a": ["y"]}, False, False),
        ("args.a[*]", {"a": []}, False, False),
        ("args.a[*]", {"a": ["x", 1]}, False, True),
        ("args.a[*]", {"a": "x"}, False, True),
        ("args.a[*]", {"a": {"k": "x"}}, True, True),
        ("args.a[*].b", {"a": [{"b": "x"}, {"b": "x"}]}, True, True),
        ("args.a[*].b", {"a": [{"b": "x"}, {}]}, False, True),
        ("args.a[*][*]", {"a": [["x"], ["x", "x"]]}, True, True),
        ("args.x", "not an object", False, True),
        ("args.x", None, False, True),
    ],
)
def test_places(place: str, arguments: Any, grants_it: bool, withholds_it: bool) -> None:
    assert grants({place: {"eq": "x"}}, arguments) is grants_it
    assert withholds({place: {"eq": "x"}}, arguments) is withholds_it


def test_the_arguments_as_a_whole() -> None:
    assert grants({"args": {"size": {"max": 1}}}, {"a": 1})
    assert not grants({"args": {"size": {"max": 1}}}, {"a": 1, "b": 2})
    assert grants({"args": {"type": "object"}}, {})


def test_hints_tighten() -> None:
    when = {"hints.destructiveHint": {"eq": True}}
    assert withholds(when, {}, hints={"destructiveHint": True})
    assert not withholds(when, {}, hints={"destructiveHint": False})
    assert not withholds(when, {}, hints={})
