"""Why a question is decided as it is: what became of every rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from omium.orchestration.gates.policy.fields import Unclear
from omium.orchestration.gates.policy.model import Decision, Effect, Question
from omium.orchestration.gates.policy.policy import Policy, names_of
from omium.orchestration.gates.policy.rules import MATCHED, Rule, Scope

Outcome = Literal["applies", "other_call", "does_not_hold", "unclear"]


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of one rule. other_call: it is not about calls with these names; does_not_hold: it is, and a
    condition is not met; unclear: a condition cannot be evaluated, and `counts` says whether the rule applies all the
    same. why: which name or condition it was."""

    rule: str
    effect: Effect
    outcome: Outcome
    why: str = ""
    counts: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "effect": self.effect,
            "outcome": self.outcome,
            "counts": self.counts,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """The decision, and every rule in the order of the document."""

    decision: Decision
    rules: tuple[Trace, ...]

    def as_dict(self) -> dict[str, Any]:
        return {"decision": self.decision.as_dict(), "rules": [one.as_dict() for one in self.rules]}


def explain(policy: Policy, question: Question) -> Explanation:
    """Why the policy decides as it does."""
    return Explanation(policy.decide(question), tuple(_trace(policy, rule, question) for rule in policy.rules))


def _trace(policy: Policy, rule: Rule, question: Question) -> Trace:
    names = names_of(question)
    for at, matches in rule.names:
        if not matches(names[at]):
            return Trace(rule.id, rule.effect, "other_call", _other(rule.match, MATCHED[at], names[at]))
    for place, test in rule.of_arguments:
        if _fails(test, question.arguments):
            return Trace(rule.id, rule.effect, "does_not_hold", f"{place} is not as its condition says")
    for place, check in rule.checks:
        if _fails(check, question, Scope(question)):
            return Trace(rule.id, rule.effect, "does_not_hold", f"{place!r} does not hold")
    unclear = policy.applied(question).unclear.get(rule.id)
    if unclear is None:
        return Trace(rule.id, rule.effect, "applies", counts=True)
    counts = rule.effect != "allow" and policy.on_error == "deny"
    return Trace(rule.id, rule.effect, "unclear", unclear, counts)


def _fails(test: Callable[..., bool], *given: Any) -> bool:
    """Whether a condition plainly does not hold."""
    try:
        return not test(*given)
    except Unclear:
        return False


def _other(match: Mapping[str, Any], field: str, name: str | None) -> str:
    wanted = ", ".join(match[field])
    return f"the {field} is {'not known' if name is None else repr(name)}, not {wanted}"
