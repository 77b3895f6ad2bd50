"""Functions in this process: the same contract in a thread and on the loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from omium.clients.functions.context import AsyncContext, Context
from omium.clients.functions.failure import FunctionError
from omium.clients.functions.threads import call_async, call_in_thread
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value

pytestmark = pytest.mark.anyio

CONTEXT = {"run_id": "run_1", "node_id": "n", "attempt": 2, "generation": 3, "workspace": None}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def answer(kind: str, payload: Value) -> Value:
    if kind == "effect_intent":
        return {"known": payload == {"key": "old"}, "result": "from the ledger"}
    answers: dict[str, Value] = {"now": NOW, "random": 0.5, "uuid": "u"}
    return answers.get(kind)


def in_thread(a: int, ctx: Context) -> Value:
    ctx.progress("half")
    effects: list[Value] = [ctx.effect("new", str, a), ctx.effect("old", str, a)]
    return [
        ctx.run_id,
        ctx.attempt,
        ctx.generation,
        ctx.workspace is None,
        ctx.now(),
        ctx.random(),
        ctx.uuid(),
        *effects,
    ]


async def on_loop(a: int, ctx: AsyncContext) -> Value:
    async def text(value: int) -> str:
        return str(value)

    await ctx.progress("half")
    effects: list[Value] = [await ctx.effect("new", text, a), await ctx.effect("old", str, a)]
    return [
        ctx.run_id,
        ctx.attempt,
        ctx.generation,
        ctx.workspace is None,
        await ctx.now(),
        await ctx.random(),
        await ctx.uuid(),
        *effects,
    ]


def fail_in_thread() -> Value:
    raise FileNotFoundError("gone")


async def fail_on_loop() -> Value:
    raise FileNotFoundError("gone")


async def thread(fn: Callable[..., Value], timeout_s: float | None = None, **kwargs: Value) -> Value:
    with anyio.fail_after(20):
        return await call_in_thread(
            fn, kwargs, context=CONTEXT, on_request=answer, limiter=anyio.CapacityLimiter(1), timeout_s=timeout_s
        )


async def loop(fn: Callable[..., Awaitable[Value]], timeout_s: float | None = None, **kwargs: Value) -> Value:
    with anyio.fail_after(20):
        return await call_async(fn, kwargs, context=CONTEXT, on_request=answer, timeout_s=timeout_s)


@pytest.mark.parametrize(("host", "fn"), [(thread, in_thread), (loop, on_loop)])
async def test_both_hosts_give_the_same(host: Any, fn: Any) -> None:
    assert await host(fn, a=5) == ["run_1", 2, 3, True, NOW, 0.5, "u", "5", "from the ledger"]


@pytest.mark.parametrize(("host", "fn"), [(thread, fail_in_thread), (loop, fail_on_loop)])
async def test_both_hosts_fail_the_same(host: Any, fn: Any) -> None:
    with pytest.raises(FunctionError) as caught:
        await host(fn)
    assert caught.value.error_type == "builtins.FileNotFoundError"
    assert "builtins.OSError" in caught.value.mro
    assert isinstance(caught.value.__cause__, FileNotFoundError)


async def test_a_timeout_on_the_loop_cancels() -> None:
    cleaned = anyio.Event()

    async def forever() -> Value:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.set()
        return None

    with pytest.raises(OmiumError) as caught:
        await loop(forever, timeout_s=0.01)
    assert (caught.value.code, caught.value.data["limit_s"]) == ("timeout", 0.01)
    assert cleaned.is_set()


async def test_a_functions_own_timeout_is_a_failure_of_the_function() -> None:
    async def gives_up() -> Value:
        raise TimeoutError("of its own")

    with pytest.raises(FunctionError) as caught:
        await loop(gives_up, timeout_s=10)
    assert caught.value.error_type == "builtins.TimeoutError"


async def test_a_thread_is_abandoned_at_its_timeout_and_its_context_is_dead_then() -> None:
    release, done = threading.Event(), threading.Event()
    refused: list[OmiumError] = []

    def stubborn(ctx: Context) -> Value:
        release.wait(20)
        try:
            ctx.uuid()
        except OmiumError as error:
            refused.append(error)
        finally:
            done.set()
        return None

    with pytest.raises(OmiumError) as caught:
        await thread(stubborn, timeout_s=0.01)
    assert caught.value.code == "timeout"
    release.set()
    await anyio.to_thread.run_sync(done.wait)
    assert [error.data["reason"] for error in refused] == ["abandoned"]


async def test_an_effect_that_two_tasks_ask_for_at_once_is_made_once() -> None:
    known: dict[str, Value] = {}
    found: list[Value] = []

    async def remember(kind: str, payload: Any) -> Value:
        if kind == "effect_settle":
            known[payload["key"]] = payload["result"]
        return {"known": payload["key"] in known, "result": known.get(payload["key"])}

    async def twice(ctx: AsyncContext) -> Value:
        both, made = anyio.Event(), []

        async def charge() -> int:
            await both.wait()
            made.append(1)
            return len(made)

        async def one() -> None:
            found.append(await ctx.effect("charge", charge))

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
            await anyio.wait_all_tasks_blocked()
            both.set()
        return None

    with anyio.fail_after(20):
        await call_async(twice, {}, context=CONTEXT, on_request=remember)
    assert found == [1, 1]


async def test_threads_that_a_function_starts_may_ask_too() -> None:
    def starts_threads(ctx: Context) -> Value:
        found: list[Value] = []
        threads = [threading.Thread(target=lambda: found.append(ctx.effect("old", str))) for _ in range(2)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        return found

    assert await thread(starts_threads) == ["from the ledger"] * 2


async def test_an_effect_inside_of_itself_is_refused() -> None:
    def sync(ctx: Context) -> Value:
        return ctx.effect("new", lambda: ctx.effect("new", str))

    async def on_the_loop(ctx: AsyncContext) -> Value:
        async def inner() -> Any:
            return await asyncio.create_task(ctx.effect("new", str))

        return await ctx.effect("new", inner)

    def in_a_thread(ctx: Context) -> Value:
        def inner() -> Value:
            inside = contextvars.copy_context()
            with ThreadPoolExecutor() as threads:
                return threads.submit(inside.run, ctx.effect, "new", str).result()

        return ctx.effect("new", inner)

    for call in (thread(sync), thread(in_a_thread), loop(on_the_loop)):
        with pytest.raises(FunctionError) as caught:
            await call
        assert caught.value.data["cause"]["code"] == "invalid_argument"


async def test_what_a_call_leaves_behind_is_no_part_of_the_next_one() -> None:
    async def leaves_one_behind(ctx: AsyncContext) -> Value:
        over, later = anyio.Event(), []

        async def behind() -> Any:
            await over.wait()
            return await ctx.effect("new", str, 2)

        async def call() -> int:
            later.append(asyncio.create_task(behind()))
            return 1

        first = await ctx.effect("new", call)
        over.set()
        return [first, await later[0]]

    assert await loop(leaves_one_behind) == [1, "2"]
