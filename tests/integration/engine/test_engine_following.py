"""Watching a run: events as they come, and waiting for it, from its own process or another."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from omium.orchestration.service.core import Core
from omium.orchestration.service.views import EventView
from tests.integration.engine.worlds import ME, world

pytestmark = pytest.mark.anyio

FLOW = """
name: flow
nodes:
- {id: a, kind: function, use: hold, with: {name: a}}
- {id: g, kind: approval, approval: {prompt: "ok?"}, needs: a}
- {id: b, kind: function, use: echo, needs: g}
"""


async def test_followers_see_the_same_whenever_they_come_and_end_with_the_run(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW) as w:
        run = await w.run("flow")
        other = await w.start()
        seen: dict[str, list[EventView]] = {"early": [], "other": [], "late": []}

        async def follow(name: str, core: Core, after: int = 0) -> None:
            async for event in core.follow(ME, run, after=after):
                seen[name].append(event)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(follow, "early", w.core)
                tasks.start_soon(follow, "other", other.core)
                await w.entered("a")
                w.let_go("a")
                await w.approve(run)
                tasks.start_soon(follow, "late", w.core, 3)
        assert [event.seq for event in seen["early"]] == list(range(1, len(seen["early"]) + 1))
        assert seen["early"] == seen["other"] == await w.core.events(ME, run)
        assert seen["late"] == seen["early"][3:]
        assert seen["early"][-1].type == "run.completed"


async def test_a_follower_may_leave_in_the_middle(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW) as w:
        run = await w.run("flow")
        await w.entered("a")
        async with aclosing(w.core.follow(ME, run)) as events:
            async for event in events:
                if event.type == "node.started":
                    break
        with anyio.move_on_after(0.05):
            async for _ in w.core.follow(ME, run):
                pass
        w.let_go("a")
        await w.approve(run)
        await w.finished(run)


async def test_a_long_log_is_followed_page_by_page(tmp_path: Path) -> None:
    flow = f"{{name: wide, nodes: [{{id: f, kind: function, use: echo, for_each: {list(range(300))}}}]}}"
    async with world(tmp_path, flow) as w:
        run = await w.run("wide")
        with anyio.fail_after(20):
            seen = [event.seq async for event in w.core.follow(ME, run)]
        assert seen == list(range(1, len(seen) + 1)) and len(seen) > 600


async def test_waiting_ends_when_the_run_has_something_to_say(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW) as w:
        run = await w.run("flow")
        await w.entered("a")
        assert (await w.core.wait(ME, run, 0.01)).status == "executing"
        w.let_go("a")
        view = await w.core.wait(ME, run, 20)
        assert view.status == "waiting_approval" and len(view.approvals) == 1
        await w.core.pause(ME, run)
        assert (await w.core.wait(ME, run, 20)).status == "paused"
        await w.core.resume(ME, run)
        other = await w.start()
        statuses: list[str] = []

        async def wait() -> None:
            statuses.append((await other.core.wait(ME, run, 20)).status)

        async with anyio.create_task_group() as tasks:
            await w.approve(run)
            tasks.start_soon(wait)
        assert statuses == ["completed"]
