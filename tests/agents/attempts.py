"""An attempt that a test holds in its hand: the ledger, questions, kept state and budgets of one node, in memory.

A `Ledger` outlives the attempts on it, as a database outlives workers; `Ledger.attempt()` is the next attempt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, NodeId, RunId
from omium.orchestration.ports_calls import Allowed, Call, Decided, Guidance, Suspended
from omium.orchestration.values import Value, decode, encode


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@dataclass
class Effect:
    kind: str
    outcome: str | None = None
    result: bytes | None = None
    detail: Mapping[str, Any] | None = None


@dataclass
class Ledger:
    """What is durable. deny and ask: tools that policy refuses, or has a person decide about; answers: what people
    decided, by key; tokens: a budget, None without one."""

    effects: dict[str, Effect] = field(default_factory=dict)
    kept: bytes | None = None
    asked: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    answers: dict[str, Decided] = field(default_factory=dict)
    deny: set[str] = field(default_factory=set)
    ask: set[str] = field(default_factory=set)
    tokens: int | None = None
    settled: list[tuple[int, float | None]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    progress: list[str] = field(default_factory=list)
    leases: set[str] = field(default_factory=set)
    die_in: str | None = None  # the tool in whose middle the process ends
    die_after_keeps: int | None = None
    keeps: int = 0
    count: int = 0

    def attempt(self, **about: Any) -> LedgerAttempt:
        self.count += 1
        return LedgerAttempt(self, self.count, **about)

    def answer(self, decision: str, feedback: str | None = None) -> None:
        """A person answers everything that is asked."""
        for key in self.asked:
            self.answers.setdefault(key, Decided(decision, feedback, ApprovalId("apr_test")))

    def written(self) -> bytes:
        """Everything that left the process, to look for what must not be in it."""
        return b"\n".join(
            [
                *(repr(effect).encode() for effect in self.effects.values()),
                self.kept or b"",
                repr(self.asked).encode(),
                repr(self.calls).encode(),
                "\n".join(self.progress).encode(),
            ]
        )


class LedgerAttempt:
    """See `ports.Attempt`."""

    def __init__(
        self,
        ledger: Ledger,
        number: int,
        *,
        resumed: bool = False,
        failures: Sequence[Mapping[str, Any]] = (),
        feedback: Sequence[str] = (),
    ) -> None:
        self._ledger = ledger
        self.run_id = RunId("run_test")
        self.node_id = NodeId("node")
        self.attempt = number
        self.generation = 0
        self.timeout_s: float | None = None
        self.workspace: Path | None = None
        self.scratch: Path | None = None
        self.guidance = Guidance(tuple(failures), tuple(feedback))
        self.resumed = resumed

    async def ask(self, kind: str, payload: Value) -> Value:
        if kind == "progress":
            assert isinstance(payload, dict)
            self._ledger.progress.append(str(payload["text"]))
        return None

    async def effect(
        self,
        call: str,
        action: Callable[[], Awaitable[Value]],
        *,
        kind: str,
        on_unknown: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Value:
        known = self._ledger.effects.get(call)
        if known is not None and known.outcome == "done" and known.result is not None:
            return decode(known.result)
        effect = self._ledger.effects[call] = Effect(kind, detail=detail)
        try:
            result = await action()
        except Exception:
            effect.outcome = "failed"
            raise
        effect.outcome, effect.result = "done", encode(result).data
        return result

    async def call(self, call: Call, action: Callable[[Allowed], Awaitable[Value]], *, kind: str) -> Value:
        known = self._ledger.effects.get(call.key)
        if known is not None and known.outcome == "done" and known.result is not None:
            return decode(known.result)
        allowed = await self.gate(call)

        async def made() -> Value:
            result = await action(allowed)
            if self._ledger.die_in == call.tool:
                raise Killed
            return result

        return await self.effect(call.key, made, kind=kind)

    async def gate(self, call: Call) -> Allowed:
        self._ledger.calls.append(call)
        if call.tool in self._ledger.deny:
            raise OmiumError("denied", f"{call.tool} is not allowed.", rule="test", reason="the test says so")
        if call.tool in self._ledger.ask:
            decided = self._decided(f"call:{call.key}", f"call {call.tool}?", ("approve", "reject"))
            if decided.decision != "approve":
                raise OmiumError("denied", f"{call.tool} was refused.", reason="a person refused it")
        return Allowed(call.arguments)

    def _decided(self, key: str, question: str, options: Sequence[str]) -> Decided:
        self._ledger.asked.setdefault(key, (question, tuple(options)))
        decided = self._ledger.answers.get(key)
        if decided is None:
            raise Suspended
        return decided

    async def decide(
        self,
        question: str,
        options: Sequence[str],
        *,
        key: str,
        details: Mapping[str, Any] | None = None,
        expires_s: float = 86_400.0,
        min_assurance: str = "elicited",
    ) -> Decided:
        return self._decided(key, question, options)

    async def reserve(self, what: str, *, tokens: int = 0, usd: float | None = 0.0) -> Reserved:
        if self._ledger.tokens is not None and self._ledger.tokens <= 0:
            raise OmiumError("budget_exceeded", "nothing is left.")
        return Reserved(self._ledger)

    async def keep(self, state: Value) -> None:
        self._ledger.kept = encode(state).data
        self._ledger.keeps += 1
        if self._ledger.keeps == self._ledger.die_after_keeps:
            raise Killed

    async def kept(self) -> Value:
        return None if self._ledger.kept is None else decode(self._ledger.kept)

    @asynccontextmanager
    async def leased(self, name: str) -> AsyncIterator[None]:
        if name in self._ledger.leases:
            raise OmiumError("conflict", f"{name} is in use.")
        self._ledger.leases.add(name)
        try:
            yield
        finally:
            self._ledger.leases.discard(name)


class Reserved:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def settle(
        self, *, tokens: int = 0, usd: float | None = 0.0, calls: int = 1, model: str | None = None
    ) -> None:
        self._ledger.settled.append((tokens, usd))
        if self._ledger.tokens is not None:
            self._ledger.tokens -= tokens


def kept_state(ledger: Ledger) -> Any:
    """What is kept, to look into or to change."""
    assert ledger.kept is not None
    return decode(ledger.kept)


def put_state(ledger: Ledger, state: Any) -> None:
    ledger.kept = encode(orjson.loads(orjson.dumps(state))).data
