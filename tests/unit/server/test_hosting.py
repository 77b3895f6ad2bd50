"""A hosted part ends in its own order."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from omium.server.hosting import hosted

pytestmark = pytest.mark.anyio


async def test_a_cancelled_caller_has_it_left_in_the_ordinary_way() -> None:
    told: list[str] = []

    @asynccontextmanager
    async def part() -> AsyncIterator[str]:
        async with anyio.create_task_group() as tasks:
            stop = anyio.Event()

            async def work() -> None:
                try:
                    await stop.wait()
                    told.append("stopped")
                except anyio.get_cancelled_exc_class():
                    told.append("cancelled")
                    raise

            tasks.start_soon(work)
            yield "value"
            await anyio.lowlevel.checkpoint()
            stop.set()

    with anyio.fail_after(5), anyio.CancelScope() as scope:
        async with hosted(part) as value:
            assert value == "value"
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert told == ["stopped"]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_that_is_cancelled_while_it_is_entered_hears_of_nothing_else(fails: bool) -> None:
    told: list[str] = []
    entering = anyio.Event()
    loop = asyncio.get_running_loop()
    unheard: list[object] = []
    loop.set_exception_handler(lambda _, context: unheard.append(context))

    @asynccontextmanager
    async def part() -> AsyncIterator[None]:
        entering.set()
        await anyio.lowlevel.checkpoint()
        if fails:
            raise ValueError("no")
        yield
        told.append("left")

    async def call() -> None:
        async with hosted(part):
            pytest.fail("it was entered")

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await entering.wait()
            tasks.cancel_scope.cancel()
    gc.collect()
    assert told == ([] if fails else ["left"])
    assert unheard == []


async def test_what_it_raises_on_entering_is_raised() -> None:
    @asynccontextmanager
    async def part() -> AsyncIterator[None]:
        raise ValueError("no")
        yield

    with pytest.raises(ValueError, match="no"):
        async with hosted(part):
            pytest.fail("it was entered")


async def test_its_own_end_cancels_the_block_and_is_raised() -> None:
    @asynccontextmanager
    async def part() -> AsyncIterator[anyio.Event]:
        async with anyio.create_task_group() as tasks:
            go = anyio.Event()

            async def work() -> None:
                await go.wait()
                raise ValueError("broken")

            tasks.start_soon(work)
            yield go

    with anyio.fail_after(5), pytest.raises(ExceptionGroup) as raised:
        async with hosted(part) as go:
            go.set()
            await anyio.sleep_forever()
    assert [str(error) for error in raised.value.exceptions] == ["broken"]


async def test_what_the_block_raises_goes_through() -> None:
    @asynccontextmanager
    async def part() -> AsyncIterator[None]:
        yield

    with pytest.raises(KeyError):
        async with hosted(part):
            raise KeyError("x")
