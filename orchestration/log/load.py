"""How a state is had from stored events, without doing any input or output.

`load` and `append` are generators: they yield what they need to read and are sent the answer, so that a store can drive
them from a thread (SQLite) or from coroutines (PostgreSQL) with one implementation of the logic.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from omium.orchestration.ids import Digest, NodeId, Principal, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.fold import Touched, apply
from omium.orchestration.log.state import RunState, from_document
from omium.orchestration.log.transitions import decide


@dataclass(frozen=True, slots=True)
class NeedSnapshot:
    """The newest snapshot of the run at or before `upto`: `(document)` or None."""

    run_id: RunId
    upto: Seq | None


@dataclass(frozen=True, slots=True)
class NeedEvents:
    """The events of the run with `after < seq <= upto`, in order."""

    run_id: RunId
    after: Seq
    upto: Seq | None


@dataclass(frozen=True, slots=True)
class NeedHeads:
    """The last position of each of the runs that exist, at which they stay until the write is committed."""

    run_ids: Sequence[RunId]


@dataclass(frozen=True, slots=True)
class NeedValue:
    """The decoded value of a blob."""

    digest: Digest


Need: TypeAlias = NeedSnapshot | NeedEvents | NeedHeads | NeedValue
Loading: TypeAlias = Generator[Need, Any, RunState]


def load(run_id: RunId, upto: Seq | None = None) -> Loading:
    """The state of a run at a position (at its head, unless given). A run without events gives a draft at seq 0."""
    document: dict[str, Any] | None = yield NeedSnapshot(run_id, upto)
    state = _from_snapshot(run_id, document) if document is not None else RunState(run_id)
    events: Sequence[Event] = yield NeedEvents(run_id, state.seq, upto)
    touched = Touched()
    for event in events:
        state = yield from step(state, event, touched)
    return state


def _from_snapshot(run_id: RunId, document: dict[str, Any]) -> RunState:
    """A snapshot that is damaged, or of a version with other fields, is as good as none."""
    try:
        return from_document(document)
    except (AttributeError, KeyError, TypeError, ValueError):
        return RunState(run_id)


def step(state: RunState, event: Event, touched: Touched) -> Loading:
    """The state after the next event, with what that event reaches back to read from the log."""
    data = event.data
    if event.type is E.RUN_ROLLED_BACK:
        base = yield from load(event.run_id, Seq(data["to"]))
        return apply(state, event, touched, base=base)
    if event.type is E.RUN_PLAYED_FROM:
        nodes: list[NodeId] = yield NeedValue(data["nodes"])
        return apply(state, event, touched, nodes=nodes)
    if event.type is E.RUN_CREATED and "parent" in data:
        base = yield from load(RunId(data["parent"]["run"]), Seq(data["parent"]["seq"]))
        reset: list[NodeId] = (yield NeedValue(data["reset"])) if "reset" in data else []
        return apply(state, event, touched, base=base, nodes=reset)
    return apply(state, event, touched)


def _with_pending(loading: Loading, run_id: RunId, pending: Sequence[Event]) -> Loading:
    """`loading`, as if the pending events of the run were stored."""
    try:
        need = next(loading)
        while True:
            answer = yield need
            if isinstance(need, NeedEvents) and need.run_id == run_id:
                last = answer[-1].seq if answer else need.after
                answer = [*answer, *(e for e in pending if last < e.seq and (need.upto is None or e.seq <= need.upto))]
            need = loading.send(answer)
    except StopIteration as done:
        state: RunState = done.value
        return state


@dataclass(slots=True)
class Appended:
    """What a write adds: the state after it, and its events with the stored form of their data."""

    folded: RunState
    events: list[Event]
    stored: list[bytes]


def append(
    state: RunState,
    commands: Sequence[c.Command],
    *,
    actor: Principal,
    at: int,
    chain: Chain,
    touched: Touched,
    pending: Sequence[Event] = (),
) -> Generator[Need, Any, Appended]:
    """Turn commands into linked events and fold them. Mutates `state` and `touched`: after a refusal (OmiumError) they
    must be thrown away when an earlier command of the same write had gone through. `pending`: the latest events of the
    run, as far as they are in `state` and not stored yet."""
    added = Appended(state, [], [])
    for command in commands:
        base: RunState | None = None
        if type(command) is c.RollBack and 1 <= command.to <= added.folded.seq:
            base = yield from _with_pending(load(state.run_id, command.to), state.run_id, [*pending, *added.events])
        _take(added, command, actor, at, chain, touched, base)
    return added


def append_at_head(
    state: RunState, commands: Sequence[c.Command], *, actor: Principal, at: int, chain: Chain, touched: Touched
) -> Appended:
    """`append` for commands of which none goes back in the log, so that nothing needs to be read."""
    added = Appended(state, [], [])
    for command in commands:
        _take(added, command, actor, at, chain, touched)
    return added


def _take(
    added: Appended,
    command: c.Command,
    actor: Principal,
    at: int,
    chain: Chain,
    touched: Touched,
    base: RunState | None = None,
) -> None:
    state = added.folded
    nodes = command.affected if type(command) is c.PlayFrom else ()
    for kind, data in decide(state, command, at):
        seq = Seq(state.seq + 1)
        raw, digest = chain.link(state.head, state.run_id, seq, kind._value_, at, actor, data)
        event = Event(state.run_id, seq, kind, at, actor, data, state.head, digest)
        state = added.folded = apply(state, event, touched, base=base, nodes=nodes)
        added.events.append(event)
        added.stored.append(raw)
