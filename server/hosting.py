"""A part of the process that ends in its own order, whoever is cancelled around it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import anyio

T = TypeVar("T")
_log = logging.getLogger(__name__)


@asynccontextmanager
async def hosted(serve: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
    """What `serve()` gives, entered and left in a task of its own.

    A cancellation of the caller reaches every task that was started below its scope, at once and in any order: nodes
    would be torn down before anybody could note that they were interrupted. The task here is below no scope, so a
    cancelled caller only has it left in the ordinary way, and waits for that. Should it end by itself with an error,
    the block is cancelled and the error raised.
    """
    ready: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    leave = asyncio.Event()

    async def host() -> None:
        try:
            async with serve() as value:
                if not ready.done():  # it is when the caller was cancelled meanwhile
                    ready.set_result(value)
                await leave.wait()
        except BaseException as error:
            if ready.cancelled() and isinstance(error, Exception):  # nobody is left who could be told
                _log.warning("a part of the process failed while it was being left: %r", error)
                return
            if ready.done():
                raise
            ready.set_exception(error)

    task = asyncio.create_task(host())
    with anyio.CancelScope() as scope:
        task.add_done_callback(lambda _: None if leave.is_set() else scope.cancel("the hosted part has ended"))
        try:
            yield await ready
        finally:
            leave.set()
            with anyio.CancelScope(shield=True):
                await asyncio.wait([task])
    task.result()
