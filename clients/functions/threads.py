"""Functions in this process: sync ones in a thread, async ones on the loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from omium.clients.functions.context import AskAsync, Asking, AsyncContext, Context, asking, wants_context
from omium.clients.functions.failure import FunctionError, describe
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value


async def call_in_thread(
    fn: Callable[..., Value],
    kwargs: Mapping[str, Value],
    *,
    context: Mapping[str, Any],
    on_request: AskAsync,
    limiter: anyio.CapacityLimiter,
    timeout_s: float | None = None,
) -> Value:
    """Calls a sync function in a thread.

    **It can only be abandoned, never stopped**: on a time-out or a cancellation this returns at once, while the thread
    goes on until the function returns, its place in `limiter` taken until then, and nobody sees what it still does.
    What must stop belongs into a worker process (`host.FunctionPool`).
    context, on_request: see `context`. An abandoned function's questions are refused.
    Raises FunctionError when the function raises, OmiumError("timeout") after `timeout_s` seconds.
    """
    abandoned = False
    loop = anyio.lowlevel.current_token()  # threads that the function starts itself have no other way back to it

    async def answer(kind: str, payload: Value) -> Value:
        if abandoned:
            raise OmiumError("timeout", "The node that this function belonged to has ended.", reason="abandoned")
        return await on_request(kind, payload)

    def ask(kind: str, payload: Value) -> Value:
        return anyio.from_thread.run(answer, kind, payload, token=loop)

    arguments: dict[str, Any] = dict(kwargs)
    if wants_context(fn):
        arguments["ctx"] = Context(dict(context), ask)

    def run() -> Value:
        asking.set(Asking(False, ask))  # in the thread's own context
        return fn(**arguments)

    async def call() -> Value:
        nonlocal abandoned
        try:
            return await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=limiter)
        finally:
            abandoned = True

    return await _bounded(_name(fn), call, timeout_s)


async def call_async(
    fn: Callable[..., Awaitable[Value]],
    kwargs: Mapping[str, Value],
    *,
    context: Mapping[str, Any],
    on_request: AskAsync,
    timeout_s: float | None = None,
) -> Value:
    """Awaits an async function on this process's loop; a time-out or a cancellation arrives at its next await.

    context, on_request: see `context`. Raises as `call_in_thread` does.
    """
    arguments: dict[str, Any] = dict(kwargs)
    if wants_context(fn):
        arguments["ctx"] = AsyncContext(dict(context), on_request)

    async def call() -> Value:
        token = asking.set(Asking(True, on_request))
        try:
            return await fn(**arguments)
        finally:
            asking.reset(token)

    return await _bounded(_name(fn), call, timeout_s)


async def _bounded(name: str, call: Callable[[], Awaitable[Value]], timeout_s: float | None) -> Value:
    try:
        with anyio.move_on_after(timeout_s) as scope:
            return await call()
    except Exception as error:  # boundary: whatever the function raises becomes data
        raise FunctionError(name, describe(error)) from error
    assert scope.cancelled_caught
    raise OmiumError("timeout", f"{name} took longer than {timeout_s:g} s.", reason="hard_timeout", limit_s=timeout_s)


def _name(fn: Callable[..., Any]) -> str:
    return f"{getattr(fn, '__module__', '?')}:{getattr(fn, '__qualname__', repr(fn))}"
