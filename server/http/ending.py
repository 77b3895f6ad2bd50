"""How the requests of a server that is to end come to theirs.

Streams are cut at once: whoever reads one goes on elsewhere from its cursor. Waits are told, and answer with what there
is. Everything else has a moment to finish, and is cut then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omium.orchestration.errors import OmiumError
from omium.server.http.failures import refuse

_STREAMS = ("/mcp", "/sse")  # what a GET of these gives has no end of its own


class Ending:
    """The word that it is time. grace_s: how long an open request may take to finish, seconds."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._endless: set[anyio.CancelScope] = set()
        self._requests: set[anyio.CancelScope] = set()
        self._answering = 0
        self.begun = anyio.Event()

    @property
    def open(self) -> int:
        """How many requests are being answered."""
        return self._answering

    def begin(self) -> None:
        """Refuse what comes, cut streams, give the rest its moment."""
        self.begun.set()
        for scope in tuple(self._endless):
            scope.cancel()
        for scope in self._requests:
            scope.deadline = anyio.current_time() + self._grace_s

    @contextmanager
    def until(self) -> Iterator[None]:
        """Cut the block when the end begins."""
        with anyio.CancelScope() as scope:
            self._endless.add(scope)
            if self.begun.is_set():
                scope.cancel()
            try:
                yield
            finally:
                self._endless.discard(scope)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """A request is answered in the block."""
        with anyio.CancelScope() as scope:
            self._requests.add(scope)
            self._answering += 1
            try:
                yield
            finally:
                self._answering -= 1
                self._requests.discard(scope)


class Ends:
    """Middleware: refuses what comes after the end has begun, and ends in an orderly way what is cut."""

    def __init__(self, app: ASGIApp, *, ending: Ending) -> None:
        self._app = app
        self._ending = ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        error = OmiumError("storage_unavailable", "this server is about to end.", "Try again.", retry_after_s=1)
        if self._ending.begun.is_set():
            await refuse(scope, receive, send, error)
            return
        started = ended = False

        async def watched(message: Message) -> None:
            nonlocal started, ended
            started = True
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        async def left() -> Message:
            with self._ending.until():
                return await receive()
            return {"type": "http.disconnect"}

        stream = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in _STREAMS
        with self._ending.answering():
            # The SDK closes what belongs to a stream when its client leaves, and not when it is cancelled.
            await self._app(scope, left if stream else receive, watched)
        if self._ending.begun.is_set() and scope["type"] == "http" and not ended:
            if started:  # an ordinary end, so that what was sent counts
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await refuse(scope, receive, send, error)
