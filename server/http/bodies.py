"""The body of a request: whole, in time, not too large, before anything is done with it."""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omium.orchestration.errors import OmiumError
from omium.server.http.failures import refuse

_BODILESS = ("GET", "HEAD", "OPTIONS", "DELETE")


class Bodies:
    """Middleware. max_bytes: what a body may have; within_s: seconds in which it has to arrive."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, within_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _BODILESS:
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        body = bytearray()
        whole = declared.isdecimal() and int(declared) > self._max_bytes  # then there is nothing to wait for
        with anyio.move_on_after(self._within_s) as waiting:
            while not whole:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                whole = len(body) > self._max_bytes or not message.get("more_body", False)
        if waiting.cancelled_caught:
            error = OmiumError("timeout", f"the body did not arrive within {self._within_s:g} s.")
            await refuse(scope, receive, send, error, 408)
            return
        if len(body) > self._max_bytes or (declared.isdecimal() and int(declared) > self._max_bytes):
            error = OmiumError("invalid_argument", f"the body is larger than {self._max_bytes} bytes.")
            await refuse(scope, receive, send, error, 413)
            return
        await self._app(scope, _replayed(bytes(body), receive), send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """The body as one message, then whatever comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
