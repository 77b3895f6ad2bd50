"""Findings, cases, explanations and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.definition.document import read_document
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy.comparing import compare, read_questions
from omium.orchestration.gates.policy.explain import explain
from omium.orchestration.gates.policy.library import template, templates
from omium.orchestration.gates.policy.lint import CODES, Known, lint, lint_file
from omium.orchestration.gates.policy.testing import run_cases
from tests.policy_help import ask, policy, rule

TOOLS: dict[str, Any] = {
    "db/query": {"type": "object", "properties": {"sql": {"type": "string"}, "limit": {"type": "integer"}}},
    "fs/read_file": {"type": "object", "properties": {"path": {"type": "string"}}},
}
KNOWN = Known(TOOLS, agents={"writer"}, workflows={"report"})


def found(text: str, known: Known = KNOWN) -> list[tuple[str, str | None, int | None]]:
    return [(one.code, one.rule, one.line) for one in lint(read_document(text, "p.yaml"), known).findings]


CASES = [
    ("default: allow", [("default-allow", None, 1)]),
    ("on_error: allow", [("errors-allow", None, 1)]),
    ("rules:\n- {id: r, effect: allow}", [("unconstrained-allow", "r", 2)]),
    ("rules:\n- {id: r, effect: allow, match: {action: [model, network]}}", [("unconstrained-allow", "r", 2)]),
    ("rules:\n- {id: r, effect: allow, match: {action: model}}", []),
    ("rules:\n- {id: r, effect: allow, match: {tool: 'query'}}", [("allow-across-servers", "r", 2)]),
    ("rules:\n- {id: r, effect: allow, match: {tool: query, server: 'd*'}}", [("allow-across-servers", "r", 2)]),
    ("rules:\n- {id: r, effect: deny, match: {tool: '*q*'}}", []),
    ("rules:\n- {id: r, effect: allow, match: {server: dbb}}", [("unknown-name", "r", 2)]),
    ("rules:\n- {id: r, effect: deny, match: {server: 'x*'}}", [("matches-nothing", "r", 2)]),
    ("rules:\n- {id: r, effect: allow, match: {server: db, tool: read_file}}", [("unknown-name", "r", 2)]),
    ("rules:\n- {id: r, effect: deny, match: {tool: 'drop*'}}", [("matches-nothing", "r", 2)]),
    ("rules:\n- {id: r, effect: deny, match: {agent: reader}}", [("unknown-name", "r", 2)]),
    ("rules:\n- {id: r, effect: deny, match: {workflow: 'x*'}}", [("matches-nothing", "r", 2)]),
    (
        "rules:\n- id: r\n  effect: deny\n  match: {server: db}\n  when: {args.cost: {gt: 5}}",
        [("unknown-argument", "r", 5)],
    ),
    ("rules:\n- id: r\n  effect: deny\n  match: {server: db}\n  when: {args.sql: {gt: 5}}", [("wrong-type", "r", 5)]),
    ("rules:\n- id: r\n  effect: deny\n  match: {server: db}\n  when: {args.limit: {gt: 5}, args.sql: {re: x}}", []),
    (
        "rules:\n- {id: r, effect: allow, match: {server: db}, when: {args.sql: {re: 'select'}}}",
        [("unanchored", "r", 2)],
    ),
    ("rules:\n- {id: r, effect: allow, match: {server: db}, when: {args.sql: {re: '^select$'}}}", []),
    ("rules:\n- {id: r, effect: deny, if: args.sql == 'x'}", [("unchecked-field", "r", 2)]),
    ("rules:\n- {id: r, effect: deny, if: has(args.sql) && args.sql == 'x'}", []),
    ("rules:\n- {id: r, effect: deny, if: '\"sql\" in args && args.sql == 1'}", []),
    ("rules:\n- {id: r, effect: deny, if: has(args.a) && args.b == 1}", [("unchecked-field", "r", 2)]),
    (
        "rules:\n- {id: d, effect: deny, match: {server: db}}\n"
        "- {id: r, effect: allow, match: {server: db, tool: query}}",
        [("unreachable", "r", 3)],
    ),
    (
        "rules:\n- {id: q, effect: require_approval, match: {server: '*'}}\n"
        "- {id: r, effect: allow, match: {server: db}}",
        [("unreachable", "r", 3)],
    ),
    (
        "rules:\n- {id: q, effect: require_approval, match: {server: db}}\n"
        "- {id: r, effect: allow, match: {server: db}, limits: {timeout: 1}}",
        [],
    ),
    (
        "rules:\n- {id: d, effect: deny, match: {server: db}, when: {args.sql: {re: x}}}\n"
        "- {id: r, effect: allow, match: {server: db}}",
        [],
    ),
    (
        "rules:\n- {id: a, effect: allow, match: {server: db}}\n"
        "- {id: r, effect: allow, match: {server: db, tool: query}}",
        [("redundant", "r", 3)],
    ),
    ("rulez: 1", [("invalid", None, 1)]),
    ("default: deny\ndefault: deny", [("invalid", None, 2)]),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=range(len(CASES)))
def test_a_finding(text: str, expected: list[Any], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text)
    linted = lint_file(tmp_path / "p.yaml", KNOWN)
    assert [(one.code, one.rule, one.line) for one in linted.findings] == expected
    assert (linted.policy is None) is any(code == "invalid" for code, *_ in expected)


def test_every_finding_has_a_case() -> None:
    assert {code for _, expected in CASES for code, *_ in expected} == set(CODES)


def test_without_knowing_what_there_is_nothing_is_said_of_names() -> None:
    text = "rules:\n- {id: r, effect: deny, match: {server: x, agent: y}, when: {args.z: {gt: 1}}}"
    assert found(text, Known()) == []
    assert {code for code, *_ in found(text)} == {"unknown-name"}


def test_a_schema_that_says_nothing_may_take_anything() -> None:
    text = "rules:\n- {id: r, effect: deny, match: {server: db}, when: {args.z: {gt: 1}}}"
    for schema in (
        {},
        {"type": "object"},
        {"properties": {}, "anyOf": []},
        {"properties": {}, "patternProperties": {}},
    ):
        assert found(text, Known({"db/x": schema})) == []


# --- templates and cases ---


@pytest.mark.parametrize("name", [one.name for one in templates()])
def test_a_template_passes_its_cases_which_reach_every_rule_and_lints(name: str) -> None:
    chosen = template(name)
    report = run_cases(chosen.cases)
    assert [one.as_dict() for one in report.results if not one.passed] == []
    assert report.passed
    assert report.unused == ()
    assert lint_file(chosen.path).findings == ()
    assert chosen.description


def test_the_library_is_what_it_is_said_to_be() -> None:
    assert [one.name for one in templates()] == ["cost", "hours", "privacy", "rate", "tools"]
    with pytest.raises(OmiumError, match="not_found"):
        template("none")


def test_a_case_that_fails_says_how(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(
        "rules:\n- {id: a, effect: allow, limits: {timeout: 1}, redact: email, trusts: [read_only]}\n"
        "- {id: b, effect: require_approval, match: {tool: x}}\n"
    )
    (tmp_path / "c.yaml").write_text(
        "policy: p.yaml\ncases:\n"
        "- name: wrong\n  question: {tool: y}\n"
        "  expect: {effect: deny, rule: null, limits: {timeout: 2}, redact: [secrets], trusts: [], approval: {ttl: 1h},"
        " min_assurance: signed}\n"
        "- {name: right, question: {tool: y}, expect: {effect: allow}}\n"
    )
    report = run_cases(tmp_path / "c.yaml")
    wrong, right = report.results
    assert not report.passed and right.passed and wrong.line == 3
    assert set(wrong.differences) == {"effect", "rule", "limits", "redact", "trusts", "approval", "min_assurance"}
    assert report.unused == ("b",)
    given = run_cases(tmp_path / "c.yaml", policy(default="deny"))
    assert "effect" not in given.results[0].differences


@pytest.mark.parametrize("text", ["cases: []", "cases:\n- {name: x, question: {}, expect: {effect: allow}}", "{}"])
def test_a_file_of_cases_is_checked(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(OmiumError, match="invalid_definition"):
        run_cases(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("cases:\n- {name: x, question: {tool: y}, expect: {effect: allow}}")
    with pytest.raises(OmiumError, match="policy"):
        run_cases(tmp_path / "c.yaml")


# --- why, and what would change ---


def test_every_rule_is_explained() -> None:
    chosen = policy(
        rule("other", "deny", match={"tool": "drop"}),
        rule("not", "deny", when={"args.sql": {"re": "drop"}}),
        rule("if", "deny", if_="args.sql == 'x'"),
        rule("unclear", "require_approval", when={"args.n": {"gt": 3}}),
        rule("unclear-allow", "allow", when={"args.n": {"gt": 3}}),
        rule("a", "allow"),
    )
    told = explain(chosen, ask(arguments={"sql": "select", "n": "4"}))
    assert [(one.rule, one.outcome, one.counts) for one in told.rules] == [
        ("other", "other_call", False),
        ("not", "does_not_hold", False),
        ("if", "does_not_hold", False),
        ("unclear", "unclear", True),
        ("unclear-allow", "unclear", False),
        ("a", "applies", True),
    ]
    assert told.rules[0].why == "the tool is 'query', not drop"
    assert told.decision.rule == "unclear"
    assert json.loads(json.dumps(told.as_dict()))["rules"][3]["why"] == "text compared with a number"


def test_what_another_version_would_change(tmp_path: Path) -> None:
    before = policy(rule("a", "allow", match={"tool": ["x", "y"]}))
    after = policy(rule("a", "allow", match={"tool": ["y", "z"]}))
    asked = [ask(tool=tool) for tool in ("x", "x", "y", "z", "w")]
    told = compare(before, after, asked)
    assert told.asked == 5
    assert [(one.question.tool, one.times, one.looser) for one in told.changes] == [("z", 1, True), ("x", 2, False)]
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(json.dumps(one.as_dict()) for one in asked) + "\n\n")
    again = compare(before, after, read_questions(path)).changes
    assert [(one.question, one.times) for one in again] == [(one.question, one.times) for one in told.changes]
    assert compare(before, before, asked).changes == ()


@pytest.mark.parametrize("line", ["[]", "{", '{"tool": 3}', '{"tool": "x", "arguments": NaN}', '{"question": 3}'])
def test_a_line_that_is_no_question_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    path.write_text(f'{{"tool": "x"}}\n{line}\n')
    with pytest.raises(OmiumError, match=r"asked\.jsonl:2") as caught:
        read_questions(path)
    assert caught.value.code == "invalid_argument"
    with pytest.raises(OmiumError, match="not_found"):
        read_questions(tmp_path / "none")
