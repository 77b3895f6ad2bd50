"""The product's server, transports and limits over a temporary project, with the fixtures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp_types import EmptyResult, SetLevelRequestParams

from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config
from omium.server.http.access import identify
from omium.server.http.app import HttpSettings, build_app
from omium.server.http.serving import listen, serve_app, url_of
from omium.server.identity.composing import authority_for, rate_limits_for
from omium.server.mcp import build_server
from omium.server.signals import Signals
from omium.server.wiring.supervision import LiveSupervision
from tests.conformance_server import asking, content, jobs

HOST = "127.0.0.1"


async def serve(port: int, directory: Path, ready: Callable[[str], None]) -> None:
    """Serve at this port of loopback until a signal, as `omium-mcp serve --transport http` does. ready: called with the
    URL of the MCP endpoint."""
    config = load_config(directory, {"OMIUM_HOME": str(directory / "home"), "OMIUM_DETACH": "false"})
    settings = HttpSettings()
    async with open_omium(config) as core:
        more = [*content.tools(), *asking.tools(), *jobs.tools()]
        server = build_server(core, identify, more_tools=more, task_sources=[jobs.Jobs()])
        content.add_resources(server)
        content.add_prompts(server)
        asking.add_prompts(server)
        _allow_logging(server)
        authority = await authority_for(config, core, HOST, local_caller(config))
        app = build_app(core, server, authority, rate_limits_for(config, core.clock), settings)
        with listen(HOST, port) as bound:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(Signals(LiveSupervision(config)).heed, lambda _: app.ending.begin())
                await serve_app(app, bound, settings, lambda: ready(f"{url_of(bound)}/mcp"))
                tasks.cancel_scope.cancel()


def _allow_logging(server: MCPServer[Any]) -> None:
    """The suite sets the level of MCP logging, a feature of the older protocol that the product does not offer."""

    async def set_level(_: ServerRequestContext[Any, Any], params: SetLevelRequestParams) -> EmptyResult:
        return EmptyResult()

    server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
