"""Whether a request is meant for this server: its Host, its Origin, and the size of its head.

A page of any site can have a browser send requests to 127.0.0.1, and can point its own name there after it was loaded
(DNS rebinding). What it cannot do is lie about Host and Origin.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from omium.orchestration.errors import OmiumError
from omium.server.http.failures import refuse

MAX_HEAD: Final = 32 * 1024  # bytes of all headers
MAX_HEADERS: Final = 100
MAX_TARGET: Final = 8 * 1024  # bytes of path and query

_HOST: Final = re.compile(r"\A(\[[0-9a-f:.]+\]|[0-9a-z_-]+(?:\.[0-9a-z_-]+)*)(?::[0-9]{1,5})?\Z")
_ORIGIN: Final = re.compile(r"\Ahttps?://(\S+)\Z")
_LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Guard:
    """Middleware. On a loopback bind only loopback names and `hosts` are served; elsewhere any name, or only `hosts` if
    there are some. A foreign Origin is refused everywhere: besides `origins`, only pages of this server pass."""

    def __init__(self, app: ASGIApp, *, loopback: bool, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._app = app
        self._loopback = loopback
        self._hosts = frozenset(one.lower() for one in hosts)
        self._origins = frozenset(one.lower().rstrip("/") for one in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if _head_is_large(scope):
            error = OmiumError("invalid_argument", "the head of the request is too large.")
            await refuse(scope, receive, send, error, 431)
            return
        headers = Headers(scope=scope)
        error_or_none = self._host_problem(headers) or self._origin_problem(headers)
        if error_or_none is not None:
            await refuse(scope, receive, send, error_or_none)
            return
        await self._app(scope, receive, send)

    def _host_problem(self, headers: Headers) -> OmiumError | None:
        given = headers.getlist("host")
        match = _HOST.match(given[0].lower()) if len(given) == 1 else None
        if match is None:
            return OmiumError("forbidden", "the request does not say, once and plainly, for which host it is.")
        host, name = given[0].lower(), match[1]
        if host in self._hosts or name in self._hosts:
            return None
        if self._loopback and name in _LOOPBACK_NAMES:
            return None
        if not self._loopback and not self._hosts:
            return None
        return OmiumError(
            "forbidden",
            f"this server is not {given[0][:200]!r}.",
            "Start it with --allow-host NAME if it is to be reached by that name.",
        )

    def _origin_problem(self, headers: Headers) -> OmiumError | None:
        given = headers.getlist("origin")
        if not given:
            return None  # no browser, or a page that only navigates here, which sees nothing of the answer
        origin = given[0].lower()
        if len(given) == 1 and origin in self._origins:
            return None
        match = _ORIGIN.match(origin) if len(given) == 1 else None
        place = _HOST.match(match[1]) if match is not None else None
        if place is not None:
            if self._loopback and place[1] in _LOOPBACK_NAMES:
                return None
            if place[0] == headers["host"].lower():
                return None
        return OmiumError(
            "forbidden",
            f"pages of {given[0][:200]!r} may not use this server.",
            "Start it with --allow-origin URL if they shall.",
        )


def _head_is_large(scope: Scope) -> bool:
    headers = scope["headers"]
    size = sum(len(name) + len(value) for name, value in headers)
    target = len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
    return size > MAX_HEAD or len(headers) > MAX_HEADERS or target > MAX_TARGET
