"""The view as an extension of the server: its page as a `ui://` resource, and who gets to see the tools behind it.

The page is one file without anything from elsewhere. Its policy allows its own script and style by their hashes and
nothing else, whatever the host adds to that.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Any

from mcp.server.apps import Apps, ResourceCsp, client_supports_apps
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import ListToolsResult

from omium.tools.app.uri import APP_URI
from omium.tools.tool import unknown_tool

_POLICY = "<!-- policy -->"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def run_app() -> Apps:
    """The extension that serves the page."""
    apps = Apps()
    apps.add_html_resource(
        APP_URI,
        page(),
        name="run",
        title="Run",
        description="The graph of a run as it stands, and the question it waits for. For hosts, not for models.",
        csp=ResourceCsp(connect_domains=[], resource_domains=[], frame_domains=[], base_uri_domains=[]),
        prefers_border=False,
    )
    return apps


@cache
def page() -> str:
    """The page with its policy."""
    text = files(__package__).joinpath("run.html").read_text("utf-8")
    allowed: dict[str, str] = {
        kind: base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for kind, body in _INLINE.findall(text)
    }
    policy = (
        f"default-src 'none'; script-src 'sha256-{allowed['script']}'; style-src 'sha256-{allowed['style']}';"
        " base-uri 'none'; form-action 'none'"
    )
    return text.replace(_POLICY, f'<meta http-equiv="Content-Security-Policy" content="{policy}">')


class AppTools:
    """Middleware: tools for the view are there only for clients that declare MCP Apps, which keep them from their
    model. For every other client they do not exist: it would show them to its model like any tool."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        if ctx.method not in ("tools/list", "tools/call") or client_supports_apps(ctx):
            return await call_next(ctx)
        if ctx.method == "tools/call" and ctx.params is not None and ctx.params.get("name") in self._names:
            raise unknown_tool(ctx.params["name"])
        result = await call_next(ctx)
        if isinstance(result, ListToolsResult):
            return result.model_copy(update={"tools": [one for one in result.tools if one.name not in self._names]})
        if isinstance(result, dict) and "tools" in result:
            return {**result, "tools": [one for one in result["tools"] if one.get("name") not in self._names]}
        return result
