"""The door: foreign hosts and origins, large heads and bodies, and clients that keep one waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from omium.orchestration.ids import new_id
from omium.server.http.app import HttpSettings
from tests.http.served import JSON, Served, headers_of, refusal, request_of, serve_studio

pytestmark = pytest.mark.anyio

PATHS = ["/api/v1/runs", "/mcp", "/sse", "/healthz", "/api/v1/openapi.json", "/nowhere"]
FOREIGN_HOSTS = [
    "evil.example", "evil.example:8765", "127.0.0.1.evil.example", "localhost.evil.example", "localhost.", "",
    "127.0.0.1@evil.example", "2130706433", "0x7f000001", "0.0.0.0", "169.254.169.254",
    "[::ffff:127.0.0.1]", "local host",
]  # fmt: skip
FOREIGN_ORIGINS = [
    "https://evil.example", "null", "http://127.0.0.1.evil.example", "http://localhost@evil.example", "file://", "",
    "http://169.254.169.254", "chrome-extension://abc", "http://localhost/ http://evil.example",
]  # fmt: skip


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_a_foreign_host_is_refused(served: Served, host: str) -> None:
    async with served.http() as client:
        for path in PATHS:
            refusal(await client.get(path, headers={"host": host}), 403, "forbidden")
        message = request_of("tools/call", name="run_workflow", arguments={"workflow": "chain"})
        refusal(
            await client.post("/mcp", json=message, headers={**headers_of(message), "host": host}), 403, "forbidden"
        )
    assert served.studio.calls["echo"] == 0


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_a_foreign_origin_is_refused(served: Served, origin: str) -> None:
    async with served.http() as client:
        for path in PATHS:
            refusal(await client.get(path, headers={"origin": origin}), 403, "forbidden")
        started = await client.post("/api/v1/runs", json={"workflow": "chain"}, headers={"origin": origin})
        refusal(started, 403, "forbidden")
    assert served.studio.calls["echo"] == 0


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost:1"])
async def test_loopback_names_pass(served: Served, name: str) -> None:
    async with served.http() as client:
        assert (await client.get("/healthz", headers={"host": name})).status_code == 200
        assert (await client.get("/healthz", headers={"origin": f"http://{name}"})).status_code == 200
        assert (await client.get("/healthz", headers={"origin": f"https://{name}"})).status_code == 200


async def test_two_hosts_or_none_are_refused(served: Served) -> None:
    for head in ("", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nHost: evil.example\r\n"):
        async with served.raw() as stream:
            await stream.send(f"GET /healthz HTTP/1.1\r\n{head}\r\n".encode())
            with anyio.fail_after(10):
                assert (await stream.receive()).split()[1] in (b"400", b"403")


async def test_a_websocket_of_a_foreign_page_is_refused(served: Served) -> None:
    async with served.http() as client:
        run_id = await served.started(client, "chain")
    url = f"{served.url.replace('http', 'ws')}/api/v1/runs/{run_id}/events/ws"
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}):
        with anyio.fail_after(10), pytest.raises(InvalidStatus) as refused:
            async with connect(url, additional_headers=headers):
                raise AssertionError("it was let in")
        assert refused.value.response.status_code == 403


async def test_configured_names_and_origins_pass_and_pages_of_them_may_read(tmp_path: Path) -> None:
    settings = HttpSettings(hosts=["omium.example"], origins=["https://board.example"])
    async with serve_studio(tmp_path, settings) as served, served.http() as client:
        for host in ("omium.example", "omium.example:443", "127.0.0.1"):
            assert (await client.get("/api/v1/runs", headers={"host": host})).status_code == 200
        answer = await client.get("/api/v1/runs", headers={"origin": "https://board.example"})
        assert answer.headers["access-control-allow-origin"] == "https://board.example"
        asked = {"origin": "https://board.example", "access-control-request-method": "POST"}
        assert (await client.options("/mcp", headers=asked)).status_code == 200
        for origin in ("https://other.example", "http://board.example", "https://board.example.evil.example"):
            refusal(await client.get("/api/v1/runs", headers={"origin": origin}), 403, "forbidden")


async def test_where_others_reach_it_only_its_own_pages_and_configured_names_pass(tmp_path: Path) -> None:
    async with serve_studio(tmp_path, HttpSettings(loopback=False)) as served, served.http() as client:
        there = {"host": "omium.example"}
        assert (await client.get("/healthz", headers=there)).status_code == 200
        own = {**there, "origin": "https://omium.example"}
        assert (await client.get("/healthz", headers=own)).status_code == 200
        for origin in ("https://evil.example", "null", "http://localhost"):
            refusal(await client.get("/healthz", headers={**there, "origin": origin}), 403, "forbidden")
    named = HttpSettings(loopback=False, hosts=["omium.example"])
    async with serve_studio(tmp_path / "named", named) as served, served.http() as client:
        assert (await client.get("/healthz", headers={"host": "omium.example"})).status_code == 200
        refusal(await client.get("/healthz", headers={"host": "evil.example"}), 403, "forbidden")


async def test_no_page_can_read_what_is_answered(served: Served) -> None:
    async with served.http(origin="http://localhost:3000") as client:
        answer = await client.get("/api/v1/runs")
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
        assert (await client.options("/api/v1/runs", headers=asked)).status_code == 405


# --- sizes --------------------------------------------------------------------------------------------------------


async def test_large_heads_are_refused(served: Served) -> None:
    async with served.http() as client:
        many = {f"x-{number}": "x" for number in range(200)}
        for head in ({"x-large": "x" * 40_000}, many):
            assert (await client.get("/healthz", headers=head)).status_code in (400, 431)
        assert (await client.get("/healthz", params={"x": "y" * 10_000})).status_code in (400, 431)


@pytest.mark.parametrize("path", ["/api/v1/runs", "/mcp", "/messages/?session_id=00000000000000000000000000000000"])
async def test_a_body_over_the_limit_is_refused(tmp_path: Path, path: str) -> None:
    async def pieces(size: int) -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b" " * 1_000

    async with serve_studio(tmp_path, HttpSettings(max_body=10_000)) as served, served.http(**JSON) as client:
        refusal(await client.post(path, content=b" " * 10_001), 413, "invalid_argument")
        refusal(await client.post(path, content=pieces(11)), 413, "invalid_argument")
        assert (await client.post(path, content=pieces(10))).status_code != 413


# --- patience -----------------------------------------------------------------------------------------------------


async def rest_of(stream: SocketStream) -> bytes:
    """What still comes until the server closes the connection."""
    found = b""
    try:
        async for data in stream:
            found += data
    except anyio.BrokenResourceError:
        pass
    return found


async def test_a_head_that_does_not_come_ends_the_connection(tmp_path: Path) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with serve_studio(tmp_path, HttpSettings(head_s=0.2)) as served:
        with anyio.fail_after(20):
            for begun in (b"", b"GET /healthz HTTP/1.1\r\nHo"):
                async with served.raw() as stream:
                    if begun:
                        await stream.send(begun)
                    assert await rest_of(stream) == b""
            async with served.raw() as stream:  # nor does a second one on the same connection
                await stream.send(whole)
                assert b"200 OK" in await stream.receive()
                await stream.send(b"GET /healthz HTTP/1.1\r\nHo")
                assert b"HTTP/1.1" not in await rest_of(stream)


async def test_a_body_that_does_not_come_is_refused(tmp_path: Path) -> None:
    lines = (
        b"POST /api/v1/runs HTTP/1.1",
        b"Host: localhost",
        b"Content-Type: application/json",
        b"Content-Length: 100",
    )
    head = b"\r\n".join((*lines, b"", b"{"))
    async with serve_studio(tmp_path, HttpSettings(body_s=0.2)) as served, served.raw() as stream:
        with anyio.fail_after(20):
            await stream.send(head)
            answer = await rest_of(stream)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code": "timeout"' in answer


async def test_a_client_that_reads_nothing_is_dropped(tmp_path: Path) -> None:
    """It asks for far more than buffers hold, again and again, and never reads: its answers may not pile up."""
    async with serve_studio(tmp_path, HttpSettings(stalled_s=0.2)) as served:
        async with served.http() as client:
            run_id = await served.started(client, "echo", value="x" * 900_000)
            assert (await served.ended(client, run_id))["status"] == "completed"
        with anyio.fail_after(30):
            async with served.raw() as stream:
                request = f"GET /api/v1/runs/{run_id}?detail=true HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
                with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                    await stream.send(request * 40)
                    while True:
                        await stream.send(request)
                        await anyio.sleep(0.05)


async def test_an_unknown_path_method_and_id_are_told_in_the_one_form(served: Served) -> None:
    async with served.http() as client:
        refusal(await client.get("/api/v1/nothing"), 404, "not_found")
        answer = await client.put("/api/v1/runs")
        refusal(answer, 405, "invalid_argument")
        assert "POST" in answer.headers["allow"]
        for run_id in (new_id("run"), "last", "x", "run_%00", "..%2f..%2fetc", "a" * 3_000):
            refusal(await client.get(f"/api/v1/runs/{run_id}"), 404, "not_found")
