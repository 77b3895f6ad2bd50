"""Beginning and ending: the socket, the signals, and how open requests and executing runs are left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import anyio
import uvicorn

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.config import Config
from omium.server.formkey import form_key
from omium.server.http.access import identify
from omium.server.http.app import HttpApp, HttpSettings, build_app
from omium.server.http.operations import operations
from omium.server.http.patience import http_protocol, websocket_protocol
from omium.server.identity.composing import authority_for, rate_limits_for
from omium.server.mcp import build_server
from omium.server.signals import Signals

_log = logging.getLogger(__name__)

_KEEP_ALIVE_S: Final = 30
_AFTER_GRACE_S: Final = 1.0  # what a request that was cut may take to leave


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises `conflict` when somebody listens there already, and
    `invalid_argument` for an address that this machine does not have."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, proto)
    except OSError as error:
        raise OmiumError("invalid_argument", f"{host!r} is no address to listen at: {error.strerror}.") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        problem = f"nobody can listen at {host}:{port}: {error.strerror}."
        raise OmiumError("conflict", problem, "Choose another --port.") from error
    bound.setblocking(False)
    return bound


def url_of(bound: socket.socket) -> str:
    """`http://127.0.0.1:8765`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn without its signals: they are ours, since the runs have to be left too. ready: called when requests are
    taken."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_app(
    app: HttpApp, bound: socket.socket, settings: HttpSettings, ready: Callable[[], None] = lambda: None
) -> None:
    """Answer requests until `app.ending` begins, or this is cancelled; then nothing is taken any more, open requests
    finish or are cut within the grace, and this returns. ready: called when requests are taken."""
    config = uvicorn.Config(
        app.asgi,
        http=http_protocol(settings.head_s, settings.stalled_s),
        ws=websocket_protocol(settings.stalled_s),
        ws_max_size=64 * 1024,
        ws_max_queue=4,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=round(settings.grace_s + _AFTER_GRACE_S),
    )
    server = _Server(config, ready)
    async with app.running(), anyio.create_task_group() as tasks:

        async def end_server() -> None:
            await app.ending.begun.wait()
            server.should_exit = True

        tasks.start_soon(end_server)
        try:
            await server.serve(sockets=[bound])
        finally:
            app.ending.begin()
            with anyio.CancelScope(shield=True):
                await _all_left(server)
        tasks.cancel_scope.cancel()


async def _all_left(server: uvicorn.Server) -> None:
    """What uvicorn has cancelled still has to leave: nobody may touch the store when it is closed."""
    for listener in getattr(server, "servers", ()):
        listener.close()
    left = set(server.server_state.tasks)
    if left:
        for task in left:
            task.cancel()
        _, stubborn = await asyncio.wait(left, timeout=_AFTER_GRACE_S)
        if stubborn:
            _log.error("%d requests did not end", len(stubborn))


async def serve_core(
    config: Config,
    core: Core,
    local: Caller,
    address: tuple[str, int],
    settings: HttpSettings,
    ready: Callable[[str], None],
    signals: Signals,
    **offer: Any,
) -> None:
    """Serve a core at (host, port) until a signal means to go. local: who asks where no credential is asked for; offer:
    what `build_server` is told of toolsets; ready: called with the server's URL.

    Raises `forbidden` for an address that others reach while nobody could authenticate, and what `listen` raises."""
    authority = await authority_for(config, core, address[0], local)
    server = build_server(core, identify, form_key=form_key(config), **offer)
    watched = operations(core, config.project.id, loopback=settings.loopback, version=server.version or "0")
    app = build_app(
        core, server, authority, rate_limits_for(config, core.clock), settings,
        more=watched.routes, public=watched.public,
    )  # fmt: skip
    with listen(*address) as bound, watched.counting():
        url = url_of(bound)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(signals.heed, lambda _: app.ending.begin())
            await serve_app(app, bound, settings, lambda: ready(url))
            tasks.cancel_scope.cancel()
