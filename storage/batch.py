"""What one commit gathers: writes are applied to folded states, and become rows.

Both stores use it; they differ in how they read what an application needs and in how they write the rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, Principal, RunId, Seq
from omium.orchestration.log.below import look_below
from omium.orchestration.log.chain import Chain
from omium.orchestration.log.commands import CancelRun, CreateRun, RollBack
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.fold import Touched
from omium.orchestration.log.load import Need, append, append_at_head, load
from omium.orchestration.log.references import references
from omium.orchestration.log.rows import (
    Row,
    approval_rows,
    decision_row,
    effect_rows,
    hot_run_row,
    run_row,
)
from omium.orchestration.log.state import RUN_TERMINAL, RunState, RunStatus, to_document
from omium.orchestration.ports import Write

SNAPSHOT_EVERY = 1000  # events; and never more often than a run has nodes, so that their cost stays linear


class StateCache:
    """Folded states of the runs that this process wrote last. Bounded by the nodes that they hold."""

    def __init__(self, max_nodes: int = 200_000) -> None:
        self._states: OrderedDict[RunId, RunState] = OrderedDict()
        self._max_nodes = max_nodes
        self._nodes = 0
        self._weights: dict[RunId, int] = {}

    def take(self, run_id: RunId) -> RunState | None:
        """The state, which is then the taker's alone."""
        state = self._states.get(run_id)
        self.drop(run_id)
        return state

    def __contains__(self, run_id: object) -> bool:
        return run_id in self._states

    def position(self, run_id: RunId) -> int:
        """Where the log of a run ends, as far as this process knows; 0 if it does not."""
        state = self._states.get(run_id)
        return 0 if state is None else state.seq

    def look(self, run_id: RunId) -> RunState | None:
        """The state, which stays here."""
        return self._states.get(run_id)

    def put(self, state: RunState) -> None:
        weight = len(state.nodes) + 4
        self._nodes += weight - self._weights.get(state.run_id, 0)
        self._weights[state.run_id] = weight
        self._states[state.run_id] = state
        self._states.move_to_end(state.run_id)
        while self._nodes > self._max_nodes and len(self._states) > 1:
            self.drop(next(iter(self._states)))

    def drop(self, run_id: RunId) -> None:
        if self._states.pop(run_id, None) is not None:
            self._nodes -= self._weights.pop(run_id)

    def keep(self, heads: Iterable[tuple[RunId, Seq]]) -> None:
        """Forget every state that is not at the head that the database has."""
        current = dict(heads)
        for run_id in [r for r, state in self._states.items() if current.get(r) != state.seq]:
            self.drop(run_id)

    def runs(self) -> list[RunId]:
        return list(self._states)

    def clear(self) -> None:
        self._states.clear()
        self._weights.clear()
        self._nodes = 0


@dataclass(slots=True)
class Rows:
    """The rows of a batch, table by table, ready to be written. `at` is the batch's time, microseconds."""

    at: int = 0
    events: list[Row] = field(default_factory=list)
    new_runs: list[Row] = field(default_factory=list)
    runs: list[Row] = field(default_factory=list)  # RUN_HOT and the id
    statuses: list[Row] = field(default_factory=list)  # (status, run_id): where it changed
    approvals: list[Row] = field(default_factory=list)
    effects: list[Row] = field(default_factory=list)
    labels: list[Row] = field(default_factory=list)
    decisions: list[Row] = field(default_factory=list)
    links: list[Row] = field(default_factory=list)
    new_claims: list[Row] = field(default_factory=list)
    wake: list[Row] = field(default_factory=list)  # (wake_at or None, run_id): for runs that nobody owns
    snapshots: list[Row] = field(default_factory=list)


class Spoiled(Exception):
    """A write was refused half way: the states of this batch are no longer what the log says. The batch has to be
    undone and its other members written one by one."""


