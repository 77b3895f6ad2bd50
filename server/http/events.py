"""The events of a run: as pages, as server-sent events and over a WebSocket.

A feed reads the log from its reader's cursor, a page at a time, and reads on only when what it read was sent. So a slow
reader costs a page of memory and nothing else, and one that comes back goes on behind the last event that it has.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import anyio
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, is_id
from omium.orchestration.log.state import RUN_TERMINAL, RunStatus
from omium.orchestration.ports import RunRow
from omium.orchestration.service.views import Caller, EventView
from omium.orchestration.service.watching import watching
from omium.server.commands.wire import json_text, rfc3339
from omium.server.http import models as m
from omium.server.http.access import Again, again_of, caller_of
from omium.server.http.failures import PRIVATE, error_response
from omium.server.http.rest import Api, Call, Endpoint, read_query, shown

PAGE: Final = 200
PATH: Final = "/api/v1/runs/{run_id}/events"
_CURSOR: Final = re.compile(r"\A[0-9]{1,15}\Z")
_RESTARTS: Final = 1012  # what a WebSocket is closed with by a server that ends
_NOT_ALLOWED: Final = 1008


class Sink(Protocol):
    """Where a feed goes. Each of these returns when there is room for more."""

    async def event(self, event: EventView) -> None: ...

    async def heartbeat(self, seq: int, at: int) -> None:
        """seq: the reader's cursor; at: now, microseconds."""

    async def end(self, seq: int, status: str) -> None:
        """The run has ended and everything was sent."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A run's log for one reader, from behind `after`."""

    api: Api
    caller: Caller
    again: Again
    run_id: RunId
    after: int

    async def into(self, sink: Sink) -> None:
        """Send until the run has ended and all was sent. Raises `unauthenticated` or `forbidden` when the reader's
        credential is not good any more, which is looked at with every heartbeat."""
        core, after = self.api.core, self.after
        due = core.clock.monotonic() + self.api.heartbeat_s
        with watching(core.store, self.run_id) as watch:
            while True:
                row = await core.row(self.caller, self.run_id)
                page = await core.events(self.caller, self.run_id, after=after, limit=PAGE) if row.seq > after else []
                for event in page:
                    await sink.event(event)
                    after = event.seq
                if core.clock.monotonic() >= due:
                    await self.again.check()
                    await sink.heartbeat(after, core.clock.now_us())
                    due = core.clock.monotonic() + self.api.heartbeat_s
                if page:
                    continue
                if is_over(row, after):
                    await sink.end(after, row.status)
                    return
                with anyio.move_on_after(max(0.0, due - core.clock.monotonic())):
                    await watch.wait()


def is_over(row: RunRow, after: int) -> bool:
    """Whether nothing comes any more for a reader that has everything up to `after`."""
    return RunStatus(row.status) in RUN_TERMINAL and row.seq <= after


# --- pages and server-sent events ---------------------------------------------------------------------------------


async def get_events(call: Call) -> Response:
    if "text/event-stream" in call.request.headers.get("accept", ""):
        return await _feed(call)
    query: m.EventsQuery = call.query
    found = await call.api.core.events(call.caller, call.run_id, after=query.after, limit=query.limit)
    return shown(m.Events, {"events": found, "next": found[-1].seq if found else query.after})


async def _feed(call: Call) -> Response:
    """204 for a reader that comes back although nothing is left, which ends the attempts of an EventSource."""
    query: m.EventsQuery = call.query
    last = call.request.headers.get("last-event-id")
    if last is not None and not _CURSOR.match(last):
        raise OmiumError("invalid_argument", "Last-Event-ID is the position of an event: a whole number.")
    after = max(query.after, int(last)) if last is not None else query.after
    row = await call.api.core.row(call.caller, call.run_id)
    if last is not None and is_over(row, after):
        return Response(status_code=204)
    return ServerSentEvents(Feed(call.api, call.caller, again_of(call.request), call.run_id, after))


