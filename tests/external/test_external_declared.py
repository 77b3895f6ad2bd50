"""`mcp_servers` of `omium.yaml`: what it may say, what is skipped with a reason, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omium.clients.external.spec import Servers
from omium.orchestration.definition.problems import Problem
from omium.orchestration.errors import OmiumError
from omium.server.declared.external import declared_servers
from omium.server.declared.packages import unpinned
from omium.server.project_file import load_project


def _declared(tmp_path: Path, text: str) -> Servers:
    file = tmp_path / "omium.yaml"
    file.write_text(f"project: p\nmcp_servers:\n{text}")
    return load_project(file).project.servers


def _refused(tmp_path: Path, text: str) -> list[Problem]:
    with pytest.raises(OmiumError) as error:
        _declared(tmp_path, text)
    return [Problem(one["path"], one["message"], one["expected"]) for one in error.value.data["problems"]]


def test_all_keys_of_a_process(tmp_path: Path) -> None:
    servers = _declared(
        tmp_path,
        """
  files:
    command: node
    args: [server.js, "--root=data"]
    env: {MODE: fast}
    pass_env: [LANG]
    cwd: tools
    description: Reads files.
    credentials: [{env: TOKEN, from_file: secrets/token}]
    pinning: strict
    era: legacy
    timeout: 5s
    connect_timeout: 1m
    refresh: 10m
    concurrent: 2
    output: {text: 1000, structured: 2000, message: 3000}
    prices: {read: 0.5, "*": 0.1}
    retries: {attempts: 2, initial: 1s, max: 2s}
    breaker: {failures: 3, reset: 1m}
    redact: [secrets, email]
""",
    )
    spec = servers.specs["files"]
    assert spec.transport == "stdio" and spec.command == ("node", "server.js", "--root=data")
    assert spec.cwd == tmp_path / "tools" and spec.call_s == 5 and spec.connect_s == 60 and spec.refresh_s == 600
    assert spec.credentials[0].file == tmp_path / "secrets" / "token"
    assert (spec.price("read"), spec.price("other")) == (0.5, 0.1)
    assert (spec.retries.attempts, spec.breaking.failures, spec.output.message) == (2, 3, 3000)
    assert (spec.pinning, spec.era, spec.concurrent, spec.redact) == ("strict", "legacy", 2, ("secrets", "email"))


def test_a_server_behind_a_url(tmp_path: Path) -> None:
    servers = _declared(
        tmp_path, '  a: {url: "https://x.example/mcp"}\n  b: {url: "http://127.0.0.1:1/sse", transport: sse}'
    )
    assert [(one.name, one.transport) for one in servers.specs.values()] == [("a", "http"), ("b", "sse")]


def test_a_variable_that_is_not_set_skips_its_server_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("API_TOKEN", "a-secret-value")
    servers = _declared(
        tmp_path,
        """
  one: {command: x, args: ["--key=${NOT_SET}"]}
  two: {command: x, env: {A: "${EMPTY}"}}
  three: {command: x, env: {A: "${NOT_SET:-fallback}", B: "${API_TOKEN}"}}
  four: {command: x, credentials: [{env: A, from_env: NOT_SET}]}
""",
    )
    assert servers.skipped == {
        "one": "not set in the environment: NOT_SET",
        "two": "not set in the environment: EMPTY",
        "four": "not set in the environment: NOT_SET",
    }
    assert servers.specs["three"].env == {"A": "fallback", "B": "a-secret-value"}
    assert servers.specs["three"].secrets == ("a-secret-value",)
    assert "a-secret-value" not in repr(servers.specs["three"])


def test_a_package_without_a_version_is_not_run(tmp_path: Path) -> None:
    servers = _declared(
        tmp_path,
        """
  loose: {command: npx, args: ["-y", "some-server"]}
  allowed: {command: npx, args: ["-y", "some-server"], allow_unpinned: true}
  exact: {command: npx, args: ["-y", "some-server@1.2.3"]}