class Batch:
    """Applies writes one after the other to states that it takes out of the cache; `rows` ends it, `commit` gives the
    states back. A batch that is not committed leaves the cache without them."""

    def __init__(self, cache: StateCache, chain: Chain, at: int) -> None:
        self._cache = cache
        self._chain = chain
        self._at = at
        self._rows = Rows(at)
        self._states: dict[RunId, RunState] = {}
        self._shallow: set[RunId] = set()
        self._touched: dict[RunId, Touched] = {}
        self._before: dict[RunId, RunStatus | None] = {}  # the status before this batch; None: it is created here
        self._wake: dict[RunId, int | None] = {}
        self._events: dict[RunId, list[Event]] = {}
        self._claimed: dict[RunId, int] = {}
        self._ended: list[tuple[RunId, Sequence[Event]]] = []  # by the last write
        self.based_on: dict[RunId, Seq] = {}  # the positions of the runs that were looked at, before this batch

    @property
    def first_event(self) -> Event | None:
        """An event that is in the database if and only if this batch is."""
        return next((events[0] for events in self._events.values() if events), None)

    def claimed(self, run_id: RunId) -> int | None:
        """The owner's token of a run that this batch creates, -1 if it gets none; None for any other run."""
        return self._claimed.get(run_id)

    def position(self, run_id: RunId) -> Seq:
        """Where the log of a run that this batch has written ends."""
        return self._states[run_id].seq

    def apply(self, write: Write) -> Generator[Need, Any, list[Event]]:
        """The events of a write. Raises what the transition table raises, and then nothing has changed; or Spoiled."""
        run_id, first = write.run_id, write.commands[0]
        creating = isinstance(first, CreateRun)
        state = self._states.get(run_id) or self._cache.take(run_id)
        if state is None or run_id in self._shallow:
            if run_id in self._shallow:
                raise Spoiled  # a branch that was created in this very batch: its state is read after the commit
            state = RunState(run_id) if creating else (yield from load(run_id))
        if state.seq == 0 and not creating:
            raise OmiumError("not_found", f"there is no run {run_id}.", "List the runs to see their ids.")
        self._take_up(state)
        if state.seq != 0 and creating:
            raise OmiumError("conflict", f"run {run_id} exists.")
        if write.awaited_by is not None and isinstance(first, CreateRun):
            yield from self._look_above(write.awaited_by, (first.caller or {}).get("node", ""), run_id)
        ends = (yield from look_below(state, write.below, first, self._in_batch)) if write.below is not None else {}
        before, status = state.seq, state.status
        pending = self._events.setdefault(run_id, [])
        touched = self._touched.get(run_id) or Touched()
        goes_back = RollBack in map(type, write.commands)
        try:
            about: Any = {"actor": write.actor, "at": self._at, "chain": self._chain, "touched": touched}
            if goes_back:
                appended = yield from append(state, write.commands, **about, pending=pending)
            else:
                appended = append_at_head(state, write.commands, **about)
        except OmiumError as refusal:
            if state.seq != before:
                raise Spoiled from refusal
            raise
        state = self._states[run_id] = appended.folded
        if isinstance(first, CreateRun) and first.parent is not None:
            # A branch is created without folding its parent, however long that is: its state is read when it is needed.
            self._shallow.add(run_id)
        self._before.setdefault(run_id, None if creating else status)
        self._touched[run_id] = touched
        pending += appended.events
        self._gather(write, state, appended.events, appended.stored)
        self._snapshot_when_due(state, before, goes_back)
        for other, why in ends.items():
            yield from self._end(other, why, write.actor)
        return appended.events

    def _take_up(self, state: RunState) -> None:
        if state.run_id not in self._states and state.seq:
            self.based_on[state.run_id] = state.seq
        self._states[state.run_id] = state

    def _look_above(self, above: RunId, node_id: NodeId, run_id: RunId) -> Generator[Need, Any, None]:
        """Raises `not_allowed` unless this node of the run above waits for a run that is to be created. Otherwise that
        could begin after the one above was cancelled or taken back, which ends only what there is by then."""
        if above in self._shallow:
            raise Spoiled
        state = self._states.get(above) or self._cache.take(above) or (yield from load(above))
        self._take_up(state)
        if state.status in RUN_TERMINAL or state.node(node_id).wait != {"kind": "child", "run": run_id}:
            raise OmiumError("not_allowed", f"node {node_id} of run {above} does not wait for run {run_id}.")

    def _end(self, run_id: RunId, why: str, actor: Principal) -> Generator[Need, Any, None]:
        try:
            events = yield from self.apply(Write(run_id, [CancelRun(why)], actor))
        except OmiumError as refusal:
            if refusal.code not in ("not_allowed", "not_found"):  # it has ended, or is not created yet
                raise Spoiled from refusal
        else:
            self._ended.append((run_id, events))

    def heard(self, write: Write, events: Sequence[Event]) -> list[tuple[RunId, Sequence[Event]]]:
        """What a write has just come to: its own events, and those of the runs that it has ended."""
        ended, self._ended = self._ended, []
        return [(write.run_id, events), *ended] if events else []

    def _in_batch(self, run_id: RunId) -> tuple[Seq, Sequence[Event]] | None:
        """Where the log of a run of this batch ended before, and what the batch adds to it."""
        if run_id not in self._states:
            return None
        return self.based_on.get(run_id, Seq(0)), self._events.get(run_id, ())

    def _snapshot_when_due(self, state: RunState, before: int, goes_back: bool) -> None:
        every = max(SNAPSHOT_EVERY, len(state.nodes))
        due = goes_back or before // every != state.seq // every
        if due and state.run_id not in self._shallow:
            self._rows.snapshots.append((state.run_id, state.seq, orjson.dumps(to_document(state))))

    def _gather(self, write: Write, state: RunState, events: Sequence[Event], stored: Sequence[bytes]) -> None:
        rows, run_id = self._rows, write.run_id
        for event, raw in zip(events, stored, strict=True):
            rows.events.append(
                (run_id, event.seq, event.type._value_, event.at, event.actor, raw, event.prev_hash, event.hash)
            )
            for digest in references(event.data):
                rows.links.append((run_id, digest))
            if event.type is EventType.CHECKPOINT_CREATED:
                d = event.data
                rows.labels.append(
                    (run_id, event.seq, d["label"], d["at"], d.get("note"), d.get("tree"), event.at, event.actor)
                )
            elif event.type is EventType.POLICY_DECIDED:
                rows.decisions.append(decision_row(event))
        if write.fence is None and events:
            self._wake[run_id] = None if state.sleeps else events[-1].at

        if isinstance(write.commands[0], CreateRun):
            first, due = write.commands[0], self._wake.pop(run_id, None)
            due = None if write.claim else due  # of an owned run that is what it was called for
            self._claimed[run_id] = 1 if write.claim is not None else -1
            rows.new_claims.append((run_id, first.project, first.priority, write.claim, int(bool(write.claim)), due))

    def rows(self) -> Rows:
        """All rows of the batch. Each run that changed has one at most, as it is at the end of the batch."""
        rows = self._rows
        for run_id, touched in self._touched.items():
            state = self._states[run_id]
            before = self._before[run_id]
            if before is None:
                rows.new_runs.append(run_row(state))
            else:
                rows.runs.append(hot_run_row(state))
                if before is not state.status:
                    rows.statuses.append((state.status.value, run_id))
            if touched.approvals:
                rows.approvals += approval_rows(state, touched.approvals)
            if touched.effects:
                rows.effects += effect_rows(state, touched.effects, touched.forgotten)
        rows.wake = [(wake_at, run_id) for run_id, wake_at in self._wake.items()]
        return rows

    def commit(self) -> None:
        """The rows are durable: the states are what the database has."""
        for run_id, state in self._states.items():
            if run_id not in self._shallow and state.seq:
                self._cache.put(state)


def drive(loading: Generator[Need, Any, Any], read: Callable[[Need], Any]) -> Any:
    """Run a generator of needs with a synchronous reader; gives its result."""
    try:
        need = next(loading)
        while True:
            need = loading.send(read(need))
    except StopIteration as done:
        return done.value
