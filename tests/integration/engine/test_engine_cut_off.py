"""A call that its function cut off itself, and asks for again, follows `on_unknown` as after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.functions.context import AsyncContext
from omium.clients.functions.threads import call_in_thread
from omium.orchestration.ids import RunId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Attempt, Write
from omium.storage.sqlite.store import SqliteStore
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


# --- cut off while something is noted of a call ---------------------------------------------------------------------


class Cut:
    """Calls that come back, whose asker is cut off as soon as a command of this kind is about to be written of them.
    With `hold` it is not with the store by then, and goes on once `go` is set."""

    def __init__(self, kind: type, hold: bool = True) -> None:
        self.made = 0
        self.go = anyio.Event()
        self._kind = kind
        self._hold = hold
        self._asker: asyncio.Task[Any] | None = None

    async def call(self) -> int:
        self.made += 1
        return self.made

    async def before_write(self, write: Write) -> None:
        if self._asker is not None and any(isinstance(one, self._kind) for one in write.commands):
            self._asker.cancel()
            self._asker = None
            if self._hold:
                await self.go.wait()

    async def ask(self, ctx: AsyncContext) -> None:
        """Asks for the call, and is cut off."""
        self._asker = asyncio.create_task(ctx.effect("k", self.call))
        (asker,), _ = await asyncio.wait([self._asker])
        assert asker.cancelled()


@pytest.mark.parametrize("on_unknown", ["rerun", "ask", "fail"])
async def test_a_call_that_has_returned_is_done_and_its_result_given(tmp_path: Path, on_unknown: str) -> None:
    cut = Cut(c.SettleEffect)

    async def act(ctx: AsyncContext) -> Any:
        await cut.ask(ctx)
        cut.go.set()
        return await ctx.effect("k", cut.call)

    async with world(tmp_path, flow(on_unknown), functions=functions(act)) as w:
        w.machine.store.before_write = cut.before_write
        run = await w.run("act")
        await w.finished(run)
        assert await outcomes(w, run) == ["done"]
    assert cut.made == 1


async def test_its_node_does_not_end_before_that_is_noted(tmp_path: Path) -> None:
    cut = Cut(c.SettleEffect)

    async def act(ctx: AsyncContext) -> Any:
        await cut.ask(ctx)
        return "without it"

    async with world(tmp_path, flow("rerun"), functions=functions(act)) as w:
        w.machine.store.before_write = cut.before_write
        run = await w.run("act")
        await eventually(lambda: w.calls and not w.running)
        cut.go.set()
        await w.finished(run)
        assert (await w.log(run))[-3:] == ["effect.settled", "node.completed", "run.completed"]
        assert await outcomes(w, run) == ["done"]


async def test_what_the_function_drew_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """The write of the result is with the store already when its asker is cut off, and made before what comes next."""
    cut, asked = Cut(c.SettleEffect), asyncio.Event()
    late: list[asyncio.Task[Any]] = []

    async def act(ctx: AsyncContext) -> Any:
        await cut.ask(ctx)
        drawn = await ctx.uuid()
        asked.set()
        return [drawn, await ctx.effect("k", cut.call)]

    async with world(tmp_path, flow("rerun"), functions=functions(act)) as w:
        store = w.machine.store

        async def write_late(write: Write) -> None:
            await asked.wait()
            await SqliteStore.write(store, write)

        async def before_write(write: Write) -> None:
            if not late and any(isinstance(one, c.SettleEffect) for one in write.commands):
                late.append(asyncio.create_task(write_late(write)))
                cut.go.set()
                await cut.before_write(write)
            for one in late:
                await asyncio.shield(one)

        store.before_write = before_write
        run = await w.run("act")
        await w.finished(run)
        assert "value.drawn" in await w.log(run)
        assert await outcomes(w, run) == ["done"]


@pytest.mark.parametrize("again", [True, False])
async def test_a_call_whose_intent_alone_was_noted_was_not_made(tmp_path: Path, again: bool) -> None:
    cut = Cut(c.IntendEffect, hold=False)

    async def act(ctx: AsyncContext) -> Any:
        await cut.ask(ctx)
        return await ctx.effect("k", cut.call) if again else "without it"

    async with world(tmp_path, flow("fail"), functions=functions(act)) as w:
        w.machine.store.before_write = cut.before_write
        run = await w.run("act")
        await w.finished(run)
        assert await outcomes(w, run) == (["not_sent", "done"] if again else ["not_sent"])
    assert cut.made == int(again)


async def test_a_call_of_an_attempt_before_is_not_taken_for_one_that_was_not_made(tmp_path: Path) -> None:
    cut = Cut(c.IntendEffect, hold=False)

    async def act(attempt: Attempt) -> Any:
        if attempt.attempt == 1:
            await attempt.ask("effect_intent", {"key": "k"})
            raise ConnectionError("the call may have been made")
        await cut.ask(AsyncContext({}, attempt.ask))

    more = ", retry: {max_attempts: 2, initial: 0}"
    async with world(tmp_path, flow("rerun", more), functions={"act": act}) as w:
        w.machine.store.before_write = cut.before_write
        run = await w.run("act")
        await w.finished(run)
        assert await outcomes(w, run) == ["unknown"]


async def test_one_whose_end_was_never_told_is_noted_as_unknown(tmp_path: Path) -> None:
    async def act(attempt: Attempt) -> Any:
        await attempt.ask("effect_intent", {"key": "k"})

    async with world(tmp_path, flow("rerun"), functions={"act": act}) as w:
        run = await w.run("act")
        await w.finished(run)
        assert await outcomes(w, run) == ["unknown"]


@pytest.mark.parametrize("by", ["timeout", "cancel"])
@pytest.mark.parametrize("host", ["async", "thread"])
async def test_the_end_of_its_node_leaves_no_call_open_that_has_returned(tmp_path: Path, host: str, by: str) -> None:
    """A time-out of the node, or a cancellation of the run, falls into the noting of the result."""
    noting, go, limiter = anyio.Event(), anyio.Event(), anyio.CapacityLimiter(1)

    async def hold(write: Write) -> None:
        if any(isinstance(one, c.SettleEffect) for one in write.commands):
            noting.set()
            await go.wait()

    async def act(attempt: Attempt) -> Any:
        if host == "async":
            return await AsyncContext({}, attempt.ask).effect("k", lambda: 1)
        fn = lambda ctx: ctx.effect("k", lambda: 1)  # noqa: E731
        return await call_in_thread(fn, {}, context={}, on_request=attempt.ask, limiter=limiter)

    more = ", timeout: 200ms" if by == "timeout" else ""
    async with world(tmp_path, flow("ask", more), functions={"act": act}) as w:
        w.machine.store.before_write = hold
        run = await w.run("act")
        await noting.wait()
        if by == "cancel":
            await w.core.cancel(ME, run)
        await eventually(lambda: w.running == 0)  # it stops at once
        go.set()
        await w.finished(run, "failed" if by == "timeout" else "cancelled")
        await w.idle()
        assert await outcomes(w, run) == ["done"]


async def test_what_is_noted_after_the_end_of_the_function_does_not_undo_that(tmp_path: Path) -> None:
    """A task that the function leaves behind tells the end of its call while the end of the node is written."""
    left: list[asyncio.Task[Any]] = []
    returns = anyio.Event()

    async def act(ctx: AsyncContext) -> Any:
        left.append(asyncio.create_task(ctx.effect("k", call)))
        await made.wait()
        return "without it"

    made = anyio.Event()

    async def call() -> int:
        made.set()
        await returns.wait()
        return 1

    async def before_write(write: Write) -> None:
        if any(isinstance(one, c.CompleteNode) for one in write.commands) and not returns.is_set():
            returns.set()
            await asyncio.wait(left)

    async with world(tmp_path, flow("rerun"), functions=functions(act)) as w:
        w.machine.store.before_write = before_write
        run = await w.run("act")
        await w.finished(run)
        assert await outcomes(w, run) == ["done"]
        assert w.called() == ["a"]
