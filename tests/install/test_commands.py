"""`omium mcp`, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from jsonschema import Draft7Validator

from omium.server.cli import cli

SCHEMA = Path(__file__).with_name("mcpb-manifest-0.4.schema.json")  # as @anthropic-ai/mcpb publishes it
METADATA = """\
Metadata-Version: 2.4
Name: omium-mcp
Version: 9.9.9
Summary: Durable agent workflows.
Author: The Omium contributors
License-Expression: Apache-2.0
Keywords: agents,mcp
Requires-Python: >=3.11
Requires-Dist: mcp<3,>=2.3
Requires-Dist: asyncpg>=0.31; extra == "postgres"
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and, in it, a project that is the current directory."""
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    project = tmp_path / "hello"
    (project / "below").mkdir(parents=True)
    (project / "omium.yaml").write_text("project: hello\n")
    monkeypatch.chdir(project / "below")
    return tmp_path


def omium(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def shown(*arguments: str) -> Any:
    done = omium(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_directory_without_a_project_is_said(home: Path) -> None:
    (home / "empty").mkdir()
    done = omium("mcp", "install", "cursor", "--project", str(home / "empty"))
    assert done.exit_code == 0, done.output
    assert f"there is no omium.yaml in {home / 'empty'}" in done.stderr
    assert "there is no omium.yaml" not in omium("mcp", "install", "cursor").stderr


def test_install_twice_and_take_it_out(home: Path) -> None:
    file = home / ".cursor" / "mcp.json"
    first = shown("mcp", "install", "cursor")
    assert first["file"] == str(file)
    assert first["changed"] is True
    assert json.loads(file.read_text()) == {"mcpServers": {"omium": first["entry"]}}
    assert first["entry"]["args"][-2:] == ["--project", str(home / "hello")]
    again = omium("mcp", "install", "cursor")
    assert again.exit_code == 0
    assert "nothing to change" in again.stdout
    assert omium("mcp", "install", "cursor", "--uninstall").exit_code == 0
    assert json.loads(file.read_text()) == {"mcpServers": {}}
    assert "there is no such entry" in omium("mcp", "install", "cursor", "--uninstall").stdout


def test_a_dry_run_shows_our_entry_and_nothing_of_others(home: Path) -> None:
    file = home / ".claude.json"
    file.write_text('{"mcpServers": {"files": {"command": "x", "env": {"TOKEN": "s3cret"}}}}')
    before = file.read_text()
    done = omium("mcp", "install", "claude-code", "--dry-run", "--read-only", "--name", "omium-hello")
    assert done.exit_code == 0
    assert "omium-hello" in done.stdout
    assert "--read-only" in done.stdout
    assert "s3cret" not in done.output
    assert file.read_text() == before
    assert shown("mcp", "install", "claude-code", "--dry-run")["changed"] is False


def test_the_project_and_the_database_that_are_named_are_in_the_entry(home: Path) -> None:
    entry = shown("mcp", "install", "codex", "--project", str(home / "hello"), "--database", "o.db")["entry"]
    assert entry["args"][-4:] == ["--project", str(home / "hello"), "--database", str(home / "hello/below/o.db")]


def test_a_project_that_cannot_be_loaded_can_still_be_taken_out(home: Path) -> None:
    shown("mcp", "install", "gemini")
    (home / "hello" / "omium.yaml").write_text("project: [")
    assert omium("mcp", "install", "gemini").exit_code == 2
    assert omium("mcp", "list").exit_code == 0
    assert omium("mcp", "install", "gemini", "--uninstall").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("install", "emacs"), 2),
        (("install", "cursor", "--name", "a b"), 2),
        (("install", "cursor", "--name", ""), 2),
        (("install", "cursor", "--toolsets", "magic"), 2),
        (("install", "claude-desktop", "--scope", "project"), 1),
    ],
)
def test_what_cannot_be_is_refused(home: Path, arguments: tuple[str, ...], code: int) -> None:
    done = omium("mcp", *arguments)
    assert done.exit_code == code, done.output
    assert not (home / ".cursor").exists()


def test_the_list(home: Path) -> None:
    shown("mcp", "install", "claude-code", "--scope", "project")
    found = {(one["client"], one["scope"]): one for one in shown("mcp", "list")}
    assert len(found) == 9
    assert found[("claude-code", "project")]["state"] == "installed"
    assert found[("claude-code", "project")]["file"] == str(home / "hello" / ".mcp.json")
    assert found[("claude-code", "user")]["state"] == "no_file"
    assert "claude-code\tproject\tinstalled" in omium("mcp", "list").stdout


@pytest.fixture
def bundle(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    metadata = home / "path" / "omium_mcp-9.9.9.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(METADATA)
    monkeypatch.syspath_prepend(str(metadata.parent))
    assert omium("mcp", "bundle", "--output", str(home / "omium.mcpb")).exit_code == 0
    return home / "omium.mcpb"


def test_the_manifest_is_one(bundle: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        members = set(archive.namelist())
    Draft7Validator(json.loads(SCHEMA.read_text())).validate(manifest)
    assert manifest["manifest_version"] == "0.4"
    assert manifest["server"]["type"] == "uv"
    assert manifest["version"] == "9.9.9"
    assert manifest["server"]["entry_point"] in members
    assert {"run_workflow", "get_run"} <= {one["name"] for one in manifest["tools"]}
    used = " ".join(manifest["server"]["mcp_config"]["args"])
    assert "${__dirname}" in used
    assert all(f"${{user_config.{name}}}" in used for name in manifest["user_config"])


def test_the_bundle_is_the_same_each_time_and_holds_nothing_that_is_not_ours(bundle: Path, home: Path) -> None:
    first = bundle.read_bytes()
    assert omium("mcp", "bundle", "--output", str(bundle)).exit_code == 0
    assert bundle.read_bytes() == first
    with zipfile.ZipFile(bundle) as archive:
        members = archive.namelist()
        assert "asyncpg" not in archive.read("pyproject.toml").decode()
    assert not [
        one for one in members if "__pycache__" in one or "/." in one or one.startswith(("tests/", "src/omium/tests/"))
    ]
    assert [one for one in home.iterdir() if one.name.startswith(".omium.mcpb")] == []


def test_what_is_in_the_bundle_starts(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    start = tmp_path / "unpacked" / "src" / "server.py"
    program = (
        "import runpy, sys; sys.path.insert(0, {!r}); sys.argv = ['server.py', '--version'];"
        "runpy.run_path({!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program.format(str(start.parent), str(start))],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout == "omium 9.9.9\n"


def test_a_bundle_that_cannot_be_written_leaves_nothing(bundle: Path, home: Path) -> None:
    done = omium("mcp", "bundle", "--output", str(home / "nowhere" / "omium.mcpb"))
    assert done.exit_code == 1
    assert "cannot write" in done.stderr
