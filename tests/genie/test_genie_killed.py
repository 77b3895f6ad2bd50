"""Genie over a real server's standard streams, which is killed in the middle of the work, and its commands."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from omium.clients.genie import TOOLSETS, Genie
from omium.clients.remote import OmiumClient
from tests.genie.projects import environment, epic_project, spec_of, yes
from tests.interaction.test_stdio import end_workers

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def over_stdio(project: Path) -> AsyncIterator[OmiumClient]:
    variables = {**os.environ, **environment(project)}
    try:
        async with OmiumClient.stdio(project, toolsets=TOOLSETS, environment=variables, ask=yes) as client:
            yield client
    finally:
        await end_workers(project / "home" / "omium.db")


def servers() -> list[psutil.Process]:
    """The servers that this process has started."""
    return [one for one in psutil.Process().children() if "serve" in one.cmdline()]


async def test_what_genie_goes_on_from_is_listed_only_for_whoever_asks_for_it(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    command = [sys.executable, "-m", "omium.server.cli", "genie", "memory"]
    with anyio.fail_after(60):
        async with over_stdio(project) as client:
            await client.remember("state", '{"format":1}', scope="epic:titles", kind="state")
            await client.remember("d1", "agree: approve by me", scope="epic:titles", kind="decision")
            listed, asked = [
                (await anyio.run_process([*command, *more], env={**os.environ, **environment(project)})).stdout.decode()
                for more in ((), ("--kind", "state"))
            ]
    assert "approve by me" in listed and '"format"' not in listed
    assert '"format"' in asked


async def test_a_killed_server_costs_no_work(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    spec = spec_of(project)
    with anyio.fail_after(150):
        async with over_stdio(project) as client:
            first = await Genie(client, spec).drive()
            (gate,) = first.approvals
            assert gate.node == "agree"
            assert (await client.approve(gate.approval_id)).decided
            for server in servers():
                server.kill()  # the developer has just begun
            second = await Genie(client, spec).drive()
            assert client.connection.reconnected >= 1
            assert second.run_id == first.run_id and [one.node for one in second.approvals] == ["release"]
            (gate,) = second.approvals
            assert (await client.approve(gate.approval_id)).decided
            done = await Genie(client, spec).drive()
            assert done.standing == "completed" and done.tried == ()
            nodes = {one.id: one for one in (await client.get_run(done.run_id, detail=True)).nodes}
            assert (nodes["architect"].attempt or 1, nodes["architect"].generation or 0) == (1, 0)  # not done again
            assert len(await client.list_runs()) == 1


async def test_a_server_that_dies_while_it_is_watched_is_replaced(tmp_path: Path) -> None:
    project = epic_project(tmp_path)
    with anyio.fail_after(150):
        async with over_stdio(project) as client, anyio.create_task_group() as tasks:
            begun = anyio.Event()

            async def killer() -> None:
                await begun.wait()
                for server in servers():
                    server.kill()

            tasks.start_soon(killer)
            genie = Genie(client, spec_of(project), tell=lambda line: begun.set() if line == "start" else None)
            report = await genie.drive()  # it is killed while the epic is being started
            assert report.standing == "waiting" and len(await client.list_runs()) == 1
            assert client.connection.reconnected >= 1
