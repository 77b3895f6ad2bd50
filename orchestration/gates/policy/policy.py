"""The policy itself: which of its rules apply to a question, and what follows from them together.

deny > require_approval > allow, whatever the order of the rules; where none applies, the default. Among rules of the
effect that decides, the first in the document gives its name to the decision.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import orjson

from omium.orchestration.definition.model import MAX_DEPTH
from omium.orchestration.gates.policy.fields import Unclear
from omium.orchestration.gates.policy.model import (
    ACTIONS,
    STRICTNESS,
    ApprovalTerms,
    Decision,
    Effect,
    OnError,
    Question,
    Shadow,
)
from omium.orchestration.gates.policy.names import is_literal, loose, seen
from omium.orchestration.gates.policy.rules import (
    MATCHED,
    Names,
    Rule,
    Scope,
    compile_rule,
    limits_of,
    terms_of,
    together,
)
from omium.orchestration.ids import Digest
from omium.orchestration.ports_calls import Limits

logger = logging.getLogger(__name__)

MAX_VALUES: Final = 100_000
MAX_NAME: Final = 1_024
_FORM: Final = b"omium.policy.v1\n"
_REMEMBERED: Final = 4_096
_ACTION, _SERVER, _TOOL = (MATCHED.index(name) for name in ("action", "server", "tool"))


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of the rules: those that apply, by effect, and what could not be told."""

    deny: tuple[Rule, ...]
    require: tuple[Rule, ...]
    allow: tuple[Rule, ...]
    unclear: Mapping[str, str]  # by rule: why


