"""`omium policy`: exit codes, tables, JSON, and what a project's file may say."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.policy.library import template
from omium.server.cli import cli
from omium.server.config import load_config
from omium.server.project_file import load_project


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose policy is the template `tools`."""
    (tmp_path / "omium.yaml").write_text("project: x\npolicy: p.yaml\n")
    (tmp_path / "p.yaml").write_text(template("tools").text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMIUM_HOME", str(tmp_path / "home"))
    return tmp_path


def omium(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["policy", *arguments])


def told(*arguments: str) -> Any:
    return json.loads(omium(*arguments, "--json").stdout)


@pytest.mark.parametrize(
    ("server", "tool", "code"), [("github", "get_issue", 0), ("github", "create_issue", 3), ("github", "delete_it", 1)]
)
def test_explain_says_by_its_exit_code_what_is_decided(place: Path, server: str, tool: str, code: int) -> None:
    found = omium("explain", "--server", server, "--tool", tool)
    assert found.exit_code == code, found.output
    assert len(told("explain", "--server", server, "--tool", tool)["rules"]) == 4


def test_explain_reads_a_question(place: Path) -> None:
    (place / "q.json").write_text('{"server": "github", "tool": "get_issue", "hints": {"destructiveHint": true}}')
    found = told("explain", "--question", "q.json", "--arg", "n=3")
    assert found["decision"]["rule"] == "tools-said-destructive"
    assert omium("explain", "--server", "x").exit_code == 2
    assert omium("explain", "none.yaml", "--tool", "x").exit_code == 4


def test_lint_finds(place: Path) -> None:
    assert omium("lint").exit_code == 0
    (place / "wide.yaml").write_text("rules:\n- {id: r, effect: allow, match: {tool: 'get_*'}}\n")
    found = omium("lint", "wide.yaml")
    assert (found.exit_code, found.stdout) == (
        0,
        "wide.yaml:2: warning: allow-across-servers [r]: any server can have a tool of such a name\n",
    )
    assert omium("lint", "wide.yaml", "--strict").exit_code == 1
    (place / "bad.yaml").write_text("rulez: []\n")
    assert omium("lint", "bad.yaml").exit_code == 2
    assert told("lint", "bad.yaml")[0]["findings"][0]["code"] == "invalid"
    (place / "tools.json").write_text('{"db/query": {"type": "object", "properties": {"sql": {"type": "string"}}}}')
    (place / "cost.yaml").write_text("rules:\n- {id: r, effect: deny, when: {args.cost: {gt: 5}}}\n")
    assert omium("lint", "cost.yaml", "--tools", "tools.json").exit_code == 1
    (place / "tools.json").write_text("[1]")
    assert omium("lint", "cost.yaml", "--tools", "tools.json").exit_code == 2


def test_the_cases_of_all_templates_pass(place: Path) -> None:
    assert omium("test", "--templates").exit_code == 0
    assert all(one["passed"] and not one["untested"] for one in told("test", "--templates"))
    assert omium("test").exit_code == 2


def test_a_case_that_fails_is_told_with_its_line(place: Path) -> None:
    (place / "c.yaml").write_text(
        "policy: p.yaml\ncases:\n- {name: hm, question: {tool: x}, expect: {effect: allow}}\n"
    )
    found = omium("test", "c.yaml")
    assert found.exit_code == 1
    assert found.stdout.startswith("c.yaml:3: hm: effect is deny, not allow")
    (place / "open.yaml").write_text("default: allow\n")
    assert omium("test", "c.yaml", "--policy", "open.yaml").exit_code == 0


def test_diff_decides_recorded_questions_again(place: Path) -> None:
    (place / "next.yaml").write_text("default: require_approval\n")
    (place / "asked.jsonl").write_text('{"server": "github", "tool": "get_issue"}\n{"server": "a", "tool": "b"}\n')
    found = told("diff", "next.yaml", "--questions", "asked.jsonl")
    assert [(one["question"]["tool"], one["looser"]) for one in found["changes"]] == [("b", True), ("get_issue", False)]
    assert omium("diff", "next.yaml", "--questions", "asked.jsonl", "--exit-status").exit_code == 1
    assert omium("diff", "p.yaml", "p.yaml", "--questions", "asked.jsonl", "--exit-status").exit_code == 0
    assert told("diff", "p.yaml", "next.yaml")["asked"] == 0  # of the audit, in which nothing is yet


def test_show_and_templates(place: Path) -> None:
    found = told("show")
    assert found["document"]["rules"][0]["id"] == "tools-read"
    assert found["digest"] in omium("show").stdout
    assert omium("templates", "cost").stdout == template("cost").text()
    assert omium("templates", "cost", "--cases").stdout == template("cost").cases.read_text()
    assert [one["name"] for one in told("templates")] == ["cost", "hours", "privacy", "rate", "tools"]
    assert omium("templates", "none").exit_code == 4


# --- the key of omium.yaml ---


def declared(path: Path, text: str) -> Any:
    (path / "omium.yaml").write_text(f"project: x\n{text}")
    return load_project(path / "omium.yaml").project.policy


def test_ways_to_declare_a_policy(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("default: allow\n")
    assert declared(tmp_path, "").present().default == "require_approval"
    assert declared(tmp_path, "").policy is None
    assert declared(tmp_path, "policy: research\n").present().default == "allow"
    assert declared(tmp_path, "policy: p.yaml\n").present().default == "allow"
    assert declared(tmp_path, "policy: {path: p.yaml}\n").source().current().default == "allow"
    mixed = declared(tmp_path, "policy:\n  profile: safe\n  rules:\n  - {id: r, effect: deny}\n").present()
    assert [one.id for one in mixed.rules] == ["r", "safe-registered"]
    found = declared(tmp_path, "policy: {profile: safe, shadow: p.yaml, opa: {url: 'http://h:1', path: data.a.b}}\n")
    assert found.source().current().shadow.default == "allow"
    opa = found.policy_agent()
    assert (opa.url, opa.path, opa.timeout_s) == ("http://h:1", "a/b", 1.0)
    assert declared(tmp_path, "policy: safe\n").policy_agent() is None
    config = load_config(tmp_path, {**os.environ, "OMIUM_HOME": str(tmp_path)})
    assert config.project.policy.present().default == "require_approval"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("policy: none.yaml\n", 2, "there is no policy 'none.yaml'"),
        ("policy: {profile: wild}\n", 2, "safe"),
        ("policy: {}\n", 2, "says nothing"),
        ("policy: {path: p.yaml, default: allow}\n", 2, "something else beside it"),
        ("policy:\n  rules:\n  - {id: r, effect: alow}\n", 4, "'allow'"),
        ("policy:\n  rules:\n  - {id: r, effect: allow, if: nothing}\n", 4, "CEL"),
        ("policy: {profile: safe, opa: {url: 'ftp://x', path: a}}\n", 2, "URL"),
        ("policy: {profile: safe, opa: {url: 'http://x', path: '../a'}}\n", 2, "path"),
        ("policy: {profile: safe, shadow: none.yaml}\n", 2, "there is no policy"),
        ("policy: {profile: safe, shadow: {}}\n", 2, "says nothing"),
        ("policy: p.yaml\n", 1, "a known key"),
    ],
    ids=range(11),
)
def test_what_is_wrong_with_the_key_is_said_with_its_place(text: str, line: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("rulez: []\n" if text == "policy: p.yaml\n" else "default: deny\n")
    with pytest.raises(OmiumError) as caught:
        declared(tmp_path, text)
    problems = caught.value.data["problems"]
    assert any(line == one["line"] for one in problems), problems
    if said != "a known key":
        assert any(said in one["message"] + one["expected"] for one in problems), problems
