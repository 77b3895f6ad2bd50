"""The door of the pages: a browser's cookie becomes its credential, and a refusal becomes a page.

A cookie speaks for its browser on the pages and for reading over REST, and never for a change over REST: what changes
something from a browser is a form of ours, with its proof.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omium.server.dashboard.look import Look
from omium.server.dashboard.sessions import Sessions, cookie_of

SIGN_IN: Final = "/sign-in"
_API: Final = "/api/"
_MACHINES: Final = ("/api", "/mcp", "/sse", "/messages", "/healthz", "/readyz", "/metrics", "/static", "/.well-known")
_LARGEST: Final = 64 * 1024  # bytes of a refusal that becomes a page


def is_page(path: str) -> bool:
    """Whether people look at what is there."""
    return not any(path == one or path.startswith(f"{one}/") for one in _MACHINES)


class Door:
    """Middleware, outside of what finds the caller of a request."""

    def __init__(self, app: ASGIApp, *, sessions: Sessions, look: Look) -> None:
        self._app = app
        self._sessions = sessions
        self._look = look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        page = is_page(scope["path"])
        inner = self._with_credential(scope, headers, page)
        if page and "text/html" in headers.get("accept", ""):
            answer = _Page(self._look, inner, headers, send)
            try:
                await self._app(inner, receive, answer.send)
            except Exception:  # what nobody foresaw: people get a page too, and whoever serves writes the log
                await answer.broken(receive)
                raise
            await answer.finish(receive)
        else:
            await self._app(inner, receive, send)

    def _with_credential(self, scope: Scope, headers: Headers, page: bool) -> Scope:
        reads = scope["method"] in ("GET", "HEAD")
        if "authorization" in headers or not (page or (reads and scope["path"].startswith(_API))):
            return scope
        cookie = cookie_of(cookie_parser(headers.get("cookie", "")), headers.get("host", ""))
        authorization = self._sessions.authorization(cookie)
        if authorization is None:
            return scope
        return {**scope, "headers": [*scope["headers"], (b"authorization", authorization.encode())]}


class _Page:
    """Passes an answer on, but for a refusal in JSON, which is kept and told as a page."""

    def __init__(self, look: Look, scope: Scope, headers: Headers, send: Send) -> None:
        self._look = look
        self._scope = scope
        self._headers = headers
        self._send = send
        self._refused: Message | None = None
        self._body = bytearray()
        self._begun = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_refusal(message):
            self._refused = message
        elif self._refused is None:
            self._begun = True
            await self._send(message)
        elif message["type"] == "http.response.body" and len(self._body) < _LARGEST:
            self._body += message.get("body", b"")

    async def broken(self, receive: Receive) -> None:
        if not self._begun:
            error = {"code": "internal", "message": "This page failed for a reason that its author did not foresee."}
            await self._answer(500, {**error, "hint": "The server's log says more."}, {})(
                self._scope, receive, self._send
            )

    async def finish(self, receive: Receive) -> None:
        if self._refused is None:
            return
        status = int(self._refused["status"])
        try:
            error: Mapping[str, Any] = json.loads(bytes(self._body))["error"]
        except (ValueError, KeyError, TypeError):
            error = {"code": "internal", "message": "The request failed.", "hint": ""}
        kept = {
            name.decode(): value.decode()
            for name, value in self._refused["headers"]
            if name in (b"retry-after", b"www-authenticate", b"connection", b"allow")
        }
        await self._answer(status, error, kept)(self._scope, receive, self._send)

    def _answer(self, status: int, error: Mapping[str, Any], headers: dict[str, str]) -> Response:
        if status != 401:
            return self._look.page("error.html", {"error": error, "status": status}, status=status, headers=headers)
        if self._headers.get("sec-fetch-site") == "cross-site" and self._scope["method"] == "GET":
            # The cookie stays behind when another site links here; when this page loads itself again, it comes along.
            return self._look.page("again.html", {})
        if self._scope["method"] != "GET" or self._headers.get("x-omium") is not None:
            return self._look.page("error.html", {"error": error, "status": status}, status=status, headers=headers)
        query = self._scope.get("query_string", b"").decode("latin-1")
        wanted = self._scope["path"] + (f"?{query}" if query else "")
        return RedirectResponse(f"{SIGN_IN}?next={quote(wanted[:2_000], safe='')}", status_code=303)


def _is_refusal(message: Message) -> bool:
    if message["status"] < 400:
        return False
    return any(name == b"content-type" and value.startswith(b"application/json") for name, value in message["headers"])
