"""Every snippet of README and docs is valid; Python and SQL are executed. What needs a user is in test_readme."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import tomllib
from pathlib import Path

import click
import pytest

from omium.clients.agents.script import Script
from omium.clients.genie.spec import EpicSpec
from omium.orchestration.definition.document import read_document
from omium.orchestration.definition.load import load_workflow
from omium.orchestration.gates.policy.testing import CasesFile
from omium.server.cli import cli
from omium.server.http.app import ENDPOINTS
from omium.server.project_file import load_project
from omium.storage.open import open_store
from tests.docs.snippets import PAGES, Snippet, command_lines, snippets, words
from tests.house.tree import ROOT

ALL = [snippet for page in PAGES for snippet in snippets(page)]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS, EXTRAS = set(PROJECT["scripts"]), set(PROJECT["optional-dependencies"])
SETTING_UP = {
    "python3 -m venv .venv",
    ".venv/bin/pip install -q .",
    ".venv/bin/pip install -q -e '.[dev]'",
    ".venv/bin/python -m pytest",
}


def of(*languages: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("snippet", [one for one in ALL if one.language in languages], ids=str)


def parse_omium(arguments: list[str]) -> None:
    """Refuse a command line that the command itself would refuse."""
    context = click.Context(cli, info_name="omium")
    command: click.Command | None = cli
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.get_command(context, name)
        assert command is not None, f"there is no command {name!r}"
    assert command is not None
    command.make_context("omium", arguments)


def check_request(arguments: list[str]) -> None:
    """Refuse a request of `curl` for a path or method that the server does not have."""
    (url,) = (one for one in arguments if one.startswith("http://"))
    path = re.sub(r"\Ahttp://127\.0\.0\.1:8765|\?.*", "", url)
    method = "POST" if "-d" in arguments else "GET"
    patterns = {(one.method, re.sub(r"{\w+}", "[^/]+", one.path)) for one in ENDPOINTS}
    assert any(method == one and re.fullmatch(pattern, path) for one, pattern in patterns), f"{method} {path}"


def check_line(line: str) -> None:
    program, *arguments = words(line)
    if program.rpartition("/")[2] in SCRIPTS:
        parse_omium(arguments or ["serve"])
    elif line.startswith("claude mcp add "):
        server = arguments[arguments.index("--") + 1 :]
        assert server[0] in SCRIPTS
        parse_omium(server[1:])
    elif program == "curl":
        check_request(arguments)
    elif evaluated := re.fullmatch(r'eval "\$\((.+)\)"', line):
        check_line(evaluated[1])
    elif extras := re.fullmatch(r"pip install 'omium-mcp\[([a-z,]+)\]'", line):
        assert set(extras[1].split(",")) <= EXTRAS, line
    elif " -m tests." in line:
        module = arguments[1]
        known = set(re.findall(r'"(--[a-z-]+)"', (ROOT / module.replace(".", "/") / "__main__.py").read_text()))
        assert {one for one in arguments[2:] if one.startswith("--")} <= known, line
    else:
        assert line in SETTING_UP, f"nobody checks {line!r}"


def test_every_language_is_checked() -> None:
    assert {one.language for one in ALL} <= {"sh", "yaml", "json", "python", "sql", "text", "toml"}
    assert [one.page.name for one in ALL if one.language == "text"] == ["README.md", "worker.md"]  # output; lines


@of("sh")
def test_commands_exist_with_these_options(snippet: Snippet) -> None:
    for line in command_lines(snippet.text):
        check_line(line)


def test_a_command_that_does_not_exist_would_be_seen() -> None:
    for line in (
        "omium rum hello",
        "omium run hello --quick",
        "omium rollback last",
        "rm -rf /",
        "omium-mcp serve --x",
        "curl http://127.0.0.1:8765/api/v1/nothing",
        "curl -d '{}' http://127.0.0.1:8765/api/v1/workflows",
    ):
        with pytest.raises((AssertionError, click.UsageError)):
            check_line(line)


@of("json")
def test_host_configurations_name_our_command_and_scripts_can_be_followed(snippet: Snippet) -> None:
    value = json.loads(snippet.text)
    if "turns" in value:
        assert Script.model_validate(value).turns
        return
    for server in value["mcpServers"].values():
        assert server["command"] in SCRIPTS
        parse_omium(server["args"])


@of("yaml")
def test_definitions_are_valid(snippet: Snippet, tmp_path: Path) -> None:
    """A workflow, the list of its nodes, cases of a policy, or (keys of) an omium.yaml, of which the functions need not
    exist."""
    value = read_document(snippet.text, str(snippet)).value
    if isinstance(value, list):
        load_workflow(f"name: snippet\nnodes:\n{_indented(snippet.text)}", source=str(snippet))
    elif "goal" in value:
        EpicSpec.model_validate(value)
    elif "cases" in value:
        CasesFile.model_validate(value)
    elif "nodes" in value:
        load_workflow(snippet.text, source=str(snippet))
    else:
        (tmp_path / "omium.yaml").write_text(snippet.text if "project" in value else f"project: x\n{snippet.text}")
        for one in value.get("functions", {}).values():
            module = (one if isinstance(one, str) else one["ref"]).partition(":")[0]
            (tmp_path / f"{module}.py").touch()
        for path in value.get("workflows", ()):
            (tmp_path / path).write_text(_named(snippet, path))
        load_project(tmp_path / "omium.yaml")


def _indented(text: str) -> str:
    return "".join(f"  {line}" for line in text.splitlines(keepends=True))


def _named(snippet: Snippet, name: str) -> str:
    (found,) = (one.text for one in snippets(snippet.page, "yaml") if one.name == name)
    return found


@of("toml")
def test_toml_can_be_read(snippet: Snippet) -> None:
    assert tomllib.loads(snippet.text)


@of("python")
def test_python_is_executed(snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a directory of its own, with the named snippets of its page beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for other in snippets(snippet.page, "python", "yaml"):
        if other.name is not None:
            (tmp_path / other.name).write_text(other.text)
    before = set(sys.modules)
    try:
        exec(compile(snippet.text, str(snippet), "exec"), {"__name__": "snippet"})
    finally:
        for name in set(sys.modules) - before:
            if not name.startswith("omium"):
                sys.modules.pop(name)


@pytest.mark.anyio
@of("sql")
async def test_queries_fit_the_tables(snippet: Snippet, tmp_path: Path) -> None:
    store = await open_store(str(tmp_path / "omium.db"))
    await store.close()
    with sqlite3.connect(tmp_path / "omium.db") as database:
        for query in snippet.text.split(";"):
            if query.strip():
                database.execute(query).fetchall()
    database.close()
