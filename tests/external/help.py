"""Servers that tests start, and an attempt that implements the port without an engine."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import orjson

from omium.clients.external.pins import PinBook
from omium.clients.external.pool import ServerPool
from omium.clients.external.spec import Retries, ServerSpec
from omium.clients.external.tools import ExternalTools
from omium.orchestration.ids import ProjectId
from omium.orchestration.ports import Attempt, Clock, Store, SystemClock
from omium.orchestration.ports_calls import Allowed, Call
from omium.orchestration.values import Value
from omium.storage.open import open_store

SERVERS = Path(__file__).parent / "servers"
QUICK = Retries(3, 0.01, 0.02)
P = ProjectId("p")


def stdio(name: str, script: str = "good", *arguments: str, **options: Any) -> ServerSpec:
    """A server of `servers/`, started as a process."""
    given: dict[str, Any] = {"cwd": SERVERS, "retries": QUICK, "backoff_s": 0.01, **options}
    return ServerSpec(name, "stdio", (sys.executable, str(SERVERS / f"{script}.py"), *arguments), **given)


@dataclass
class Gate:
    """Stands for the engine: allows as `terms` say, keeps the ledger of one generation."""

    terms: Allowed = field(default_factory=lambda: Allowed(arguments=None))
    calls: list[Call] = field(default_factory=list)
    ledger: dict[str, Value] = field(default_factory=dict)
    change: Callable[[Value], Value] | None = None  # what a person makes of the arguments

    async def call(self, call: Call, action: Callable[[Allowed], Awaitable[Value]], *, kind: str) -> Value:
        assert kind == "tool"
        digest = hashlib.sha256(orjson.dumps([call.key, call.arguments], option=orjson.OPT_SORT_KEYS)).hexdigest()
        if digest in self.ledger:
            return self.ledger[digest]
        self.calls.append(call)
        arguments = self.change(call.arguments) if self.change is not None else call.arguments
        self.ledger[digest] = await action(replace(self.terms, arguments=arguments, idempotency_key=digest))
        return self.ledger[digest]

    @property
    def attempt(self) -> Attempt:
        return cast(Attempt, self)


@dataclass
class World:
    tools: ExternalTools
    pool: ServerPool
    book: PinBook
    store: Store
    gate: Gate

    async def call(self, name: str, key: str | None = None, /, **arguments: Any) -> Any:
        chosen = key or f"k{len(self.gate.calls)}"
        return await self.tools.call(name, arguments, self.gate.attempt, key=chosen)


@asynccontextmanager
async def world(
    store: Store, *specs: ServerSpec, environ: Mapping[str, str] | None = None, clock: Clock | None = None
) -> AsyncIterator[World]:
    """External tools over these servers, without an engine."""
    time = clock or SystemClock()
    book = PinBook(store, P, time)
    async with ServerPool({one.name: one for one in specs}, time, environ) as pool:
        yield World(ExternalTools(pool, book), pool, book, store, Gate())


def database(directory: Path) -> AbstractAsyncContextManager[Store]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        store = await open_store(str(directory / "omium.db"))
        try:
            yield store
        finally:
            await store.close()

    return opened()


@contextmanager
def served(script: str, *arguments: str, port: int | None = None) -> Iterator[tuple[int, Path]]:
    """A server of `servers/` on a port of this machine, a free one unless given: (port, what it wrote)."""
    if port is None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        written = Path(directory) / "out"
        command = [sys.executable, str(SERVERS / f"{script}.py"), *arguments, str(port)]
        with written.open("wb") as out, subprocess.Popen(command, stdout=out) as process:
            try:
                end = time.monotonic() + 60
                while time.monotonic() < end:
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                        break
                    time.sleep(0.02)
                yield port, written
            finally:
                process.kill()


def http(name: str, port: int, path: str = "mcp", **options: Any) -> ServerSpec:
    given: dict[str, Any] = {"transport": "http", "retries": QUICK, "backoff_s": 0.01, **options}
    return ServerSpec(name, url=f"http://127.0.0.1:{port}/{path}", **given)
