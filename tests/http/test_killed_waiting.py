"""A real MCP client waits for a run, and goes on waiting for it, while its server is killed and started again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from tests.http.process import Place, Server, appears, on_disk
from tests.interaction.studio import Mode

pytestmark = pytest.mark.anyio

WORKFLOW = """
name: stations
inputs: {type: object, required: [path], properties: {path: {type: string}}}
nodes:
- {id: first, kind: function, use: note, with: {path: "${{ inputs.path }}"}}
- {id: hold, kind: function, use: hold, needs: first, with: {path: "${{ inputs.path }}"}}
- {id: ask, kind: approval, needs: hold, approval: {prompt: "Go on?", min_assurance: none}}
- {id: last, kind: function, use: note, needs: ask, with: {path: "${{ inputs.path + '.last' }}"}}
outputs: "${{ nodes.hold.output }}"
"""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with on_disk(tmp_path) as made:
        file = tmp_path / "omium.yaml"
        (tmp_path / "stations.yaml").write_text(WORKFLOW)
        file.write_text(file.read_text().replace("workflows:\n", "workflows:\n- stations.yaml\n"))
        yield made


class Waiting:
    """Somebody who wants to know how a run ends, and connects again as often as a connection is lost."""

    def __init__(self, url: str, mode: Mode, run_id: str) -> None:
        self.url = url
        self.mode = mode
        self.run_id = run_id
        self.answers: list[dict[str, Any]] = []
        self.asked = 0
        self.connections = 0

    @property
    def last(self) -> dict[str, Any]:
        return self.answers[-1] if self.answers else {}

    async def go(self) -> None:
        while self.last.get("status") != "completed":
            try:
                await self._connected()
            except* (MCPError, httpx2.HTTPError, OSError):
                await anyio.sleep(0.1)  # real time: the server is a process that comes back when it does

    async def _connected(self) -> None:
        async with Client(f"{self.url}/mcp", mode=self.mode) as client:
            self.connections += 1
            while self.last.get("status") != "completed":
                self.asked += 1
                arguments = {"run_id": self.run_id, "wait_seconds": 45, "detail": True}
                result = await client.call_tool("get_run", arguments)
                assert not result.is_error, result
                assert result.structured_content is not None
                self.answers.append(result.structured_content)
                await anyio.sleep(0.1)  # real time: what waits for a person, or is paused, is answered at once

    async def sees(self, status: str) -> None:
        while self.last.get("status") != status:
            await anyio.sleep(0.02)  # real time: as above


async def into(state: str, server: Server, client: httpx2.AsyncClient, place: Place, run_id: str) -> None:
    """Have a run, which is held in its second node, be in this state."""
    if state == "paused":
        assert (await client.post(f"/api/v1/runs/{run_id}/pause", json={})).status_code == 200
    if state != "executing":
        place.path("gate").touch()


async def onward(state: str, client: httpx2.AsyncClient, place: Place, waiting: Waiting) -> None:
    """Do what the run needs to come to its end."""
    place.path("gate").touch()
    if state == "paused":
        answer = await client.post(f"/api/v1/runs/{waiting.run_id}/resume", json={})
        assert answer.status_code == 200, answer.text
    await waiting.sees("waiting_approval")
    question = waiting.last["approvals"][0]["approval_id"]
    answer = await client.post(f"/api/v1/approvals/{question}/decide", json={"decision": "approve"})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("state", "mode"),
    [("executing", "auto"), ("executing", "legacy"), ("waiting_approval", "auto"), ("paused", "auto")],
)
async def test_whoever_waits_finds_the_run_as_it_was(place: Place, state: str, mode: Mode) -> None:
    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            async with place.serving() as server, server.http() as client:
                port = server.port
                run_id = await server.start(client, "stations", path=str(place.path("gate")))
                waiting = Waiting(server.url, mode, run_id)
                tasks.start_soon(waiting.go)
                await appears(place.path("gate.held"))
                await into(state, server, client, place, run_id)
                if state == "executing":
                    while not waiting.asked:  # its call is under way, and nothing will answer it
                        await anyio.sleep(0.02)  # real time: as above
                else:
                    await waiting.sees(state)
                before = (await client.get(f"/api/v1/runs/{run_id}?detail=true")).json()
                server.process.kill()
                await server.process.wait()
            async with place.serving("--port", port) as server, server.http() as client:
                after = (await client.get(f"/api/v1/runs/{run_id}?detail=true")).json()
                assert after["status"] == before["status"] == state
                assert after.get("approvals") == before.get("approvals")  # the same question, not one more
                await onward(state, client, place, waiting)
                await waiting.sees("completed")
                events = (await client.get(f"/api/v1/runs/{run_id}/events?limit=1000")).json()["events"]
    assert waiting.connections >= 2
    assert waiting.last["output"]["value"] == "released", waiting.last
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events]
    assert kinds.count("approval.requested") == kinds.count("approval.decided") == 1, json.dumps(kinds)
    for name in ("gate", "gate.last"):
        assert place.path(f"{name}.noted").read_text() == "once\n", name
