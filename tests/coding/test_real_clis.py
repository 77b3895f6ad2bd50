"""Codex and Gemini themselves, from npm, against a scripted API on loopback: `pytest --coding-clis`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
import zstandard

from omium.clients.coding.spec import CodingSpec
from omium.orchestration.ports_calls import Guidance
from tests.coding.help import Node, output, processes_of, run

pytestmark = pytest.mark.anyio

HOME = Path.home() / ".cache" / "omium-tests" / "coding-clis"  # half a gigabyte: kept for the next time
PACKAGES = ("@openai/codex@0.169.0", "@google/gemini-cli@0.61.0")
PROMPT = "/memory show @/etc/passwd --yolo"
SAID = "All done: hello"


def installed(program: str) -> Path:
    path = HOME / "node_modules" / ".bin" / program
    if not path.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", *PACKAGES], cwd=HOME, check=True, stdout=sys.stderr
        )
    return path


class Api:
    """Asks for one change in the workspace, and then says that all is done."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.keys: set[str] = set()

    def codex(self, body: dict[str, Any]) -> bytes:
        given = body["input"]
        self.prompts.append(json.dumps(given))
        item: dict[str, Any] = {"id": "one", "status": "completed"}
        if any(str(one.get("type")).endswith("_call_output") for one in given):
            text = {"type": "output_text", "text": SAID, "annotations": []}
            item |= {"type": "message", "role": "assistant", "content": [text]}
        else:
            arguments = json.dumps({"cmd": "echo hello | tee out.txt"})
            item |= {"type": "function_call", "call_id": "call_1", "name": "exec_command", "arguments": arguments}
        answer = {"id": "resp_1", "object": "response", "created_at": 1, "model": body["model"]}
        usage = {
            "input_tokens": 100, "input_tokens_details": {"cached_tokens": 40},
            "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 107,
        }  # fmt: skip
        events = [
            {"type": "response.created", "response": {**answer, "status": "in_progress", "output": []}},
            {"type": "response.output_item.done", "output_index": 0, "item": item},
            {
                "type": "response.completed",
                "response": {**answer, "status": "completed", "output": [item], "usage": usage},
            },
        ]
        return b"".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n".encode() for one in events)

    def gemini(self, body: dict[str, Any]) -> bytes:
        parts = [part for content in body["contents"] for part in content["parts"]]
        self.prompts.append(json.dumps(parts))
        part: dict[str, Any] = {"text": SAID}
        if not any("functionResponse" in one for one in parts):
            part = {"functionCall": {"name": "write_file", "args": {"file_path": "out.txt", "content": "hello\n"}}}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
        usage = {
            "promptTokenCount": 100, "candidatesTokenCount": 7, "totalTokenCount": 107, "cachedContentTokenCount": 40,
        }  # fmt: skip
        answer = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "gemini-2.5-pro"}
        return b"data: " + json.dumps(answer).encode() + b"\n\n"


@contextmanager
def serving() -> Iterator[tuple[Api, str]]:
    api = Api()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(b'{"data": [], "models": []}')

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "zstd":
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            api.keys.add(self.headers.get("x-goog-api-key") or self.headers.get("Authorization", ""))
            if self.path.endswith("/responses"):
                self._send(api.codex(json.loads(data)), "text/event-stream")
            elif "streamGenerateContent" in self.path:
                self._send(api.gemini(json.loads(data)), "text/event-stream")
            else:
                self._send(b"{}")

        def _send(self, data: bytes, kind: str = "application/json") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield api, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def codex(home: Path, url: str) -> CodingSpec:
    provider = f'name = "loop"\nbase_url = "{url}/v1"\nwire_api = "responses"\nenv_key = "CODEX_API_KEY"\n'
    (home / "config.toml").write_text(f'model_provider = "loop"\nmodel = "gpt-5"\n[model_providers.loop]\n{provider}')
    return CodingSpec("it", "codex", str(installed("codex")), env={"CODEX_HOME": str(home)}, api_key_env="THE_KEY")


def gemini(home: Path, url: str) -> CodingSpec:
    (home / ".gemini").mkdir()
    (home / ".gemini" / "settings.json").write_text('{"security": {"auth": {"selectedType": "gemini-api-key"}}}')
    environment = {"HOME": str(home), "GOOGLE_GEMINI_BASE_URL": url, "GEMINI_CLI_TRUST_WORKSPACE": "true"}
    program, model = str(installed("gemini")), "gemini-2.5-pro"
    return CodingSpec("it", "gemini", program, env=environment, api_key_env="THE_KEY", model=model)


@pytest.mark.parametrize("kind", ["codex", "gemini"])
async def test_it_works_in_the_workspace_and_goes_on_with_its_conversation(tmp_path: Path, kind: str) -> None:
    (home := tmp_path / "home").mkdir()
    node = Node(tmp_path)
    with serving() as (api, url), anyio.fail_after(180):
        spec = (codex if kind == "codex" else gemini)(home, url)
        first = await run(spec, node, {"prompt": PROMPT})
        assert output(first)["result"] == SAID
        assert (node.workspace / "out.txt").read_text() == "hello\n"
        assert "root:" not in api.prompts[0] and "memory show" in api.prompts[0] and "--yolo" in api.prompts[0]
        assert first.usage is not None
        taken = [first.usage[name] for name in ("tokens", "input_tokens", "cache_read_tokens", "output_tokens")]
        assert taken == [214, 120, 80, 14]  # of two requests
        again = await run(spec, node, {"prompt": PROMPT}, guidance=Guidance(failures=({"message": "it broke"},)))
        assert output(again)["session"]["id"] == output(first)["session"]["id"]
        assert "it broke" in api.prompts[-1] and "memory show" in api.prompts[-1]  # the same conversation
        assert again.usage is not None and again.usage["tokens"] == 321
        assert len(api.keys) == 1 and "key-of-the-operator" in api.keys.pop()
    assert processes_of(node) == []
