"""A small project, and `omium` as a user starts it: a process of its own, in a pipe or at a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson
import psutil
from click.testing import CliRunner, Result

from omium.server.cli import cli

PROGRAM = "import sys; sys.argv[0] = {!r}; from omium.server.cli import main; main()"
PATIENCE_S = 60.0
HOSTILE = "bad\x1b[31m\x07name\u202e\x9b2J\ttab"

FUNCTIONS = """
import asyncio
from pathlib import Path


async def greet(name: str) -> dict:
    return {"text": f"hello {name}"}


async def shout(text: str) -> str:
    return text.upper()


async def until_file(path: str) -> str:
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    return Path(path).read_text()


async def boom() -> None:
    raise ValueError("it broke \\x1b[2J\\u202e here")
"""

PROJECT = """
project: greetings
database: data/omium.db
functions:
  greet: {ref: "steps:greet", host: async}
  shout: {ref: "steps:shout", host: async}
  until_file: {ref: "steps:until_file", host: async, timeout: 60s}
  boom: {ref: "steps:boom", host: async}
"""

WORKFLOWS = {
    "hello": """
name: hello
description: Greets somebody, loudly.
inputs: {type: object, properties: {name: {type: string}}, required: [name], additionalProperties: false}
outputs: {text: "${{ nodes.shout.output }}"}
nodes:
- {id: greet, kind: function, use: greet, with: {name: "${{ inputs.name }}"}}
- {id: shout, kind: function, use: shout, needs: [greet], with: {text: "${{ nodes.greet.output.text }}"}}
""",
    "asking": """
name: asking
nodes:
- {id: greet, kind: function, use: greet, with: {name: ada}}
- {id: ok, kind: approval, needs: [greet], approval: {prompt: "Publish ${{ nodes.greet.output.text }}?"}}
- {id: shout, kind: function, use: shout, needs: [ok], with: {text: "${{ nodes.greet.output.text }}"}}
""",
    "failing": """
name: failing
nodes:
- {id: boom, kind: function, use: boom}
- {id: after, kind: function, use: boom, needs: [boom]}
""",
    "patient": """
name: patient
inputs: {type: object, properties: {path: {type: string}}, required: [path]}
nodes:
- {id: wait, kind: function, use: until_file, with: {path: "${{ inputs.path }}"}}
- {id: shout, kind: function, use: shout, needs: [wait], with: {text: "${{ nodes.wait.output }}"}}
""",
}


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives, once that is true."""
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)
    return found


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code and what it printed. At a terminal both streams are in `out`."""

    code: int
    out: str
    err: str = ""

    @property
    def json(self) -> Any:
        return orjson.loads(self.out)


class Place:
    """A project in a directory, with a home and a database of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            "OMIUM_PROJECT": str(directory),
            "OMIUM_HOME": str(directory / "home"),
            "OMIUM_DATABASE": "",
            "NO_COLOR": "",
            "TERM": "xterm",
            "COLUMNS": "120",
        }

    @classmethod
    def make(cls, directory: Path) -> Self:
        (directory / "workflows").mkdir(parents=True)
        (directory / "steps.py").write_text(FUNCTIONS)
        (directory / "omium.yaml").write_text(PROJECT)
        for name, text in WORKFLOWS.items():
            (directory / "workflows" / f"{name}.yaml").write_text(text)
        return cls(directory)

    def start(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        called: str = "omium",
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[str]:
        """`omium ARGUMENTS` in a pipe, under the name `called`; the caller waits for it."""
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(called), *arguments],
            cwd=self.directory,
            env={**os.environ, **self.environment, **(env or {})},
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def omium(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run `omium ARGUMENTS` in a pipe to its end."""
        process = self.start(*arguments, env=env)
        out, err = process.communicate(timeout=PATIENCE_S)
        return Ended(process.returncode, out, err)

    def call(self, *arguments: str, given: str | None = None) -> Result:
        """The same within this process, which is quicker. Nobody is at a terminal; no background worker is started."""
        environment = {**self.environment, "OMIUM_DETACH": "false"}
        return CliRunner().invoke(cli, list(arguments), env=environment, prog_name="omium", input=given)

    def json(self, *arguments: str) -> Any:
        """The JSON that a command prints, which must succeed."""
        done = self.call(*arguments, "--json")
        assert done.exit_code == 0, f"{done.output}{done.exception!r}"
        return orjson.loads(done.stdout)

    def settled(self, run: str = "last") -> Any:
        """The run once it has ended, waits for a decision or is paused."""
        return self.json("show", run, "--wait", str(PATIENCE_S))

    def end_workers(self) -> None:
        """End whoever executes this project's runs in the background, also one that has hardly started."""
        mine = [process for process in psutil.process_iter() if self._belongs(process)]
        for process in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(mine, timeout=PATIENCE_S)

    def _belongs(self, process: psutil.Process) -> bool:
        try:
            home = process.environ().get("OMIUM_HOME")
        except psutil.Error:  # gone, or somebody else's
            return False
        return process.pid != os.getpid() and home == self.environment["OMIUM_HOME"]


class Terminal:
    """`omium ARGUMENTS` at a terminal, with somebody who reads and types."""

    def __init__(self, place: Place, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.out = ""
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            try:
                os.chdir(place.directory)
                argv = [sys.executable, "-c", PROGRAM.format("omium"), *arguments]
                os.execve(argv[0], argv, {**os.environ, **place.environment, **(env or {})})
            finally:
                os._exit(127)
        self._left = time.monotonic() + PATIENCE_S

    def until(self, text: str) -> None:
        """Read until this has appeared."""
        while text not in self.out:
            if not self._read():
                raise AssertionError(f"it ended without {text!r}: {self.out}")

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def end(self) -> Ended:
        """Read to the end."""
        while self._read():
            pass
        _, status = os.waitpid(self._pid, 0)
        os.close(self._fd)
        return Ended(os.waitstatus_to_exitcode(status), self.out.replace("\r\n", "\n"))

    def _read(self) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(0.0, self._left - time.monotonic()))
        if not ready:
            os.kill(self._pid, 9)
            raise AssertionError(f"it neither ended nor said more: {self.out}")
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:  # how Linux tells that the other side has closed
            return False
        self.out += data.decode("utf-8", "replace")
        return bool(data)


@contextmanager
def place(directory: Path) -> Iterator[Place]:
    """A project whose background workers end with the block."""
    made = Place.make(directory)
    try:
        yield made
    finally:
        made.end_workers()
