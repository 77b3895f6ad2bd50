"""A loopback server that answers as the API of OpenAI does, from a list."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Api:
    """answers: messages, statuses to refuse with, or bytes to send as they are; requests, keys: what came."""

    def __init__(self, answers: Sequence[Any]) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.url = ""


def message(text: str | None = None, *calls: tuple[str, str, dict[str, Any]]) -> dict[str, Any]:
    """An answer with text or calls (id, name, arguments)."""
    made = [
        {"id": one, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for one, name, arguments in calls
    ]
    return {"role": "assistant", "content": text, **({"tool_calls": made} if made else {})}


@contextmanager
def serving(*answers: Any, echo_key: bool = False) -> Iterator[Api]:
    """The server, for the length of the block. echo_key: refusals repeat the key that was sent."""
    api = Api(answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.requests.append(body)
            api.keys.append(self.headers.get("Authorization", ""))
            answer = api.answers.pop(0)
            if isinstance(answer, int):
                told = f"refused {self.headers.get('Authorization')}" if echo_key else "refused"
                self._send(answer, "application/json", json.dumps({"error": {"message": told}}).encode())
                return
            if isinstance(answer, bytes):
                self._send(200, "application/json", answer)
                return
            if body.get("stream"):
                self._send(200, "text/event-stream", b"".join(_events(answer)))
                return
            whole = {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            }
            self._send(200, "application/json", json.dumps(whole).encode())

        def _send(self, status: int, kind: str, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    api.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _events(answer: dict[str, Any]) -> Iterator[bytes]:
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    for piece in str(answer["content"]).split(" "):
        choice = {"index": 0, "delta": {"role": "assistant", "content": f"{piece} "}, "finish_reason": None}
        yield b"data: " + json.dumps({**base, "choices": [choice]}).encode() + b"\n\n"
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    yield b"data: " + json.dumps({**base, "choices": [], "usage": usage}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
