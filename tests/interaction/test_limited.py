"""How often a client may call where no HTTP server counts."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp import Client

from omium.server.identity.limits import RateLimits, RequestLimits
from omium.server.mcp import build_server
from tests.interaction.studio import ADA, MODES, Mode, Studio, Visitor

pytestmark = pytest.mark.anyio


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def limited(studio: Studio, clock: Clock, mode: Mode, **limits: int) -> Client:
    server = build_server(studio.core, ADA, limits=RateLimits(RequestLimits(**limits), clock))
    return Client(server, mode=mode)


@pytest.mark.parametrize("mode", MODES)
async def test_who_starts_too_many_runs_is_told_when_to_come_back(studio: Studio, mode: Mode) -> None:
    clock = Clock()
    async with limited(studio, clock, mode, starts=30) as client:
        visitor = Visitor(client)
        answers = [await client.call_tool("run_workflow", {"workflow": "chain"}) for _ in range(31)]
        assert [one.is_error for one in answers].index(True) == 15  # half a minute's worth goes at once
        before = await studio.changes()
        failure = await visitor.error("run_workflow", workflow="chain")
        assert (failure["code"], failure["retryable"]) == ("rate_limited", True)
        assert 0 < failure["data"]["retry_after_s"] <= 2
        assert (await visitor.ok("list_runs", limit=1))["runs"]  # reads are counted for themselves
        clock.now += 2
        await visitor.ok("run_workflow", workflow="chain")
        assert await studio.changes() > before


async def test_calls_under_way_are_bounded_and_what_is_no_call_is_not_counted(studio: Studio) -> None:
    clock = Clock()
    async with limited(studio, clock, "auto", concurrent=1, reads=20) as client, anyio.create_task_group() as tasks:
        visitor = Visitor(client)
        run = await visitor.ok("run_workflow", workflow="held")
        done: list[dict[str, Any]] = []

        async def wait() -> None:
            done.append(await visitor.ok("get_run", run_id=run["run_id"], wait_seconds=45))

        tasks.start_soon(wait)
        with anyio.fail_after(20):
            await studio.holding.wait()
            while (refused := await client.call_tool("list_runs", {})).is_error is False:
                clock.now += 10
        assert refused.is_error
        for _ in range(50):
            await client.list_tools()
        studio.release.set()
        with anyio.fail_after(20):
            while not done:
                await anyio.lowlevel.checkpoint()
        assert done[0]["status"] == "completed"
