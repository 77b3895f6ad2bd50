"""Tasks of the server as a process: they outlive it, and other processes on the database know and tell of them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from tests.interaction import test_stdio
from tests.interaction.tasks_client import Taker, Tasking, result_of
from tests.interaction.test_stdio import SERVE, appears

pytestmark = pytest.mark.anyio

environment = test_stdio.environment


@asynccontextmanager
async def connected(environment: dict[str, str]) -> AsyncIterator[Taker]:
    server = StdioServerParameters(command=sys.executable, args=SERVE, env=environment)
    extension = Tasking()
    async with extension.heard, extension.hears, Client(server, extensions=[extension]) as client:
        yield Taker(client, extension)


async def test_a_task_over_stdio_outlives_its_server(environment: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with anyio.fail_after(90):
        async with connected(environment) as taker:
            task_id = await taker.task("run_workflow", workflow="holding", inputs={"path": str(gate)})
            await appears(tmp_path / "gate.held")
            assert (await taker.get(task_id))["status"] == "working"
        async with connected(environment) as taker:
            assert (await taker.get(task_id))["status"] == "working"
            gate.touch()
            ended = await taker.ended(task_id)
            assert ended["status"] == "completed"
            assert result_of(ended)["status"] == "completed"


async def test_two_servers_know_and_tell_of_the_same_task(environment: dict[str, str], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with anyio.fail_after(90):
        async with connected(environment) as one, connected(environment) as other:
            task_id = await one.task("run_workflow", workflow="holding", inputs={"path": str(gate)})
            await appears(tmp_path / "gate.held")
            async with other.listening(task_id) as hears:
                assert (await hears.receive())["status"] == "working"
                gate.touch()
                while (told := await hears.receive())["status"] == "working":
                    pass
            assert told["status"] == "completed"
            assert (await one.get(task_id))["result"] == told["result"]
            again = await one.task("run_workflow", workflow="holding", inputs={"path": f"{gate}-2"})
            await other.cancel(again)
            assert (await one.ended(again))["status"] == "cancelled"
