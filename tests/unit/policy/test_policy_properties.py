"""What holds of every policy and question."""

from __future__ import annotations

from itertools import permutations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.gates.policy.model import STRICTNESS
from omium.orchestration.gates.policy.policy import strictest
from omium.orchestration.ports_calls import Limits
from tests.policy_help import ask, policy, rule

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(["a", "A", "/srv/a", "../a", "h.example", "\ud800"])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner)
)
ARGUMENTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES, max_size=3)
CONDITION = st.sampled_from(
    [
        {"eq": "a"},
        {"in": ["a", 1]},
        {"re": "^a$"},
        {"glob": "a*"},
        {"lt": 2},
        {"ge": 0},
        {"path_under": "/srv"},
        {"host_in": "*.example"},
        {"size": {"max": 2}},
        {"type": "text"},
        {"exists": True},
        {"not": {"eq": "a"}},
        {"not": {"path_under": "/srv"}},
    ]
)
PLACE = st.sampled_from(["args.a", "args.b", "args.a[*]", "args.b.a", "args.c[0]"])
EXPRESSION = st.sampled_from([None, "args.a == 'a'", "has(args.a)", "args.b > 1", "size(args.a) == 1"])
NAMES = st.sampled_from(["x", "X", "y", "x/y", "\uff58", "x\n"])


def a_rule(effects: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda effect, match, when, expression: {
            "effect": effect,
            "match": match,
            "when": when,
            **({"if": expression} if expression else {}),
        },
        st.sampled_from(effects),
        st.dictionaries(st.sampled_from(["server", "tool"]), st.sampled_from(["x", "*", "x*", "y", ["x", "y"]])),
        st.dictionaries(PLACE, CONDITION, max_size=2),
        EXPRESSION,
    )


RULES = st.lists(a_rule(["allow", "deny", "require_approval"]), max_size=4)


def named(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "id": f"r{place}"} for place, one in enumerate(rules)]


@given(RULES, NAMES, NAMES, ARGUMENTS)
def test_a_rule_that_denies_always_wins(rules: list[dict[str, Any]], server: str, tool: str, arguments: Any) -> None:
    asked = ask(server=server, tool=tool, arguments=arguments)
    assert policy(*named(rules), rule("no", "deny"), default="allow").decide(asked).effect == "deny"


@given(RULES, a_rule(["deny", "require_approval"]), NAMES, NAMES, ARGUMENTS)
def test_a_rule_that_withholds_never_loosens(
    rules: list[dict[str, Any]], more: dict[str, Any], server: str, tool: str, arguments: Any
) -> None:
    asked = ask(server=server, tool=tool, arguments=arguments)
    for default in ("allow", "deny"):
        before = policy(*named(rules), default=default).decide(asked)
        after = policy(*named([*rules, more]), default=default).decide(asked)
        if before.rule is None and default == "deny" and more["effect"] == "require_approval":
            continue  # asking instead of the default's denial is what such a rule is for
        assert STRICTNESS[after.effect] >= STRICTNESS[before.effect]


@given(RULES, NAMES, NAMES, ARGUMENTS)
def test_the_order_of_rules_does_not_matter(
    rules: list[dict[str, Any]], server: str, tool: str, arguments: Any
) -> None:
    asked = ask(server=server, tool=tool, arguments=arguments)
    told = named(rules[:3])
    found = {policy(*order).decide(asked).effect for order in permutations(told)}
    assert len(found) == 1


@given(RULES, RULES, NAMES, ARGUMENTS)
def test_a_shadow_changes_nothing(
    rules: list[dict[str, Any]], other: list[dict[str, Any]], tool: str, arguments: Any
) -> None:
    asked = ask(tool=tool, arguments=arguments)
    plain = policy(*named(rules))
    found = plain.shadowed_by(policy(*named(other))).decide(asked)
    expected = plain.decide(asked)
    assert {**found.as_dict(), "shadow": None, "micros": 0} == {**expected.as_dict(), "shadow": None, "micros": 0}


@given(st.dictionaries(st.sampled_from(["args.z", "args.z[*]", "args.z.y"]), CONDITION, min_size=1), ARGUMENTS)
def test_an_argument_that_is_not_there_never_allows(when: dict[str, Any], arguments: Any) -> None:
    assert policy(rule("r", "allow", when=when)).decide(ask(arguments=arguments)).effect == "deny"


@given(RULES, NAMES, NAMES, ARGUMENTS)
def test_what_could_not_be_allowed_is_denied(
    rules: list[dict[str, Any]], server: str, tool: str, arguments: Any
) -> None:
    chosen = policy(*named(rules))
    if not chosen.could_allow(server, tool):
        assert chosen.decide(ask(server=server, tool=tool, arguments=arguments)).effect == "deny"


@given(RULES, st.dictionaries(st.text(max_size=4), VALUES, max_size=2), NAMES, ARGUMENTS)
def test_what_a_server_says_never_allows(rules: list[dict[str, Any]], hints: Any, tool: str, arguments: Any) -> None:
    chosen = policy(*named(rules))
    plain = chosen.decide(ask(tool=tool, arguments=arguments))
    hinted = chosen.decide(ask(tool=tool, arguments=arguments, hints={**hints, "readOnlyHint": True}))
    assert strictest(plain.effect, hinted.effect) == hinted.effect


@given(RULES, NAMES, VALUES)
def test_deciding_never_fails(rules: list[dict[str, Any]], name: str, value: Any) -> None:
    found = policy(*named(rules)).decide(ask(server=name, tool=name, agent=name, arguments=value))
    assert found.effect in STRICTNESS
    assert found.effect != "deny" or found.limits == Limits()
