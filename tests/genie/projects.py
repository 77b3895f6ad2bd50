"""The epic's example in a directory of its own, and clients of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mcp import Client

from omium.clients.genie import TOOLSETS, EpicSpec, load_epic
from omium.clients.remote import OmiumClient
from omium.clients.remote.client import _form
from omium.clients.remote.connection import Connection
from omium.orchestration.ids import Principal
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.app import open_omium
from omium.server.config import load_config
from omium.server.mcp import build_server
from tests.house.tree import ROOT

EXAMPLE = ROOT / "examples" / "epic"

SLUG = """from titles import clean


def slug(title: str) -> str:
    return clean(title){lower}.replace(" ", "-")
"""
GOOD, BAD = SLUG.format(lower=".lower()"), SLUG.format(lower="")
TEST = """import unittest

from slug import slug


class Slug(unittest.TestCase):
    def test_it(self) -> None:
        self.assertEqual(slug("A  b"), "a-b")
"""


def epic_project(directory: Path) -> Path:
    """A copy of the example with its repository."""
    project = directory / "project"
    shutil.copytree(EXAMPLE, project, ignore=shutil.ignore_patterns("__pycache__", "repository", "home"))
    subprocess.run([sys.executable, "make_repository.py"], cwd=project, check=True)
    return project


def environment(project: Path) -> dict[str, str]:
    return {"OMIUM_HOME": str(project / "home"), "OMIUM_DATABASE": "", "OMIUM_PROJECT": str(project)}


def writes(said: str, *files: tuple[str, str]) -> list[dict[str, Any]]:
    """The turns of a model that writes files."""
    calls = [{"name": "write_file", "arguments": {"path": path, "text": text}} for path, text in files]
    return [{"calls": calls}, {"text": said}]


def developer(project: Path, **cases: Sequence[dict[str, Any]]) -> None:
    """Have the developer answer so, by what its task says: the first case that fits."""
    script = {"cases": [{"when": when.replace("_", " "), "turns": turns} for when, turns in cases.items()]}
    (project / "agents" / "developer" / "script.json").write_text(json.dumps(script))


def spec_of(project: Path, **changed: Any) -> EpicSpec:
    spec = load_epic(project / "epic.yaml")
    return EpicSpec.model_validate({**spec.model_dump(), **changed})


async def yes(question: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A person who fills the form in as it was proposed, and writes the word that was proposed with it."""
    fields = schema["properties"]
    filled = {name: one["default"] for name, one in fields.items() if one.get("default") is not None}
    word = re.search(r"^The agent proposes: \S+ \((.+)\)$", question, re.MULTILINE)
    return {**filled, "feedback": word[1]} if word else filled


@asynccontextmanager
async def opened(project: Path) -> AsyncIterator[tuple[Core, OmiumClient]]:
    """The project's core in this process, and a client of a server over it, with a person who agrees."""
    config = load_config(project, environment(project))
    caller = Caller(Principal("user:ada"), config.project.id)
    async with open_omium(config) as core:
        server = build_server(core, caller, toolsets=TOOLSETS)

        @asynccontextmanager
        async def connect() -> AsyncIterator[Client]:
            async with Client(server, elicitation_callback=_form(yes)) as client:
                yield client

        async with OmiumClient(Connection(connect)) as client:
            yield core, client