class Policy:
    """A compiled policy; `load.policy_of` makes one from a document.

    digest: its version, a hash of `document`, from which the very same policy is made again. default: what holds where
    no rule applies. on_error: what a rule does that withholds and cannot be evaluated: with `deny` it applies, with
    `allow` it does not, and the decision says so in its warnings.
    """

    def __init__(self, document: Mapping[str, Any], shadow: Policy | None = None) -> None:
        """document: in canonical form. Raises `expression_error` for an `if` that does not compile."""
        self.document: Mapping[str, Any] = document
        self.digest: Digest = digest_of(document)
        self.default: Effect = document["default"]
        self.on_error: OnError = document["on_error"]
        self.rules: tuple[Rule, ...] = tuple(compile_rule(place, one) for place, one in enumerate(document["rules"]))
        self.shadow = shadow
        self._limits = limits_of(document.get("limits", {}))
        self._redact: tuple[str, ...] = tuple(document.get("redact", ()))
        self._approval = terms_of(document.get("approval", {}))
        self._index = _Index(self.rules)
        self._about: dict[Names, tuple[str, tuple[Rule, ...]]] = {}
        self._concluded: dict[tuple[int, ...], Decision] = {}  # by the places of the rules that apply

    def __repr__(self) -> str:
        return f"Policy({self.digest[:12]}, {len(self.rules)} rules, default {self.default})"

    def shadowed_by(self, other: Policy | None) -> Policy:
        """The same policy, whose decisions also say where `other` would have decided differently."""
        same = object.__new__(Policy)
        same.__dict__.update(self.__dict__)
        same.shadow = other
        return same

    def decide(self, question: Question) -> Decision:
        """What this policy says. Never raises: what cannot be decided is denied, and in a policy that says
        `on_error: allow` it is allowed with a warning."""
        began = time.perf_counter_ns()
        decision = self._safely(question)
        if self.shadow is not None:
            decision = self._compared(question, decision, self.shadow)
        # Set in place: a copy of the whole for one number would take longer than most rules.
        object.__setattr__(decision, "micros", (time.perf_counter_ns() - began) / 1000)
        return decision

    def could_allow(self, server: str | None, tool: str) -> bool:
        """Whether there could be a call of this tool that is not denied: what agents are not offered, they do not try.
        Never more than a hint; every call is decided by itself."""
        names: Names = tuple({"action": "tool", "server": server, "tool": tool}.get(name) for name in MATCHED)
        possible = self.default != "deny"
        for rule in self._index.candidates(names):
            if not _may_be_about(rule, names):
                continue
            if rule.effect != "deny":
                possible = True
            elif not rule.conditional and rule.about(names):
                return False
        return possible and not unfit_names(names)

    def applied(self, question: Question) -> Applied:
        """The rules that apply to a question."""
        return self._apply(question, self._rules_about(names_of(question))[1])

    def _safely(self, question: Question) -> Decision:
        try:
            return self._decided(question)
        except Exception:  # the boundary of the engine: a bug in it must not be a way around it
            logger.exception("a policy could not be evaluated")
            why = "the policy could not be evaluated"
            if self.on_error == "allow":
                return self._decision("allow", None, why, warnings=(f"{why}; it says on_error: allow",))
            return self._decision("deny", None, why)

    def _decided(self, question: Question) -> Decision:
        unfit, rules = self._rules_about(names_of(question))
        unfit = unfit or unfit_arguments(question.arguments)
        if not unfit and question.hints:
            unfit = unfit_arguments(question.hints)
        if unfit:
            return self._decision("deny", None, unfit)
        found = self._apply(question, rules)
        if found.unclear:
            return self._conclusion(found)
        places = tuple([rule.index for rules in (found.deny, found.require, found.allow) for rule in rules])
        known = self._concluded.get(places)
        if known is None:
            if len(self._concluded) >= _REMEMBERED:
                self._concluded.clear()
            known = self._concluded[places] = self._conclusion(found)
        return _again(known)  # another one, since each is told how long it took

    def _conclusion(self, found: Applied) -> Decision:
        """What follows from the rules that apply, whatever the question was."""
        warnings = self._warnings(found.unclear)
        if found.deny:
            first = found.deny[0]
            return self._decision("deny", first, _reason(first, found.unclear), warnings=warnings)
        applying = (*found.require, *found.allow)
        first_of = found.require[0] if found.require else found.allow[0] if found.allow else None
        if first_of is None:
            effect, why = self.default, f"no rule applies, and the default is {self.default}"
        else:
            effect, why = first_of.effect, _reason(first_of, found.unclear)
        if effect == "deny":
            return self._decision("deny", None, why, warnings=warnings)
        limits, rate_rule = together(self._limits, applying)
        return Decision(
            effect,
            None if first_of is None else first_of.id,
            why,
            self.digest,
            limits,
            tuple(dict.fromkeys((*self._redact, *(kind for rule in applying for kind in rule.redact)))),
            frozenset().union(*(rule.trusts for rule in applying if rule.id not in found.unclear)),
            self._terms(found.require) if effect == "require_approval" else None,
            rate_rule,
            warnings,
        )

    def _apply(self, question: Question, rules: Sequence[Rule]) -> Applied:
        by_effect: dict[Effect, list[Rule]] = {"deny": [], "require_approval": [], "allow": []}
        unclear: dict[str, str] = {}
        scope: Scope | None = None
        for rule in rules:
            if not rule.of_arguments and not rule.checks:
                by_effect[rule.effect].append(rule)
                continue
            scope = Scope(question) if scope is None else scope
            try:
                if rule.holds(question, scope):
                    by_effect[rule.effect].append(rule)
            except Exception as error:  # a boundary: a rule that fails is recorded, and never to the call's advantage
                if not isinstance(error, Unclear):
                    logger.warning("the rule %s failed", rule.id, exc_info=error)
                unclear[rule.id] = str(error)[:300] if isinstance(error, Unclear) else type(error).__name__
                if rule.effect != "allow" and self.on_error == "deny":
                    by_effect[rule.effect].append(rule)
        return Applied(
            tuple(by_effect["deny"]), tuple(by_effect["require_approval"]), tuple(by_effect["allow"]), unclear
        )

    def _warnings(self, unclear: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(f"the rule {rule!r} could not be evaluated: {why}" for rule, why in unclear.items())

    def _terms(self, rules: Sequence[Rule]) -> ApprovalTerms:
        """Of all rules that ask, the strictest; of the policy, where none does."""
        terms = [rule.approval for rule in rules if rule.approval is not None]
        if not terms:
            return self._approval
        first = terms[0]
        for other in terms[1:]:
            first = first.stricter(other)
        return first

    def _decision(self, effect: Effect, rule: Rule | None, why: str, warnings: tuple[str, ...] = ()) -> Decision:
        known = (self._limits, self._redact) if effect == "allow" else (Limits(), ())
        return Decision(effect, rule.id if rule else None, why, self.digest, *known, warnings=warnings)

    def _rules_about(self, names: Names) -> tuple[str, tuple[Rule, ...]]:
        """(why these names are refused, the rules about them), remembered: a run asks about few tools, and often."""
        try:
            known = self._about.get(names)
        except TypeError:  # a name that is no text, which is what unfit_names says
            return unfit_names(names), ()
        if known is None:
            unfit = unfit_names(names)
            found = () if unfit else tuple(rule for rule in self._index.candidates(names) if rule.about(names))
            known = (unfit, found)
            if len(self._about) >= _REMEMBERED:
                self._about.clear()
            self._about[names] = known
        return known

    def _compared(self, question: Question, decision: Decision, tried: Policy) -> Decision:
        """The decision, which is as it was, with what the tried policy says where that differs."""
        other = tried._safely(question)
        if _essence(other) == _essence(decision):
            return decision
        return replace(decision, shadow=Shadow(other.policy, other.effect, other.rule, other.reason))


def _again(decision: Decision) -> Decision:
    """A decision without warnings or a shadow, once more. `replace` would take longer than most rules."""
    return Decision(
        decision.effect,
        decision.rule,
        decision.reason,
        decision.policy,
        decision.limits,
        decision.redact,
        decision.trusts,
        decision.approval,
        decision.rate_rule,
    )


class _Index:
    """The rules by the names of servers and tools that they are about, so that of a thousand only some are looked at.

    By folded names, of which rules that grant then compare the exact ones.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._by_both: dict[tuple[str, str], list[Rule]] = {}
        self._by_tool: dict[str, list[Rule]] = {}
        self._by_server: dict[str, list[Rule]] = {}
        self._others: list[Rule] = []
        for rule in rules:
            servers, tools = _literals(rule.match.get("server")), _literals(rule.match.get("tool"))
            if servers and tools:
                for server in servers:
                    for tool in tools:
                        self._by_both.setdefault((server, tool), []).append(rule)
            elif tools:
                for tool in tools:
                    self._by_tool.setdefault(tool, []).append(rule)
            elif servers:
                for server in servers:
                    self._by_server.setdefault(server, []).append(rule)
            else:
                self._others.append(rule)

    def candidates(self, names: Names) -> list[Rule]:
        """Every rule that can be about these names, in the order of the document."""
        server, tool = (loose(name) if type(name) is str else "" for name in (names[_SERVER], names[_TOOL]))
        found = [
            *self._by_both.get((server, tool), ()),
            *self._by_tool.get(tool, ()),
            *self._by_server.get(server, ()),
            *self._others,
        ]
        found.sort(key=lambda rule: rule.index)
        return found


def _literals(patterns: Sequence[str] | None) -> set[str] | None:
    if not patterns or not all(map(is_literal, patterns)):
        return None
    return set(map(loose, patterns))


def names_of(question: Question) -> Names:
    """The names of a question, in the order of MATCHED."""
    return (
        question.action,
        question.server,
        question.tool,
        question.agent,
        question.workflow,
        question.node,
        question.principal,
    )


def unfit_names(names: Names) -> str:
    """Why a question with these names is denied whatever the rules say; empty if it is not."""
    if type(names[_ACTION]) is not str or names[_ACTION] not in ACTIONS:
        return "the action is none that there is"
    if not names[_TOOL]:
        return "it is not said what is called"
    for field, name in zip(MATCHED, names, strict=True):
        if name is None:
            continue
        if type(name) is not str or len(name) > MAX_NAME:
            return f"the name of the {field} is no text of at most {MAX_NAME:,} characters"
        if not seen(name):
            return f"the name of the {field} has characters that cannot be seen"
    return ""


def unfit_arguments(value: Any) -> str:
    """Why a question with these arguments is denied whatever the rules say: what is no data, deeper than 64, or more
    than 100,000 values. Empty if they are fine. Needs no recursion."""
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        if count > MAX_VALUES:
            return f"the arguments hold more than {MAX_VALUES:,} values"
        below: list[Any] = []
        for one in level:
            kind = type(one)
            if kind is str or one is None or kind is bool or kind is int or kind is bytes:
                continue
            if kind is dict:
                if not all(type(key) is str for key in one):
                    return "the arguments have a key that is no text"
                below.extend(one.values())
            elif kind is list:
                below.extend(one)
            elif kind is float:
                if not math.isfinite(one):
                    return "the arguments hold a number that is not finite"
            elif kind is not datetime and kind is not Decimal:
                return f"the arguments hold a {kind.__name__}, which is no data"
        level = below
        depth += 1
        if depth > MAX_DEPTH + 1:
            return f"the arguments are nested deeper than {MAX_DEPTH}"
    return ""


def digest_of(document: Mapping[str, Any]) -> Digest:
    """The version of a canonical document."""
    try:
        text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # an integer over 64 bits
        text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    return Digest(hashlib.sha256(_FORM + text).hexdigest())


def strictest(one: Effect, other: Effect) -> Effect:
    """The effect that withholds more."""
    return max(one, other, key=STRICTNESS.__getitem__)


def _may_be_about(rule: Rule, names: Names) -> bool:
    """Whether the rule is about calls of this tool, by whomever."""
    return all(matches(names[place]) for place, matches in rule.names if place in (_ACTION, _SERVER, _TOOL))


def _reason(rule: Rule, unclear: Mapping[str, str]) -> str:
    if rule.id in unclear:
        return f"the rule {rule.id!r} cannot be evaluated, and so applies: {unclear[rule.id]}"
    return rule.description or f"the rule {rule.id!r} applies"


def _essence(decision: Decision) -> tuple[Any, ...]:
    """What of a decision has consequences."""
    return (decision.effect, decision.limits, decision.redact, decision.trusts, decision.approval)
