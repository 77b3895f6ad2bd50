"""A call that its function cut off itself, and asks for again, follows `on_unknown` as after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.functions.context import AsyncContext
from omium.orchestration.ids import RunId
from omium.orchestration.ports import Attempt
from tests.integration.engine.worlds import ME, World, eventually, world

pytestmark = pytest.mark.anyio


def flow(on_unknown: str, more: str = "") -> str:
    return f"name: act\nnodes:\n- {{id: a, kind: function, use: act, on_unknown: {on_unknown}{more}}}\n"


class Outside:
    """Calls of which the first never comes back."""

    def __init__(self) -> None:
        self.made = 0
        self.reached = anyio.Event()

    async def call(self) -> int:
        self.made += 1
        if self.made == 1:
            self.reached.set()
            await anyio.sleep_forever()
        return self.made


def functions(act: Callable[[AsyncContext], Awaitable[Any]]) -> dict[str, Callable[[Attempt], Awaitable[Any]]]:
    async def run(attempt: Attempt) -> Any:
        return await act(AsyncContext({}, attempt.ask))

    return {"act": run}


def twice(outside: Outside) -> Callable[[AsyncContext], Awaitable[Any]]:
    """A function that gives up its call, and asks for it again."""

    async def act(ctx: AsyncContext) -> Any:
        if not outside.made:
            call = asyncio.create_task(ctx.effect("k", outside.call))
            await outside.reached.wait()
            call.cancel()
            await asyncio.wait([call])
        return await ctx.effect("k", outside.call)

    return act


async def outcomes(w: World, run: RunId) -> list[Any]:
    return [event.data["outcome"] for event in await w.events(run) if event.type == "effect.settled"]


async def test_with_rerun_it_is_made_again(tmp_path: Path) -> None:
    outside = Outside()
    async with world(tmp_path, flow("rerun"), functions=functions(twice(outside))) as w:
        run = await w.run("act")
        await w.finished(run)
        assert await outcomes(w, run) == ["unknown", "done"]
    assert outside.made == 2


async def test_with_fail_the_node_has_failed(tmp_path: Path) -> None:
    outside = Outside()
    more = ", retry: {max_attempts: 3, initial: 0}"
    async with world(tmp_path, flow("fail", more), functions=functions(twice(outside))) as w:
        run = await w.run("act")
        view = await w.finished(run, "failed")
        assert view.error is not None
        assert (view.error["category"], view.error["reason"]) == ("unknown", "unknown_outcome")
    assert outside.made == 1


async def test_with_fail_a_function_that_makes_nothing_of_it_has_failed_too(tmp_path: Path) -> None:
    """The second of two tasks waits for the first, which is cancelled."""
    outside = Outside()

    async def act(ctx: AsyncContext) -> Any:
        both = [asyncio.create_task(ctx.effect("k", outside.call)) for _ in range(2)]
        await outside.reached.wait()
        both[0].cancel()
        return [repr(one) for one in await asyncio.gather(*both, return_exceptions=True)]

    async with world(tmp_path, flow("fail"), functions=functions(act)) as w:
        await w.finished(await w.run("act"), "failed")
    assert outside.made == 1


@pytest.mark.parametrize(("decision", "ended", "made"), [("retry", "completed", 2), ("abort", "failed", 1)])
async def test_with_ask_somebody_says_whether_it_is_made_again(
    tmp_path: Path, decision: str, ended: str, made: int
) -> None:
    outside = Outside()
    async with world(tmp_path, flow("ask"), functions=functions(twice(outside))) as w:
        run = await w.run("act")
        await w.status(run, "waiting_approval")
        (approval,) = (await w.machine.store.state(run)).approvals.values()
        assert approval.scope == "unknown_effect" and approval.details is not None
        assert approval.details["calls"] == ["k"] and "crash" not in approval.question
        assert outside.made == 1
        await w.approve(run, decision)
        await w.finished(run, ended)
    assert outside.made == made


async def test_one_that_has_no_end_for_another_reason_is_not_made_again_either(tmp_path: Path) -> None:
    """Whatever kept the function from telling: a sync one that leaves its call, a result that cannot be stored."""
    granted: list[Any] = []

    async def act(attempt: Attempt) -> Any:
        for _ in range(2):
            granted.append(await attempt.ask("effect_intent", {"key": "k"}))

    async with world(tmp_path, flow("fail"), functions={"act": act}) as w:
        await w.finished(await w.run("act"), "failed")
    assert granted == [{"known": False}]


async def test_one_that_is_not_asked_for_again_is_noted_as_unknown(tmp_path: Path) -> None:
    outside = Outside()

    async def act(ctx: AsyncContext) -> Any:
        call = asyncio.create_task(ctx.effect("k", outside.call))
        await outside.reached.wait()
        call.cancel()
        await asyncio.wait([call])
        return "without it"

    async with world(tmp_path, flow("fail"), functions=functions(act)) as w:
        run = await w.run("act")
        await w.finished(run)
        assert await outcomes(w, run) == ["unknown"]


async def test_one_that_is_stopped_with_its_node_is_left_to_whoever_stops_it(tmp_path: Path) -> None:
    outside = Outside()

    async def act(ctx: AsyncContext) -> Any:
        return await ctx.effect("k", outside.call)

    async with world(tmp_path, flow("rerun", ", on_pause: interrupt"), functions=functions(act)) as w:
        run = await w.run("act")
        await outside.reached.wait()
        await w.core.pause(ME, run, interrupt=True)
        await w.until(run, lambda s: s.node("a").status == "paused")
        await eventually(lambda: w.running == 0)
        assert await outcomes(w, run) == []
        await w.core.resume(ME, run)
        await w.finished(run)
        assert await outcomes(w, run) == ["done"]
    assert outside.made == 2
