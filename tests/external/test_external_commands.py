"""`omium mcp servers|test|tools|pin|approve|import`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Place, place
from tests.external.help import SERVERS


@pytest.fixture
def described(tmp_path: Path) -> Path:
    file = tmp_path / "description"
    file.write_text("Ask.")
    return file


@pytest.fixture
def project(tmp_path: Path, described: Path) -> Iterator[Place]:
    with place(tmp_path / "project") as made:
        servers = {
            "good": {"command": sys.executable, "args": [str(SERVERS / "good.py")], "description": "Does things."},
            "db": {"command": sys.executable, "args": [str(SERVERS / "hostile.py"), "flips", str(described)]},
            "evil": {"command": sys.executable, "args": [str(SERVERS / "hostile.py"), "poison"]},
            "dead": {"command": sys.executable, "args": [str(SERVERS / "hostile.py"), "dies-at-start"]},
            "skipped": {"command": "x", "args": ["${SURELY_NOT_SET}"]},
        }
        with (made.directory / "omium.yaml").open("a") as file:
            file.write(f"mcp_servers: {json.dumps(servers)}\n")
        yield made


def test_servers_are_listed_with_what_is_wrong(project: Place) -> None:
    listed = {one["name"]: one for one in project.json("mcp", "servers")}
    assert listed["good"]["status"] == "used" and listed["good"]["description"] == "Does things."
    assert listed["skipped"]["status"] == "skipped" and "SURELY_NOT_SET" in listed["skipped"]["reason"]
    assert "SURELY_NOT_SET" in project.call("mcp", "servers").output


def test_a_test_counts_tools_and_records_nothing(project: Place) -> None:
    told = project.json("mcp", "test", "good")
    assert told["count"] == 10 and told["protocol"] == "2026-07-28"
    for server in ("good/add", "skipped"):
        assert "mcp_servers in omium.yaml" in project.call("mcp", "pin", server).stderr
    assert not (project.directory / "data" / "omium.db").exists()
    assert project.json("mcp", "tools") == []


def test_a_test_of_a_dead_server_fails_with_its_last_words(project: Place) -> None:
    done = project.call("mcp", "test", "dead")
    assert done.exit_code == 1
    assert "exit code 3" in done.stderr and "no license" in done.stderr


def test_pinning_and_what_is_pinned(project: Place) -> None:
    assert {one["status"] for one in project.json("mcp", "pin", "good")} == {"pinned"}
    [add] = project.json("mcp", "tools", "good/add")
    assert add["status"] == "pinned" and add["approved_by"].startswith("user:")
    assert add["definition"]["inputSchema"]["properties"]["a"]["type"] == "integer"
    listed = {one["name"]: one for one in project.json("mcp", "servers")}
    assert (listed["good"]["pinned"], listed["good"]["waiting"]) == (10, 0)


def test_what_looks_suspicious_is_told(project: Place) -> None:
    project.json("mcp", "pin", "evil")
    done = project.call("mcp", "tools", "evil")
    assert "poses as the system" in done.output and "\u202e" not in done.output and "\x1b" not in done.output


def test_a_change_is_shown_and_approved(project: Place, described: Path) -> None:
    project.json("mcp", "pin", "db")
    described.write_text("Ask, and tell \x1b[31mme\u202e.")
    pinned = project.call("mcp", "pin", "db")
    assert pinned.exit_code == 3 and "omium mcp approve db/query" in pinned.stderr
    unasked = project.call("mcp", "approve", "db/query")
    assert unasked.exit_code == 2 and "nobody is there" in unasked.stderr
    assert '-  "description": "Ask."' in unasked.output and "\x1b[31mme" not in unasked.output
    assert "suspicious: hidden characters" in unasked.stderr
    approved = project.json("mcp", "approve", "db/query", "--yes")
    assert approved["status"] == "pinned"
    again = project.call("mcp", "approve", "db/query", "--yes")
    assert again.exit_code == 5
    assert project.json("mcp", "approve", "db/query", "--revoke")["status"] == "disabled"
    assert project.json("mcp", "approve", "db/query", "--yes")["status"] == "pinned"


def test_what_is_not_there_is_not_found(project: Place) -> None:
    assert project.call("mcp", "approve", "db/nothing").exit_code == 4
    assert project.call("mcp", "test", "nothing").exit_code == 2


def test_a_clients_file_becomes_ours_without_its_secrets(project: Place) -> None:
    file = project.directory / ".mcp.json"
    file.write_text(
        json.dumps({"mcpServers": {"a": {"command": "node", "env": {"API_KEY": "hunter2hunter2", "MODE": "fast"}}}})
    )
    done = project.call("mcp", "import", str(file))
    assert done.exit_code == 0 and "hunter2" not in done.output
    assert project.json("mcp", "import", str(file)) == {
        "mcp_servers": {"a": {"command": "node", "env": {"API_KEY": "${API_KEY}", "MODE": "fast"}}}
    }


def test_what_a_version_on_trial_would_have_decided_is_listed(project: Place) -> None:
    (project.directory / "trial.yaml").write_text("rules:\n- {id: never, effect: deny, match: {tool: add}}\n")
    (project.directory / "workflows").mkdir(exist_ok=True)
    (project.directory / "workflows" / "sum.yaml").write_text(
        "name: sum\nnodes:\n- {id: a, kind: tool, use: good/add, with: {a: 1, b: 2}}\n"
    )
    with (project.directory / "omium.yaml").open("a") as file:
        file.write("policy: {profile: research, shadow: trial.yaml}\n")
    assert project.call("run", "sum").exit_code == 0
    assert "(on trial: deny by never)" in project.call("decisions", "last").output


def test_lint_knows_the_servers_of_the_project(project: Place) -> None:
    with (project.directory / "omium.yaml").open("a") as file:
        file.write(
            "policy:\n  rules:\n"
            "  - {id: a, effect: deny, match: {server: [good, skipped]}}\n"
            "  - {id: b, effect: deny, match: {server: goood}}\n"
        )
    told = project.call("policy", "lint").output
    assert "[b]" in told and "no server 'goood'" in told and "[a]" not in told
