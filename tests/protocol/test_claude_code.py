"""The real Claude Code, headless, whose model is the test: it works with the server as any agent would."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from tests import nodejs
from tests.protocol.messages_api import ScriptedModel, scripted_model
from tests.protocol.processes import http_server
from tests.protocol.project import Project
from tests.protocol.tour import DEFAULT_TOOLS, Called, check, travel

pytestmark = pytest.mark.anyio

_ALLOWED = "mcp__omium,ToolSearch,ListMcpResourcesTool,ReadMcpResourceTool"


@dataclass
class ClaudeCode:
    """Headless, it closes every form. Its model does the calls, so a tool has to be found first, as it defers them."""

    model: ScriptedModel
    shows_forms: bool = False

    async def tools(self) -> set[str]:
        names = ",".join(f"mcp__omium__{name}" for name in sorted(DEFAULT_TOOLS))
        await self.model.use("ToolSearch", {"query": f"select:{names}", "max_results": 50})
        return DEFAULT_TOOLS if await self._has("list_workflows") else set()

    async def _has(self, tool: str) -> bool:
        return "release" in json.dumps((await self.call(tool)).content)

    async def call(self, tool: str, **arguments: Any) -> Called:
        text = await self.model.use(f"mcp__omium__{tool}", arguments)
        content = json.loads(text)
        return Called(content, failed=set(content) == {"code", "message", "hint", "retryable", "next", "data"})

    async def read(self, uri: str) -> str:
        return await self.model.use("ReadMcpResourceTool", {"server": "omium", "uri": uri})


@asynccontextmanager
async def claude(
    project: Project, directory: Path, *, url: str | None = None, settings: dict[str, Any] | None = None
) -> AsyncIterator[ClaudeCode]:
    """Claude Code in the project's directory, connected to its server on stdio or at a URL. It must end well."""
    configuration = project.client_configuration(directory / "mcp.json", url)
    own = directory / "claude"
    own.mkdir()
    binary = await anyio.to_thread.run_sync(nodejs.claude_code)
    options = ["--output-format", "stream-json", "--verbose", "--setting-sources", "", "--strict-mcp-config"]
    options += ["--mcp-config", str(configuration), "--allowedTools", _ALLOWED]
    if settings is not None:
        options += ["--settings", json.dumps(settings)]
    async with scripted_model() as model, anyio.create_task_group() as tasks:
        environment = {
            "PATH": nodejs.search_path(),
            "HOME": str(own),
            "CLAUDE_CONFIG_DIR": str(own),
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": "none",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "1",
        }
        ended = anyio.Event()

        async def run() -> None:
            done = await anyio.run_process(
                [str(binary), "-p", "Release something.", *options],
                env=environment,
                cwd=project.directory,
                stdin=subprocess.DEVNULL,
                check=False,
            )
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            results = [line for line in lines if line["type"] == "result"]
            assert len(results) == 1, (done.returncode, done.stdout[-2_000:], done.stderr[-2_000:])
            assert results[0]["is_error"] is False, results
            assert results[0]["permission_denials"] == []
            init = next(line for line in lines if line["type"] == "system" and line["subtype"] == "init")
            assert [(one["name"], one["status"]) for one in init["mcp_servers"]] == [("omium", "connected")]
            ended.set()

        tasks.start_soon(run)
        yield ClaudeCode(model)
        await model.say("Released.")
        await ended.wait()


async def test_headless_claude_code_leaves_decisions_to_a_human_at_a_terminal(project: Project, tmp_path: Path) -> None:
    with anyio.fail_after(120):
        async with claude(project, tmp_path) as host:
            journey = await travel(host, project)
            instructions = json.dumps(host.model.requests[0])
        await check(project, journey)
    # The model is told where to begin before it has looked for any tool.
    assert "list_workflows() - what can be run" in instructions
    assert "mcp__omium__run_workflow" in instructions


async def test_claude_code_over_http_with_a_hook_that_answers_forms(project: Project, tmp_path: Path) -> None:
    """A hook of the user's own may answer for the human; a server cannot see that, so it counts as a form's answer."""
    answer = {"hookEventName": "Elicitation", "action": "accept", "content": {"decision": "approve"}}
    script = tmp_path / "hook.json"
    script.write_text(json.dumps({"hookSpecificOutput": answer}))
    hook = {"type": "command", "command": f"cat {script}"}
    settings = {"hooks": {"Elicitation": [{"matcher": "omium", "hooks": [hook]}]}}
    with anyio.fail_after(120):
        async with (
            http_server(project.http_server, project.environment, tmp_path / "log", project.directory) as url,
            claude(project, tmp_path, url=url, settings=settings) as host,
        ):
            host.shows_forms = True
            journey = await travel(host, project)
        await check(project, journey)
