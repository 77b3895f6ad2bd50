"""One connection to a server that is made again when it is lost, and calls that outlive it.

A call that was under way when the connection broke is repeated on the next one. That is harmless: what changes
something carries an idempotency key, or says the same again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.abc
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT, CallToolResult

from omium.clients.remote.failures import failed_call, refused_request, unreachable
from omium.orchestration.errors import OmiumError

Connect = Callable[[], AbstractAsyncContextManager[Client]]

PATIENCE_S: Final = 60.0  # how long a call goes on trying to reach a server
ANSWER_S: Final = 90.0  # how long an answer may take; the server itself holds no call for longer than 45 s
_FIRST_S, _LAST_S = 0.1, 3.0
_LOST: Final = (CONNECTION_CLOSED, REQUEST_TIMEOUT)

_log = logging.getLogger(__name__)


class _Link:
    """One connection, while it lasts."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.lost = anyio.Event()
        self.calls: set[anyio.CancelScope] = set()

    def drop(self) -> None:
        """No answer comes through this one any more."""
        self.lost.set()
        for scope in self.calls:
            scope.cancel()


class Connection:
    """An async context manager. connect: opens a connection, to be entered once. patience_s: how long a call goes on
    trying to reach the server, from the last time that it was reached. tell: is called with a line whenever it cannot
    be reached any more, once until it can. Entering raises `tool_failed` when it cannot be reached at all."""

    def __init__(
        self,
        connect: Connect,
        *,
        patience_s: float = PATIENCE_S,
        answer_s: float = ANSWER_S,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._connect = connect
        self._patience_s = patience_s
        self._answer_s = answer_s
        self._say = tell
        self._link: _Link | None = None
        self._changed = anyio.Event()
        self._why = ""
        self._refused: OmiumError | None = None  # why there will be no connection, however often it is tried
        self._tasks: anyio.abc.TaskGroup | None = None
        self.reconnected = 0  # how often it was made again

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        try:
            self._tasks.start_soon(self._keep)
            await self._ready(time.monotonic() + self._patience_s)
        except BaseException:
            self._tasks.cancel_scope.cancel()
            await self._tasks.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What the block raised goes on as it is, not in a group: the task in here is nobody's business."""
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The structured answer of a tool. Raises what the server refused as OmiumError, and `tool_failed` with
        `reason` "unreachable" once its patience is over."""
        given = {name: one for name, one in arguments.items() if one is not None}
        end = time.monotonic() + self._patience_s
        pause = _FIRST_S
        while True:
            link = await self._ready(end)
            answer = await self._once(link, tool, given)
            if answer is None:
                continue
            if not answer.is_error:
                return dict(answer.structured_content or {})
            failure, retry_after_s = failed_call(answer, tool)
            wait = None if retry_after_s is None else max(retry_after_s, pause)
            if wait is None or time.monotonic() + wait > end:
                raise failure
            await anyio.sleep(wait)
            pause = min(2 * pause, _LAST_S)

    async def _once(self, link: _Link, tool: str, arguments: dict[str, Any]) -> CallToolResult | None:
        """The result, or None when the connection is no more; it is then being made again."""
        with anyio.CancelScope() as scope:
            link.calls.add(scope)
            try:
                return await link.client.call_tool(tool, arguments, read_timeout_seconds=self._answer_s)
            except MCPError as error:
                if error.error.code not in _LOST:
                    raise refused_request(error, tool) from error
                self._why = error.error.message
            except (OSError, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
                self._why = f"{type(error).__name__} {error}".strip()
            finally:
                link.calls.discard(scope)
        link.drop()
        if self._link is link:
            self._link = None
        return None

    async def _ready(self, end: float) -> _Link:
        with anyio.move_on_after(max(0.0, end - time.monotonic())):
            while self._link is None or self._link.lost.is_set():
                if self._refused is not None:
                    raise self._refused
                await self._changed.wait()
            return self._link
        raise unreachable(self._why)

    async def _keep(self) -> None:
        """Have a connection, always."""
        pause, told = _FIRST_S, False
        while True:
            link: _Link | None = None
            try:
                async with self._connect() as client:
                    link = self._link = _Link(client)
                    self._tell()
                    pause, told = _FIRST_S, False
                    await link.lost.wait()
            except OmiumError as error:
                self._refused = error
                self._tell()
                return
            except Exception as error:  # the boundary to a transport: whatever it fails with, another one is tried
                self._why = _words(error)
                _log.info("the connection to the server failed: %s", self._why)
                if not told:
                    told = True
                    self._say(f"the server cannot be reached ({self._why}); trying for {self._patience_s:g} s.")
            finally:
                self._link = None
                if link is not None:
                    link.drop()
            self.reconnected += link is not None
            await anyio.sleep(pause)
            pause = min(2 * pause, _LAST_S)

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


def _words(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:500]
