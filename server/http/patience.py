"""How long a connection may keep us waiting: for the head of a request, and for room to write.

uvicorn waits for both without end: a client that sends a byte a minute, or that reads nothing, would hold a connection
and a buffer for as long as it likes.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol


class _Timer:
    """Drops the connection when it is not stopped in time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None

    def start(self, transport: asyncio.Transport) -> None:
        """Begin, unless it is running."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(self._seconds, transport.abort)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def http_protocol(head_s: float, stalled_s: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, for which the head of a request has to come within `head_s` seconds and a client that
    reads nothing for `stalled_s` is dropped."""

    class Protocol(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head = _Timer(head_s)
            self._stalled = _Timer(stalled_s)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head.start(transport)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # A head that has begun and not ended; between requests uvicorn has a time-out of its own.
            if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
                self._head.start(self.transport)
            else:
                self._head.stop()

        def handle_websocket_upgrade(self, event: h11.Request) -> None:
            self._head.stop()
            super().handle_websocket_upgrade(event)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled.start(self.transport)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stalled.stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head.stop()
            self._stalled.stop()
            super().connection_lost(exc)

    return Protocol


def websocket_protocol(stalled_s: float) -> type[asyncio.Protocol]:
    """uvicorn's WebSocket protocol, which drops a client that reads nothing for `stalled_s` seconds."""

    class Protocol(WebSocketsSansIOProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._stalled = _Timer(stalled_s)

        async def send(self, message: Any) -> None:
            await super().send(message)
            if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
                # A handshake that was refused is over as well; otherwise uvicorn logs an error for each.
                self.handshake_complete = True

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled.start(self.transport)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stalled.stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stalled.stop()
            super().connection_lost(exc)

    return Protocol
