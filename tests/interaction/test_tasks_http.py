"""Tasks over HTTP, where a header repeats the task's id for whatever routes the request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx2
import pytest

from omium.server.mcp import build_server
from tests.interaction.studio import ADA, Studio
from tests.interaction.tasks_client import TASKS

pytestmark = pytest.mark.anyio

VERSION = "2026-07-28"


@asynccontextmanager
async def serving(studio: Studio) -> AsyncIterator[httpx2.AsyncClient]:
    server = build_server(studio.core, ADA)
    app = server.streamable_http_app(host="127.0.0.1")
    async with (
        server.session_manager.run(),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://127.0.0.1:8000") as client,
    ):
        yield client


async def post(
    client: httpx2.AsyncClient, method: str, header: str | None, /, *, takes: bool = True, **params: Any
) -> tuple[int, dict[str, Any]]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}} if takes else {},
    }
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": method,
        **({} if header is None else {"Mcp-Name": header}),
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
    answer = await client.post("/mcp", json=body, headers=headers)
    return answer.status_code, answer.json()


async def test_the_header_names_the_task(studio: Studio) -> None:
    async with serving(studio) as client:
        with anyio.fail_after(20):
            call: dict[str, Any] = {"name": "run_workflow", "arguments": {"workflow": "held"}}
            status, created = await post(client, "tools/call", "run_workflow", **call)
            assert (status, created["result"]["resultType"]) == (200, "task")
            task_id = created["result"]["taskId"]
            for method in ("tasks/get", "tasks/update", "tasks/cancel"):
                status, wrong = await post(client, method, "task_other", taskId=task_id, inputResponses={})
                assert (status, wrong["error"]["code"]) == (400, -32020)
            for name in (task_id, None):
                status, got = await post(client, "tasks/get", name, taskId=task_id)
                assert (status, got["result"]["status"]) == (200, "working")


async def test_a_client_that_does_not_declare_it_is_told_what_is_missing(studio: Studio) -> None:
    async with serving(studio) as client:
        with anyio.fail_after(20):
            status, refused = await post(client, "tasks/get", "task_1", takes=False, taskId="task_1")
            assert refused["error"]["code"] == -32021
            assert refused["error"]["data"]["requiredCapabilities"]["extensions"] == {TASKS: {}}
            assert status == 400


async def test_a_client_that_hangs_up_takes_nothing_along(studio: Studio) -> None:
    """A disconnect cancels the request's handler; the run goes on."""
    async with serving(studio) as client:
        with anyio.fail_after(20):
            call: dict[str, Any] = {"name": "run_workflow", "arguments": {"workflow": "held"}}
            _, created = await post(client, "tools/call", "run_workflow", **call)
            task_id = created["result"]["taskId"]
            await studio.holding.wait()
            async with anyio.create_task_group() as tasks:
                listen: dict[str, Any] = {"notifications": {"taskIds": [task_id]}}

                async def listening() -> None:
                    await post(client, "subscriptions/listen", None, **listen)

                tasks.start_soon(listening)
                await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            studio.release.set()
            while (task := (await post(client, "tasks/get", None, taskId=task_id))[1]["result"])["status"] == "working":
                await anyio.lowlevel.checkpoint()
    assert task["status"] == "completed"
