"""Policies and questions in few words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omium.orchestration.gates.policy import Decision, Policy, Question, policy_of

QUERY: dict[str, Any] = {"action": "tool", "server": "db", "tool": "query", "arguments": {"sql": "select 1"}}


def rule(id: str, effect: str, **keys: Any) -> dict[str, Any]:
    return {"id": id, "effect": effect, **{name.rstrip("_"): value for name, value in keys.items()}}


def policy(*rules: dict[str, Any], **keys: Any) -> Policy:
    return policy_of({**keys, "rules": list(rules)})


def ask(**keys: Any) -> Question:
    return Question(**{**QUERY, **keys})


def decide(rules: list[dict[str, Any]], **keys: Any) -> Decision:
    """What a policy of these rules says to a question with these arguments."""
    return policy(*rules).decide(ask(**keys))


def grants(when: Mapping[str, Any], arguments: Any, **keys: Any) -> bool:
    """Whether an allow rule with these conditions lets a call with these arguments through."""
    return decide([rule("r", "allow", when=dict(when))], arguments=arguments, **keys).effect == "allow"


def withholds(when: Mapping[str, Any], arguments: Any, **keys: Any) -> bool:
    """Whether a deny rule with these conditions stops a call with these arguments that is allowed otherwise."""
    rules = [rule("a", "allow"), rule("d", "deny", when=dict(when))]
    return decide(rules, arguments=arguments, **keys).effect == "deny"
