"""External servers and their tools, as an MCP client sees them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mcp import Client

from omium.orchestration.ids import Digest, Principal, ProjectId
from omium.orchestration.ports_gates import PinRow
from omium.orchestration.service.catalog import ServerEntry
from omium.server.mcp import build_server
from tests.interaction.studio import ADA, MODES, Mode, Studio, Visitor

pytestmark = pytest.mark.anyio

DEFINITION = {
    "name": "query",
    "description": "Ask\x1b[31m the database\u202e.",
    "inputSchema": {"type": "object"},
    "annotations": {"readOnlyHint": True},
}
FOUND = [{"where": "description", "kind": "hidden characters", "excerpt": "U+001B"}]
PIN = PinRow(
    ADA.project, "db", "query", Digest("a" * 64), {"definition": DEFINITION, "findings": FOUND}, "pinned", None, 5
)


async def _known(studio: Studio) -> None:
    entries = (ServerEntry("db", "stdio", "A database."), ServerEntry("off", "http", "", True, "not set: TOKEN"))
    studio.core.catalog = replace(studio.core.catalog, servers={one.name: one for one in entries})
    for pin in (PIN, replace(PIN, tool="drop", status="disabled"), replace(PIN, project=ProjectId("other"))):
        assert await studio.store.put_pin(pin, Principal("user:ada"), None)


@pytest.mark.parametrize("mode", MODES)
async def test_servers_and_tools_are_listed_harmlessly(studio: Studio, mode: Mode) -> None:
    await _known(studio)
    async with Client(build_server(studio.core, ADA, toolsets=("external",)), mode=mode) as client:
        visitor = Visitor(client)
        servers = await visitor.ok("list_external_servers")
        tools = await visitor.ok("list_external_tools", server="db")
        one = await visitor.ok("list_external_tools", name="db/query")
        assert (await visitor.error("list_external_tools", server="nothing"))["code"] == "not_found"
        assert (await visitor.error("list_external_tools", name="db/nothing"))["code"] == "not_found"
    assert [(s["name"], s["status"], s["pinned"], s["waiting"]) for s in servers["servers"]] == [
        ("db", "used", 1, 1),
        ("off", "skipped", 0, 0),
    ]
    assert servers["servers"][1]["reason"] == "not set: TOKEN"
    assert [(t["name"], t["status"]) for t in tools["tools"]] == [("db/drop", "disabled"), ("db/query", "pinned")]
    assert tools["tools"][1]["suspicious"] == ["hidden characters"] and tools["tools"][1]["read_only"] is True
    assert "\x1b" not in str(tools) and "\u202e" not in str(one)
    assert "omium mcp approve db/drop" in tools["next"]
    assert one["definition"]["size"] > 50


async def test_nothing_here_approves(studio: Studio) -> None:
    async with Client(build_server(studio.core, ADA, toolsets=("external",))) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
    assert names == {"list_external_servers", "list_external_tools"}
