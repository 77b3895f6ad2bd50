"""A model behind the Messages API on loopback that does what the test tells it, as far as Claude Code uses the API.

The test awaits `use(tool, arguments)` and gets the tool's result as the model would; `say(text)` ends the turn.
Requests that do not belong to the conversation (titles, summaries, quota probes) get a short text.
"""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class ScriptedModel:
    """`requests`: every body of the conversation, in order."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        self._steps = _Hand()
        self._results = _Hand()
        self._uses = 0

    async def use(self, tool: str, arguments: dict[str, Any]) -> str:
        """Call a tool, by the name that the client shows (`mcp__omium__run_workflow` for ours): its result's text."""
        self._uses += 1
        use = {"type": "tool_use", "id": f"toolu_{self._uses:04}", "name": tool, "input": arguments}
        await self._steps.give(use)
        return str(await self._results.take())

    async def say(self, text: str) -> None:
        """End the turn."""
        await self._steps.give(_text(text))

    def close(self) -> None:
        self._steps.close()
        self._results.close()

    async def messages(self, request: Request) -> Response:
        body = await request.json()
        tools = {str(tool.get("name")) for tool in body.get("tools", ())}
        block = _text("ok")
        if tools & {"Bash", "ToolSearch"}:
            self.requests.append(body)
            if self._results.awaited:
                await self._results.give(last_result(body))
            block = await self._steps.take()
        if not body.get("stream"):
            return JSONResponse(message_of([block]))
        return StreamingResponse(events_of([block]), media_type="text/event-stream")


class _Hand:
    """One thing at a time from one task to another."""

    def __init__(self) -> None:
        self._give, self._take = anyio.create_memory_object_stream[Any](0)

    @property
    def awaited(self) -> bool:
        return self._give.statistics().tasks_waiting_receive > 0

    async def give(self, thing: Any) -> None:
        await self._give.send(thing)

    async def take(self) -> Any:
        return await self._take.receive()

    def close(self) -> None:
        self._give.close()
        self._take.close()


def last_result(body: dict[str, Any]) -> str:
    """The text of the newest tool result in a conversation."""
    for message in reversed(body["messages"]):
        content = message["content"]
        for block in reversed(content if isinstance(content, list) else []):
            if block.get("type") == "tool_result":
                inner = block.get("content", "")
                if isinstance(inner, str):
                    return inner
                return "\n".join(str(part.get("text", part)) for part in inner)
    return ""


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def message_of(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    uses = any(block["type"] == "tool_use" for block in blocks)
    return {
        "id": f"msg_{uuid.uuid4().hex}",  # the client joins messages of one id
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": blocks,
        "stop_reason": "tool_use" if uses else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 10},
    }


async def events_of(blocks: list[dict[str, Any]]) -> AsyncIterator[bytes]:
    whole = message_of(blocks)
    started = {**whole, "content": [], "stop_reason": None}
    yield _event("message_start", message=started)
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            start, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield _event("content_block_start", index=index, content_block=start)
        yield _event("content_block_delta", index=index, delta=delta)
        yield _event("content_block_stop", index=index)
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=ended, usage={"output_tokens": 10})
    yield _event("message_stop")


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


@asynccontextmanager
async def scripted_model() -> AsyncIterator[ScriptedModel]:
    """The API at a free port of loopback, for the length of the block."""
    model = ScriptedModel()

    async def tokens(_: Request) -> Response:
        return JSONResponse({"input_tokens": 10})

    async def nothing(_: Request) -> Response:
        return JSONResponse({})

    routes = [
        Route("/v1/messages", model.messages, methods=["POST"]),
        Route("/v1/messages/count_tokens", tokens, methods=["POST"]),
        Route("/{rest:path}", nothing, methods=["GET", "POST", "HEAD"]),
    ]
    try:
        async with serving(Starlette(routes=routes)) as url:
            model.url = url
            yield model
    finally:
        model.close()


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """An ASGI application at a free port of loopback, for the length of the block: its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)

        async def serve() -> None:
            # To its own end, also when the test fails: what it left open would have the loop wait for ever.
            with anyio.CancelScope(shield=True):
                await server._serve([listening])  # `serve` would take the signals of the test's process

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            try:
                while not server.started:
                    await anyio.sleep(0.01)
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
