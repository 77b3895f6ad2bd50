"""The application: every endpoint behind the same door."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.core import Core
from omium.server.dashboard.app import build_dashboard
from omium.server.http import events, rest
from omium.server.http.access import METADATA, Access, base_url
from omium.server.http.bodies import Bodies
from omium.server.http.ending import Ending, Ends
from omium.server.http.failures import JSON, error_response, on_bug, on_http_error
from omium.server.http.guard import Guard
from omium.server.http.openapi import DOCUMENT_PATH, document
from omium.server.http.protocol import McpEndpoints
from omium.server.identity.authority import Authority
from omium.server.identity.limits import RateLimits
from omium.tools.desk import Desk

ENDPOINTS = (*rest.ENDPOINTS, events.EVENTS)
HEALTH = "/healthz"
_EXPOSED = ("Mcp-Session-Id", "WWW-Authenticate", "Retry-After", "Location")
_SENT = (
    "Authorization", "Content-Type", "Accept", "Idempotency-Key", "Last-Event-ID",
    "Mcp-Session-Id", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """loopback: whether only this machine reaches it; hosts and origins: what passes besides its own; issuers: URLs of
    those who give out credentials; read_only: neither pages nor REST change anything; max_body:
    bytes; times in seconds: for a body to arrive, between heartbeats of a feed, for an open request at the end, for the
    head of a request, for a client that reads nothing."""

    loopback: bool = True
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()
    issuers: Sequence[str] = ()
    read_only: bool = False
    max_body: int = 4 * 1024 * 1024
    max_connections: int = 1_000
    body_s: float = 30.0
    heartbeat_s: float = 15.0
    grace_s: float = 2.0
    head_s: float = 10.0
    stalled_s: float = 30.0


@dataclass(frozen=True)
class HttpApp:
    """asgi: what a server runs between `async with app.running()`; ending: how it is told to come to an end."""

    asgi: Starlette
    ending: Ending
    endpoints: McpEndpoints

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.endpoints.running():
            yield


def build_app(
    core: Core,
    server: MCPServer[Desk],
    authority: Authority,
    limits: RateLimits,
    settings: HttpSettings | None = None,
    *,
    more: Sequence[BaseRoute] = (),
    public: Sequence[str] = (),
) -> HttpApp:
    """The application over a core. server: what `build_server(core, identify)` made; more: further routes, which are
    reached with a credential like all others, unless `public` names their path."""
    chosen = settings or HttpSettings()
    endpoints = McpEndpoints(server, limits, max_body=chosen.max_body)
    api = rest.Api(core, Ending(chosen.grace_s), limits, chosen.heartbeat_s, chosen.read_only)
    offered = [one for one in ENDPOINTS if one.method == "GET" or not chosen.read_only]
    described = document(offered, server.version or "0")
    pages = build_dashboard(core, authority, limits, api.ending, read_only=chosen.read_only)

    async def openapi(_: Request) -> Response:
        return JSON(described)

    async def health(_: Request) -> Response:
        return JSON({"status": "ok", "version": server.version or "0"})

    async def metadata(request: Request) -> Response:
        told = {"resource": f"{base_url(request.scope)}/mcp", "authorization_servers": list(chosen.issuers)}
        return JSON({**told, "bearer_methods_supported": ["header"], "resource_name": "Omium"})

    async def on_omium_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, OmiumError)
        await core.refusals.role(error)
        return error_response(error)

    known = (METADATA, f"{METADATA}/mcp") if chosen.issuers else ()
    asgi = Starlette(
        routes=[
            *rest.routes(api, ENDPOINTS),
            events.websocket_route(api),
            Route(DOCUMENT_PATH, openapi, methods=["GET"]),
            Route(HEALTH, health, methods=["GET"]),
            *(Route(path, metadata, methods=["GET"]) for path in known),
            *endpoints.routes(),
            *more,
            *pages.routes,
        ],
        middleware=[
            Middleware(Ends, ending=api.ending),
            Middleware(Guard, loopback=chosen.loopback, hosts=chosen.hosts, origins=chosen.origins),
            *_cors(chosen),
            pages.door,
            Middleware(
                Access,
                authority=authority,
                limits=limits,
                public=(HEALTH, *known, *public, *pages.public),
                issuers=bool(chosen.issuers),
            ),
            Middleware(Bodies, max_bytes=chosen.max_body, within_s=chosen.body_s),
        ],
        exception_handlers={OmiumError: on_omium_error, HTTPException: on_http_error, Exception: on_bug},
    )
    return HttpApp(asgi, api.ending, endpoints)


def _cors(settings: HttpSettings) -> list[Middleware]:
    """For pages of the origins that the operator named; other pages of a browser cannot read what is answered."""
    if not settings.origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=list(_SENT),
            expose_headers=list(_EXPOSED),
        )
    ]
