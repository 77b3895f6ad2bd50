"""Streamable HTTP and SSE: the SDK's transports over an HTTP client that reads within bounds and answers for failures.

A request that fails below the protocol fails alone: the SDK's transport would take the whole connection down with it.
So failures become JSON-RPC errors of their request, which also say whether it went out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urlsplit

import httpx2
import orjson
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from omium.clients.external.link import BROKEN, NOT_SENT, REFUSED, Link, Streams
from omium.clients.external.spec import ServerSpec

_READ_S: Final = 300.0  # of a stream on which nothing comes; a call has its own time limit
_CONNECT_S: Final = 10.0
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)


class HttpLink(Link):
    """A server behind a URL. `headers` hold its credentials already."""

    def __init__(self, spec: ServerSpec, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._spec = spec
        self._headers = dict(headers)
        self._last = ""

    def trouble(self) -> str:
        return self._last

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[Streams]:
        spec = self._spec
        if spec.transport == "sse":
            async with sse_client(spec.url, httpx_client_factory=self._made) as streams:
                yield streams
            return
        async with (
            self._made() as client,
            streamable_http_client(spec.url, http_client=client, max_sse_event_size=spec.output.message) as both,
        ):
            yield both

    def _made(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        """An HTTP client of this server's own: no proxies, netrc or certificates out of the environment, no cookies or
        redirects to other places, and nothing compressed, so that sizes are what they seem."""
        del headers, auth
        bounded = _Bounded(self._spec, self._note)
        return httpx2.AsyncClient(
            headers={**self._headers, "accept-encoding": "identity"},
            timeout=timeout or httpx2.Timeout(_CONNECT_S, read=_READ_S),
            transport=bounded,
            trust_env=False,
            follow_redirects=False,
        )

    def _note(self, trouble: str) -> None:
        self._last = self.shown(trouble)


class _Bounded(httpx2.AsyncBaseTransport):
    """The network, with bounds."""

    def __init__(self, spec: ServerSpec, note: Callable[[str], None]) -> None:
        self._spec = spec
        self._limit = spec.output.message
        self._note = note
        self._network = httpx2.AsyncHTTPTransport(retries=0, trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._network.handle_async_request(request)
        except _NOT_SENT as error:
            return self._failed(request, NOT_SENT, f"cannot connect to {_place(request.url)}: {error}", error)
        except httpx2.TransportError as error:
            return self._failed(request, BROKEN, f"the connection broke: {type(error).__name__} {error}", error)
        kind = response.headers.get("content-type", "").lower()
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            await response.aclose()
            return self._failed(request, BROKEN, "the answer is compressed, which was not asked for", None)
        if response.status_code >= 400 and response.status_code != 404 and not kind.startswith("application/json"):
            await response.aclose()
            told = f"HTTP {response.status_code} {httpx2.codes.get_reason_phrase(response.status_code)}"
            # Only these say that nothing was done; a gateway's 502 or 504 may come behind a call that was made.
            code = REFUSED if response.status_code in (400, 401, 403, 405, 429, 503) else BROKEN
            return self._failed(request, code, told, None)
        if kind.startswith("text/event-stream"):
            return response  # bounded event by event
        length = response.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limit:
            await response.aclose()
            return self._failed(request, BROKEN, f"the answer has {length} bytes", None)
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Counted(response.stream, self._limit)
        return response

    def _failed(self, request: httpx2.Request, code: int, told: str, error: Exception | None) -> httpx2.Response:
        self._note(told)
        if request.method != "POST" or self._spec.transport == "sse":
            if error is not None:
                raise error
            return httpx2.Response(502, request=request)
        body = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": told}}
        return httpx2.Response(
            400, headers={"content-type": "application/json"}, content=orjson.dumps(body), request=request
        )

    async def aclose(self) -> None:
        await self._network.aclose()


class _Counted(httpx2.AsyncByteStream):
    """A body that ends with an error where it gets too long."""

    def __init__(self, inner: httpx2.AsyncByteStream, limit: int) -> None:
        self._inner = inner
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for chunk in self._inner:
            read += len(chunk)
            if read > self._limit:
                raise httpx2.StreamError(f"the answer has more than {self._limit} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def _place(url: httpx2.URL) -> str:
    return f"{url.scheme}://{url.host}" + (f":{url.port}" if url.port else "")


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine, by its text."""
    host = (urlsplit(url).hostname or "").lower()
    return host in ("localhost", "::1") or host.startswith("127.")