""",
    )
    assert "some-server names no version" in servers.skipped["loose"]
    assert list(servers.specs) == ["allowed", "exact"]
    assert len(servers.warnings) == 1 and "allowed" in servers.warnings[0]


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("npx -y pkg", "pkg"),
        ("npx -y @scope/pkg", "@scope/pkg"),
        ("npx -y @scope/pkg@latest", "@scope/pkg@latest"),
        ("npx -y @scope/pkg@1.0.0 --flag", None),
        ("npx --package pkg@2.0.0 tool", None),
        ("npx --package=pkg tool", "pkg"),
        ("/usr/bin/npx ./local", None),
        ("npm exec -- pkg", "pkg"),
        ("pnpm dlx pkg@1.0.0", None),
        ("bunx pkg", "pkg"),
        ("uvx pkg", "pkg"),
        ("uvx pkg==1.2", None),
        ("uvx pkg@1.2", None),
        ("uvx pkg@latest", "pkg@latest"),
        ("uvx --from pkg tool", "pkg"),
        ("uvx --from git+https://x/y@" + "a" * 40 + " tool", None),
        ("uv tool run pkg>=1", "pkg>=1"),
        ("pipx run pkg==3.0", None),
        ("node server.js", None),
        ("uv run server.py", None),
    ],
)
def test_which_commands_fetch_what_is_published_today(command: str, package: str | None) -> None:
    assert unpinned(command.split()) == package


@pytest.mark.parametrize(
    ("entry", "path", "message"),
    [
        ("a: {}", "mcp_servers.a", "two ways to be reached, or none"),
        ('a: {command: x, url: "https://y"}', "mcp_servers.a", "two ways to be reached, or none"),
        ('a: {url: "https://y", args: [b]}', "mcp_servers.a", "args means nothing"),
        ("a: {command: x, headers: {X-A: b}}", "mcp_servers.a", "headers means nothing"),
        ("a: {command: x, transport: sse}", "mcp_servers.a", "does not go with command"),
        ('a: {url: "https://u:p@y/"}', "mcp_servers.a.url", "holds a user or a password"),
        ('a: {url: "http://y.example/"}', "mcp_servers.a.url", "without encryption"),
        ('a: {url: "file:///etc/passwd"}', "mcp_servers.a.url", "is no URL of a server"),
        ("a: {command: x, env: {LD_PRELOAD: y}}", "mcp_servers.a.env", "LD_PRELOAD"),
        ("a: {command: x, credentials: [{env: A}]}", "mcp_servers.a.credentials[0]", "comes from two places, or none"),
        ("a: {command: x, credentials: [{header: A, from_env: B}]}", "mcp_servers.a", "cannot get there"),
        ('a: {url: "https://y", headers: {Mcp-Method: z}}', "mcp_servers.a.headers", "cannot be set"),
        ("a__b: {command: x}", "mcp_servers.a__b", "is no server's name"),
        ('"a/b": {command: x}', "mcp_servers.a/b", "is no server's name"),
        ("a: {import: [.mcp.json]}", "mcp_servers.a", "only the key import imports"),
        ("import: nowhere.json", "mcp_servers.import[0]", "Cannot read"),
        ("a: {command: x, shell: true}", "mcp_servers.a.shell", "unknown key"),
    ],
)
def test_what_can_never_work_is_refused(tmp_path: Path, entry: str, path: str, message: str) -> None:
    problems = _refused(tmp_path, f"  {entry}\n")
    assert any(one.path.startswith(path) and message in one.message for one in problems), problems


def _client_file(tmp_path: Path, servers: Any) -> None:
    (tmp_path / ".mcp.json").write_text(json.dumps({"mcpServers": servers}))


def test_a_clients_file_is_read_only_when_the_operator_says_so(tmp_path: Path) -> None:
    _client_file(tmp_path, {"files": {"command": "node", "args": ["a.js"]}})
    assert _declared(tmp_path, "  own: {command: x}").specs.keys() == {"own"}
    servers = _declared(tmp_path, "  import: .mcp.json\n  own: {command: x}")
    assert servers.specs.keys() == {"own", "files"}


def test_what_is_declared_here_goes_before_what_is_imported(tmp_path: Path) -> None:
    _client_file(tmp_path, {"files": {"command": "theirs"}})
    servers = _declared(tmp_path, "  import: [.mcp.json]\n  files: {command: ours, enabled: false}")
    assert servers.specs == {} and servers.skipped == {"files": "it is disabled"}


def test_what_cannot_be_imported_is_skipped_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    _client_file(
        tmp_path,
        {
            "web": {
                "type": "http",
                "url": "https://x.example/mcp",
                "headers": {"Authorization": "Bearer ${NOT_SET:-abcdefgh}"},
            },
            "old": {"type": "sse", "url": "http://plain.example/sse"},
            "ws": {"type": "websocket", "url": "wss://x"},
            "loose": {"command": "npx", "args": ["-y", "pkg"]},
            "bad name": {"command": "x"},
            "list": ["x"],
            "both": {"command": "x", "url": "https://y"},
            "omium": {"command": "/usr/bin/omium-mcp", "args": ["serve"]},
            "off": {"command": "x", "disabled": True},
        },
    )
    servers = _declared(tmp_path, "  import: .mcp.json")
    assert list(servers.specs) == ["web"]
    assert servers.specs["web"].secrets == ("abcdefgh",)
    assert set(servers.skipped) == {"old", "ws", "loose", "bad name", "list", "both", "omium", "off"}


def test_an_agent_or_a_workflow_declares_no_server(tmp_path: Path) -> None:
    """A tool node names a declared server and nothing that would start one."""
    text = """project: p
mcp_servers: {good: {command: x}}
workflows:
- name: w
  nodes:
  - {id: a, kind: tool, use: other/query}
"""
    (tmp_path / "omium.yaml").write_text(text)
    with pytest.raises(OmiumError) as refused:
        load_project(tmp_path / "omium.yaml")
    assert refused.value.code == "not_registered"
    for extra in ("command: sh", "server: {command: sh}", "url: https://x"):
        (tmp_path / "omium.yaml").write_text(text.replace("use: other/query", f"use: good/query, {extra}"))
        with pytest.raises(OmiumError) as refused:
            load_project(tmp_path / "omium.yaml")
        assert refused.value.code == "invalid_definition"


def test_names_are_checked_before_anything_is_filled_in(tmp_path: Path) -> None:
    into = Servers()
    assert list(declared_servers({}, tmp_path, into, {})) == [] and into.entries == {}
