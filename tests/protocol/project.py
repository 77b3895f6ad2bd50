"""A project on disk for real clients: their configuration, `omium` in a terminal, and what its database says."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config

_PROGRAM = "from omium.server.cli import main; main()"

FILES = {
    "omium.yaml": """
project: newsroom
functions:
  draft: {ref: "steps:draft", host: async}
  publish: {ref: "steps:publish", host: async}
workflows: [release.yaml]
""",
    "release.yaml": """
name: release
description: Drafts a text, asks, and publishes it.
inputs: {type: object, required: [topic], properties: {topic: {type: string}}, additionalProperties: false}
nodes:
- {id: draft, kind: function, use: draft, with: {topic: "${{ inputs.topic }}"}}
- {id: ask, kind: approval, needs: draft, approval: {prompt: "Publish it?", show: "${{ nodes.draft.output }}"}}
- {id: publish, kind: function, use: publish, needs: ask, with: {text: "${{ nodes.draft.output }}"}}
outputs: "${{ nodes.publish.output }}"
""",
    "steps.py": """
async def draft(topic):
    return f"all about {topic}"


async def publish(text):
    return f"published: {text}"
""",
}


@dataclass(frozen=True, slots=True)
class Project:
    """`environment` is all that a process needs to serve it, or to speak to it as this machine's user."""

    directory: Path
    environment: dict[str, str]

    @property
    def server(self) -> list[str]:
        """The command that serves it on stdio."""
        return [sys.executable, "-c", _PROGRAM, "serve"]

    @property
    def http_server(self) -> list[str]:
        """The command that serves it over HTTP, at a free port of loopback."""
        return [*self.server, "--transport", "http", "--port", "0"]

    def client_configuration(self, path: Path, url: str | None = None) -> Path:
        """An `.mcp.json` at this path, with the server under the name `omium`: on stdio, or at a URL."""
        command, *arguments = self.server
        server: dict[str, Any] = {"type": "stdio", "command": command, "args": arguments, "env": self.environment}
        if url is not None:
            server = {"type": "http", "url": url}
        path.write_text(json.dumps({"mcpServers": {"omium": server}}))
        return path

    async def omium(self, *arguments: str) -> Any:
        """What `omium ... --json` prints, typed by the user of this machine in a terminal of theirs."""
        command = [sys.executable, "-c", _PROGRAM, *arguments, "--json"]
        done = await anyio.run_process(command, env=self.environment, cwd=self.directory, check=False)
        assert done.returncode in (0, 3), (done.returncode, done.stdout.decode(), done.stderr.decode())
        return json.loads(done.stdout)

    @asynccontextmanager
    async def core(self) -> AsyncIterator[tuple[Core, Caller]]:
        """Its core, which executes nothing: to see what the database says."""
        config = load_config(self.directory, self.environment)
        async with open_omium(config, engine=False) as core:
            yield core, local_caller(config)


def make_project(directory: Path) -> Project:
    """A project in a new directory below this one, with a home of its own."""
    project = directory / "project"
    project.mkdir()
    for name, text in FILES.items():
        (project / name).write_text(text)
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "VIRTUAL_ENV") if name in os.environ}
    own = {"HOME": str(directory), "OMIUM_HOME": str(directory / "home"), "OMIUM_PROJECT": str(project)}
    return Project(project, {**inherited, **own})
