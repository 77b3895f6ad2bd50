"""Tests of policies, in files: questions, and what the policy has to say to each.

policy: policy.yaml
cases:
- name: reading is allowed
  question: {server: db, tool: query, arguments: {sql: select 1}}
  expect: {effect: allow, rule: db-read}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from omium.orchestration.definition.document import read_file, validate
from omium.orchestration.definition.model import Assurance
from omium.orchestration.gates.policy.load import load_policy
from omium.orchestration.gates.policy.model import Decision, Effect, limits_dict
from omium.orchestration.gates.policy.policy import Policy
from omium.orchestration.gates.policy.rules import limits_of, terms_of
from omium.orchestration.gates.policy.schema import (
    CallLimitsFile,
    PolicyModel,
    QuestionFile,
    RedactKinds,
    TermsFile,
)

MAX_CASES = 10_000


class ExpectFile(PolicyModel):
    """What is expected; what is not said may be anything. rule: null for the default."""

    effect: Effect
    rule: str | None = None
    limits: CallLimitsFile | None = None
    redact: RedactKinds | None = None
    trusts: list[Literal["read_only", "idempotent"]] | None = None
    approval: TermsFile | None = None
    min_assurance: Assurance | None = None


class CaseFile(PolicyModel):
    name: Annotated[str, Field(min_length=1, max_length=200)]
    question: QuestionFile
    expect: ExpectFile


class CasesFile(PolicyModel):
    policy: str | None = None
    cases: Annotated[list[CaseFile], Field(min_length=1, max_length=MAX_CASES)]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a case. differences: by what was expected, (expected, found); empty when it passed."""

    name: str
    line: int | None
    decision: Decision
    differences: Mapping[str, tuple[Any, Any]]

    @property
    def passed(self) -> bool:
        return not self.differences

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "line": self.line,
            "passed": self.passed,
            "differences": {
                name: {"expected": expected, "found": found} for name, (expected, found) in self.differences.items()
            },
            "decision": self.decision.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The cases of one file, against one policy. unused: rules that no case reached; they are not tested."""

    file: str
    policy: Policy
    results: tuple[Result, ...]
    unused: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(one.passed for one in self.results)


def run_cases(path: Path, policy: Policy | None = None) -> Report:
    """Hold a policy against the cases of a file: the given one, or the one that the file names, relative to itself.
    Raises `not_found` and `invalid_definition`."""
    document = read_file(path)
    file = validate(document, CasesFile)
    if policy is None:
        if file.policy is None:
            from omium.orchestration.definition.problems import Problem

            raise document.error([Problem("policy", "the key 'policy' is missing", "the path of the policy's file")])
        policy = load_policy(path.parent / file.policy)
    reached: set[str] = set()
    results = []
    for place, case in enumerate(file.cases):
        question = case.question.question()
        found = policy.applied(question)
        reached |= {rule.id for rule in (*found.deny, *found.require, *found.allow)}
        decision = policy.decide(question)
        results.append(
            Result(case.name, document.line_of(f"cases[{place}]"), decision, _differences(case.expect, decision))
        )
    unused = tuple(rule.id for rule in policy.rules if rule.id not in reached)
    return Report(str(path), policy, tuple(results), unused)


def _differences(expect: ExpectFile, decision: Decision) -> dict[str, tuple[Any, Any]]:
    wanted: dict[str, tuple[Any, Any]] = {"effect": (expect.effect, decision.effect)}
    if "rule" in expect.model_fields_set:
        wanted["rule"] = (expect.rule, decision.rule)
    if expect.limits is not None:
        said = limits_of(expect.limits.model_dump(mode="json", exclude_none=True))
        wanted["limits"] = (limits_dict(said), limits_dict(decision.limits))
    if expect.redact is not None:
        wanted["redact"] = (sorted(expect.redact), sorted(decision.redact))
    if expect.trusts is not None:
        wanted["trusts"] = (sorted(expect.trusts), sorted(decision.trusts))
    terms = decision.approval
    if expect.approval is not None:
        given = terms_of(expect.approval.model_dump(mode="json", exclude_none=True))
        wanted["approval"] = (
            [given.min_assurance, given.ttl_s],
            None if terms is None else [terms.min_assurance, terms.ttl_s],
        )
    if expect.min_assurance is not None:
        wanted["min_assurance"] = (expect.min_assurance, None if terms is None else terms.min_assurance)
    return {name: pair for name, pair in wanted.items() if pair[0] != pair[1]}
