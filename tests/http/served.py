"""The studio behind a real HTTP server on a free port of the loopback interface, and clients of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio
import httpx2
from anyio.abc import SocketStream
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from omium.server.http.access import identify
from omium.server.http.app import HttpApp, HttpSettings, build_app
from omium.server.http.serving import listen, serve_app, url_of
from omium.server.identity.authority import AnyOf, Authority, OpenLoopback
from omium.server.identity.limits import RateLimits, RequestLimits
from omium.server.identity.tokens import Tokens, create_token
from omium.server.mcp import Identify, build_server
from tests.interaction.studio import ADA, MODES, Mode, Studio, Visitor, open_studio

Way = Literal["auto", "legacy", "sse"]
WAYS: tuple[Way, ...] = (*MODES, "sse")
JSON = {"content-type": "application/json"}


@dataclass
class Served:
    """A studio and the server in front of it."""

    studio: Studio
    app: HttpApp
    url: str
    authority: Authority

    async def token(self, role: str, name: str, *, sees: Literal["own", "project"] | None = None) -> str:
        """A new token of the principal `token:<name>`."""
        made = await create_token(self.studio.store, ADA, self.studio.core.clock, role, name=name, sees=sees)
        return made.secret

    def http(self, token: str | None = None, **headers: str) -> httpx2.AsyncClient:
        """A plain client; without a token it is the user of this machine."""
        given = bearer(token) | {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.AsyncClient(base_url=self.url, headers=given, timeout=60)

    @asynccontextmanager
    async def mcp(self, way: Way = "auto", token: str | None = None) -> AsyncIterator[Visitor]:
        """The SDK's client, in one of the eras, or over SSE."""
        if way == "sse":
            done = False
            try:
                async with Client(sse_client(f"{self.url}/sse", headers=bearer(token)), mode="legacy") as client:
                    yield Visitor(client)
                    done = True
            except* anyio.BrokenResourceError:  # the SDK's reader, when a notification arrives while it is closed
                assert done
            return
        mode: Mode = way
        async with self.http(token) as http:
            transport = streamable_http_client(f"{self.url}/mcp", http_client=http)
            async with Client(transport, mode=mode) as client:
                yield Visitor(client)

    async def started(self, client: httpx2.AsyncClient, workflow: str, **inputs: Any) -> str:
        """The id of a new run."""
        answer = await client.post("/api/v1/runs", json={"workflow": workflow, "inputs": inputs})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def ended(self, client: httpx2.AsyncClient, run_id: str) -> dict[str, Any]:
        """The run once nothing goes on in it."""
        answer = await client.get(f"/api/v1/runs/{run_id}", params={"wait_seconds": 45, "detail": "true"})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[SocketStream]:
        """A connection on which anything can be said."""
        port = int(self.url.rpartition(":")[2])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield stream


def bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"authorization": f"Bearer {token}"}


def refusal(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """The error of a refusal, which must have this status and code."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"code", "message", "hint", "data"}
    assert error["code"] == code
    assert "Traceback" not in answer.text
    return error


def request_of(method: str, **params: Any) -> dict[str, Any]:
    """A message of today's protocol, to be sent with `headers_of` it."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}


def headers_of(message: Mapping[str, Any]) -> dict[str, str]:
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": str(message["method"]),
    }
    name = message["params"].get("name")
    return headers if name is None else {**headers, "mcp-name": name}


def messages_of(text: str) -> list[dict[str, Any]]:
    """The data of a text of server-sent events."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@asynccontextmanager
async def serve_studio(
    path: Path,
    settings: HttpSettings | None = None,
    *,
    open_to: bool = True,
    limits: RequestLimits | None = None,
    look: Identify = identify,
) -> AsyncIterator[Served]:
    """open_to: whether a request without a credential is the user of this machine; look: what finds the caller."""
    chosen = settings or HttpSettings(heartbeat_s=15, grace_s=1)
    async with open_studio(path) as studio:
        clock = studio.core.clock
        tokens = Tokens(studio.store, ADA.project, clock)
        authority: Authority = AnyOf([tokens, OpenLoopback(ADA)]) if open_to else tokens
        rates = RateLimits(limits or RequestLimits(), clock.monotonic)
        app = build_app(studio.core, build_server(studio.core, look), authority, rates, chosen)
        with listen("127.0.0.1", 0) as bound:
            url = url_of(bound)
            ready = anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve_app, app, bound, chosen, ready.set)
                await ready.wait()
                try:
                    yield Served(studio, app, url, authority)
                finally:
                    app.ending.begin()
