"""A Messages API on loopback whose answers follow from the conversation alone: many conversations at once, each of
which may be killed and gone on with."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.protocol.messages_api import events_of, message_of, serving

Blocks = list[dict[str, Any]]


class Talk:
    """A conversation as the model gets it. prompt: all that the user has said; turns: how often the model has answered;
    results: the texts of tool results, in order; system: everything else that it is told."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.body = body
        self.turns = sum(message["role"] == "assistant" for message in body["messages"])
        self.prompts: list[str] = []
        self.results: list[str] = []
        for message in body["messages"]:
            if message["role"] == "user":
                self._read(message["content"])

    def _read(self, content: Any) -> None:
        for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if block["type"] == "text" and not block["text"].startswith("<system-reminder>"):
                self.prompts.append(block["text"].strip())
            elif block["type"] == "tool_result":
                inner = block.get("content", "")
                parts = [{"text": inner}] if isinstance(inner, str) else inner
                self.results.append("\n".join(str(part.get("text", "")) for part in parts))

    @property
    def prompt(self) -> str:
        return self.prompts[-1] if self.prompts else ""

    @property
    def whole(self) -> str:
        return json.dumps(self.body)


class Failure:
    """An answer of the API that is an error."""

    def __init__(self, status: int, kind: str) -> None:
        self.status = status
        self.kind = kind


class Model:
    """url: where it listens; talks: every conversation that it was asked about; keys: the credentials that came."""

    def __init__(self, answer: Callable[[Talk], Blocks | Failure]) -> None:
        self._answer = answer
        self.url = ""
        self.talks: list[Talk] = []
        self.keys: set[str] = set()
        self._asked = anyio.Event()

    async def asked(self, times: int) -> None:
        """Wait until it was asked so often."""
        while len(self.talks) < times:
            self._asked = anyio.Event()
            await self._asked.wait()

    async def messages(self, request: Request) -> Response:
        body = await request.json()
        self.keys.add(request.headers.get("x-api-key", ""))
        blocks: Blocks | Failure = [text("ok")]
        if any(tool.get("name") in ("Bash", "Read") for tool in body.get("tools", ())):
            talk = Talk(body)
            self.talks.append(talk)
            self._asked.set()
            blocks = self._answer(talk)
        if isinstance(blocks, Failure):
            error = {"type": "error", "error": {"type": blocks.kind, "message": "scripted"}}
            return JSONResponse(error, status_code=blocks.status)
        if not body.get("stream"):
            return JSONResponse(message_of(blocks))
        return StreamingResponse(events_of(blocks), media_type="text/event-stream")


@asynccontextmanager
async def model(answer: Callable[[Talk], Blocks | Failure]) -> AsyncIterator[Model]:
    """The API, for the length of the block."""
    made = Model(answer)

    async def nothing(_: Request) -> Response:
        return JSONResponse({"input_tokens": 10})

    routes = [
        Route("/v1/messages", made.messages, methods=["POST"]),
        Route("/{rest:path}", nothing, methods=["GET", "POST", "HEAD"]),
    ]
    async with serving(Starlette(routes=routes)) as url:
        made.url = url
        yield made


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def bash(command: str, number: int = 1) -> dict[str, Any]:
    """A call of Bash; `number` makes its id another one."""
    arguments = {"command": command, "description": "a command"}
    return {"type": "tool_use", "id": f"toolu_{number:04}", "name": "Bash", "input": arguments}


def once(*steps: Blocks) -> Callable[[Talk], Blocks]:
    """One step after the other, by how often the model has answered; the last one is repeated."""
    return lambda talk: steps[min(talk.turns, len(steps) - 1)]
