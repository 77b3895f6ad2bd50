"""Rules, compiled from their canonical form into functions; and how those that apply go together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from omium.orchestration.definition.expressions import compile_expression
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy.fields import Unclear, field_steps
from omium.orchestration.gates.policy.matchers import Test, field_test
from omium.orchestration.gates.policy.model import ApprovalTerms, Effect, Question
from omium.orchestration.gates.policy.names import DEFAULT_SEPARATORS, SEPARATORS, names_test
from omium.orchestration.gates.policy.times import during
from omium.orchestration.ports_calls import Limits

MATCHED: Final = ("action", "server", "tool", "agent", "workflow", "node", "principal")
NAMES: Final = ("args", "action", "server", "tool", "workflow", "node", "agent", "principal", "project", "now")
"""What a rule's `if` may mention; where a match withholds also `hints`."""

Names = tuple[str | None, ...]  # of a question, in the order of MATCHED
Check = Callable[[Question, "Scope"], bool]


class Scope(dict[str, Any]):
    """What expressions see of a question, made when the first of them looks."""

    __slots__ = ("_question",)

    def __init__(self, question: Question) -> None:
        super().__init__()
        self._question = question

    def filled(self) -> Scope:
        if not self:
            question = self._question
            self.update(
                {name: getattr(question, name) for name in ("action", "server", "tool", "workflow", "node", "agent")},
                principal=question.principal,
                project=question.project,
                args=question.arguments,
                hints=question.hints,
            )
            if question.at is not None:
                self["now"] = question.at
        return self


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled rule. names: by field of MATCHED, whether a name is one of those that it is about. of_arguments and
    checks: what else must hold, of the arguments alone and of the whole question, each with the words for it."""

    index: int
    id: str
    effect: Effect
    description: str
    match: Mapping[str, Sequence[str]]
    names: tuple[tuple[int, Callable[[Any], bool]], ...]
    of_arguments: tuple[tuple[str, Test], ...]
    checks: tuple[tuple[str, Check], ...]
    limits: Limits
    redact: tuple[str, ...]
    trusts: frozenset[str]
    approval: ApprovalTerms | None

    @property
    def conditional(self) -> bool:
        """Whether anything but names decides about it."""
        return bool(self.of_arguments or self.checks)

    def about(self, names: Names) -> bool:
        """Whether the rule is about calls with these names."""
        return all(matches(names[place]) for place, matches in self.names)

    def holds(self, question: Question, scope: Scope) -> bool:
        """Whether its conditions hold. Raises Unclear, or whatever a condition fails with, where that cannot be told;
        a condition that does not hold settles it all the same."""
        unclear: Exception | None = None
        arguments = question.arguments
        for _, test in self.of_arguments:
            try:
                if not test(arguments):
                    return False
            except Exception as caught:  # as below
                unclear = unclear or caught
        for _, check in self.checks:
            try:
                if not check(question, scope):
                    return False
            except Exception as caught:  # a boundary: the caller records it, and lets it count against the call
                unclear = unclear or caught
        if unclear is not None:
            raise unclear
        return True


def compile_rule(index: int, said: Mapping[str, Any]) -> Rule:
    """A rule of a canonical document, made ready. Raises `expression_error` for its `if`."""
    effect: Effect = said["effect"]
    withholds = effect != "allow"
    match: Mapping[str, Sequence[str]] = said.get("match", {})
    names = tuple(
        (MATCHED.index(field), name_test(field, match[field], withholds)) for field in MATCHED if field in match
    )
    of_arguments: list[tuple[str, Test]] = []
    checks: list[tuple[str, Check]] = []
    for place, condition in said.get("when", {}).items():
        root, steps = field_steps(place)
        test = field_test(steps, condition, withholds)
        if root == "args":
            of_arguments.append((place, test))
        else:
            checks.append((place, _hint_check(test)))
    if "during" in said:
        checks.append(("during", _time_check(said["during"])))
    if "if" in said:
        checks.append(("if", _expression_check(said["if"], withholds)))  # last: it costs the most
    return Rule(
        index,
        said["id"],
        effect,
        said.get("description", ""),
        match,
        names,
        tuple(of_arguments),
        tuple(checks),
        limits_of(said.get("limits", {})),
        tuple(said.get("redact", ())),
        frozenset(said.get("trusts", ())),
        terms_of(said.get("approval", {})) if effect == "require_approval" else None,
    )


def name_test(field: str, patterns: Sequence[str], withholds: bool) -> Callable[[Any], bool]:
    """Whether a name is one of those of a rule's `match`."""
    return names_test(tuple(patterns), SEPARATORS.get(field, DEFAULT_SEPARATORS), folded=withholds)


def _hint_check(test: Test) -> Check:
    return lambda question, scope: test(dict(question.hints))


def _time_check(window: Mapping[str, Any]) -> Check:
    holds = during(window)
    return lambda question, scope: holds(question.at)


def _expression_check(source: str, withholds: bool) -> Check:
    expression = compile_expression(source, (*NAMES, "hints") if withholds else NAMES)

    def check(question: Question, scope: Scope) -> bool:
        try:
            value = expression.evaluate(scope.filled())
        except OmiumError as error:
            raise Unclear(error.message.rstrip(".")) from error
        if value is True or value is False:
            return bool(value)
        raise Unclear(f"its `if` gives a value of type {type(value).__name__}, not true or false")

    return check


def limits_of(said: Mapping[str, Any]) -> Limits:
    """Limits from their canonical form."""
    rate = said.get("rate")
    return Limits(
        said.get("timeout"),
        said.get("output_bytes"),
        None if rate is None else (int(rate[0]), float(rate[1])),
        said.get("run_budget_usd"),
    )


def terms_of(said: Mapping[str, Any]) -> ApprovalTerms:
    """The terms of an approval from their canonical form."""
    plain = ApprovalTerms()
    return ApprovalTerms(said.get("min_assurance", plain.min_assurance), said.get("ttl", plain.ttl_s))


def tighter(one: Limits, other: Limits) -> Limits:
    """Both limits at once. Of two rates the one that lets fewer calls through in the long run."""
    return Limits(
        _least(one.timeout_s, other.timeout_s),
        _least(one.output_bytes, other.output_bytes),
        tighter_rate(one.rate, other.rate),
        _least(one.run_budget_usd, other.run_budget_usd),
    )


def tighter_rate(one: tuple[int, float] | None, other: tuple[int, float] | None) -> tuple[int, float] | None:
    if one is None or other is None:
        return one or other
    return min(one, other, key=lambda rate: (rate[0] / rate[1], rate[0]))


def together(base: Limits, rules: Iterable[Rule]) -> tuple[Limits, str | None]:
    """(the limits of all of these rules and of the policy, the rule whose rate it is)."""
    rules = tuple(rules)
    limits = base
    for rule in rules:
        limits = tighter(limits, rule.limits)
    if limits.rate == base.rate:
        return limits, None
    return limits, next(rule.id for rule in rules if rule.limits.rate == limits.rate)


def _least(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
