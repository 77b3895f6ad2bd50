"""The client against real servers: one over HTTP that goes away and comes back, and credentials."""

from __future__ import annotations

import socket
from pathlib import Path

import anyio
import pytest

from omium.clients.remote import OmiumClient
from omium.orchestration.errors import OmiumError
from tests.http.process import on_disk
from tests.http.served import serve_studio

pytestmark = pytest.mark.anyio


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


async def test_a_server_that_was_killed_and_started_again_is_found(tmp_path: Path) -> None:
    port = free_port()
    answered: list[str] = []
    with anyio.fail_after(90):
        async with (
            on_disk(tmp_path) as place,
            anyio.create_task_group() as tasks,
            place.serving("--port", port) as server,
            OmiumClient.http(f"{server.url}/mcp") as client,
        ):
            first = await client.run_workflow("failing", idempotency_key="one")
            assert (await client.wait(first.run_id)).status == "failed"
            server.process.kill()
            await server.process.wait()

            async def again() -> None:
                answered.append((await client.run_workflow("failing", idempotency_key="one")).run_id)

            tasks.start_soon(again)
            async with place.serving("--port", port):
                while not answered:
                    await anyio.sleep(0.02)
            assert answered == [first.run_id]
            assert client.connection.reconnected >= 1


async def test_a_token_is_taken_and_a_bad_one_is_said(tmp_path: Path) -> None:
    with anyio.fail_after(60):
        async with serve_studio(tmp_path, open_to=False) as served:
            token = await served.token("operator", "genie")
            async with OmiumClient.http(f"{served.url}/mcp", token=token) as client:
                run = await client.run_workflow("greet", {"name": "Ada"})
                assert (await client.wait(run.run_id)).status == "completed"
            with pytest.raises(OmiumError) as refused:
                async with OmiumClient.http(f"{served.url}/mcp", token="omt_bad", patience_s=30):
                    raise AssertionError("nobody is let in with it")
            assert refused.value.code == "unauthenticated"
