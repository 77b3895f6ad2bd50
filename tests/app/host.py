"""A host that shows MCP Apps, as its specification says: it plays its side of the protocol in a page with the view in a
sandboxed frame, and hands the view's calls to a real server.

    python -m tests.app.host DIRECTORY

writes pictures of the view in several states, light and dark, for people to look at.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
from mcp import Client
from mcp.client.extension import advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp_types import TextResourceContents
from playwright.async_api import FrameLocator, Page, async_playwright

from omium.server.mcp import build_server
from tests.interaction.studio import ADA, Mode, Studio, Visitor, open_studio

APPS = advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})
FLAGS = [
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# The policy of a host for a view that declares no domains, put before whatever the view says itself.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    " media-src 'self' data:; object-src 'none'; connect-src 'none'"
)
HOST = """
<!DOCTYPE html><meta charset="utf-8"><title>host</title>
<style>
html[data-theme=dark] { background: #101216 }
iframe { border: 0; width: 100%; height: 200px; display: block }</style>
<body><script>
window.log = [];
window.show = (html, context, capabilities) => {
  document.documentElement.dataset.theme = context.theme;
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts";
  window.addEventListener("message", async (event) => {
    if (event.source !== frame.contentWindow) return;
    const message = event.data;
    window.log.push(message);
    const answer = (rest) => frame.contentWindow.postMessage({ jsonrpc: "2.0", id: message.id, ...rest }, "*");
    if (message.method === "ui/initialize") answer({ result: { protocolVersion: "2026-01-26",
      hostInfo: { name: "test host", version: "1" }, hostCapabilities: capabilities, hostContext: context } });
    else if (message.method === "ui/notifications/initialized") window.initialized = true;
    else if (message.method === "ui/notifications/size-changed") frame.style.height = `${message.params.height}px`;
    else if (message.method === "tools/call") answer(await window.callTool(message.params));
  });
  frame.srcdoc = html;
  document.body.append(frame);
  window.send = (message) => frame.contentWindow.postMessage({ jsonrpc: "2.0", ...message }, "*");
};
</script></body>
"""


@dataclass
class Host:
    """`calls`: what the view asked of the server; `visible`: the names that a model of this host would see."""

    page: Page
    visitor: Visitor
    frame: FrameLocator
    calls: list[dict[str, Any]]
    visible: set[str]
    problems: list[str] = field(default_factory=list)

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        await self.page.evaluate("message => window.send(message)", {"method": method, "params": params})

    async def use(self, name: str, **arguments: Any) -> dict[str, Any]:
        """The model calls a tool, and the host tells the view of it."""
        await self.notify("ui/notifications/tool-input", {"arguments": arguments})
        result = await self.visitor.client.call_tool(name, arguments)
        await self.notify("ui/notifications/tool-result", result.model_dump(mode="json", by_alias=True))
        assert isinstance(result.structured_content, dict)
        return result.structured_content

    async def log(self, method: str) -> list[dict[str, Any]]:
        """The messages of this method that the view has sent."""
        said: list[dict[str, Any]] = await self.page.evaluate("window.log")
        return [one for one in said if one.get("method") == method]


@asynccontextmanager
async def open_host(
    studio: Studio,
    *,
    theme: Literal["light", "dark"] = "light",
    mode: Mode = "auto",
    width: int = 720,
    tools: bool = True,
) -> AsyncIterator[Host]:
    """A browser with the view of a studio's server in it."""
    server = build_server(studio.core, ADA)
    calls: list[dict[str, Any]] = []
    async with Client(server, mode=mode, extensions=[APPS]) as client, async_playwright() as playwright:
        listed = {tool.name: (tool.meta or {}).get("ui", {}) for tool in (await client.list_tools()).tools}
        contents = (await client.read_resource(listed["get_run"]["resourceUri"])).contents[0]
        assert isinstance(contents, TextResourceContents)
        assert contents.mime_type == APP_MIME_TYPE

        async def call_tool(params: dict[str, Any]) -> dict[str, Any]:
            calls.append(params)
            if "app" not in listed.get(params["name"], {}).get("visibility", ["model", "app"]):
                return {"error": {"code": -32600, "message": "not for views"}}
            result = await client.call_tool(params["name"], params.get("arguments"))
            return {"result": result.model_dump(mode="json", by_alias=True)}

        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        try:
            page = await browser.new_page(viewport={"width": width, "height": 900})
            await page.expose_function("callTool", call_tool)
            await page.set_content(HOST)
            visible = {name for name, ui in listed.items() if "model" in ui.get("visibility", ["model", "app"])}
            host = Host(page, Visitor(client), page.frame_locator("iframe"), calls, visible)
            page.on("console", lambda said: host.problems.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: host.problems.append(str(error)))
            page.on("request", lambda asked: host.problems.append(f"network: {asked.url}"))
            page.on("dialog", lambda dialog: host.problems.append(f"dialog: {dialog.message}"))
            html = contents.text.replace(
                "<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{POLICY}">', 1
            )
            capabilities = {"serverTools": {}} if tools else {}
            await page.evaluate(
                "([html, context, capabilities]) => window.show(html, context, capabilities)",
                [html, {"theme": theme, "displayMode": "inline"}, capabilities],
            )
            await page.wait_for_function("window.initialized")
            yield host
        finally:
            await browser.close()


PICTURED = {
    "release": """
name: release
description: Reads the history, drafts notes, asks, publishes.
nodes:
- {id: history, kind: function, use: numbers, with: {count: 12}}
- id: classify
  kind: function
  use: echo
  needs: history
  for_each: {items: "${{ nodes.history.output }}"}
  with: {value: "${{ item }}"}
- {id: licence-check, kind: function, use: echo, needs: history, with: {value: fine}}
- {id: broken-mirror, kind: function, use: fail, needs: history}
- {id: mirror-notes, kind: function, use: echo, needs: broken-mirror, with: {value: 1}}
- {id: draft, kind: function, use: echo, needs: [classify, licence-check], with: {value: {version: "1.0", lines: 23}}}
- id: review
  kind: approval
  needs: draft
  approval:
    prompt: "Publish the notes of version 1.0 (23 lines)?"
    show:
      call: POST https://example.org/releases
      arguments: {tag: v1.0, id: 12345678901234567, draft: false, files: [NOTES.md, site/1.0.html]}
- {id: slow-audit, kind: function, use: held, needs: classify}
- {id: publish, kind: function, use: echo, needs: [review, slow-audit], with: {value: published}}
- {id: announce, kind: function, use: echo, needs: publish, with: {value: done}}
""",
}


async def _pictures(directory: Path) -> None:
    import tempfile

    for theme in ("light", "dark"):
        with tempfile.TemporaryDirectory() as place:
            async with open_studio(Path(place), workflows=PICTURED) as studio, open_host(studio, theme=theme) as host:  # type: ignore[arg-type]
                run = await host.use("run_workflow", workflow="release", title="Release 1.0", wait_seconds=1)
                await host.frame.get_by_role("button", name="Approve").wait_for()
                await host.page.wait_for_function("() => true")
                await host.page.screenshot(path=directory / f"{theme}-asks.png", full_page=True)
                await host.frame.locator('[data-node="broken-mirror"]').click()
                await host.frame.locator("#panel").wait_for()
                await host.page.screenshot(path=directory / f"{theme}-failed-node.png", full_page=True)
                await host.frame.locator("#buttons button:enabled", has_text="Approve").click()
                studio.release.set()
                await host.visitor.ok("get_run", run_id=run["run_id"], wait_seconds=20)
                await host.frame.locator("#status.failed").wait_for()
                await host.page.screenshot(path=directory / f"{theme}-ended.png", full_page=True)
                print(theme, host.problems)


if __name__ == "__main__":
    anyio.run(_pictures, Path(sys.argv[1]))
