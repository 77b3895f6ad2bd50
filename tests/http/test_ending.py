"""The end of a server, while clients stream, wait and work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from omium.orchestration.ids import RunId
from omium.server.http.app import HttpSettings
from tests.http.served import Served, headers_of, refusal, request_of, serve_studio
from tests.interaction.studio import ADA

pytestmark = pytest.mark.anyio

GRACE = HttpSettings(grace_s=1)


async def hanging(served: Served, run_id: str, found: dict[str, Any]) -> None:
    """One client of each kind hangs on the server; what each of them sees goes into `found`."""

    async def feed() -> None:
        path, client = f"/api/v1/runs/{run_id}/events", served.http(accept="text/event-stream")
        async with client, client.stream("GET", path) as response:
            async for line in response.aiter_lines():
                found.setdefault("feed", []).append(line)
            found["feed ended"] = True

    async def socket() -> None:
        async with connect(f"{served.url.replace('http', 'ws')}/api/v1/runs/{run_id}/events/ws") as connection:
            try:
                while True:
                    await connection.recv()
            except ConnectionClosed:
                found["socket"] = connection.close_code

    async def wait() -> None:
        async with served.http() as client:
            answer = await client.get(f"/api/v1/runs/{run_id}", params={"wait_seconds": 45})
            found["wait"] = answer.json()["status"]

    async def sse() -> None:
        async with served.http() as client, client.stream("GET", "/sse") as response:
            async for line in response.aiter_lines():
                found.setdefault("sse", []).append(line)
            found["sse ended"] = True

    async def call() -> None:
        message = request_of("tools/call", name="get_run", arguments={"run_id": run_id, "wait_seconds": 45})
        async with served.http() as client:
            try:
                found["call"] = (await client.post("/mcp", json=message, headers=headers_of(message))).status_code
            except httpx2.HTTPError as error:
                found["call"] = error

    async with anyio.create_task_group() as tasks:
        for one in (feed, socket, wait, sse, call):
            tasks.start_soon(one)


async def test_hanging_clients_do_not_hold_up_the_end(tmp_path: Path) -> None:
    found: dict[str, Any] = {}
    with anyio.fail_after(60):
        async with serve_studio(tmp_path, GRACE) as served, served.http() as client:
            run_id = await served.started(client, "held")
            await served.studio.holding.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hanging, served, run_id, found)
                while served.app.ending.open < 5 or not {"feed", "sse"} <= set(found):
                    await anyio.sleep(0.02)
                begun = anyio.current_time()
                served.app.ending.begin()
                while served.app.ending.open:
                    await anyio.sleep(0.02)
                took = anyio.current_time() - begun
            run = await served.studio.core.get_run(ADA, RunId(run_id))
    assert took < 5
    assert found["wait"] == "executing"
    assert found["socket"] == 1012
    assert found["feed ended"]
    assert found["sse ended"]
    assert found["call"] in (200, 503) or isinstance(found["call"], httpx2.HTTPError)
    assert run.status == "executing"


async def test_what_comes_after_the_end_has_begun_is_refused(tmp_path: Path) -> None:
    async with serve_studio(tmp_path, GRACE) as served, served.http() as client:
        run_id = await served.started(client, "held")
        await served.studio.holding.wait()
        async with served.raw() as stream:
            waits = f"GET /api/v1/runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
            await stream.send(waits.encode())
            await stream.receive()
            served.app.ending.begin()
            try:
                answer = await client.get("/healthz")
            except httpx2.HTTPError:
                return  # nobody listens any more: as good
            refusal(answer, 503, "storage_unavailable")
            assert answer.headers["retry-after"] == "1"


async def test_what_is_under_way_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = anyio.Event(), anyio.Event()
    async with serve_studio(tmp_path, GRACE) as served:
        tell = served.studio.core.list_workflows

        async def slow(*args: Any) -> Any:
            begun.set()
            await go.wait()
            return await tell(*args)

        monkeypatch.setattr(served.studio.core, "list_workflows", slow)
        answers: list[httpx2.Response] = []

        async def ask() -> None:
            async with served.http() as client:
                answers.append(await client.get("/api/v1/workflows"))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await begun.wait()
                served.app.ending.begin()
                go.set()
    assert answers[0].status_code == 200
    assert json.loads(answers[0].text)["workflows"]


async def test_what_hangs_is_cut_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = anyio.Event()

    async def hangs(*_: Any) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with serve_studio(tmp_path, HttpSettings(grace_s=0.1)) as served:
        monkeypatch.setattr(served.studio.core, "list_workflows", hangs)
        answers: list[httpx2.Response] = []

        async def ask() -> None:
            async with served.http() as client:
                answers.append(await client.get("/api/v1/workflows"))

        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await begun.wait()
                served.app.ending.begin()
    refusal(answers[0], 503, "storage_unavailable")
