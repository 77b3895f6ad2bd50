"""An attempt that keeps what the port promises over restarts, with a gate that the test decides at; and the real
Claude Code."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from omium.clients.coding.executor import CodingExecutor
from omium.clients.coding.spec import CodingSpec
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId, new_id
from omium.orchestration.ports import Done
from omium.orchestration.ports_calls import Allowed, Call, Guidance, Reservation, Suspended
from omium.orchestration.values import Value, decode, encode
from tests import nodejs

Gate = Callable[[Call], Allowed | None]


def allow(call: Call) -> Allowed:
    return Allowed(call.arguments)


def deny(call: Call) -> Allowed:
    raise OmiumError("denied", f"{call.tool} is not allowed: the rule no-shell says so.", rule="no-shell", reason="")


@dataclass
class Held:
    spent: list[tuple[int, float | None, str | None]]

    async def settle(
        self, *, tokens: int = 0, usd: float | None = 0.0, calls: int = 1, model: str | None = None
    ) -> None:
        self.spent.append((tokens, usd, model))


@dataclass
class Node:
    """What outlives an attempt: the kept state as bytes, decisions by call, leases, and what was spent.

    gate: gives leave, raises a refusal, or None while a person has to decide."""

    directory: Path
    gate: Gate = allow
    budget: int = 1_000_000
    state: bytes | None = None
    decided: dict[str, tuple[bytes, Allowed]] = field(default_factory=dict)
    leases: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    spent: list[tuple[int, float | None, str | None]] = field(default_factory=list)
    progress: list[str] = field(default_factory=list)
    held: int = 0
    attempts: int = 0
    run_id: RunId = field(default_factory=lambda: RunId(new_id("run")))

    def attempt(self, *, resumed: bool = False, guidance: Guidance | None = None) -> TheAttempt:
        self.attempts += 1
        return TheAttempt(self, self.attempts, resumed, guidance or Guidance())

    @property
    def workspace(self) -> Path:
        return self.directory / "workspace"

    @property
    def kept(self) -> Any:
        return None if self.state is None else decode(self.state)


class TheAttempt:
    """See `ports.Attempt`."""

    def __init__(self, node: Node, number: int, resumed: bool, guidance: Guidance) -> None:
        self._node = node
        self.run_id = node.run_id
        self.node_id = NodeId("code")
        self.attempt = number
        self.generation = 1
        self.timeout_s = None
        self.workspace: Path | None = node.workspace
        self.scratch: Path | None = node.directory / f"scratch-{number}"
        self.guidance = guidance
        self.resumed = resumed
        node.workspace.mkdir(exist_ok=True)
        assert self.scratch is not None
        (self.scratch / "tmp").mkdir(parents=True, exist_ok=True)

    async def ask(self, kind: str, payload: Value) -> Value:
        assert kind == "progress" and isinstance(payload, dict)
        self._node.progress.append(str(payload["text"]))
        return None

    async def gate(self, call: Call) -> Allowed:
        bound = encode(call.arguments).data
        if (known := self._node.decided.get(call.key)) is not None:
            if known[0] != bound:
                raise OmiumError("denied", "leave under this key was given for other arguments.", reason="")
            return known[1]
        self._node.calls.append(call)
        allowed = self._node.gate(call)
        if allowed is None:
            raise Suspended
        self._node.decided[call.key] = bound, allowed
        return allowed

    async def reserve(self, what: str, *, tokens: int = 0, usd: float | None = 0.0) -> Reservation:
        if self._node.held + tokens > self._node.budget:
            raise OmiumError("budget_exceeded", f"{what}: nothing is left.", sent=False)
        self._node.held += tokens
        return Held(self._node.spent)

    async def keep(self, state: Value) -> None:
        self._node.state = encode(state).data

    async def kept(self) -> Value:
        return None if self._node.state is None else decode(self._node.state)

    @asynccontextmanager
    async def leased(self, name: str) -> AsyncIterator[None]:
        if name in self._node.leases:
            raise OmiumError("conflict", f"{name} is in use.")
        self._node.leases.add(name)
        try:
            yield
        finally:
            self._node.leases.discard(name)


def claude_spec(url: str, **more: Any) -> CodingSpec:
    """The real Claude Code, talking to `url`."""
    env = {"ANTHROPIC_BASE_URL": url, "CLAUDE_CODE_MAX_RETRIES": "1", **more.pop("env", {})}
    return CodingSpec("claude", "claude", str(nodejs.claude_code()), env=env, api_key_env="THE_KEY", **more)


def executor(spec: CodingSpec, home: Path, key: str = "key-of-the-operator") -> CodingExecutor:
    return CodingExecutor({spec.name: spec}, home, environment={**os.environ, "THE_KEY": key})


async def run(
    spec: CodingSpec, node: Node, inputs: Value, *, resumed: bool = False, guidance: Guidance | None = None
) -> Done:
    """One attempt of the node."""
    home = node.directory / "home"
    return await executor(spec, home).run(spec.name, inputs, node.attempt(resumed=resumed, guidance=guidance))  # type: ignore[arg-type]


def output(done: Done) -> Mapping[str, Any]:
    assert isinstance(done.output, dict)
    return done.output


def processes_of(node: Node) -> list[psutil.Process]:
    """Whatever still carries the run's marker."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("OMIUM_RUN_ID") == node.run_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def ended_at() -> float:
    return time.monotonic()
