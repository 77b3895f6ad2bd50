"""MCP over HTTP: both eras and SSE, with the SDK's own client, and what its requests must look like."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitResult

from tests.http.served import WAYS, Served, Way, headers_of, request_of
from tests.interaction.studio import MODES, Mode

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_lists_runs_and_waits(served: Served, way: Way) -> None:
    with anyio.fail_after(60):
        async with served.mcp(way) as visitor:
            names = {tool.name for tool in (await visitor.client.list_tools()).tools}
            assert {"run_workflow", "get_run", "approve"} <= names
            run_id = await visitor.finished("chain")
            found = await visitor.ok("get_run", run_id=run_id, detail=True)
            assert found["output"]["value"] == "one-b-c"
            assert (await visitor.error("get_run", run_id="run_nothing"))["code"] == "not_found"


@pytest.mark.parametrize("way", WAYS)
async def test_a_human_is_asked_through_the_client(served: Served, way: Way) -> None:
    async def answer(_: Any, __: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"decision": "approve", "feedback": "by form"})

    with anyio.fail_after(60):
        async with served.mcp("auto") as visitor:
            run_id, approval_id = await visitor.asking()
        async with served.http() as http:
            if way == "sse":
                transport = sse_client(f"{served.url}/sse")
            else:
                transport = streamable_http_client(f"{served.url}/mcp", http_client=http)
            mode: Mode = "legacy" if way == "sse" else way
            async with Client(transport, mode=mode, elicitation_callback=answer) as client:
                decided = await client.call_tool("approve", {"approval_id": approval_id, "decision": "approve"})
                assert decided.structured_content is not None
                assert decided.structured_content["decided"] is True
            assert (await served.ended(http, run_id))["status"] == "completed"


@pytest.mark.parametrize("mode", MODES)
async def test_a_client_that_goes_takes_no_run_along(served: Served, mode: Mode) -> None:
    with anyio.fail_after(60):
        async with served.mcp(mode) as visitor:
            run = await visitor.ok("run_workflow", workflow="held")
            await served.studio.holding.wait()
            with anyio.move_on_after(0.2):  # real time: the client gives up in the middle of its wait
                await visitor.ok("get_run", run_id=run["run_id"], wait_seconds=45)
        served.studio.release.set()
        async with served.http() as client:
            assert (await served.ended(client, run["run_id"]))["status"] == "completed"
        assert served.studio.calls["held"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"mcp-method": "tools/list"}, 400),
        ({"mcp-name": "list_runs"}, 400),
        ({"mcp-protocol-version": "2025-11-25"}, 400),  # no session, and no such version in its envelope
        ({"accept": "text/html"}, 406),
        ({"content-type": "text/plain"}, 400),
        ({"content-type": "application/x-www-form-urlencoded"}, 400),
    ],
    ids=str,
)
async def test_headers_that_contradict_the_message_are_refused(
    served: Served, headers: dict[str, str], status: int
) -> None:
    message = request_of("tools/call", name="run_workflow", arguments={"workflow": "chain"})
    async with served.http() as client:
        answer = await client.post("/mcp", json=message, headers={**headers_of(message), **headers})
    assert answer.status_code == status, answer.text
    if status != 200:
        assert served.studio.calls["echo"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"jsonrpc":"2.0"}',
        b'{"id":' + b"9" * 6_000 + b"}",
    ],
    ids=lambda body: repr(body)[:20],
)
async def test_what_is_no_message_is_refused(served: Served, body: bytes) -> None:
    headers = {**headers_of(request_of("tools/list")), "content-type": "application/json"}
    async with served.http() as client:
        answer = await client.post("/mcp", content=body, headers=headers)
        assert answer.status_code in (202, 400)
        assert "Traceback" not in answer.text
        assert (await client.get("/healthz")).status_code == 200


async def test_an_unknown_session_is_not_found(served: Served) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    headers = {"accept": "application/json, text/event-stream", "mcp-session-id": "0" * 32}
    async with served.http() as client:
        assert (await client.post("/mcp", json=message, headers=headers)).status_code == 404
        assert (await client.get("/mcp", headers=headers)).status_code == 404
