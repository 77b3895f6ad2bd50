"""Clients that others have written, against the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import anyio
import pytest

from tests.protocol.hosts import Era, Inspector, fast_mcp, type_script
from tests.protocol.processes import http_server
from tests.protocol.project import Project
from tests.protocol.tour import check, travel

pytestmark = pytest.mark.anyio

ERAS: tuple[Era, ...] = ("auto", "legacy")


@pytest.fixture(params=["stdio", "http"])
async def url(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> AsyncIterator[str | None]:
    """None for a server that the client starts on stdio; otherwise where one runs."""
    if request.param == "stdio":
        yield None
        return
    async with http_server(project.http_server, project.environment, tmp_path / "log", project.directory) as serving:
        yield serving


@pytest.mark.parametrize("era", ERAS)
async def test_fastmcp(project: Project, url: str | None, era: Era) -> None:
    with anyio.fail_after(90):
        async with fast_mcp(project, era, forms=True, url=url) as host:
            journey = await travel(host, project)
        await check(project, journey)


@pytest.mark.parametrize("era", ERAS)
async def test_the_typescript_sdk(project: Project, url: str | None, era: Era) -> None:
    with anyio.fail_after(90):
        async with type_script(project, era, forms=True, url=url) as host:
            journey = await travel(host, project)
        await check(project, journey)


async def test_a_client_without_forms(project: Project) -> None:
    with anyio.fail_after(90):
        async with type_script(project, "auto", forms=False) as host:
            journey = await travel(host, project)
        await check(project, journey)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_inspector_over_http(project: Project, tmp_path: Path, era: Literal["legacy", "modern"]) -> None:
    with anyio.fail_after(180):
        async with http_server(project.http_server, project.environment, tmp_path / "log", project.directory) as url:
            journey = await travel(Inspector(project, era, url), project)
        await check(project, journey)


async def test_the_inspector_with_a_server_for_each_call(project: Project) -> None:
    """Three servers, one after the other, and a terminal: nothing but the database is left of one for the next."""
    host = Inspector(project, "legacy")
    with anyio.fail_after(120):
        begun = await host.call("run_workflow", workflow="release", inputs={"topic": "otters"}, wait_seconds=30)
        assert begun.content["status"] == "waiting_approval", begun
        approval = begun.content["approvals"][0]["approval_id"]
        asked = await host.call("approve", approval_id=approval, decision="approve")
        assert asked.content["decided"] is False
        await project.omium("approve", approval)
        async with project.core() as (core, caller):
            run = await core.wait(caller, begun.content["run_id"], 60)
        assert run.status == "completed"
        seen = await host.call("get_run", run_id=run.id, detail=True)
    assert seen.content["output"]["value"] == "published: all about otters"
