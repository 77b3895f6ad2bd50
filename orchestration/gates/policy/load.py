"""From a file, a text or plain data to a `Policy`, with every problem at once, each with file and line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omium.orchestration.definition.document import (
    Document,
    Format,
    plain_problems,
    read_document,
    read_file,
    validate,
)
from omium.orchestration.definition.expressions import compile_expression
from omium.orchestration.definition.problems import Problem, located
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy.policy import Policy
from omium.orchestration.gates.policy.profiles import DEFAULT_PROFILE, PROFILES

if TYPE_CHECKING:
    from omium.orchestration.gates.policy.schema import PolicyFile, RuleFile


def load_policy(path: Path | str) -> Policy:
    """The policy in a file. Raises `not_found`, or `invalid_definition` with `data["problems"]`."""
    return policy_from(read_file(path))


def read_policy(text: str, source: str, format: Format = "yaml") -> Policy:
    """The policy that a text holds; `source` names it in messages. Raises `invalid_definition`."""
    return policy_from(read_document(text, source, format))


def policy_of(value: Mapping[str, Any], source: str = "policy") -> Policy:
    """The policy of plain data, such as `Policy.document`. Raises `invalid_definition`."""
    document = Document(value, source, None)
    problems = plain_problems(value)
    if problems:
        raise document.error(problems)
    return policy_from(document)


@lru_cache(maxsize=8)
def profile_policy(name: str = DEFAULT_PROFILE) -> Policy:
    """The policy of a profile: `safe`, or `research`. Raises `not_found`."""
    if name not in PROFILES:
        raise OmiumError("not_found", f"There is no policy profile {name!r}.", f"Use {' or '.join(PROFILES)}.")
    return policy_of({"profile": name}, f"profile {name}")


def policy_from(document: Document) -> Policy:
    """The policy of a document that was read. Raises `invalid_definition`."""
    from omium.orchestration.gates.policy.schema import PolicyFile

    file = validate(document, PolicyFile)
    problems = [
        problem for place, rule in enumerate(file.rules) for problem in _expression_problems(rule, f"rules[{place}]")
    ]
    if problems:
        raise document.error(problems)
    return Policy(canonical(file))


def policy_problems(value: Any, document: Document, under: str) -> list[Problem]:
    """What is wrong with a policy that stands inside another document at `under`, with file and line."""
    try:
        policy_of(value, document.source)
    except OmiumError as error:
        found = [
            Problem(f"{under}.{one['path']}" if one["path"] else under, one["message"], one["expected"])
            for one in error.data.get("problems", [{"path": "", "message": error.message, "expected": error.hint}])
        ]
        return located(found, document.source, document.line_of)
    return []


def canonical(file: PolicyFile) -> dict[str, Any]:
    """The one document of a policy, however it was written: profile and defaults filled in, units made one."""
    from omium.orchestration.gates.policy.schema import PolicyFile

    base = PolicyFile.model_validate(PROFILES[file.profile]) if file.profile else PolicyFile()
    said: dict[str, Any] = {
        "apiVersion": file.apiVersion,
        "default": file.default or base.default or "deny",
        "on_error": file.on_error or base.on_error or "deny",
    }
    if file.description:
        said["description"] = file.description
    for name in ("limits", "redact", "approval"):
        value = getattr(file, name) if getattr(file, name) is not None else getattr(base, name)
        if value is not None:
            said[name] = _plain(value)
    rules = [*file.rules, *base.rules]
    said["rules"] = [_rule_document(rule) for rule in rules]
    return said


def _rule_document(rule: RuleFile) -> dict[str, Any]:
    said: dict[str, Any] = {"id": rule.id, "effect": rule.effect}
    if rule.description:
        said["description"] = rule.description
    match = _plain(rule.match)
    if match:
        said["match"] = match
    if rule.when:
        # As they were written: of a condition, null can be the value that is meant.
        said["when"] = {
            place: one.model_dump(mode="json", by_alias=True, exclude_unset=True) for place, one in rule.when.items()
        }
    if rule.condition is not None:
        said["if"] = rule.condition
    for name in ("during", "limits", "redact", "trusts", "approval"):
        value = getattr(rule, name)
        if value is not None:
            said[name] = _plain(value)
    return said


def _plain(value: Any) -> Any:
    return value if isinstance(value, list) else value.model_dump(mode="json", by_alias=True, exclude_none=True)


def _expression_problems(rule: RuleFile, under: str) -> list[Problem]:
    from omium.orchestration.gates.policy.rules import NAMES

    if rule.condition is None:
        return []
    names = NAMES if rule.effect == "allow" else (*NAMES, "hints")
    try:
        expression = compile_expression(rule.condition, names)
    except OmiumError as error:
        return [Problem(f"{under}.if", error.message.rstrip("."), f"CEL over {', '.join(names)}")]
    if expression.returns not in ("bool", "dyn"):
        return [Problem(f"{under}.if", f"gives {expression.returns}", "an expression that gives true or false")]
    return []
