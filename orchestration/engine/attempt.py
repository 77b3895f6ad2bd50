"""One attempt of a node: what its executor may ask, and the ledger that its effects go through."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.definition.model import NodeDef
from omium.orchestration.definition.names import prose_problem
from omium.orchestration.engine import budgets, calls, gates
from omium.orchestration.engine.points import Points
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Digest, EffectId, NodeId, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import EffectOutcome, EffectState, NodeState, RunState
from omium.orchestration.ports import Executor, NewBlob
from omium.orchestration.ports_calls import Allowed, Call, Decided, Guidance, Reservation, Suspended
from omium.orchestration.values import Encoded, Value, encode

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine
    from omium.orchestration.engine.execution import Execution

T = TypeVar("T")

DEFAULT_ON_UNKNOWN: Mapping[str, str] = {"function": "rerun", "agent": "resume", "tool": "ask", "cli": "ask"}
_PROGRESS_LIMIT = 2_000
_ARTIFACT_NAME = 200
_NO_GUIDANCE = Guidance()
_NONE: frozenset[str] = frozenset()


def effect_id(run_id: str, node: str, generation: int, call: str) -> EffectId:
    """The identity of an effect: one per (run, node, generation, call key)."""
    text = "\0".join((run_id, node, str(generation), call))
    return EffectId("eff_" + hashlib.sha256(text.encode()).hexdigest()[:40])


class NodeAttempt:
    """See `ports.Attempt`. Draws and progress notes are committed with the next thing that must be durable."""

    __slots__ = (
        "_begun", "_blobs", "_calls", "_cut_off", "_draws", "_execution", "_kept", "_over", "_pending",
        "agent", "asked", "attempt", "base", "cancelled", "decided_on", "error", "executor", "generation", "guidance",
        "inputs", "is_over", "key", "node", "node_id", "points", "recording", "restored", "resumed", "run_id", "scope",
        "scratch", "succeeded", "timeout_s", "tree", "unclear", "vars", "workspace",
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
        self.guidance = _NO_GUIDANCE
        self.resumed = False
        self.inputs: Any = None
        self.vars: Mapping[str, Any] = {}  # the scope of its expressions
        self.key: str | None = None
        self.agent: str | None = None  # who takes it, as name@version
        self.base: Digest | None = None  # the largest input, which the output may be stored as a patch against
        self.tree: str | None = None  # the workspace tree that it starts from
        self.executor: Executor | None = None  # unless it cannot even begin
        self.error: OmiumError | None = None  # why it cannot
        self.scope: anyio.CancelScope | None = None  # while its code runs
        self.is_over = False
        self.succeeded = False  # it is over and has given a result
        self.cancelled = False
        self._over: anyio.Event | None = None
        self.decided_on: dict[str, Digest] = {}  # by call: what policy was last asked about it
        self.points: Points | None = None  # checkpoints that the function sets itself
        self.restored: Mapping[str, Value] = {}  # by call: what they are to give again, since the run was taken back
        self.asked: c.RequestApproval | None = None  # a person has to decide before the work goes on
        self._calls: dict[str, anyio.Event] | None = None  # those of its ledger that are under way, by key
        self.unclear: OmiumError | None = None  # it has failed for good: a call of it must not be made again
        self._begun: frozenset[str] = _NONE  # calls that its function makes, or has not told the end of
        self._cut_off: frozenset[str] = _NONE  # those of them that are over, and not yet settled as unknown
        self.recording: dict[str, anyio.Event] | None = None  # what is being noted of calls, by key: when the last is
        self._draws = 0
        self._pending: list[c.Command] = []
        self._blobs: list[NewBlob] = []  # that the pending commands name
        self._kept: Digest | None = None  # what `keep` was last given, by this attempt

    def cancel(self) -> None:
        """Stop the work; `wait_until_over` tells when it has stopped."""
        if self.scope is not None:
            self.scope.cancel()
        self.cancelled = True

    async def wait_until_recorded(self) -> None:
        """Until all that it has done is noted, which comes before its end; what follows is not to be stopped for it."""
        with anyio.CancelScope(shield=True):
            for noted in list((self.recording or {}).values()):
                await noted.wait()

    def over(self) -> None:
        """Its code has returned, whatever the reason."""
        self.is_over, self.scope = True, None
        if self._over is not None:
            self._over.set()

    async def wait_until_over(self) -> None:
        if not self.is_over:
            self._over = self._over or anyio.Event()
            await self._over.wait()

    def take_pending(self) -> tuple[list[c.Command], list[NewBlob]]:
        """What waits for the next commit of this attempt: commands, and the contents that they name."""
        taken = self._pending, self._blobs
        self._pending, self._blobs = [], []
        return taken

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
        if kind in ("checkpoint", "checkpoint_end"):
            self.points = self.points or Points(self)
            return await (self.points.set(data) if kind == "checkpoint" else self.points.end(data))
        if kind == "scratch":
            self.scratch = self.scratch or self._execution.engine.workspaces.scratch(self)
            if self.scratch is None:
                raise OmiumError("unsupported", "this installation has no directories for runs.", "Install git.")
            return str(self.scratch)
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
        problem = prose_problem(name)
        if problem or not 0 < len(name) <= _ARTIFACT_NAME or "\n" in name or name != name.strip():
            said = problem or f"expected a line of at most {_ARTIFACT_NAME} characters"
            raise OmiumError("invalid_argument", f"{name[:80]!r} cannot name an artifact: {said}.")
        encoded = encode(value)
        command = c.SaveArtifact(self.node_id, self.generation, name, encoded.digest, encoded.size)
        await self._commit(command, blobs=(NewBlob(encoded),))

    async def _commit(self, *commands: c.Command, blobs: tuple[NewBlob, ...] = ()) -> None:
        pending, named = self.take_pending()
        await self._execution.commit([*pending, *self.take_cut_off(), *commands], (*named, *blobs))

    # --- the work in the middle ---------------------------------------------------------------------------------

    async def keep(self, state: Value) -> None:
        encoded = encode(state)
        base = self._kept or self._state.kept
        self._kept = encoded.digest
        await self._commit(
            c.KeepState(self.node_id, self.generation, self.attempt, encoded.digest, encoded.size),
            blobs=(NewBlob(encoded, base),),
        )
        self._execution.engine.values.put(encoded.digest, state, encoded.size)

    async def kept(self) -> Value:
        digest = self._kept or self._state.kept
        return None if digest is None else await self._execution.engine.values.load(digest)

    @property
    def _state(self) -> NodeState:
        return self._execution.folded.node(self.node_id)

    @asynccontextmanager
    async def leased(self, name: str) -> AsyncIterator[None]:
        engine = self._execution.engine
        holder = f"{self.run_id}/{self.node_id}"
        other = await engine.store.lease(name, engine.worker, holder)
        if other is not None:
            raise OmiumError(
                "conflict", f"{name} is in use by {other}.", "It is free when that has ended.", holder=other
            )
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await engine.store.unlease(name, engine.worker, holder)

    # --- the gate -----------------------------------------------------------------------------------------------

    async def call(self, call: Call, action: Callable[[Allowed], Awaitable[Value]], *, kind: str) -> Value:
        known = self.ledger(call.key)
        if known is not None and known.outcome == "done" and known.result is not None:
            return await self.load(known.result)
        allowed = await calls.leave(self, call)
        policy = calls.on_unknown(self, allowed)
        if known is not None and known.outcome == "unknown" and policy != "rerun":
            raise calls.made_perhaps(call)
        asked = self.decided_on.pop(call.key, None)
        held = await budgets.reserve_for(self, call, allowed)
        detail = {"tool": call.tool, "server": call.server, "pin": call.pin, "rule": allowed.rule, "asked": asked}
        if self.node.compensate is not None:  # what undoes it has to know what was sent, also where a person changed it
            sent_as = encode(allowed.arguments)
            detail["arguments"] = sent_as.digest
            self._blobs += (NewBlob(sent_as),)
        try:
            return await self.effect(
                call.key,
                lambda: action(allowed),
                kind=kind,
                on_unknown=policy,
                detail={name: value for name, value in detail.items() if value is not None},
                approval=allowed.approval,
            )
        finally:
            if held is not None:
                made = self.ledger(call.key)
                sent = made is not None and made.outcome != "not_sent"
                with anyio.CancelScope(shield=True):
                    await held.settle(usd=call.usd if sent else 0.0, calls=int(sent))

    async def gate(self, call: Call) -> Allowed:
        known = self.ledger(call.key)
        if known is not None and known.outcome == "done" and known.result is not None:
            return calls.permitted(call, await self.load(known.result))
        allowed = await calls.leave(self, call)
        held = await budgets.reserve_for(self, call, allowed)
        document = calls.permission(call, allowed)
        detail = {"tool": call.tool, "rule": allowed.rule}
        identity = effect_id(self.run_id, self.node_id, self.generation, call.key)
        intent = c.IntendEffect(
            identity, self.node_id, self.generation, self.attempt, call.key, "permission", "rerun", None, detail,
            allowed.approval,
        )  # fmt: skip
        settled = c.SettleEffect(identity, "done", document.digest, document.size)
        given = False
        try:
            await self._commit(intent, settled, blobs=(NewBlob(document),))
            given = True
        finally:
            if held is not None:
                with anyio.CancelScope(shield=True):
                    await held.settle(usd=call.usd if given else 0.0, calls=int(given))
        return allowed

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
        return await calls.answer(
            self, question, options, key=key, details=details, expires_s=expires_s, min_assurance=min_assurance
        )

    async def reserve(self, what: str, *, tokens: int = 0, usd: float | None = 0.0) -> Reservation:
        return await budgets.reserve(self, what, tokens=tokens, usd=usd)

    def question(self, request: c.RequestApproval, *blobs: NewBlob) -> None:
        """End the attempt with a question; of several at a time the first counts, the others come up again."""
        if self.asked is None:
            self.asked = request
            self._blobs += blobs

    def later(self, command: c.Command, *blobs: NewBlob) -> None:
        """Have a command written with the next thing of this attempt that must be durable."""
        self._pending.append(command)
        self._blobs += blobs

    async def flush(self) -> None:
        """Write what waits."""
        if self._pending:
            await self._commit()

    async def commit(self, *commands: c.Command) -> None:
        await self._commit(*commands)

    async def load(self, digest: Digest) -> Value:
        return await self._execution.engine.values.load(digest)

    def ledger(self, call: str) -> EffectState | None:
        """What the ledger knows of a call of this generation."""
        return self.run.effects.get(self.effect_id(call))

    def effect_id(self, call: str) -> EffectId:
        return effect_id(self.run_id, self.node_id, self.generation, call)

    @property
    def run(self) -> RunState:
        """The run as it is committed. Another one after the next await; change nothing."""
        return self._execution.folded

    @property
    def engine(self) -> Engine:
        return self._execution.engine

    # --- the ledger ---------------------------------------------------------------------------------------------

    async def effect(
        self,
        call: str,
        action: Callable[[], Awaitable[Value]],
        *,
        kind: str,
        on_unknown: str | None = None,
        detail: Mapping[str, Any] | None = None,
        approval: ApprovalId | None = None,
    ) -> Value:
        async with self._alone_with(call):
            return await self._effect(call, action, kind, on_unknown, detail, approval)

    @asynccontextmanager
    async def _alone_with(self, call: str) -> AsyncIterator[None]:
        """Asked for twice at once, a call is made once: the second waits, and then finds what the first has given."""
        calls = self._calls = self._calls if self._calls is not None else {}
        while (under_way := calls.get(call)) is not None:
            await under_way.wait()
        done = calls[call] = anyio.Event()
        try:
            yield
        finally:
            del calls[call]
            done.set()

    async def _effect(
        self,
        call: str,
        action: Callable[[], Awaitable[Value]],
        kind: str,
        on_unknown: str | None,
        detail: Mapping[str, Any] | None,
        approval: ApprovalId | None,
    ) -> Value:
        known = await self._intend(call, kind, on_unknown, detail, approval)
        if known is not None:
            return await self._execution.engine.values.load(known)
        identity = effect_id(self.run_id, self.node_id, self.generation, call)
        crash_point("effect.intended")
        try:
            result = await action()
        except Exception as error:  # recorded, then raised as it is
            await self._settle_failed(identity, error)
            raise
        except Suspended:  # it stopped to ask, before it did anything
            with anyio.CancelScope(shield=True):
                await self._commit(c.SettleEffect(identity, "not_sent", error={"message": "it asks a person first"}))
            raise
        crash_point("effect.made")
        with anyio.CancelScope(shield=True):  # it has happened: a cancellation must not leave it unknown
            await self._settle_done(identity, encode(result))
        return result

    async def _settle_done(self, identity: EffectId, result: Encoded) -> None:
        tree = await self.engine.workspaces.capture_call(self._execution, self)
        settle = c.SettleEffect(identity, "done", result.digest, result.size, tree=tree)
        await self._commit(settle, blobs=(NewBlob(result),))

    async def _settle_failed(self, identity: EffectId, error: Exception) -> None:
        told: dict[str, Any] = {"type": type(error).__qualname__, "message": str(error)[:2000]}
        data = error.data if isinstance(error, OmiumError) else {}
        outcome: EffectOutcome = "not_sent" if data.get("sent") is False else "failed"
        if data.get("unclear"):  # it went out, and no answer came: it may well have happened
            outcome = "unknown"
        with anyio.CancelScope(shield=True):
            await self._commit(c.SettleEffect(identity, outcome, error=told))

    async def _intend(
        self,
        call: str,
        kind: str,
        on_unknown: str | None,
        detail: Mapping[str, Any] | None,
        approval: ApprovalId | None = None,
    ) -> Digest | None:
        """The stored result when the call is known to have happened; otherwise None, and the intent is durable."""
        identity = effect_id(self.run_id, self.node_id, self.generation, call)
        known: EffectState | None = self._execution.folded.effects.get(identity)
        if known is not None and known.outcome == "done":
            return known.result
        policy = on_unknown or self.node.on_unknown or DEFAULT_ON_UNKNOWN.get(self.node.kind, "rerun")
        await self._commit(
            c.IntendEffect(
                identity,
                self.node_id,
                self.generation,
                self.attempt,
                call,
                kind,
                policy,
                self.node.compensate,
                detail,
                approval,
            )
        )
        return None

    def take_cut_off(self) -> list[c.Command]:
        """Calls that its function cut off are unknown. That is said once the attempt goes on: where it is stopped as a
        whole, whoever stops it says what becomes of them."""
        if not self._cut_off:
            return []
        taken, self._cut_off = self._cut_off, _NONE
        told = {"message": "it was cut off in the middle"}
        return [c.SettleEffect(self.effect_id(call), "unknown", error=told) for call in sorted(taken)]

    def take_open(self) -> list[c.Command]:
        """The same at the end of a function that has given its result: what it has left open is unknown too."""
        if self._begun:
            self._cut_off |= {call for call in self._begun if self._is_open(call)}
        return self.take_cut_off() if self._cut_off else []

    def _is_open(self, call: str) -> bool:
        known = self.ledger(call)
        return known is not None and known.outcome is None

    async def _make_again(self, call: str) -> None:
        """A call that this attempt has begun, and that is not known to have ended, is asked for again: whether it is
        made again is not for the function to say, no more than after a crash. Returns if it may be; otherwise a person
        is asked, or the attempt has failed, whatever the function makes of that."""
        if self._is_open(call):
            self._cut_off |= {call}
        if self._cut_off:
            await self._commit()
        known = self.ledger(call)
        if known is None or known.outcome != "unknown":
            return
        around = {  # the whole function may be a call of the ledger too
            one.on_unknown
            for one in self.run.effects.values()
            if (one.node, one.generation, one.kind, one.outcome) == (self.node_id, self.generation, "function", None)
        }
        policies = {known.on_unknown, *around}
        if "fail" in policies:
            self.unclear = OmiumError(
                "process_failed",
                f"{self.node_id} asks again for the call {call!r}, which it cut off: whether that happened is unknown.",
                "With `on_unknown: ask` a person decides, with `rerun` the call is made again.",
                category="unknown",
                reason="unknown_outcome",
            )
            raise self.unclear
        if "ask" in policies:
            spec = gates.unknown_gate(self.node_id, [call], why=gates.STOPPED)
            now, about = self.engine.clock.now_us(), {"calls": [call]}
            self.question(
                gates.request(self.node_id, self.generation, spec, {}, now, kind="unknown_effect", details=about)
            )
            raise Suspended

    # --- the calls of a function, which asks for an intent and for a settlement one by one ----------------------------

    async def _note(
        self, call: str, work: Callable[[], Awaitable[T]], unheard: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        """Note something of a call: one thing after the other, and all of it before the attempt is over. Where the
        asker is cut off meanwhile (by a time-out of the function's, a cancelled task, the end of its node), `unheard`
        follows in a task of its own: what has happened stands in the ledger all the same."""
        recording = self.recording = self.recording if self.recording is not None else {}
        before, noted = recording.get(call), anyio.Event()
        recording[call] = noted
        try:
            if before is not None:
                await before.wait()
            given = await work()
        except (Exception, Suspended):
            self._noted(call, noted)
            raise
        except BaseException:
            self.engine.spawn(self._note_unheard, call, before, noted, unheard or work)
            raise
        self._noted(call, noted)
        return given

    async def _note_unheard(
        self, call: str, before: anyio.Event | None, noted: anyio.Event, work: Callable[[], Awaitable[object]]
    ) -> None:
        try:
            if before is not None:
                await before.wait()
            await work()
        finally:
            self._noted(call, noted)

    def _noted(self, call: str, noted: anyio.Event) -> None:
        assert self.recording is not None
        if self.recording[call] is noted:
            del self.recording[call]
        noted.set()

    async def _intend_asked(self, call: str) -> Value:
        known = await self._note(call, partial(self._intend_again, call), partial(self._withdraw, call))
        if known is None:
            self._begun |= {call}
            crash_point("effect.intended")
            return {"known": False}
        return {"known": True, "result": await self._execution.engine.values.load(known)}

    async def _intend_again(self, call: str) -> Digest | None:
        known = self.ledger(call)
        if call in self._begun:
            await self._make_again(call)
        elif known is not None and known.outcome in (None, "unknown"):  # an attempt before this one may have made it
            self._begun |= {call}
        return await self._intend(call, "effect", None, None)

    async def _withdraw(self, call: str) -> None:
        """Who asked for this call was cut off before it could make it; but one that this attempt has begun, or another
        before it, may have been made then."""
        begun = call in self._begun
        told = {"message": "it was cut off in the middle" if begun else "it was cut off before it was made"}
        settle = c.SettleEffect(self.effect_id(call), "unknown" if begun else "not_sent", error=told)
        try:
            await self._execution.commit([settle])
        except OmiumError as error:  # the intent did not get so far, or the call is known already
            if error.code != "conflict":
                raise

    async def _settle_asked(self, data: Mapping[str, Any]) -> None:
        call = str(data["key"])
        if data["ok"] is None:
            self._cut_off |= {call}
            return
        crash_point("effect.made")
        result = encode(data["result"]) if data["ok"] else None
        await self._note(call, partial(self._settle_call, call, data, result))  # twice does no harm

    async def _settle_call(self, call: str, data: Mapping[str, Any], result: Encoded | None) -> None:
        identity = self.effect_id(call)
        if result is not None:
            await self._settle_done(identity, result)
        else:
            told = {"type": str(data["error_type"]), "message": str(data["message"])[:2000]}
            await self._commit(c.SettleEffect(identity, "failed", error=told))
        self._begun -= {call}
