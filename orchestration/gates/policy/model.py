"""What policy is asked and what it answers: plain values, which the engine and the executors also build and read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, get_args

from omium.orchestration.definition.model import Assurance
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.ports_calls import IDEMPOTENT, READ_ONLY, Action, Limits
from omium.orchestration.values import Value, encode

Effect = Literal["allow", "deny", "require_approval"]
OnError = Literal["deny", "allow"]

EFFECTS: Final[tuple[Effect, ...]] = get_args(Effect)
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)
STRICTNESS: Final[Mapping[Effect, int]] = {"allow": 0, "require_approval": 1, "deny": 2}
"""How much an effect withholds; of several that apply, the strictest decides."""

ASSURANCE_ORDER: Final[tuple[Assurance, ...]] = get_args(Assurance)
NO_LIMITS: Final = Limits()
TRUSTS: Final = (READ_ONLY, IDEMPOTENT)
DAY_S: Final = 86_400.0

_QUESTION_FORM: Final = b"omium.policy.question.v1\n"


@dataclass(frozen=True, slots=True)
class Question:
    """May this be done? What is known of a call when it is about to be made.

    arguments: exactly what would be sent, without credentials. hints: what the server says of its own tool; no rule
    can allow because of them. at: when it is asked, with a time zone; without it no rule about times can allow.
    """

    action: Action
    server: str | None
    tool: str
    arguments: Value = field(default_factory=dict)
    workflow: str | None = None
    node: str | None = None
    agent: str | None = None
    principal: str | None = None
    project: str | None = None
    hints: Mapping[str, Any] = field(default_factory=dict)
    at: datetime | None = None

    def as_dict(self) -> dict[str, Any]:
        """A JSON object (given JSON arguments) without what is not known: how a question is recorded, and written in
        files of cases."""
        said: dict[str, Any] = {"action": self.action, "tool": self.tool, "arguments": self.arguments}
        for name in ("server", "workflow", "node", "agent", "principal", "project"):
            value = getattr(self, name)
            if value is not None:
                said[name] = value
        if self.hints:
            said["hints"] = dict(self.hints)
        if self.at is not None:
            said["at"] = self.at.isoformat()
        return said

    def digest(self) -> Digest:
        """SHA-256 of everything that was asked but the time; the audit's name for it. Raises `invalid_value` for
        arguments that are no values."""
        said = self.as_dict()
        said.pop("at", None)
        return Digest(hashlib.sha256(_QUESTION_FORM + encode(said).data).hexdigest())


@dataclass(frozen=True, slots=True)
class ApprovalTerms:
    """How a person has to decide: with at least this assurance, within this time."""

    min_assurance: Assurance = "elicited"
    ttl_s: float = DAY_S

    def stricter(self, other: ApprovalTerms) -> ApprovalTerms:
        """Both terms at once."""
        higher = max(self.min_assurance, other.min_assurance, key=ASSURANCE_ORDER.index)
        return ApprovalTerms(higher, min(self.ttl_s, other.ttl_s))


@dataclass(frozen=True, slots=True)
class Shadow:
    """What another policy, which is only being tried, would have decided."""

    policy: Digest
    effect: Effect
    rule: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What policy says about one question.

    rule: the id of the rule that decided; None for the default. policy: the digest of the policy. limits, redact and
    trusts: of all rules that apply, together; meaningless for `deny`. rate_rule: the rule whose rate `limits.rate` is,
    which is counted by rule. approval: only for `require_approval`. warnings: what went wrong and was let pass, since
    the policy says so; for the audit. shadow: only where the tried policy differs. provenance: what else took part.
    """

    effect: Effect
    rule: str | None
    reason: str
    policy: Digest
    limits: Limits = NO_LIMITS
    redact: tuple[str, ...] = ()
    trusts: frozenset[str] = frozenset()
    approval: ApprovalTerms | None = None
    rate_rule: str | None = None
    warnings: tuple[str, ...] = ()
    shadow: Shadow | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    micros: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, without what is empty: what the audit records beside the question's digest."""
        said: dict[str, Any] = {"effect": self.effect, "rule": self.rule, "reason": self.reason, "policy": self.policy}
        limits = limits_dict(self.limits)
        if limits:
            said["limits"] = limits
        if self.rate_rule is not None:
            said["rate_rule"] = self.rate_rule
        if self.redact:
            said["redact"] = list(self.redact)
        if self.trusts:
            said["trusts"] = sorted(self.trusts)
        if self.approval is not None:
            said["approval"] = {"min_assurance": self.approval.min_assurance, "ttl_s": self.approval.ttl_s}
        if self.warnings:
            said["warnings"] = list(self.warnings)
        if self.shadow is not None:
            shadow = self.shadow
            said["shadow"] = {
                "policy": shadow.policy,
                "effect": shadow.effect,
                "rule": shadow.rule,
                "reason": shadow.reason,
            }
        if self.provenance:
            said["provenance"] = dict(self.provenance)
        said["micros"] = round(self.micros, 1)
        return said


def limits_dict(limits: Limits) -> dict[str, Any]:
    """The JSON form of limits, without those that are not set."""
    said = {
        "timeout_s": limits.timeout_s,
        "output_bytes": limits.output_bytes,
        "rate": list(limits.rate) if limits.rate else None,
        "run_budget_usd": limits.run_budget_usd,
    }
    return {name: value for name, value in said.items() if value is not None}


def question_from(said: Mapping[str, Any]) -> Question:
    """The question of a JSON object as `Question.as_dict` writes it. Raises `invalid_argument`."""
    from omium.orchestration.gates.policy.schema import QuestionFile, problem_text

    try:
        return QuestionFile.model_validate(dict(said)).question()
    except ValueError as error:
        raise OmiumError("invalid_argument", f"This is no question to a policy: {problem_text(error)}.") from error
