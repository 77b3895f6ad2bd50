"""`coding:` of a project file: what it says, what is refused, and that nodes find it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from omium.clients.coding.spec import CodingSpec
from omium.clients.commands import CommandSpec
from omium.clients.executors import CommandExecutor
from omium.orchestration.errors import OmiumError
from omium.server.project import Project
from omium.server.project_file import load_project
from omium.server.wiring.coding import cli_executor
from tests.coding.help import Node

pytestmark = pytest.mark.anyio


def write(directory: Path, **keys: Any) -> Path:
    path = directory / "omium.yaml"
    path.write_text(yaml.safe_dump({"project": "p", **keys}))
    return path


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("Be kind.")
    said = {
        "kind": "claude",
        "program": "{project}/claude",
        "model": "claude-sonnet-4-5",
        "tools": ["Read"],
        "permissions": "needed",
        "max_turns": 7,
        "env": {"A": "b"},
        "pass_env": ["SSH_AUTH_SOCK"],
        "timeout": "10m",
        "idle_timeout": "1m",
        "memory_limit": "1GiB",
        "system_prompt": "prompt.md",
        "api_key_env": "ANTHROPIC_API_KEY",
        "configs": [".editorconfig"],
        "reserve_tokens": 10,
        "session_ttl": "90d",
        "description": "Writes code.",
    }
    node = {"id": "n", "kind": "cli", "use": "claude", "with": {"prompt": "x"}}
    project = load_project(write(tmp_path, coding={"claude": said}, workflows=[{"name": "w", "nodes": [node]}])).project
    assert project.coding["claude"] == CodingSpec(
        "claude",
        "claude",
        f"{tmp_path}/claude",
        model="claude-sonnet-4-5",
        tools=("Read",),
        permissions="needed",
        max_turns=7,
        env={"A": "b"},
        pass_env=("SSH_AUTH_SOCK",),
        timeout_s=600.0,
        idle_timeout_s=60.0,
        memory_limit_bytes=2**30,
        system_prompt=tmp_path / "prompt.md",
        api_key_env="ANTHROPIC_API_KEY",
        configs=((".editorconfig", tmp_path / ".editorconfig"),),
        reserve_tokens=10,
        session_ttl_s=90 * 86_400.0,
        description="Writes code.",
    )
    assert project.catalog().commands["claude"].description == "Writes code."


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"kind": "other"},
        {"kind": "claude", "argv": ["rm"]},
        {"kind": "claude", "model": "--x"},
        {"kind": "claude", "mcp": "missing.json"},
        {"kind": "claude", "configs": [".env"]},
        {"kind": "claude", "configs": ["../x"]},
        {"kind": "claude", "env": {"LD_PRELOAD": "x"}},
        {"kind": "codex", "mcp": "omium.yaml"},
        {"kind": "claude", "memory_limit": "much"},
        {"kind": "claude", "sandbox": "full"},
        {"kind": "claude", "timeout": 0},
    ],
)
def test_what_is_wrong_is_told_by_its_place(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(OmiumError) as caught:
        load_project(write(tmp_path, coding={"claude": wrong}))
    assert caught.value.code == "invalid_definition"
    assert all(one["path"].startswith("coding.claude") for one in caught.value.data["problems"])


def test_a_key_in_the_place_of_its_variable_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(OmiumError) as caught:
        load_project(write(tmp_path, coding={"claude": {"kind": "claude", "api_key_env": "sk-ant-0123456789"}}))
    assert "0123456789" not in f"{caught.value} {caught.value.data}" and "'sk-a'..." in caught.value.message


def test_expressions_are_held_against_what_a_coding_cli_gives(tmp_path: Path) -> None:
    def loaded(read: str) -> Any:
        code = {"id": "code", "kind": "cli", "use": "claude", "with": {"prompt": "x"}}
        after = {"id": "b", "kind": "cli", "use": "claude", "needs": "code", "with": {"prompt": "y", "session": read}}
        flow = {"name": "w", "nodes": [code, after]}
        project = load_project(write(tmp_path, coding={"claude": {"kind": "claude"}}, workflows=[flow])).project
        catalog = project.catalog()
        return catalog.warnings(catalog.workflows["w"])

    assert loaded("${{ nodes.code.output.session }}") == []
    with pytest.raises(OmiumError, match="has no 'sesion' there"):
        loaded("${{ nodes.code.output.sesion }}")


def test_a_name_is_that_of_a_command_or_of_a_coding_cli(tmp_path: Path) -> None:
    with pytest.raises(OmiumError, match="registered twice"):
        load_project(write(tmp_path, commands={"x": {"argv": ["true"]}}, coding={"x": {"kind": "claude"}}))


async def test_each_name_goes_to_its_executor(tmp_path: Path) -> None:
    project = Project("p", directory=tmp_path)
    commands = CommandExecutor({"true": CommandSpec("true", ("true",), output="text")})
    assert cli_executor(project, commands, tmp_path) is commands
    project.add_coding(CodingSpec("claude", "claude", "no-such-program"))
    both = cli_executor(project, commands, tmp_path)
    assert both.digest("true") == commands.digest("true") != both.digest("claude")
    with pytest.raises(OmiumError) as caught:
        await both.run("claude", {"prompt": "x"}, Node(tmp_path).attempt())  # type: ignore[arg-type]
    assert caught.value.data["reason"] == "not_started"
    with pytest.raises(OmiumError, match="not registered"):
        both.digest("neither")
