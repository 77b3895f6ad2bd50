"""Every client in a home of its own: what is there stays, and nothing is ever half done."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.server.install import files
from omium.server.install.clients import CLIENTS, Client, Home, Scope
from omium.server.install.installing import Installation, install, listed, program_name, server_command, server_entry

HOME_FILES = {
    "claude-code": ".claude.json",
    "claude-desktop": ".config/Claude/claude_desktop_config.json",
    "cursor": ".cursor/mcp.json",
    "codex": ".codex/config.toml",
    "gemini": ".gemini/settings.json",
}
PROJECT_FILES = {
    "claude-code": ".mcp.json",
    "cursor": ".cursor/mcp.json",
    "codex": ".codex/config.toml",
    "gemini": ".gemini/settings.json",
}
JSON = """{
    "numStartups": 12345678901234567890,
    "mcpServers": {
        "files": { "command": "npx", "args": ["-y", "files"], "env": {"TOKEN": "s3cret"} }
    },
    "tips": {"seen": [1.50, "\\u00e9"]}
}
"""
COMMENTED = JSON.replace('"numStartups"', '// how often\n    "numStartups"').replace(
    "    },\n", "        // more to come\n    },\n", 1
)
TOML = """\
# how I like it
model = "o9"   # the newest

[mcp_servers.files]   # keep me
command = "npx"
args = ["-y", "files"]

[mcp_servers.files.env]
TOKEN = "s3cret"

