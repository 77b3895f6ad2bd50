"""One attempt of a node: what its executor may ask, and the ledger that its effects go through."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.definition.model import NodeDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, EffectId, NodeId, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import EffectState
from omium.orchestration.ports import Guidance, NewBlob
from omium.orchestration.values import Value, encode

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution

DEFAULT_ON_UNKNOWN: Mapping[str, str] = {"function": "rerun", "agent": "resume", "tool": "ask", "cli": "ask"}
_PROGRESS_LIMIT = 2_000


def effect_id(run_id: str, node: str, generation: int, call: str) -> EffectId:
    """The identity of an effect: one per (run, node, generation, call key)."""
    text = "\0".join((run_id, node, str(generation), call))
    return EffectId("eff_" + hashlib.sha256(text.encode()).hexdigest()[:40])


class NodeAttempt:
    """See `ports.Attempt`. Draws and progress notes are committed with the next thing that must be durable."""

    __slots__ = (
        "_draws", "_execution", "_over", "_pending", "attempt", "base", "cancelled", "error", "generation", "guidance",
        "inputs", "is_over", "key", "node", "node_id", "resumed", "run_id", "scope", "scratch", "succeeded",
        "timeout_s", "tree", "vars", "workspace",
    )  # fmt: skip

    def __init__(self, execution: Execution, node_id: NodeId, node: NodeDef, generation: int, attempt: int) -> None:
        self._execution = execution
        self.run_id: RunId = execution.run_id
        self.node_id = node_id
        self.node = node
        self.generation = generation
        self.attempt = attempt
        self.timeout_s = node.timeout_s
        self.workspace: Path | None = None
        self.scratch: Path | None = None
        self.guidance = Guidance()
        self.resumed = False
        self.inputs: Any = None
        self.vars: Mapping[str, Any] = {}  # the scope of its expressions
        self.key: str | None = None
        self.base: Digest | None = None  # the largest input, which the output may be stored as a patch against
        self.tree: str | None = None  # the workspace tree that it starts from
        self.error: OmiumError | None = None  # why it cannot even begin
        self.scope: anyio.CancelScope | None = None  # while its code runs
        self.is_over = False
        self.succeeded = False  # it is over and has given a result
        self.cancelled = False
        self._over: anyio.Event | None = None
        self._draws = 0
        self._pending: list[c.Command] = []

    def cancel(self) -> None:
        """Stop the work; `wait_until_over` tells when it has stopped."""
        if self.scope is not None:
            self.scope.cancel()
        self.cancelled = True

    def over(self) -> None:
        """Its code has returned, whatever the reason."""
        self.is_over = True
        if self._over is not None:
            self._over.set()

    async def wait_until_over(self) -> None:
        if not self.is_over:
            self._over = self._over or anyio.Event()
            await self._over.wait()

    def take_pending(self) -> list[c.Command]:
        """The commands that wait for the next commit of this attempt."""
        pending, self._pending = self._pending, []
        return pending

    async def ask(self, kind: str, payload: Value) -> Value:
        data: Any = payload
        if kind == "progress":
            text = str(data["text"])[:_PROGRESS_LIMIT]
            await self._commit(c.NoteProgress(self.node_id, self.generation, self.attempt, text))
            return None
        if kind == "now":
            return self._draw("now", datetime.fromtimestamp(self._execution.engine.clock.now_us() / 1e6, UTC))
        if kind == "random":
            return self._draw("random", self._execution.engine.rng.random())
        if kind == "uuid":
            bits = self._execution.engine.rng.getrandbits(128)
            return self._draw("uuid", str(uuid.UUID(int=bits, version=4)))
        if kind == "effect_intent":
            return await self._intend_asked(str(data["key"]))
        if kind == "effect_settle":
            await self._settle_asked(data)
            return None
        if kind == "artifact":
            await self._artifact(str(data["name"]), data["value"])
            return None
        raise OmiumError("invalid_argument", f"an attempt cannot be asked for {kind!r}.")

    def _draw(self, kind: str, value: Value) -> Value:
        self._draws += 1
        call = f"{kind}#{self._draws}"
        drawn = self._execution.folded.node(self.node_id).draws or {}
        if call in drawn:  # an interrupted attempt drew it before: this one sees the same
            return datetime.fromisoformat(drawn[call]) if kind == "now" else drawn[call]
        told = value.isoformat() if isinstance(value, datetime) else value
        self._pending.append(c.DrawValue(self.node_id, self.generation, self.attempt, call, told))
        return value

    async def _artifact(self, name: str, value: Value) -> None:
        encoded = encode(value)
        command = c.SaveArtifact(self.node_id, self.generation, name, encoded.digest, encoded.size)
        await self._commit(command, blobs=(NewBlob(encoded),))

    async def _commit(self, *commands: c.Command, blobs: tuple[NewBlob, ...] = ()) -> None:
        await self._execution.commit([*self.take_pending(), *commands], blobs)

    # --- the ledger ---------------------------------------------------------------------------------------------

    async def effect(
        self,
        call: str,
        action: Callable[[], Awaitable[Value]],
        *,
        kind: str,
        on_unknown: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Value:
        known = await self._intend(call, kind, on_unknown, detail)
        if known is not None:
            return await self._execution.engine.values.load(known)
        identity = effect_id(self.run_id, self.node_id, self.generation, call)
        crash_point("effect.intended")
        try:
            result = await action()
        except Exception as error:  # recorded, then raised as it is
            await self._settle_failed(identity, error)
            raise
        crash_point("effect.made")
        encoded = encode(result)
        settle = c.SettleEffect(identity, "done", encoded.digest, encoded.size)
        with anyio.CancelScope(shield=True):  # it has happened: a cancellation must not leave it unknown
            await self._commit(settle, blobs=(NewBlob(encoded),))
        return result

    async def _settle_failed(self, identity: EffectId, error: Exception) -> None:
        told: dict[str, Any] = {"type": type(error).__qualname__, "message": str(error)[:2000]}
        not_sent = isinstance(error, OmiumError) and error.data.get("sent") is False
        with anyio.CancelScope(shield=True):
            await self._commit(c.SettleEffect(identity, "not_sent" if not_sent else "failed", error=told))

    async def _intend(
        self, call: str, kind: str, on_unknown: str | None, detail: Mapping[str, Any] | None
    ) -> Digest | None:
        """The stored result when the call is known to have happened; otherwise None, and the intent is durable."""
        identity = effect_id(self.run_id, self.node_id, self.generation, call)
        known: EffectState | None = self._execution.folded.effects.get(identity)
        if known is not None and known.outcome == "done":
            return known.result
        policy = on_unknown or self.node.on_unknown or DEFAULT_ON_UNKNOWN.get(self.node.kind, "rerun")
        await self._commit(
            c.IntendEffect(
                identity, self.node_id, self.generation, self.attempt, call, kind, policy, self.node.compensate, detail
            )
        )
        return None

    async def _intend_asked(self, call: str) -> Value:
        known = await self._intend(call, "effect", None, None)
        if known is None:
            crash_point("effect.intended")
            return {"known": False}
        return {"known": True, "result": await self._execution.engine.values.load(known)}

    async def _settle_asked(self, data: Mapping[str, Any]) -> None:
        identity = effect_id(self.run_id, self.node_id, self.generation, str(data["key"]))
        crash_point("effect.made")
        if data["ok"]:
            encoded = encode(data["result"])
            settle = c.SettleEffect(identity, "done", encoded.digest, encoded.size)
            await self._commit(settle, blobs=(NewBlob(encoded),))
        else:
            told = {"type": str(data["error_type"]), "message": str(data["message"])[:2000]}
            await self._commit(c.SettleEffect(identity, "failed", error=told))
