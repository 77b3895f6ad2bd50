"""Every effect, limit and condition is needed: whichever is taken out of the engine, decisions change.

The reference cases pass through the public functions alone. A mutation replaces one part by what would be there if it
had been forgotten: a condition that always holds, one that never does, a limit that is not read, an effect that does
not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from omium.orchestration.gates.policy import matchers, rules
from omium.orchestration.gates.policy import policy as engine
from omium.orchestration.gates.policy.model import EFFECTS, ApprovalTerms
from omium.orchestration.gates.policy.policy import Applied, Policy
from omium.orchestration.ports_calls import Limits
from tests.policy_help import ask, policy, rule

Mutation = Callable[[pytest.MonkeyPatch], None]

# One pair for each condition: a value of which it holds, and one of which it does not.
CONDITIONS: dict[str, tuple[Any, Any, Any]] = {
    "eq": ("a", "a", "b"),
    "in": (["a", "b"], "a", "c"),
    "re": ("^a+$", "aa", "b"),
    "glob": ("a*", "ab", "b"),
    "lt": (3, 2, 3),
    "le": (3, 3, 4),
    "gt": (3, 4, 3),
    "ge": (3, 3, 2),
    "path_under": ("/srv", "/srv/a", "/etc"),
    "host_in": ("*.example", "https://a.example/", "https://b.test/"),
    "size": ({"max": 2}, "ab", "abc"),
    "type": ("text", "a", 1),
    "not": ({"eq": "a"}, "b", "a"),
    "exists": (True, "a", ...),
    "absent": (True, ..., "a"),
}
NAMED: dict[str, Any] = {"server": "s", "tool": "t", "agent": "a", "workflow": "w", "node": "n", "principal": "p"}


def behaviour() -> list[tuple[Any, ...]]:
    """What the reference cases come to."""
    found = []
    for name, (operand, *values) in CONDITIONS.items():
        for value in values:
            arguments = {} if value is ... else {"x": value}
            for effect in ("allow", "deny"):
                chosen = policy(rule("r", effect, when={"args.x": {name: operand}}), rule("q", "require_approval"))
                found.append(told(chosen, arguments=arguments))
    for field, name in (*NAMED.items(), ("action", "tool")):
        for value in (name, "model" if field == "action" else "other"):
            for pattern in [name] if field == "action" else [name, f"{name}*"]:
                found.append(told(policy(rule("r", "allow", match={field: pattern})), **{**NAMED, field: value}))
    limits = {"rate": "5/m", "output_bytes": 10, "timeout": 3, "run_budget_usd": 1}
    less = {"rate": "1/m", "output_bytes": 5, "timeout": 2, "run_budget_usd": 0.5}
    terms = {"min_assurance": "signed", "ttl": 60}
    late = datetime(2026, 3, 2, 20, tzinfo=UTC)
    found += [
        told(policy(rule("a", "allow"), rule("q", "require_approval"), rule("d", "deny"))),
        told(policy(rule("a", "allow"), rule("q", "require_approval"))),
        told(policy(rule("a", "allow"))),
        told(policy(default="allow")),
        told(policy(default="require_approval", approval=terms)),
        told(policy(rule("a", "allow", limits=limits))),
        told(policy(rule("a", "allow", limits=limits), rule("b", "allow", limits=less))),
        told(policy(rule("a", "allow", limits=less), rule("b", "allow", limits=limits))),
        told(policy(rule("a", "allow"), limits=limits, redact=["x"])),
        told(policy(rule("a", "allow", redact=["secrets"], trusts=["read_only"]))),
        told(policy(rule("q", "require_approval", approval=terms), rule("r", "require_approval"))),
        told(policy(rule("r", "require_approval"), rule("q", "require_approval", approval=terms))),
        told(policy(rule("a", "allow", during={"from": "09:00", "to": "17:00"})), at=late),
        told(policy(rule("a", "allow", during={"from": "09:00", "to": "17:00"})), at=late.replace(hour=10)),
        told(policy(rule("a", "allow", if_="args.x == 1")), arguments={"x": 1}),
        told(policy(rule("a", "allow", if_="args.x == 1")), arguments={"x": 2}),
        told(policy(rule("a", "allow"), rule("d", "deny", if_="args.y == 1")), arguments={}),
        told(policy(rule("a", "allow"), rule("d", "deny", if_="args.y == 1"), on_error="allow"), arguments={}),
        told(policy(rule("a", "allow"), rule("d", "deny", when={"hints.x": {"eq": 1}})), hints={"x": 1}),
        told(policy(rule("a", "allow"), rule("d", "deny", when={"hints.x": {"eq": 1}})), hints={"x": 2}),
        told(policy(default="allow"), tool="a\u200bb"),
        told(policy(default="allow"), arguments={"x": float("nan")}),
        told(policy(rule("a", "allow", match={"tool": "Query"})), tool="query"),
        told(policy(rule("d", "deny", match={"tool": "Query"}), default="allow"), tool="query"),
        told(policy(rule("a", "allow")).shadowed_by(policy(rule("d", "deny")))),
        told(policy(rule("a", "allow", when={"args.x[*]": {"eq": "a"}})), arguments={"x": ["a", "b"]}),
        told(policy(rule("d", "deny", when={"args.x[*]": {"eq": "a"}}), default="allow"), arguments={"x": ["b", "a"]}),
    ]
    return found


def told(chosen: Policy, **keys: Any) -> tuple[Any, ...]:
    found = chosen.decide(ask(**keys))
    return (found.effect, found.rule, found.limits, found.redact, found.trusts, found.approval, found.rate_rule,
            found.shadow and found.shadow.effect, bool(found.warnings))  # fmt: skip


def condition(name: str, result: bool) -> Mutation:
    def mutate(patch: pytest.MonkeyPatch) -> None:
        patch.setitem(matchers.MATCHERS, name, lambda operand, withholds: lambda value: result)

    return mutate


def without_effect(effect: str) -> Mutation:
    field = {"deny": "deny", "require_approval": "require", "allow": "allow"}[effect]
    original = Policy._apply

    def apply(self: Policy, question: Any, about: Any) -> Applied:
        return replace(original(self, question, about), **{field: ()})

    return lambda patch: patch.setattr(Policy, "_apply", apply)


def without_name(field: str) -> Mutation:
    original = rules.name_test

    def name_test(name: str, patterns: Any, withholds: bool) -> Any:
        return (lambda value: True) if name == field else original(name, patterns, withholds)

    return lambda patch: patch.setattr(rules, "name_test", name_test)


def without_limit(field: str) -> Mutation:
    original = rules.limits_of

    def mutate(patch: pytest.MonkeyPatch) -> None:
        for module in (rules, engine):
            patch.setattr(module, "limits_of", lambda said: replace(original(said), **{field: None}))

    return mutate


def limit_of_the_first(field: str) -> Mutation:
    original = rules.tighter

    def tighter(one: Limits, other: Limits) -> Limits:
        kept = getattr(one, field) if getattr(one, field) is not None else getattr(other, field)
        return replace(original(one, other), **{field: kept})

    return lambda patch: patch.setattr(rules, "tighter", tighter)


def attribute(owner: Any, name: str, value: Any) -> Mutation:
    return lambda patch: patch.setattr(owner, name, value)


def of_rules(**changes: Any) -> Mutation:
    """Rules that lose something when they are compiled."""
    original = rules.compile_rule

    def compile_rule(index: int, said: Any) -> Any:
        return replace(original(index, said), **changes)

    return lambda patch: patch.setattr(engine, "compile_rule", compile_rule)


def of_documents(key: str) -> Mutation:
    """A policy that does not read one of its keys."""
    original = Policy.__init__

    def init(self: Policy, document: Any, shadow: Any = None) -> None:
        plain = {"default": "deny", "on_error": "deny"}
        left = {name: value for name, value in document.items() if name != key}
        original(self, {**left, **({key: plain[key]} if key in plain else {})}, shadow)

    return lambda patch: patch.setattr(Policy, "__init__", init)


MUTATIONS: dict[str, Mutation] = {
    **{f"condition {name} always holds": condition(name, True) for name in CONDITIONS},
    **{f"condition {name} never holds": condition(name, False) for name in CONDITIONS},
    **{f"effect {effect}": without_effect(effect) for effect in EFFECTS},
    **{f"match {field}": without_name(field) for field in rules.MATCHED},
    **{f"limit {one.name}": without_limit(one.name) for one in fields(Limits)},
    **{f"the tighter {one.name}": limit_of_the_first(one.name) for one in fields(Limits)},
    **{f"key {key}": of_documents(key) for key in ("default", "on_error", "limits", "redact", "approval")},
    "redact": of_rules(redact=()),
    "trusts": of_rules(trusts=frozenset()),
    "terms": of_rules(approval=None),
    "conditions on arguments": of_rules(of_arguments=()),
    "other conditions": of_rules(checks=()),
    "the stricter terms": attribute(ApprovalTerms, "stricter", lambda one, other: one),
    "during": attribute(rules, "_time_check", lambda window: lambda question, scope: True),
    "if": attribute(rules, "_expression_check", lambda source, withholds: lambda question, scope: True),
    "hints": attribute(rules, "_hint_check", lambda test: lambda question, scope: True),
    "unfit names": attribute(engine, "unfit_names", lambda names: ""),
    "unfit arguments": attribute(engine, "unfit_arguments", lambda value: ""),
    "shadow": attribute(Policy, "_compared", lambda self, question, decision, tried: decision),
    "every item": attribute(matchers, "_of_every", lambda steps, test, withholds: lambda value: True),
    "warnings": attribute(Policy, "_warnings", lambda self, unclear: ()),
    "spelling where it grants": attribute(
        rules, "names_test", lambda patterns, marks, *, folded: matchers.names_test(patterns, marks, folded=True)
    ),
    "spelling where it withholds": attribute(
        rules, "names_test", lambda patterns, marks, *, folded: matchers.names_test(patterns, marks, folded=False)
    ),
}
EXPECTED = behaviour()


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_taken_out_is_missed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    assert behaviour() != EXPECTED


def test_nothing_taken_out_changes_nothing() -> None:
    assert behaviour() == EXPECTED


def test_every_condition_is_taken_out() -> None:
    assert set(CONDITIONS) == set(matchers.MATCHERS)
    assert {*NAMED, "action"} == set(rules.MATCHED)