[tui]
notifications = true
"""
EXISTING = {
    "claude-code": JSON,
    "claude-desktop": JSON,
    "cursor": COMMENTED,
    "codex": TOML,
    "gemini": COMMENTED,
}
ALL = pytest.mark.parametrize("client", CLIENTS.values(), ids=list(CLIENTS))


@pytest.fixture(autouse=True)
def _desktop_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    directory = tmp_path / "home"
    directory.mkdir()
    return Home(directory, {})


def file_of(client: Client, home: Home) -> Path:
    return home.directory / HOME_FILES[client.name]


def existing(client: Client, home: Home, text: str | None = None) -> Path:
    path = file_of(client, home)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(EXISTING[client.name] if text is None else text)
    path.chmod(0o640)
    return path


def put(client: Client, home: Home, *, scope: Scope = "user", **options: Any) -> Installation:
    directory = home.directory.parent / "project"
    entry = None if options.pop("uninstall", False) else server_entry(client, directory, **options.pop("entry", {}))
    return install(client, scope, home, directory, options.pop("name", "omium"), entry, **options)


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*.bak"))


def everything(directory: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in directory.rglob("*") if one.is_file()}


def servers(client: Client, path: Path) -> dict[str, Any]:
    return dict(client.format.servers(path.read_text()))


@ALL
def test_a_client_without_a_file_gets_one_for_its_owner_only(client: Client, home: Home) -> None:
    done = put(client, home)
    path = file_of(client, home)
    assert done.change.file == path
    assert done.change.backup is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    entry = servers(client, path)["omium"]
    assert [entry["command"], *entry["args"]][-3:] == ["serve", "--project", str(home.directory.parent / "project")]
    assert Path(entry["command"]).is_absolute()


@ALL
def test_all_that_is_there_is_kept_to_the_letter(client: Client, home: Home) -> None:
    path = existing(client, home)
    put(client, home)
    after = path.read_text()
    kept = iter(after.splitlines())
    for line in EXISTING[client.name].splitlines():  # the very lines, in their order, but for a comma behind one
        assert any(one.replace(",", "") == line.replace(",", "") for one in kept), line
    assert set(servers(client, path)) == {"files", "omium"}
    assert "12345678901234567890" in after or client.name == "codex"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@ALL
def test_the_file_is_backed_up_before_it_changes(client: Client, home: Home) -> None:
    path = existing(client, home)
    done = put(client, home)
    assert [done.change.backup] == backups(path)
    assert backups(path)[0].read_text() == EXISTING[client.name]
    assert stat.S_IMODE(backups(path)[0].stat().st_mode) == 0o640


@ALL
def test_a_second_time_changes_nothing(client: Client, home: Home) -> None:
    existing(client, home)
    put(client, home)
    before = everything(home.directory)
    again = put(client, home)
    assert not again.change.changes
    assert everything(home.directory) == before


@ALL
def test_taking_it_out_leaves_what_was_there(client: Client, home: Home) -> None:
    path = existing(client, home)
    put(client, home)
    put(client, home, uninstall=True)
    after = path.read_text()
    assert after.rstrip("\n") == EXISTING[client.name].rstrip("\n")
    again = put(client, home, uninstall=True)
    assert not again.change.changes


@ALL
def test_taking_out_what_never_was_changes_nothing(client: Client, home: Home) -> None:
    assert not put(client, home, uninstall=True).change.changes
    assert everything(home.directory) == {}


@ALL
def test_a_dry_run_writes_nothing(client: Client, home: Home) -> None:
    existing(client, home)
    before = everything(home.directory)
    done = put(client, home, dry_run=True)
    assert done.change.changes
    assert everything(home.directory) == before


@ALL
def test_what_somebody_added_to_our_entry_is_kept(client: Client, home: Home) -> None:
    path = existing(client, home)
    put(client, home)
    text = path.read_text()
    if client.name == "codex":
        path.write_text(text + "tool_timeout_sec = 300\n")
    else:
        path.write_text(text.replace('"omium": {', '"omium": {"timeout": 300,', 1))
    put(client, home, entry={"read_only": True, "toolsets": ["default", "default"]})
    entry = servers(client, path)["omium"]
    assert entry["tool_timeout_sec" if client.name == "codex" else "timeout"] == 300
    assert entry["args"][-3:] == ["--toolsets", "default,default", "--read-only"]


@ALL
def test_an_entry_for_another_transport_is_replaced_whole(client: Client, home: Home) -> None:
    text = (
        '[mcp_servers.omium]\nurl = "http://127.0.0.1:1/mcp"\n'
        if client.name == "codex"
        else '{"mcpServers": {"omium": {"url": "http://127.0.0.1:1/mcp", "headers": {}}}}'
    )
    path = existing(client, home, text)
    put(client, home)
    assert set(servers(client, path)["omium"]) <= {"type", "command", "args"}


MALFORMED: dict[str, list[tuple[str, str]]] = {
    "json": [
        ('{"mcpServers": {"files": {}', ":1:28"),
        ("[]", ":1:1"),
        ('{\n  "mcpServers": []\n}', ":2:17"),
        ('{"a": 1}\n{"b": 2}', ":2:1"),
    ],
    "toml": [
        ("model = \n", "line 1"),
        ("[mcp_servers]\n[mcp_servers]\n", "line 2"),
        ("mcp_servers = 3\n", "mcp_servers"),
    ],
}


@ALL
def test_a_malformed_file_is_refused_with_the_place_and_left_alone(client: Client, home: Home) -> None:
    for text, where in MALFORMED["toml" if client.name == "codex" else "json"]:
        path = existing(client, home, text)
        for uninstall in (False, True):
            with pytest.raises(OmiumError) as refused:
                put(client, home, uninstall=uninstall)
            assert refused.value.code == "invalid_argument"
            assert str(path) in refused.value.message
            assert where in refused.value.message
        assert everything(home.directory) == {str(path): text.encode()}


@ALL
def test_a_file_that_is_no_text_is_refused(client: Client, home: Home) -> None:
    path = existing(client, home)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(OmiumError, match="UTF-8"):
        put(client, home)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OmiumError, match="no configuration file"):
        put(client, home)


@ALL
def test_links_are_followed(client: Client, home: Home) -> None:
    real = home.directory / "dotfiles" / "config"
    real.parent.mkdir()
    real.write_text(EXISTING[client.name])
    link = file_of(client, home)
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(real, link.parent))
    done = put(client, home)
    assert link.is_symlink()
    assert done.change.file == real
    assert "omium" in servers(client, real)
    assert backups(real)


def test_a_link_to_itself_is_refused(home: Home) -> None:
    link = home.directory / ".claude.json"
    link.symlink_to(link)
    with pytest.raises(OmiumError) as refused:
        put(CLIENTS["claude-code"], home)
    assert refused.value.code == "forbidden"


def test_a_link_to_nothing_gets_its_file(home: Home) -> None:
    target = home.directory / "dotfiles" / "claude.json"
    (home.directory / ".claude.json").symlink_to(target)
    put(CLIENTS["claude-code"], home)
    assert "omium" in servers(CLIENTS["claude-code"], target)


def _denied(*_: Any, **__: Any) -> Any:
    raise PermissionError(13, "Permission denied", "/somewhere")


@pytest.mark.parametrize("what", ["open", "tempfile.mkstemp", "os.open"])
def test_what_the_system_refuses_is_said_and_leaves_the_file(
    what: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = existing(CLIENTS["claude-code"], home)
    monkeypatch.setattr(f"omium.server.install.files.{what}", _denied, raising=False)
    with pytest.raises(OmiumError) as refused:
        put(CLIENTS["claude-code"], home)
    monkeypatch.undo()
    assert refused.value.code == "forbidden"
    assert "/somewhere" in refused.value.message
    assert path.read_text() == JSON
    assert not list(path.parent.glob(".claude.json.*.tmp"))
    assert [one for one in path.parent.iterdir() if one != path] == backups(path)


def test_a_change_of_another_program_in_between_is_not_lost(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    client = CLIENTS["claude-code"]
    path = existing(client, home)
    _interfere(monkeypatch, path, times=1)
    put(client, home)
    assert set(servers(client, path)) == {"files", "omium", "later-1"}
    assert len(backups(path)) == 1


def test_a_program_that_writes_all_the_time_is_said(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    path = existing(CLIENTS["claude-code"], home)
    _interfere(monkeypatch, path, times=100)
    with pytest.raises(OmiumError) as refused:
        put(CLIENTS["claude-code"], home)
    assert refused.value.code == "conflict"
    assert "omium" not in servers(CLIENTS["claude-code"], path)
    assert backups(path) == []


def _interfere(monkeypatch: pytest.MonkeyPatch, path: Path, times: int) -> None:
    """The client writes its file between our reading and our replacing it."""
    real: Callable[..., Any] = files.tempfile.mkstemp
    done = 0

    def mkstemp(*args: Any, **options: Any) -> Any:
        nonlocal done
        if done < times:
            done += 1
            document = json.loads(path.read_text())
            document["mcpServers"][f"later-{done}"] = {"command": "y"}
            path.write_text(json.dumps(document))
        return real(*args, **options)

    monkeypatch.setattr(files.tempfile, "mkstemp", mkstemp)


@pytest.mark.parametrize("name", PROJECT_FILES)
def test_a_project_has_its_own_file(name: str, home: Home) -> None:
    done = put(CLIENTS[name], home, scope="project")
    assert done.change.file == home.directory.parent / "project" / PROJECT_FILES[name]
    assert everything(home.directory) == {}


def test_the_desktop_has_none_for_a_project(home: Home) -> None:
    with pytest.raises(OmiumError) as refused:
        put(CLIENTS["claude-desktop"], home, scope="project")
    assert refused.value.code == "unsupported"


def test_the_places_that_the_environment_names(tmp_path: Path) -> None:
    names = ("CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME", "CODEX_HOME", "GEMINI_CLI_HOME")
    home = Home(tmp_path, {name: str(tmp_path / name) for name in names})
    paths = [str(client.user(home).relative_to(tmp_path)) for client in CLIENTS.values()]
    assert paths == [
        "CLAUDE_CONFIG_DIR/.claude.json",
        "XDG_CONFIG_HOME/Claude/claude_desktop_config.json",
        ".cursor/mcp.json",
        "CODEX_HOME/config.toml",
        "GEMINI_CLI_HOME/.gemini/settings.json",
    ]
    assert CLIENTS["codex"].user(Home(tmp_path, {"CODEX_HOME": "relative"})) == tmp_path / ".codex/config.toml"
    desktop = CLIENTS["claude-desktop"].user(Home(tmp_path, home.environ, "darwin"))
    assert desktop == tmp_path / "Library/Application Support/Claude/claude_desktop_config.json"


@pytest.mark.parametrize(
    "text",
    [
        'mcp_servers = {files = {command = "npx"}}\n',
        '[mcp_servers]\nfiles.command = "npx"\n',
        '[mcp_servers.files]\ncommand = "npx"\n[tui]\nx = 1\n[mcp_servers.more]\ncommand = "y"',
        '[[hooks]]\nx = 1\r\n[mcp_servers.files]\r\ncommand = "npx"\r\n',
    ],
)
def test_toml_in_unusual_forms(text: str, home: Home) -> None:
    client = CLIENTS["codex"]
    path = existing(client, home, text)
    put(client, home)
    assert servers(client, path)["omium"]["command"]
    put(client, home, uninstall=True)
    assert tomllib.loads(path.read_text()) == tomllib.loads(text)


def test_the_list_says_what_every_file_has(home: Home) -> None:
    directory = home.directory.parent / "project"
    put(CLIENTS["codex"], home)
    existing(CLIENTS["claude-code"], home)
    existing(CLIENTS["gemini"], home, "{")
    existing(CLIENTS["cursor"], home, '{"mcpServers": {"omium": {"command": "other", "args": 3}}}')
    found = {(one.client, one.scope): one for one in listed(home, directory, "omium")}
    states = {key: one.state for key, one in found.items() if key[1] == "user"}
    assert states == {
        ("claude-code", "user"): "absent",
        ("claude-desktop", "user"): "no_file",
        ("cursor", "user"): "other",
        ("codex", "user"): "installed",
        ("gemini", "user"): "unreadable",
    }
    assert found[("claude-code", "user")].others == ["files"]
    assert list(found[("codex", "user")].command[-2:]) == ["--project", str(directory)]
    assert ":1:2" in found[("gemini", "user")].problem


def test_the_command_is_the_program_of_this_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert server_command() == [str(python), "-m", "omium.server.cli"]
    program = tmp_path / "bin" / "omium-mcp"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert server_command() == [str(program)]


def test_an_unknown_toolset_is_refused(home: Home) -> None:
    with pytest.raises(OmiumError) as refused:
        put(CLIENTS["cursor"], home, entry={"toolsets": ["magic"]})
    assert refused.value.code == "invalid_argument"
    assert everything(home.directory) == {}


WINDOWS = PureWindowsPath(r"C:\Users\Ada Lovelace")


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        (
            {},
            [
                r".claude.json",
                r"AppData\Roaming\Claude\claude_desktop_config.json",
                r".cursor\mcp.json",
                r".codex\config.toml",
                r".gemini\settings.json",
            ],
        ),
        (
            {
                "APPDATA": r"D:\Roaming",
                "XDG_CONFIG_HOME": r"D:\xdg",
                "CODEX_HOME": r"\\server\share\codex",
                "GEMINI_CLI_HOME": r"\no-drive",
                "CLAUDE_CONFIG_DIR": "relative",
            },
            [
                r".claude.json",
                r"D:\Roaming\Claude\claude_desktop_config.json",
                r".cursor\mcp.json",
                r"\\server\share\codex\config.toml",
                r".gemini\settings.json",
            ],
        ),
    ],
)
def test_the_places_on_windows(environ: dict[str, str], names: list[str]) -> None:
    home = Home(WINDOWS, environ, "win32")
    assert [client.user(home) for client in CLIENTS.values()] == [WINDOWS / name for name in names]


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (r"C:\Program Files\omium\Scripts\omium-mcp.exe", "omium-mcp"),
        (r"C:\bin\OMIUM.EXE", "omium"),
        ("omium-mcp.exe", "omium-mcp"),
        ("/opt/omium/bin/omium-mcp", "omium-mcp"),
        ("/opt/omium-mcp/other", "other"),
        ("/opt/Omium", "Omium"),
    ],
)
def test_the_name_of_a_program(command: str, name: str) -> None:
    assert program_name(command) == name
