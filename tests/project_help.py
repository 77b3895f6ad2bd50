"""A real project on disk for tests: functions of every host, a command, workflows, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from omium.orchestration.ids import Principal, RunId
from omium.orchestration.log.events import Event
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.config import Config, load_config

FUNCTIONS = '''
"""What the workflows of this project call."""

import asyncio
import os
import time
from pathlib import Path

MARKS = Path(__file__).with_name("marks")


def mark(text):
    with MARKS.open("a") as file:
        file.write(f"{text}\\n")


def double(n: int) -> int:
    mark(f"double {n}")
    return n * 2


async def add(a: int, b: int) -> int:
    mark(f"add {a} {b}")
    await asyncio.sleep(0)
    return a + b


def shout(text: str) -> str:
    mark(f"shout {text}")
    return text.upper()


def step(name: str, seconds: float = 0.0, before=None):
    mark(f"begin {name} {os.getpid()}")
    time.sleep(seconds)
    mark(f"end {name}")
    return name


async def astep(name: str, seconds: float = 0.0, before=None):
    mark(f"begin {name} {os.getpid()}")
    await asyncio.sleep(seconds)
    mark(f"end {name}")
    return name


async def change(state: dict) -> dict:
    state["items"].append(state["items"][-1] + 1)
    return state


def once(ctx, key: str) -> str:
    return ctx.effect(key, lambda: (mark(f"effect {key}"), ctx.node_id)[1])


class Missing(FileNotFoundError):
    pass


def fail(kind: str, message: str):
    from omium.orchestration.errors import OmiumError

    if kind == "ours":
        raise OmiumError("rate_limited", message)
    raise {"missing": Missing, "plain": Exception}[kind](message)
'''

COMMAND = """
import json, sys, time
given = json.load(sys.stdin)
print("working", flush=True)
open(given["marks"], "a").write(f"begin command {given['name']}\\n")
time.sleep(given.get("seconds", 0))
open(given["marks"], "a").write(f"end command {given['name']}\\n")
print(json.dumps({"hello": given["name"]}))
"""

PROJECT = """
project: demo
database: db/omium.db
functions:
  double: work:double
  step: {ref: "work:step", timeout: 60s}
  add: {ref: "work:add", host: async, input: {type: object, required: [a, b]}, output: {type: integer}}
  astep: {ref: "work:astep", host: async}
  change: {ref: "work:change", host: async}
  shout: {ref: "work:shout", host: thread}
  once: work:once
  careful: {ref: "work:step", on_unknown: ask}
  fail: work:fail
  fail_in_thread: {ref: "work:fail", host: thread}
commands:
  greet: {argv: ["{python}", "{project}/greet.py"], cwd: project}
  greet_again: {argv: ["{python}", "{project}/greet.py"], cwd: project, on_unknown: rerun}
limits: {processes: 3}
"""


def node(id: str, use: str, needs: str | None = None, kind: str = "function", **more: Any) -> dict[str, Any]:
    """A node of a workflow as in a file; `with` is given as `with_`."""
    given = {"with" if name == "with_" else name: value for name, value in more.items()}
    return {"id": id, "kind": kind, "use": use, **({"needs": needs} if needs else {}), **given}


def write_project(directory: Path, workflows: Mapping[str, list[dict[str, Any]]], project: str = PROJECT) -> Path:
    """A project with these workflows, each a list of nodes; its `omium.yaml`."""
    import json

    (directory / "workflows").mkdir(parents=True, exist_ok=True)
    (directory / "work.py").write_text(FUNCTIONS)
    (directory / "greet.py").write_text(COMMAND)
    (directory / "omium.yaml").write_text(project)
    for name, nodes in workflows.items():
        (directory / "workflows" / f"{name}.json").write_text(json.dumps({"name": name, "nodes": nodes}))
    return directory / "omium.yaml"


def environment(directory: Path) -> dict[str, str]:
    """The variables with which a process uses this project and a home of its own."""
    return {"OMIUM_PROJECT": str(directory), "OMIUM_HOME": str(directory / "home")}


def config_of(directory: Path) -> Config:
    return load_config(environ=environment(directory))


def caller(config: Config) -> Caller:
    return Caller(Principal("user:test"), config.project.id)


def marks(directory: Path) -> list[str]:
    """What the functions have noted, in order."""
    path = directory / "marks"
    return path.read_text().splitlines() if path.exists() else []


async def until_marked(directory: Path, start: str) -> str:
    """The first mark that begins so."""
    while True:
        for one in marks(directory):
            if one.startswith(start):
                return one
        await anyio.sleep(0.02)


async def all_events(core: Core, run_id: RunId) -> list[Event]:
    return await core.store.events(run_id, limit=10_000)


def types_of(events: list[Event]) -> list[str]:
    return [str(event.type.value) for event in events]


@contextmanager
def worker(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process on the project; killed at the end if it still lives."""
    with (directory / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "omium.server.worker", *arguments],
            env={**os.environ, **environment(directory)},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()


async def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process, once it has ended."""
    while (code := process.poll()) is None:
        await anyio.sleep(0.02)
    return code
