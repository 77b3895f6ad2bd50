"""An attempt as a part of its work sees it: the same, with names of its own in the ledger."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from omium.orchestration.ports import Attempt
from omium.orchestration.ports_calls import Allowed, Call, Decided, Reservation
from omium.orchestration.values import Value


class ScopedAttempt:
    """A view of an attempt under a prefix: two parts of one attempt never share a call, a question or a kept state.

    What a part keeps lies in `states`, which whoever divides the work saves as a whole through `save`.
    """

    def __init__(
        self,
        attempt: Attempt,
        prefix: str,
        *,
        states: dict[str, Value] | None = None,
        save: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._attempt = attempt
        self._prefix = prefix
        self._states = states
        self._save = save
        self.run_id = attempt.run_id
        self.node_id = attempt.node_id
        self.attempt = attempt.attempt
        self.generation = attempt.generation
        self.timeout_s = attempt.timeout_s
        self.workspace = attempt.workspace
        self.scratch = attempt.scratch
        self.guidance = attempt.guidance
        self.resumed = attempt.resumed

    def _named(self, key: str) -> str:
        return f"{self._prefix}{key}"

    async def ask(self, kind: str, payload: Value) -> Value:
        if kind in ("effect_intent", "effect_settle") and isinstance(payload, dict):
            payload = {**payload, "key": self._named(str(payload["key"]))}
        return await self._attempt.ask(kind, payload)

    async def effect(
        self,
        call: str,
        action: Callable[[], Awaitable[Value]],
        *,
        kind: str,
        on_unknown: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Value:
        return await self._attempt.effect(self._named(call), action, kind=kind, on_unknown=on_unknown, detail=detail)

    async def call(self, call: Call, action: Callable[[Allowed], Awaitable[Value]], *, kind: str) -> Value:
        return await self._attempt.call(replace(call, key=self._named(call.key)), action, kind=kind)

    async def gate(self, call: Call) -> Allowed:
        return await self._attempt.gate(replace(call, key=self._named(call.key)))

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
        return await self._attempt.decide(
            question,
            options,
            key=self._named(key),
            details=details,
            expires_s=expires_s,
            min_assurance=min_assurance,
        )

    async def reserve(self, what: str, *, tokens: int = 0, usd: float | None = 0.0) -> Reservation:
        return await self._attempt.reserve(what, tokens=tokens, usd=usd)

    async def keep(self, state: Value) -> None:
        if self._states is None or self._save is None:
            await self._attempt.keep(state)
            return
        self._states[self._prefix] = state
        await self._save()

    async def kept(self) -> Value:
        return await self._attempt.kept() if self._states is None else self._states.get(self._prefix)

    def leased(self, name: str) -> AbstractAsyncContextManager[None]:
        return self._attempt.leased(name)
