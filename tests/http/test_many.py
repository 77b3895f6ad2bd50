"""Many clients at once: no error, no answer to somebody else."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.http.served import Served, headers_of, request_of

pytestmark = pytest.mark.anyio

CLIENTS = 200


async def test_200_clients_at_once_see_no_error(served: Served) -> None:
    """Each with its own connection: lists the tools, starts a run and waits for it. All are one caller."""
    outputs: dict[int, Any] = {}

    async def visit(number: int) -> None:
        async with served.http() as client:
            listing = request_of("tools/list")
            answer = await client.post("/mcp", json=listing, headers=headers_of(listing))
            assert answer.status_code == 200, answer.text
            arguments = {"workflow": "greet", "inputs": {"name": str(number)}}
            call = request_of("tools/call", name="run_workflow", arguments=arguments)
            answer = await client.post("/mcp", json=call, headers=headers_of(call))
            assert answer.status_code == 200, answer.text
            run_id = answer.json()["result"]["structuredContent"]["run_id"]
            outputs[number] = (await served.ended(client, run_id))["output"]

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in range(CLIENTS):
                tasks.start_soon(visit, number)
    assert outputs == {number: f"Hello {number}" for number in range(CLIENTS)}
    assert served.studio.calls["echo"] == CLIENTS
