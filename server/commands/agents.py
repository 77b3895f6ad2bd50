"""Agents: `agent add`, `agent list`, `agent show`, `agent search`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import click

from omium.orchestration.definition.names import name_problem
from omium.orchestration.errors import OmiumError
from omium.orchestration.service.agents import AgentView
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import Console, duration, money
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.server.project import Project

_MANIFEST: Final = """\
api_version: omium.dev/agent/v1
name: {name}
version: "1"
description: Answers in one sentence.
capabilities: [answering]
model: {{provider: scripted, script: script.json}}
# A real model instead:
# model: {{provider: openai, name: gpt-5-mini, api_key_env: OPENAI_API_KEY}}
prompt: |
  You answer in one sentence.
  The task is: ${{{{ input.task }}}}
tools: []
limits: {{turns: 10, usd: 0.50}}
input:
  type: object
  properties: {{task: {{type: string}}}}
  required: [task]
"""
_SCRIPT: Final = {"turns": [{"text": "A scripted answer to: {{message}}"}]}
_TEST: Final = '''\
"""The agent {name} does what it was made for."""

from pathlib import Path

import anyio

from omium.server.trying import try_agent

PROJECT = Path(__file__).parents[2]


def test_it_answers() -> None:
    tried = anyio.run(try_agent, PROJECT, "{name}", {{"task": "say hello"}})
    assert tried.status == "completed"
    assert "say hello" in tried.output
'''


_NOT_IN_A_FOLDER: Final = {
    "/": "a folder has no / in its name",
    "@": "@ stands before a version, which the manifest says",
}


@click.group()
def agent() -> None:
    """Make, list and show agents."""


@command("omium agent add summariser", name="add")
@click.argument("name")
async def add(invocation: Invocation, name: str) -> None:
    """Make a new agent in agents/NAME: a manifest, a scripted model, and a test that passes."""
    problem = name_problem(name) or next((why for mark, why in _NOT_IN_A_FOLDER.items() if mark in name), "")
    if problem:
        raise OmiumError("invalid_argument", f"{problem}.")
    project = _project(invocation)
    folder = project.directory / "agents" / name
    if folder.exists():
        raise OmiumError("conflict", f"{folder} is there already.", "Choose another name, or edit what is there.")
    if there := project.agents.versions(name):  # a second one would keep the whole project from loading
        raise OmiumError(
            "conflict",
            f"the agent {name!r} is registered already, by {there[0].source or 'the project'}.",
            "Choose another name, or edit what is there.",
        )
    module = "".join(one if one.isalnum() else "_" for one in name)
    files = {
        "agent.yaml": _MANIFEST.format(name=name),
        "script.json": json.dumps(_SCRIPT, indent=2) + "\n",
        f"test_{module}.py": _TEST.format(name=name),
    }
    folder.mkdir(parents=True)
    for file, text in files.items():
        (folder / file).write_text(text, encoding="utf-8")
    console = invocation.console
    if console.json:
        console.view({"name": name, "folder": str(folder), "files": sorted(files)})
        return
    console.text(f"agents/{name}: {', '.join(sorted(files))}")
    console.note(f"next: use it in a workflow as `kind: agent, use: {name}`; pytest agents/{name}")


def _project(invocation: Invocation) -> Project:
    from omium.server.config import load_config

    return load_config(invocation.project).project


@command("omium agent list", "omium agent list --capability research", name="list")
@click.option("--capability", "capabilities", multiple=True, metavar="WORD", help="With this; several: with all.")
@click.option("--tag", "tags", multiple=True, metavar="WORD", help="With this tag; several: with any.")
async def list_(invocation: Invocation, capabilities: tuple[str, ...], tags: tuple[str, ...]) -> None:
    """List the registered agents."""
    async with opened(invocation, definitions=True) as (core, caller):
        found = await core.list_agents(caller, capabilities=capabilities, tags=tags)
        problem = core.present_agents().problem
    _print(invocation.console, found, narrowed=bool(capabilities or tags))
    if problem:
        invocation.console.note(f"What the files say now is not in force: {problem}")


@command("omium agent search release", name="search")
@click.argument("text")
async def search(invocation: Invocation, text: str) -> None:
    """Find agents by a text in their name, description, capabilities or tags."""
    async with opened(invocation, definitions=True) as (core, caller):
        found = await core.list_agents(caller, text=text)
    _print(invocation.console, found, narrowed=True)


def _print(console: Console, found: list[AgentView], *, narrowed: bool) -> None:
    if console.json:
        console.view(found)
        return
    if not found and narrowed:
        console.note("no agent is like that. All that there are: omium agent list")
        return
    if not found:
        console.note("no agents. Declare them under `agents:` in omium.yaml, or make one: omium agent add NAME.")
        return
    console.table(
        ("agent", "version", "framework", "model", "capabilities", "description"),
        [
            (
                view.name,
                f"{one.version}{'' if one.default else ' (not the default)'}",
                one.framework,
                one.model,
                ",".join(one.capabilities),
                one.description,
            )
            for view in found
            for one in view.versions
        ],
    )


@command("omium agent show researcher", name="show")
@click.argument("name")
async def show(invocation: Invocation, name: str) -> None:
    """Show an agent: its versions, tools and schemas, and what became of the nodes that it ran."""
    console = invocation.console
    async with opened(invocation, definitions=True) as (core, caller):
        view = await core.get_agent(caller, name)
    if console.json:
        console.view(view)
        return
    for one in view.versions:
        console.fields(
            [
                ("agent", f"{view.name}@{one.version}{' (default)' if one.default else ''}"),
                ("description", one.description),
                ("framework", one.framework),
                ("model", one.model),
                ("capabilities", ", ".join(one.capabilities)),
                ("tools", ", ".join(one.tools)),
                ("handoffs", ", ".join(one.handoffs)),
                ("input", json.dumps(one.input_schema) if one.input_schema else ""),
                ("output", json.dumps(one.output_schema) if one.output_schema else ""),
                ("source", one.source or ""),
            ]
        )
        console.text()
    if view.problem:
        console.note(f"What the files say now is not in force: {view.problem}")
    if view.usage:
        console.table(
            ("version", "nodes", "completed", "failed", "median", "tokens", "cost"),
            [
                (
                    one.version,
                    one.nodes,
                    one.completed,
                    one.failed,
                    duration(None if one.median_ms is None else round(one.median_ms)),
                    one.tokens,
                    money(one.cost_usd) if one.priced else f"over {money(one.cost_usd)}",
                )
                for one in view.usage
            ],
        )


for _command in (add, list_, search, show):
    agent.add_command(_command)