class ServerSentEvents(Response):
    """A feed as `text/event-stream`: each event with its position as id and itself as data, comments as heartbeats,
    and at last an event named `end`."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed) -> None:
        super().__init__(headers={"x-accel-buffering": "no", **PRIVATE})
        del self.headers["content-length"]
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._feed.api.limits.held(self._feed.caller.principal):
                await self._stream(scope, receive, send)
        except OmiumError as error:  # before anything was sent: what comes later is told in the stream
            await error_response(error)(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] != "HEAD":
            with self._feed.api.ending.until():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(_until_gone, receive, tasks.cancel_scope)
                    await self._send(send)
                    tasks.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send) -> None:
        try:
            await self._feed.into(_Lines(send))
        except OmiumError as error:
            await _Lines(send).named("error", error.as_dict())


async def _until_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


class _Lines:
    """A sink of `text/event-stream`. The text of a JSON value is one line, whatever is in it."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def event(self, event: EventView) -> None:
        await self._say(f"id: {event.seq}\ndata: {event_text(event)}\n\n")

    async def heartbeat(self, seq: int, at: int) -> None:
        await self._say(f": seq={seq} at={rfc3339(at)}\n\n")

    async def end(self, seq: int, status: str) -> None:
        await self.named("end", {"seq": seq, "status": status})

    async def named(self, name: str, data: Mapping[str, Any]) -> None:
        await self._say(f"event: {name}\ndata: {json_text(data, indent=None)}\n\n")

    async def _say(self, text: str) -> None:
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def event_text(event: EventView) -> str:
    """An event as one line of JSON."""
    return json_text(m.Event.model_validate(event).model_dump(mode="json"), indent=None)


# --- WebSocket ----------------------------------------------------------------------------------------------------


class _Messages:
    """A sink of WebSocket messages: `{"type": "event", "event"}`, `{"type": "heartbeat", "seq", "at"}` and
    `{"type": "end", "seq", "status"}`."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def event(self, event: EventView) -> None:
        await self._socket.send_text(f'{{"type": "event", "event": {event_text(event)}}}')

    async def heartbeat(self, seq: int, at: int) -> None:
        await self._say({"type": "heartbeat", "seq": seq, "at": rfc3339(at)})

    async def end(self, seq: int, status: str) -> None:
        await self._say({"type": "end", "seq": seq, "status": status})

    async def _say(self, message: Mapping[str, Any]) -> None:
        await self._socket.send_text(json_text(message, indent=None))


def websocket_feed(api: Api) -> Callable[[WebSocket], Awaitable[None]]:
    """The endpoint. What is refused is refused with an HTTP status, before there is a WebSocket."""

    async def serve(socket: WebSocket) -> None:
        caller = caller_of(socket)
        run_id = socket.path_params["run_id"]
        try:
            if not is_id(run_id, "run"):
                raise OmiumError("not_found", f"there is no run {run_id[:80]!r}.")
            query = read_query(socket, m.FeedQuery)
            await api.core.row(caller, RunId(run_id))
            async with api.limits.call(caller.principal, "read"):
                await socket.accept()
                await _feed_until_gone(socket, Feed(api, caller, again_of(socket), RunId(run_id), query.after))
        except OmiumError as error:
            await socket.send_denial_response(error_response(error))
        except (WebSocketDisconnect, OSError):
            return  # the reader has gone, and took nothing of ours along

    return serve


async def _feed_until_gone(socket: WebSocket, feed: Feed) -> None:
    code, reason = _RESTARTS, "this server is about to end"
    with feed.api.ending.until():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_left, socket, tasks.cancel_scope)
            try:
                await feed.into(_Messages(socket))
                code, reason = 1000, ""
            except OmiumError as error:
                code, reason = _NOT_ALLOWED, error.code
            tasks.cancel_scope.cancel()
    await socket.close(code, reason)


async def _until_left(socket: WebSocket, scope: anyio.CancelScope) -> None:
    """A reader has nothing to say: whatever it sends is read and dropped."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass
    scope.cancel()


# --- the table ----------------------------------------------------------------------------------------------------

EVENTS: Final = Endpoint(
    "GET", PATH, "read", get_events,
    "Events after a position; with `Accept: text/event-stream` the feed of them, from `Last-Event-ID` on.",
    m.Events, m.EventsQuery,
)  # fmt: skip


def websocket_route(api: Api) -> WebSocketRoute:
    return WebSocketRoute(f"{PATH}/ws", websocket_feed(api))
