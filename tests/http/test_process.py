"""The HTTP server as a process: how it starts, how it refuses to, how it ends, and what a kill costs."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import psutil
import pytest
from mcp import Client

from omium.orchestration.ids import Principal, ProjectId, RunId
from omium.orchestration.ports import SystemClock
from omium.orchestration.service.views import Caller
from omium.server.identity.tokens import create_token
from tests.http.process import Place, Server, appears, on_disk, workers
from tests.http.served import bearer, refusal
from tests.interaction.studio import MODES, Mode

pytestmark = pytest.mark.anyio

ADMIN = Caller(Principal("user:ada"), ProjectId("http-tests"))
MOVING = ("executing",)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with on_disk(tmp_path) as made:
        yield made


# --- starting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
async def test_where_others_reach_it_nobody_may_come_without_a_credential(place: Place, host: str) -> None:
    with anyio.fail_after(60):
        code, said = await place.refused("--host", host, "--port", "0")
    assert code != 0
    assert "needs authentication" in said
    assert "omium token create" in said
    assert "Traceback" not in said


async def test_with_a_credential_it_starts_there_and_asks_for_it(place: Place) -> None:
    place.database.parent.mkdir()
    async with place.store() as store:
        token = (await create_token(store, ADMIN, SystemClock(), "operator", name="otto")).secret
    with anyio.fail_after(60):
        async with place.serving("--host", "0.0.0.0") as server:
            url = f"http://127.0.0.1:{server.port}"
            async with httpx2.AsyncClient(base_url=url) as client:
                refusal(await client.get("/api/v1/runs"), 401, "unauthenticated")
                assert (await client.get("/api/v1/runs", headers=bearer(token))).status_code == 200
                assert (await client.get("/healthz")).json()["status"] == "ok"


async def test_loopback_may_ask_for_one_too(place: Place) -> None:
    place.database.parent.mkdir()
    async with place.store() as store:
        token = (await create_token(store, ADMIN, SystemClock(), "viewer", name="vera")).secret
    with anyio.fail_after(60):
        async with place.serving("--auth", "tokens") as server, server.http() as client:
            refusal(await client.get("/api/v1/runs"), 401, "unauthenticated")
            assert (await client.get("/api/v1/runs", headers=bearer(token))).status_code == 200


async def test_what_cannot_be_started_says_why(place: Place) -> None:
    with anyio.fail_after(60):
        async with place.serving() as server:
            code, said = await place.refused("--port", server.port)
            assert code == 5
            assert "--port" in said
        code, said = await place.refused("--transport", "stdio", "--port", "1234")
        assert code == 2
        assert "--transport http" in said
        code, said = await place.refused("--toolsets", "magic", "--port", "0")
        assert code == 2
        assert "magic" in said


async def test_read_only_executes_nothing(place: Place) -> None:
    with anyio.fail_after(60):
        async with place.serving("--read-only") as server, Client(f"{server.url}/mcp") as client:
            tools = (await client.list_tools()).tools
            assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
            assert server.children() == []


# --- ending -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
async def test_a_signal_ends_it(place: Place, number: signal.Signals) -> None:
    with anyio.fail_after(60):
        async with place.serving() as server:
            async with server.http() as client:
                assert (await client.get("/healthz")).status_code == 200
            server.process.send_signal(number)
            with anyio.fail_after(10):
                assert await server.process.wait() == 0


async def hang(server: Server, run_id: str, hanging: anyio.Event) -> None:
    """Clients that stream and wait, until their server is gone."""

    async def stream(path: str, **headers: str) -> None:
        try:
            async with server.http(**headers) as client, client.stream("GET", path) as response:
                async for _ in response.aiter_lines():
                    hanging.set()
        except httpx2.HTTPError:
            pass

    async def wait(mode: Mode) -> None:
        try:
            async with Client(f"{server.url}/mcp", mode=mode) as client:
                await client.call_tool("get_run", {"run_id": run_id, "wait_seconds": 45})
        except Exception as error:  # whatever the SDK makes of a server that is gone
            assert not isinstance(error, AssertionError)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream, "/sse")
        tasks.start_soon(lambda: stream(f"/api/v1/runs/{run_id}/events", accept="text/event-stream"))
        tasks.start_soon(stream, f"/api/v1/runs/{run_id}?wait_seconds=45")
        for mode in MODES:
            tasks.start_soon(wait, mode)


@pytest.mark.parametrize("options", [(), ("--no-detach",)], ids=["detach", "park"])
async def test_runs_are_handed_over_or_parked_while_clients_hang(place: Place, options: tuple[str, ...]) -> None:
    gate = place.path("gate")
    with anyio.fail_after(120):
        async with place.serving(*options) as server, server.http() as client:
            run_id = await server.start(client, "holding", path=str(gate))
            await appears(place.path("gate.held"))
            below = server.children()
            assert below
            hanging = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hang, server, run_id, hanging)
                await hanging.wait()
                server.process.terminate()
                with anyio.fail_after(10):
                    assert await server.process.wait() == 0
        gone, left = await anyio.to_thread.run_sync(lambda: psutil.wait_procs(below, timeout=1))
        assert left == []
        assert gone
        async with place.store() as store:
            row = await store.run(RunId(run_id))
            assert row is not None
            assert row.status == "executing"
        if options:
            assert await workers(place) == []
            gate.touch()
            async with place.serving() as server, server.http() as client:
                await completed(client, run_id)
        else:
            gate.touch()
            async with place.serving("--read-only") as server, server.http() as client:
                await completed(client, run_id)
    assert place.path("gate.noted").read_text() == "once\n"


async def completed(client: httpx2.AsyncClient, run_id: str) -> None:
    while (run := (await client.get(f"/api/v1/runs/{run_id}?wait_seconds=45&detail=true")).json())["status"] in MOVING:
        pass
    assert (run["status"], run["output"]) == ("completed", "released")


# --- a kill -------------------------------------------------------------------------------------------------------


async def in_each_state(server: Server, client: httpx2.AsyncClient, place: Place) -> dict[str, str]:
    """A run in each state that one can stay in, by the state."""
    gate, paused = str(place.path("gate")), str(place.path("paused"))
    runs = {
        "draft": (await client.post("/api/v1/runs", json={"workflow": "asking", "start": False})).json()["id"],
        "executing": await server.start(client, "holding", path=gate),
        "paused": await server.start(client, "holding", path=paused),
        "waiting_approval": await server.start(client, "asking"),
        "completed": await server.start(client, "quick", path=str(place.path("quick"))),
        "failed": await server.start(client, "failing"),
        "cancelled": await server.start(client, "holding", path=str(place.path("cancelled"))),
    }
    await appears(place.path("paused.held"))
    await appears(place.path("cancelled.held"))
    place.path("paused").touch()
    assert (await client.post(f"/api/v1/runs/{runs['paused']}/pause", json={})).status_code == 200
    assert (await client.post(f"/api/v1/runs/{runs['cancelled']}/cancel", json={})).status_code == 200
    for status in ("waiting_approval", "completed", "failed"):
        assert (await client.get(f"/api/v1/runs/{runs[status]}?wait_seconds=45")).json()["status"] == status
    await appears(place.path("gate.held"))
    return runs


async def test_a_kill_in_each_state_loses_and_doubles_nothing(place: Place) -> None:
    """Clients wait for each run and follow its events when the server is killed; they come back with their cursor."""
    seen: dict[str, list[int]] = {}

    async def follow(url: str, run_id: str) -> None:
        """Read events from the cursor on until the feed, or the server, ends."""
        got = seen.setdefault(run_id, [])
        headers = {"accept": "text/event-stream", **({"last-event-id": str(got[-1])} if got else {})}
        try:
            client = httpx2.AsyncClient(base_url=url, timeout=60)
            path = f"/api/v1/runs/{run_id}/events"
            async with client, client.stream("GET", path, headers=headers) as response:
                async for line in response.aiter_lines():
                    if line.startswith("id: "):
                        got.append(int(line[4:]))
        except httpx2.HTTPError:
            pass

    async def wait(url: str, run_id: str) -> None:
        try:
            async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
                await client.get(f"/api/v1/runs/{run_id}?wait_seconds=45")
        except httpx2.HTTPError:
            pass

    with anyio.fail_after(180):
        async with place.serving() as server, server.http() as client:
            port = server.port
            runs = await in_each_state(server, client, place)
            before = {status: await state_of(client, run_id) for status, run_id in runs.items()}
            async with anyio.create_task_group() as tasks:
                for run_id in runs.values():
                    tasks.start_soon(follow, server.url, run_id)
                    tasks.start_soon(wait, server.url, run_id)
                while len(seen) < len(runs) or not all(seen.values()):
                    await anyio.sleep(0.02)
                server.process.kill()
                await server.process.wait()
        async with place.serving("--port", port) as server, server.http() as client:
            for status, run_id in runs.items():
                found = await state_of(client, run_id)
                assert found["status"] == status
                if status not in ("executing", "paused"):  # of these, what was in flight is settled and goes on
                    assert found == before[status]
            place.path("gate").touch()
            await client.post(f"/api/v1/runs/{runs['draft']}/cancel", json={})
            await client.post(f"/api/v1/runs/{runs['paused']}/resume", json={})
            question = before["waiting_approval"]["approvals"][0]["id"]
            decided = await client.post(f"/api/v1/approvals/{question}/decide", json={"decision": "approve"})
            assert decided.status_code == 200, decided.text
            async with anyio.create_task_group() as tasks:
                for run_id in runs.values():
                    tasks.start_soon(follow, server.url, run_id)
            for run_id in (runs["executing"], runs["paused"]):
                await completed(client, run_id)
            for run_id in runs.values():
                pages = (await client.get(f"/api/v1/runs/{run_id}/events?limit=1000")).json()["events"]
                assert seen[run_id] == [event["seq"] for event in pages] == list(range(1, len(pages) + 1))
            ended = {status: (await state_of(client, run_id))["status"] for status, run_id in runs.items()}
    assert ended == {
        "draft": "cancelled",
        "executing": "completed",
        "paused": "completed",
        "waiting_approval": "completed",
        "completed": "completed",
        "failed": "failed",
        "cancelled": "cancelled",
    }
    for name in ("gate", "gate.last", "paused", "paused.last", "quick", "cancelled"):
        assert place.path(f"{name}.noted").read_text() == "once\n", name


async def state_of(client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await client.get(f"/api/v1/runs/{run_id}?detail=true")).text)
    return found
