"""Clients that others have written, against the real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

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


async def test_the_inspector(project: Project, url: str | None) -> None:
    with anyio.fail_after(180):
        journey = await travel(Inspector(project, "legacy", url), project)
        await check(project, journey)
