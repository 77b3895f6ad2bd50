"""One run that this process owns: its nodes are started, waited for and committed here.

Scheduling goes ahead of the commits: the end of a node and the start of those that it frees are one write. When a write
is refused, because somebody paused, reset or took the run meanwhile, everything in memory is thrown away and built again
from what is committed (`_resync`), which is also how control events are answered. Nothing runs before its start is
durable, and nobody is told of an end before that is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.engine import parking, starting, steps
from omium.orchestration.engine.attempt import NodeAttempt
from omium.orchestration.engine.board import Board, Outcome
from omium.orchestration.engine.failures import describe
from omium.orchestration.engine.limits import Limit, Ticket
from omium.orchestration.engine.programs import Program
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Fence, NodeId, Principal, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.fold import apply
from omium.orchestration.log.state import RUN_TERMINAL, RunState, RunStatus
from omium.orchestration.ports import NewBlob, Write

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine

_log = logging.getLogger(__name__)

ENGINE = Principal("engine")

# Written by others, or by this process on somebody's behalf: what is in memory must be looked at again.
_CONTROL = frozenset(
    {
        E.RUN_PAUSED, E.RUN_RESUMED, E.RUN_CANCELLED, E.RUN_FAILED, E.RUN_ROLLED_BACK, E.RUN_PLAYED_FROM,
        E.APPROVAL_DECIDED, E.APPROVAL_EXPIRED, E.SIGNAL_RECEIVED,
    }
)  # fmt: skip
_REACHES_BACK = frozenset({E.RUN_ROLLED_BACK, E.RUN_PLAYED_FROM})
_LINGER_US = 2_000_000  # a timer that is due sooner is waited for here; for a later one the run is given up


class Turn:
    """What one step of scheduling gathers: commands and blobs of one write, and what begins once that is durable: nodes
    to run, and child runs to create (node, run, workflow, inputs)."""

    __slots__ = ("blobs", "children", "commands", "started")

    def __init__(self) -> None:
        self.commands: list[c.Command] = []
        self.blobs: list[NewBlob] = []
        self.started: list[NodeId] = []
        self.children: list[tuple[NodeId, RunId, str, Any]] = []


class Execution:
    """A run in this process's hands, from claim to release."""

    def __init__(self, engine: Engine, state: RunState, fence: Fence, program: Program) -> None:
        self.engine = engine
        self.run_id: RunId = state.run_id
        self.fence = fence
        self.state = state
        self.program = program
        self.structure = Structure(program.workflow)
        self.board = Board(self.structure)
        self.attempts: dict[NodeId, NodeAttempt] = {}
        self.tickets: dict[NodeId, Ticket[tuple[Execution, NodeId]]] = {}
        self.parked: dict[NodeId, str] = {}  # what nodes wait for: approval, timer, signal, child, backoff
        self.width = Limit(program.workflow.max_parallel or 1_000_000)
        self.workspace = Limit(1_000_000)
        self.inputs: Any = None
        self._items: dict[NodeId, tuple[Any, Sequence[str] | None]] = {}
        self.finished = anyio.Event()
        self.closed = False  # the run's own end is written
        self._behind = False  # events are in the log that this fold has not seen
        self._open = True
        self._opened = anyio.Event()
        self._busy = 0
        self._idle = anyio.Event()
        self._resyncing = False
        self._released = False
        self.stopping: str | None = None

    # --- the log --------------------------------------------------------------------------------------------------

    def hear(self, events: Sequence[Event]) -> None:
        """Take in committed events, in order. Called in the event loop, before whoever wrote them goes on."""
        control = False
        for event in events:
            if event.seq <= self.state.seq:
                continue
            if event.seq != self.state.seq + 1 or event.type in _REACHES_BACK:
                self._behind = True
            if not self._behind:
                self.state = apply(self.state, event)
            control = control or event.type in _CONTROL
        if control or self._behind:
            self.nudge()

    def nudge(self) -> None:
        """Look at everything again, soon."""
        if not self._resyncing and not self._released:
            self._resyncing = True
            self.engine.spawn(self._resync)

    async def commit(self, commands: Sequence[c.Command], blobs: Iterable[NewBlob] = ()) -> None:
        """Write; a disk that is full or a database that is away is waited for, since what was done must not be lost.
        Raises what `Store.write` raises otherwise."""
        write = Write(self.run_id, commands, ENGINE, fence=self.fence, blobs=tuple(blobs))
        pause = 0.5
        while True:
            try:
                await self.engine.store.write(write)
                return
            except OmiumError as error:
                if error.code != "storage_unavailable" or self.stopping is not None:
                    raise
                _log.warning("run %s cannot be written, trying again: %s", self.run_id, error)
                await anyio.sleep(pause)
                pause = min(pause * 2, 30.0)

    # --- turns ----------------------------------------------------------------------------------------------------

    async def _enter(self) -> None:
        while not self._open:
            await self._opened.wait()
        self._busy += 1

    def _leave(self) -> None:
        self._busy -= 1
        if not self._busy:
            self._idle.set()

    async def adopt(self) -> None:
        """Take the run up: settle what its last owner left, and go on."""
        self._resyncing = True
        await self._resync(first=True)

    async def begin(self) -> None:
        """Start a run that has just been created: there is nothing to settle and nothing to read."""
        await self._enter()
        try:
            self.board.open_scope(None)
            turn = Turn()
            await self._advance(turn)
            started = await self._commit(turn)
        finally:
            self._leave()
        self._launch(started)
        await self._rest()

    async def start_taken(self, nodes: list[NodeId]) -> None:
        """Start nodes that got their slots in somebody else's turn."""
        await self._enter()
        try:
            turn = Turn()
            for node_id in nodes:
                if node_id in self.tickets:
                    await starting.start(self, turn, node_id)
            await self._advance(turn)
            started = await self._commit(turn)
        finally:
            self._leave()
        self._launch(started)
        await self._rest()

    async def on_time(self) -> None:
        """A timer of this run is due."""
        await self._enter()
        try:
            turn = Turn()
            await parking.take_due(self, turn)
            await self._advance(turn)
            started = await self._commit(turn)
        finally:
            self._leave()
        self._launch(started)
        await self._rest()

    async def _advance(self, turn: Turn) -> None:
        """Go as far as possible without waiting for anything."""
        if self._is_over():
            return  # what has ended is noted; the rest is built again when the run goes on
        board = self.board
        while True:
            while board.ready or board.closing:
                ready, board.ready = board.ready, []
                for node_id in ready:
                    await starting.admit(self, turn, node_id)
                closing, board.closing = board.closing, []
                for container in closing:
                    await steps.close(self, turn, container)
            mine = self.engine.deal(self)
            if not mine:
                break
            for node_id in mine:
                await starting.start(self, turn, node_id)
        if self._stands_still(turn):
            turn.commands.append(c.WaitRun())

    def _stands_still(self, turn: Turn) -> bool:
        """Nothing can go on before somebody decides."""
        return (
            bool(self.parked)
            and not self.attempts
            and not self.tickets
            and self.state.status is RunStatus.EXECUTING
            and not self.closed
            and all(kind == "approval" for kind in self.parked.values())
        )

    async def _commit(self, turn: Turn) -> list[NodeId]:
        """Write the turn; the nodes that may run now. A refusal has everything built again."""
        if not turn.commands:
            return turn.started
        try:
            await self.commit(turn.commands, turn.blobs)
        except OmiumError as error:
            for node_id in turn.started:
                self.drop_attempt(node_id)
            if error.code == "fenced":
                self._lost()
            elif error.code in ("conflict", "not_allowed", "not_found"):
                self._behind = True
                self.nudge()
            else:
                raise
            return []
        for node_id, child, workflow, inputs in turn.children:
            self.engine.spawn(self.engine.start_child, self, node_id, child, workflow, inputs)
        return turn.started

    def _launch(self, nodes: Iterable[NodeId]) -> None:
        for node_id in nodes:
            attempt = self.attempts.get(node_id)
            if attempt is not None:
                self.engine.spawn(self._run, attempt)

    async def _run(self, attempt: NodeAttempt) -> None:
        """Run an attempt, commit its end, and go on with the first node that this frees, in the same task."""
        following: NodeAttempt | None = attempt
        while following is not None:
            attempt = following
            following = None
            result = await steps.execute(self, attempt)
            await self._enter()
            started: list[NodeId] = []
            try:
                if self.attempts.get(attempt.node_id) is attempt:
                    turn = Turn()
                    await steps.finish(self, turn, attempt, result)
                    await self._advance(turn)
                    started = await self._commit(turn)
            finally:
                self._leave()
            if started:
                following = self.attempts.get(started[0])
                self._launch(started[1:])
        await self._rest()

    def drop_attempt(self, node_id: NodeId) -> None:
        """Forget an attempt and free its slots."""
        self.attempts.pop(node_id, None)
        ticket = self.tickets.pop(node_id, None)
        if ticket is not None:
            self.engine.queue.give_back(ticket)

    # --- building again -------------------------------------------------------------------------------------------

    async def _resync(self, first: bool = False) -> None:
        """Build everything in memory from what is committed, with no turn under way."""
        self._open = False
        try:
            while self._busy:
                self._idle = anyio.Event()
                await self._idle.wait()
            self._resyncing = False  # what is heard from here on asks for another round
            if first or self._behind or await self._has_grown():
                self.state = await self.engine.store.state(self.run_id)
                self._behind = False
            await self._stop_what_is_not_wanted()
            turn = Turn()
            if not self._is_over():
                await self._rebuild(turn, first)
                await self._advance(turn)
            started = await self._commit(turn)
        except OmiumError as error:
            _log.exception("run %s cannot be taken up", self.run_id)
            started = []
            await self.give_up(error)
        finally:
            self._open = True
            self._opened.set()
            self._opened = anyio.Event()
        self._launch(started)
        await self._rest()

    async def _has_grown(self) -> bool:
        heads = await self.engine.store.heads([self.run_id])
        return heads.get(self.run_id, Seq(0)) > self.state.seq

    def _is_over(self) -> bool:
        return self.stopping is not None or self.state.status in RUN_TERMINAL or self.state.status is RunStatus.PAUSED

    async def _stop_what_is_not_wanted(self) -> None:
        """Cancel attempts that the log no longer knows, or that a pause interrupts, and wait until they are gone."""
        for ticket in self.tickets.values():
            if ticket.item[1] not in self.attempts:
                ticket.dead = True
        self.tickets = {n: ticket for n, ticket in self.tickets.items() if n in self.attempts}
        interrupted: list[NodeAttempt] = []
        for node_id, attempt in list(self.attempts.items()):
            node = self.state.node(node_id)
            current = node.in_flight and (node.generation, node.attempt) == (attempt.generation, attempt.attempt)
            paused = self.state.status is RunStatus.PAUSED and self.state.interrupt and attempt.node.on_pause == "interrupt"
            if not current or paused or self.stopping is not None or self.state.status in RUN_TERMINAL:
                if current and attempt.ended.is_set():
                    continue  # it has just ended, and only waits for its turn to say so
                attempt.scope.cancel()
                if current and self.state.status not in RUN_TERMINAL:
                    interrupted.append(attempt)
                await attempt.ended.wait()
                self.drop_attempt(node_id)
        if interrupted:
            reason = "paused" if self.state.status is RunStatus.PAUSED else (self.stopping or "handover")
            await self._interrupt(interrupted, reason)

    async def _interrupt(self, attempts: list[NodeAttempt], reason: str) -> None:
        commands: list[c.Command] = []
        for attempt in attempts:
            commands += attempt.take_pending()
            commands.append(c.InterruptNode(attempt.node_id, attempt.generation, attempt.attempt, reason))
        await self.commit(commands)

    async def _rebuild(self, turn: Turn, first: bool) -> None:
        self.parked, self.closed, self._items = {}, False, {}
        if self.inputs is None:
            self.inputs = await self.engine.values.load(self.state.inputs)
        if first:
            await steps.recover(self)
        await steps.restore_workspace(self)
        await steps.open_boards(self)
        await parking.take_parked(self, turn)

    @classmethod
    def unreadable(cls, engine: Engine, state: RunState, fence: Fence) -> Execution:
        """A run whose definition cannot be had: it can only be failed."""
        return cls(engine, state, fence, Program(WorkflowDef(state.workflow, ())))

    async def give_up(self, error: Exception) -> None:
        """The run cannot go on at all: its definition cannot be read, a value is damaged, a bug was met."""
        if isinstance(error, OmiumError) and error.code == "fenced":
            self._lost()
            return
        for attempt in self.attempts.values():
            attempt.scope.cancel()
        try:
            if self.state.status not in RUN_TERMINAL:
                await self.commit([c.FailRun(describe(error))])
            await self.engine.store.release(self.run_id, self.fence, self.state.seq, None)
        except OmiumError:
            _log.exception("run %s cannot be failed either", self.run_id)
        self._lost()

    async def child_refused(self, node_id: NodeId, child: RunId, error: OmiumError) -> None:
        """The child run of a node could not be created: the node fails."""
        node = self.state.node(node_id)
        if node.wait == {"kind": "child", "run": child}:
            await self.commit([c.FailNode(node_id, node.generation, describe(error))])
            self.nudge()

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _rest(self) -> None:
        """Give the run up when nothing is left to do here for now."""
        if self.attempts or self.tickets or self._busy or self._resyncing or self._released:
            return
        wake_at = None
        if not self._is_over():
            wake_at = parking.next_due(self)
            if wake_at is not None and wake_at < self.engine.clock.now_us() + _LINGER_US:
                self.engine.at(wake_at, self)
                return
        elif self.stopping is not None and self.state.status not in RUN_TERMINAL | {RunStatus.PAUSED}:
            wake_at = self.engine.clock.now_us()  # for the next worker, at once
        self._released = True
        if await self.engine.store.release(self.run_id, self.fence, self.state.seq, wake_at):
            self._gone()
        else:  # the log has grown: look again
            self._released = False
            self._behind = True
            self.nudge()

    def _lost(self) -> None:
        """Another process owns the run: stop everything, write nothing."""
        self._released = True
        for attempt in self.attempts.values():
            attempt.scope.cancel()
        for node_id in list(self.tickets):
            self.drop_attempt(node_id)
        self._gone()

    def _gone(self) -> None:
        self._released = True
        self.finished.set()
        self.engine.forget(self)

    async def stop(self, reason: str) -> None:
        """Stop what runs and give the run up, so that another worker, or this one later, can take it."""
        self.stopping = reason
        self.nudge()
        await self.finished.wait()

    def keep_items(self, node_id: NodeId, items: Any, keys: tuple[str, ...] | None) -> None:
        self._items[node_id] = (items, keys)

    async def items_of(self, node_id: NodeId) -> tuple[Any, Sequence[str] | None]:
        """The items of a fan-out and their keys, as they were when it expanded."""
        if node_id not in self._items:
            expansion = self.state.node(node_id).expansion or {}
            items = await self.engine.values.load(expansion["items"])
            self._items[node_id] = (items, expansion.get("keys"))
        return self._items[node_id]

    def note(self, node_id: NodeId, outcome: Outcome) -> None:
        """A node has ended, as far as this turn goes."""
        self.parked.pop(node_id, None)
        self.board.ended(node_id, outcome)


