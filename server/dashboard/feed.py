"""A word to open pages that something may have changed: they look again, if they show what that could be."""

from __future__ import annotations

from typing import Final

import anyio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from omium.server.dashboard.site import Site
from omium.server.http.access import Again, again_of, caller_of
from omium.server.http.failures import PRIVATE

AT_MOST_S: Final = 0.5  # between two words
HEARTBEAT_S: Final = 15.0


def feed_route(site: Site) -> Route:
    async def serve(request: Request) -> Response:
        caller = caller_of(request)
        return _Words(site, caller.principal, again_of(request))

    return Route("/changes", serve, methods=["GET"])


class _Words(Response):
    """`data: changed`, as server-sent events, at most every half a second; comments as signs of life."""

    media_type = "text/event-stream"

    def __init__(self, site: Site, principal: str, again: Again) -> None:
        super().__init__(headers={"x-accel-buffering": "no", **PRIVATE})
        del self.headers["content-length"]
        self._site = site
        self._principal = principal
        self._again = again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._site.limits.held(self._principal):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            with self._site.ending.until():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                    await self._say(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _say(self, send: Send) -> None:
        bell = _Bell()
        end = self._site.core.store.on_change(bell.ring)
        try:
            await send({"type": "http.response.body", "body": b": here\n\n", "more_body": True})
            while True:
                rung = False
                with anyio.move_on_after(HEARTBEAT_S):
                    await bell.wait()
                    rung = True
                if not rung:
                    await self._again.check()
                word = b"data: changed\n\n" if rung else b": still here\n\n"
                await send({"type": "http.response.body", "body": word, "more_body": True})
                await anyio.sleep(AT_MOST_S)
        finally:
            end()


class _Bell:
    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
