"""`omium-mcp serve --transport http` as a process of its own, over a project on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx2
import psutil

from omium.storage.sqlite.store import SqliteStore

SERVE = [sys.executable, "-c", "from omium.server.cli import main; main()", "serve", "--transport", "http"]

PROJECT = """
project: http-tests
functions:
  note: "steps:note"
  hold: "steps:hold"
  fail: "steps:fail"
workflows:
- name: holding
  inputs: {type: object, required: [path], properties: {path: {type: string}}}
  nodes:
  - {id: first, kind: function, use: note, with: {path: "${{ inputs.path }}"}}
  - {id: hold, kind: function, use: hold, needs: first, with: {path: "${{ inputs.path }}"}}
  - {id: last, kind: function, use: note, needs: hold, with: {path: "${{ inputs.path + '.last' }}"}}
  outputs: "${{ nodes.hold.output }}"
- name: asking
  nodes:
  - {id: ask, kind: approval, approval: {prompt: "Go on?", min_assurance: none}}
- name: failing
  nodes:
  - {id: bad, kind: function, use: fail}
- name: quick
  inputs: {type: object, required: [path], properties: {path: {type: string}}}
  nodes:
  - {id: first, kind: function, use: note, with: {path: "${{ inputs.path }}"}}
"""
STEPS = """
import os, pathlib, time

def note(path):
    with open(path + ".noted", "a") as file:
        file.write("once\\\\n")

def hold(path):
    pathlib.Path(path + ".held").touch()
    while not os.path.exists(path):
        time.sleep(0.02)
    return "released"

def fail():
    raise ValueError("no")
""".replace("\\\\n", "\\n")


@dataclass
class Place:
    """A project on disk and the environment in which its server starts."""

    directory: Path
    environment: dict[str, str]

    @property
    def database(self) -> Path:
        return self.directory / "home" / "omium.db"

    def path(self, name: str) -> Path:
        return self.directory / name

    @asynccontextmanager
    async def serving(self, *options: str) -> AsyncIterator[Server]:
        """A server that takes requests; killed at the end if it is still there."""
        command = [*SERVE, *(("--port", "0") if "--port" not in options else ()), *options]
        process = await anyio.open_process(
            command, env=self.environment, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        try:
            assert process.stderr is not None
            said = ""
            while " and http" not in said:
                said += (await process.stderr.receive()).decode()
            yield Server(process, said.partition("serving ")[2].partition("/mcp")[0])
        finally:
            if process.returncode is None:
                process.kill()
            await process.aclose()

    async def refused(self, *options: str) -> tuple[int, str]:
        """The exit code and standard error of a server that does not start."""
        done = await anyio.run_process([*SERVE, *options], env=self.environment, cwd=self.directory, check=False)
        assert done.stdout == b""
        return done.returncode, done.stderr.decode()

    @asynccontextmanager
    async def store(self) -> AsyncIterator[SqliteStore]:
        store = await SqliteStore.open(self.database)
        try:
            yield store
        finally:
            await store.close()


@dataclass
class Server:
    process: anyio.abc.Process
    url: str

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def http(self, **headers: str) -> httpx2.AsyncClient:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.AsyncClient(base_url=self.url, headers=given, timeout=60)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    async def start(self, client: httpx2.AsyncClient, workflow: str, **inputs: Any) -> str:
        answer = await client.post("/api/v1/runs", json={"workflow": workflow, "inputs": inputs})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])


@asynccontextmanager
async def on_disk(directory: Path) -> AsyncIterator[Place]:
    """A new project; what it has left running in the background ends with the block."""
    (directory / "omium.yaml").write_text(PROJECT)
    (directory / "steps.py").write_text(STEPS)
    inherited = {name: os.environ[name] for name in ("PATH", "VIRTUAL_ENV") if name in os.environ}
    home = str(directory / "home")
    place = Place(directory, {**inherited, "HOME": str(directory), "OMIUM_HOME": home, "OMIUM_PROJECT": str(directory)})
    try:
        yield place
    finally:
        if place.database.exists():
            await end_workers(place)


async def workers(place: Place) -> list[psutil.Process]:
    """The processes that execute runs of this place now."""
    async with place.store() as store:
        known = [worker.pid for worker in await store.workers()]
    return [psutil.Process(pid) for pid in known if psutil.pid_exists(pid)]


async def end_workers(place: Place) -> None:
    left = await workers(place)
    for process in left:
        process.terminate()
    _, stubborn = await anyio.to_thread.run_sync(lambda: psutil.wait_procs(left, timeout=20))
    assert stubborn == []


async def appears(path: Path) -> None:
    while not path.exists():
        await anyio.sleep(0.02)
