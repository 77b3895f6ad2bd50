"""Undoing effects by the functions that a workflow declares for it, newest first. What was tried is in the log."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio

from omium.orchestration.definition.model import NodeDef
from omium.orchestration.engine.failures import describe
from omium.orchestration.engine.inputs import resolve
from omium.orchestration.engine.starting import given
from omium.orchestration.engine.writing import PAUSE_S
from omium.orchestration.errors import OmiumError, Unheard
from omium.orchestration.history.behind import check_owner
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.ledger import Deed
from omium.orchestration.history.recorded import Recorded
from omium.orchestration.ids import Digest, Fence, NodeId, Principal, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import Clock, NewBlob, Write, Written
from omium.orchestration.ports_calls import Allowed, Call, Decided, Guidance, Reservation
from omium.orchestration.values import Value, encode

_log = logging.getLogger(__name__)
TIMEOUT_S = 60.0
_MAX_PAUSE_S = 5.0  # a worker that stops waits for it
_MANY = 100_000


class Undoing:
    """What a compensating function may ask (see `ports.Attempt`): the time and chance, no ledger of its own, since
    the log records it as a whole."""

    def __init__(self, clock: Clock, run_id: RunId, node_id: NodeId, generation: int) -> None:
        self.timeout_s: float | None = TIMEOUT_S
        self.workspace: Path | None = None
        self.scratch: Path | None = None
        self.attempt = 1
        self.resumed = False
        self.run_id = run_id
        self.node_id = node_id
        self.generation = generation
        self.guidance = Guidance()
        self._clock = clock

    async def ask(self, kind: str, payload: Value) -> Value:
        if kind == "now":
            return datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)
        if kind == "random":
            return random.random()  # noqa: S311 (a draw for the function's own use, no secret)
        if kind == "uuid":
            return str(uuid.uuid4())
        if kind == "effect_intent":
            return {"known": False}
        if kind in ("effect_settle", "progress", "checkpoint_end"):
            return None
        if kind == "checkpoint":  # what is undone is undone as a whole: there is nothing to come back to
            return {"call": "", "restored": None}
        raise OmiumError("unsupported", f"a compensation cannot be asked for {kind!r}.")

    async def effect(
        self,
        call: str,
        action: Callable[[], Awaitable[Value]],
        *,
        kind: str,
        on_unknown: str | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> Value:
        return await action()

    async def call(self, call: Call, action: Callable[[Allowed], Awaitable[Value]], *, kind: str) -> Value:
        raise _only_functions("makes no calls of external tools")

    async def gate(self, call: Call) -> Allowed:
        raise _only_functions("asks no leave")

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
        raise _only_functions("asks nobody: it is already decided that it runs")

    async def reserve(self, what: str, *, tokens: int = 0, usd: float | None = 0.0) -> Reservation:
        raise _only_functions("has no budget")

    async def keep(self, state: Value) -> None:
        raise _only_functions("is never continued in the middle")

    async def kept(self) -> Value:
        return None

    def leased(self, name: str) -> AbstractAsyncContextManager[None]:
        raise _only_functions("holds no sessions")


def _only_functions(what: str) -> OmiumError:
    return OmiumError("unsupported", f"a compensation {what}.", "It is a registered function, run once.")


async def undo(
    ground: Ground, recorded: Recorded, deeds: Sequence[Deed], actor: Principal, fence: Fence, owed: Seq | None = None
) -> bool:
    """Run what undoes these, the newest first, and note each outcome in the log and in the deed; whether each has been
    tried. One that fails does not keep the others from being undone, nor does one of a sub-run that cannot be had now.
    fence: of the owner that does it; raises `fenced` before one that is none any more undoes anything. A worker that
    stops leaves to the next owner what it has not begun. owed: the rollback that they lie behind; once the run has been
    taken elsewhere, nothing more is undone for it."""
    away: set[RunId] = set()
    for deed in reversed(deeds):
        if deed.can_be_undone and ground.is_stopping:
            return False
        if deed.can_be_undone and (deed.below is None or deed.below[0] not in away):
            with anyio.CancelScope(shield=True):  # the caller may leave; whether it was undone must not be left unknown
                if deed.below is not None:
                    if not await _undo_below(ground, recorded, deed, deed.below[0], actor, fence, owed):
                        away.add(deed.below[0])
                elif not await _undo(ground, recorded, deed, recorded.folded.run_id, actor, fence, owed):
                    return False
    return not away


async def _undo_below(
    ground: Ground,
    recorded: Recorded,
    deed: Deed,
    run_id: RunId,
    actor: Principal,
    fence: Fence,
    owed: Seq | None,
) -> bool:
    """What a sub-run did is undone in its log, which has a token of its own: it is held meanwhile, and looked at again,
    so that of two who believe that they own the run above it one undoes, once. False when it cannot be held, or is not
    to be undone any more."""
    above = recorded.folded.run_id
    async with ground.held(run_id) as own:
        if own is None:
            return False
        await check_owner(ground, above, fence)
        if owed is not None and owed not in (await ground.state(above)).owed:
            return False
        for event in await ground.store.events_among([run_id], [E.EFFECT_COMPENSATED], _MANY):
            if event.data["effect"] == deed.id:
                deed.compensated, deed.error = event.data["outcome"], event.data.get("error")
        if deed.can_be_undone:
            try:
                await _undo(ground, recorded, deed, run_id, actor, own, None)
            except OmiumError as error:
                if error.code != "fenced":
                    raise
                return False  # it has become another's meanwhile, which says nothing of the run above it
    return True


async def _undo(
    ground: Ground,
    recorded: Recorded,
    deed: Deed,
    run_id: RunId,
    actor: Principal,
    fence: Fence,
    owed: Seq | None,
) -> bool:
    """Whether it has been tried, which it is not for a rollback that is not owed any more."""
    assert deed.compensate is not None
    start = c.NoteCompensation(deed.id, "started", rollback=owed)
    if not (await _note(ground, Write(run_id, [start], actor, fence), wait=False)).events:
        return False
    deed.compensated, deed.error = "started", None
    result: Digest | None = None
    blobs: list[NewBlob] = []
    try:
        encoded = encode(await _call(ground, recorded, deed))
        result = encoded.digest
        blobs.append(NewBlob(encoded))
        deed.compensated = "done"
    except Exception as error:  # the boundary to code that is not ours: its failure is recorded and told
        deed.compensated, deed.error = "failed", describe(error)
    note = c.NoteCompensation(deed.id, deed.compensated, result, deed.error)
    await _note(ground, Write(run_id, [note], actor, blobs=blobs), wait=True)
    return True


async def _note(ground: Ground, write: Write, *, wait: bool) -> Written:
    """Write a note on a compensation. One of which the answer was lost may be in the log, where it is looked up before
    it is made again: else one that never ran would be taken for one that was cut off. wait: also for a database that
    is away, since what the compensation came to is known here alone; but not when this worker stops."""
    pause = PAUSE_S
    while True:
        try:
            return await ground.store.write(write)
        except OmiumError as error:
            if isinstance(error, Unheard):
                write = replace(write, tried=error.events)
            elif error.code != "storage_unavailable" or not (wait or write.tried):
                raise
            if ground.is_stopping:
                raise
            _log.warning("a compensation in run %s cannot be noted, trying again: %s", write.run_id, error)
        await anyio.sleep(pause)
        pause = min(pause * 2, _MAX_PAUSE_S)


async def _call(ground: Ground, recorded: Recorded, deed: Deed) -> Value:
    if ground.engine is None:
        raise OmiumError("unsupported", "this process executes nothing.")
    node_id, call = deed.node, deed.call
    if deed.below is not None:
        run_id, node_id, call = deed.below
        recorded = await ground.recorded(await ground.state(run_id))
    executor = ground.engine.executor(NodeDef("compensation", "function", use=deed.compensate))
    told = {
        "effect": deed.id,
        "node": node_id,
        "call": call,
        "kind": deed.kind,
        "detail": dict(deed.detail) if deed.detail is not None else None,
        "arguments": await _sent(ground, deed),
        "result": await ground.values.load(deed.result) if deed.result is not None else None,
        "input": await input_of(recorded, node_id),
    }
    undoing = Undoing(ground.clock, recorded.folded.run_id, node_id, deed.generation)
    with anyio.move_on_after(TIMEOUT_S) as limit:
        done = await executor.run(str(deed.compensate), told, undoing)
    if limit.cancelled_caught:
        raise OmiumError("timeout", f"{deed.compensate} was stopped after {TIMEOUT_S:g} s.")
    return done.output


async def _sent(ground: Ground, deed: Deed) -> Any:
    """The arguments with which a tool was called, as a person may have changed them; None for anything else."""
    digest = (deed.detail or {}).get("arguments")
    return await ground.values.load(Digest(digest)) if deed.kind == "tool" and digest is not None else None


async def input_of(recorded: Recorded, node_id: NodeId) -> Any:
    """What a node was given, made again from what is recorded; None when that is no longer possible."""
    try:
        node = recorded.structure.node_def(node_id)
        scope, outputs = await recorded.scope(node_id, node)
        return given(recorded.execution, node_id, resolve(node.input, scope, outputs)[0])
    except OmiumError:
        return None
