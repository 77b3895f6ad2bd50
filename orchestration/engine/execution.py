"""One run that this process owns: its nodes are started, waited for and committed here.

Scheduling goes ahead of the commits: the end of a node and the start of those that it frees are one write. When a write
is refused, because somebody paused, reset or took the run meanwhile, the ends in it are written alone, and everything
else in memory is thrown away and built again from what is committed (`_resync`), which is also how control events are
answered. Nothing runs before its start is durable, and nobody is told of an end before that is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.engine import executing, parking, setbacks, starting, steps, stopping
from omium.orchestration.engine.attempt import NodeAttempt
from omium.orchestration.engine.board import Board, Outcome
from omium.orchestration.engine.failures import describe
from omium.orchestration.engine.limits import Limit, Ticket
from omium.orchestration.engine.programs import Program
from omium.orchestration.engine.recall import Recall
from omium.orchestration.engine.turn import Turn
from omium.orchestration.engine.writing import MAX_PAUSE_S, PAUSE_S, REFUSED, Writing
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, Fence, NodeId, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.fold import Touched, apply
from omium.orchestration.log.state import RUN_TERMINAL, RunState, RunStatus
from omium.orchestration.ports import NewBlob

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine

_log = logging.getLogger(__name__)

Place: TypeAlias = "tuple[Execution, NodeId]"

# Written by others, or by this process on somebody's behalf: what is in memory must be looked at again.
_CONTROL = frozenset(
    {
        E.RUN_PAUSED, E.RUN_RESUMED, E.RUN_CANCELLED, E.RUN_FAILED, E.RUN_ROLLED_BACK, E.RUN_PLAYED_FROM,
        E.APPROVAL_DECIDED, E.APPROVAL_EXPIRED, E.SIGNAL_RECEIVED,
    }
)  # fmt: skip
_STILL = RUN_TERMINAL | {RunStatus.PAUSED}
_REACHES_BACK = frozenset({E.RUN_ROLLED_BACK, E.RUN_PLAYED_FROM})
_LINGER_US = 2_000_000  # a timer that is due sooner is waited for here; for a later one the run is given up
_LATER_US = 60_000_000
_UNDO_AGAIN_US = 2_000_000  # between tries to have what a rollback has still to undo
_MAX_REFUSALS = 50  # in a row, each after building again: then it is a bug, and the run ends rather than spins


class Execution:
    """A run in this process's hands, from claim to release."""

    def __init__(self, engine: Engine, state: RunState, fence: Fence, program: Program) -> None:
        self.engine = engine
        self.run_id: RunId = state.run_id
        self.fence = fence
        self.folded = state
        self.program = program
        self.structure = program.structure()
        self.board = Board(self.structure)
        self.attempts: dict[NodeId, NodeAttempt] = {}
        self.tickets: dict[NodeId, Ticket[Place]] = {}
        self.parked: dict[NodeId, str] = {}  # what nodes wait for: approval, timer, signal, child, backoff
        self.children: dict[RunId, NodeId] = {}  # the child runs that nodes wait for
        self.creating = 0  # child runs that are being created
        self.width = Limit(program.workflow.max_parallel or 1_000_000)
        self.workspace = Limit(1_000_000)
        self.inputs: Any = None
        self.tree_ahead: str | None = None  # the tree of the files as a write that is under way will have it
        self.armed: int | None = None  # when the engine's timer calls next
        self.finished: anyio.Event | None = None  # whoever stops the run waits for this
        self.closed = False  # the run's own end is written, or is in a write that is under way
        self.stopping: str | None = None
        self.plans: dict[NodeId, Digest] = {}  # those that stand in the structure
        self.recall = Recall(self)
        self._settled = False  # what the last owner left in flight is settled
        self._behind = False  # events are in the log that this fold has not seen
        self._heard: list[Event] | None = None  # while the state is read: what is committed meanwhile
        self._open = True
        self._opened: anyio.Event | None = None  # for the turns that wait
        self._busy = 0
        self._idle: anyio.Event | None = None  # for the building that waits
        self._building = False  # everything is, or is about to be, built again
        self._again = False  # and once more after that
        self._refusals = 0
        self._writing = Writing()
        self._timing: anyio.Lock | None = None  # one turn at a time takes up what is due
        self._queued = 0  # those that wait for it
        self._released = False
        self._is_gone = False  # it has been released
        self._called = False  # nudged while it was being released

    # --- the log --------------------------------------------------------------------------------------------------

    def hear(self, events: Sequence[Event]) -> None:
        """Take in committed events, in order. Called in the event loop, before whoever wrote them goes on."""
        if self._heard is not None:
            self._heard += events
            return
        control = False
        touched = Touched()
        for event in events:
            if event.seq <= self.folded.seq:
                continue
            if event.seq != self.folded.seq + 1 or event.type in _REACHES_BACK:
                self._behind = True
            if not self._behind:
                self.folded = apply(self.folded, event, touched)
            if self.tree_ahead is not None and self.folded.tree == self.tree_ahead:
                self.tree_ahead = None
            control = control or event.type in _CONTROL
            if event.type is E.NODE_ATTEMPT_FAILED:
                self.recall.hear(event)
                control = control or "rule" in event.data
        if control or self._behind:
            self.nudge()

    def nudge(self) -> None:
        """Look at everything again, soon."""
        self._writing.call()
        if self._released:
            self._called = True
        elif not self._again:
            self._again = True
            if not self._building:
                self._building = True
                self.engine.spawn(self._resync)

    async def commit(self, commands: Sequence[c.Command], blobs: Iterable[NewBlob] = ()) -> None:
        """Write; a disk that is full or a database that is away is waited for, since what was done must not be lost.
        Raises what `Store.write` raises otherwise, and `not_allowed` if the run has ended meanwhile."""
        await self._writing.write(self, commands, tuple(blobs))

    # --- turns ----------------------------------------------------------------------------------------------------

    async def _wait_to_enter(self) -> None:
        while not self._open:
            self._opened = self._opened or anyio.Event()
            await self._opened.wait()

    def _leave(self) -> None:
        self._busy -= 1
        if not self._busy and self._idle is not None:
            self._idle.set()

    async def adopt(self) -> None:
        """Take the run up: settle what its last owner left, and go on."""
        self._building = self._again = True
        await self._resync()

    async def begin(self) -> None:
        """Start a run that has just been created: there is nothing to settle and nothing to read."""
        self._settled = True
        started = await self._turn(self._open_run)
        self._launch(started[1:])
        first = self.attempts.get(started[0]) if started else None
        await (self.rest() if first is None else self._run(first))

    async def _open_run(self, turn: Turn) -> None:
        self.board.open_scope(None)

    async def start_taken(self, tickets: Sequence[Ticket[Place]]) -> None:
        """Start nodes that got their slots in somebody else's turn."""

        async def start(turn: Turn) -> None:
            for ticket in tickets:
                node_id = ticket.item[1]
                if self.tickets.get(node_id) is ticket and not self.is_over():
                    await starting.start(self, turn, node_id)

        await self._take_turn(start)

    async def on_time(self) -> None:
        """A timer of this run is due. One such turn at a time: what is taken up is not to be taken twice."""
        await self._take_turn_alone(self._take_due)

    async def _take_due(self, turn: Turn) -> None:
        if not self.is_over():
            await parking.take_due(self, turn)
            turn.wake(parking.next_due(self))

    async def on_child(self, child: RunId) -> None:
        """A child run has ended."""

        async def take(turn: Turn) -> None:
            node_id = self.children.get(child)
            if node_id is not None and not self.is_over():
                await parking.take_child(self, turn, node_id)

        await self._take_turn_alone(take)

    async def _take_turn_alone(self, what: Callable[[Turn], Awaitable[None]]) -> None:
        if self._timing is None:
            self._timing = anyio.Lock()
        self._queued += 1  # what has come must not be missed because the turn before it gives the run up
        async with self._timing:
            self._queued -= 1
            await self._take_turn(what)

    async def _take_turn(self, what: Callable[[Turn], Awaitable[None]]) -> None:
        """Do something of the run's, and go on from there."""
        self._launch(await self._turn(what))
        await self.rest()

    async def _turn(self, what: Callable[[Turn], Awaitable[None]]) -> list[NodeId]:
        """Do something of the run's and all that follows from it, and write it at once; the nodes that may run now."""
        if not self._open:
            await self._wait_to_enter()
        self._busy += 1
        try:
            turn = Turn()
            if not self._released:
                await self._advance(turn, what)
            return await self._commit(turn)
        finally:
            self._leave()

    async def _advance(self, turn: Turn, what: Callable[[Turn], Awaitable[None]] | None = None) -> None:
        """Do `what`, and go on from there. When the database is away, what has ended is written all the same, once it
        can be, and the rest is looked at again."""
        try:
            if what is not None:
                await what(turn)
            await self._go_on(turn)
        except OmiumError as error:
            if error.code != "storage_unavailable" or self.stopping is not None:
                raise
            _log.warning("run %s cannot go on, trying again: %s", self.run_id, error)
            self._take_back(turn)
            self._behind = True
            self.nudge()

    def _take_back(self, turn: Turn) -> None:
        """Leave of a turn only the end of an attempt, which stands whatever becomes of the rest."""
        del turn.commands[turn.facts :]
        unstarted = [node_id for node_id, one in self.tickets.items() if one.held and node_id not in self.attempts]
        for node_id in (*turn.started, *unstarted):
            self.drop_attempt(node_id)
        turn.started.clear()
        turn.children.clear()
        turn.dropped.clear()

    async def _go_on(self, turn: Turn) -> None:
        """Go as far as possible without waiting for anything."""
        if self.is_over() or self.closed:
            self.engine.deal(None)  # what has ended is noted; the rest is built again when the run goes on
            return
        board = self.board
        while True:
            while board.ready or board.closing:
                ready, board.ready = board.ready, []
                alone = len(ready) == 1 and not board.closing
                for node_id in ready:
                    if await starting.admit(self, turn, node_id, alone):
                        await starting.start(self, turn, node_id)
                closing, board.closing = board.closing, []
                for container in closing:
                    await steps.close(self, turn, container)
            mine = self.engine.deal(self)
            if not mine:
                break
            for ticket in mine:
                await starting.start(self, turn, ticket.item[1])
        if self.parked and self._stands_still():
            turn.commands.append(c.WaitRun(self.folded.generation))

    def _stands_still(self) -> bool:
        """Nothing of what is parked can go on before somebody decides, as far as is known here."""
        at_work = self.attempts or self.tickets or self.closed or self.folded.status is not RunStatus.EXECUTING
        return not at_work and all(kind == "approval" for kind in self.parked.values())

    async def _commit(self, turn: Turn) -> list[NodeId]:
        """Write the turn; the nodes that may run now. A refusal has everything built again, but for the end of an
        attempt, which is written alone: what was done is not done twice because somebody paused meanwhile."""
        if turn.commands:
            try:
                await self._writing.write(self, turn.commands, turn.blobs)
            except OmiumError as error:
                for node_id in turn.started:
                    self.drop_attempt(node_id)
                await self._refused(error, turn)
                return []
            self._refusals = 0
        for child in turn.children:
            self.creating += 1
            self.engine.spawn(self.engine.children.start, self, *child)
        for dropped in turn.dropped:
            self.engine.spawn(self.engine.children.cancel, *dropped)
        if turn.due is not None:
            self.arm(turn.due)
        return turn.started

    async def _refused(self, error: OmiumError, turn: Turn | None = None) -> None:
        """A write was refused. Raises what is no refusal."""
        if error.code == "fenced":
            self._lost()
            return
        if error.code not in REFUSED or self._refusals >= _MAX_REFUSALS:
            raise error
        self._refusals += 1
        if turn is not None and 0 < turn.facts < len(turn.commands):
            try:
                await self.commit(turn.commands[: turn.facts], turn.blobs)
            except OmiumError as refused:  # it is of an older generation, or the run has ended
                if refused.code not in REFUSED:
                    await self._refused(refused)
        self._behind = True
        self.nudge()

    def arm(self, due_us: int) -> None:
        """Have `on_time` called at this time, if not before."""
        if self.armed is None or due_us < self.armed:
            self.armed = due_us
            self.engine.at(due_us, self)

    def _launch(self, nodes: Iterable[NodeId]) -> None:
        for node_id in nodes:
            attempt = self.attempts.get(node_id)
            if attempt is not None:
                self.engine.spawn(self._run, attempt)

    async def _run(self, attempt: NodeAttempt) -> None:
        """Run an attempt, commit its end, and go on with the first node that this frees, in the same task."""
        following: NodeAttempt | None = attempt
        while following is not None:
            # One scope for as many attempts as nobody stops: making one is a twentieth of what a small node costs.
            with anyio.CancelScope() as scope:
                while following is not None:
                    attempt, ended = following, None
                    ended = await executing.execute(self, attempt, scope)
                    if scope.cancel_called:
                        break
                    following = await self._finish(attempt, ended)
            if scope.cancel_called:
                following = await self._finish(attempt, ended or executing.Ended())
        await self.rest()

    async def _finish(self, attempt: NodeAttempt, ended: executing.Ended) -> NodeAttempt | None:
        """Commit the end of an attempt, with the start of what it frees; the first of those is left to the caller."""
        if not self._open:
            await self._wait_to_enter()
        self._busy += 1
        started: list[NodeId] = []
        try:
            if self.attempts.get(attempt.node_id) is attempt:
                turn = Turn()
                await steps.finish(self, turn, attempt, ended)
                turn.facts = len(turn.commands)
                await self._advance(turn)
                started = await self._commit(turn)
        finally:
            self._leave()
        if len(started) > 1:
            self._launch(started[1:])
        return self.attempts.get(started[0]) if started else None

    def drop_attempt(self, node_id: NodeId) -> None:
        """Forget an attempt and free its slots."""
        self.attempts.pop(node_id, None)
        if (ticket := self.tickets.pop(node_id, None)) is not None:
            self.engine.queue.drop(ticket)

    # --- building again -------------------------------------------------------------------------------------------

    async def _resync(self) -> None:
        """Build everything in memory from what is committed, with no turn under way, until nothing more is heard."""
        self._open = False
        pause = PAUSE_S
        try:
            while self._again and not self._released:
                while self._busy:
                    self._idle = anyio.Event()
                    await self._idle.wait()
                self._again = False  # what is heard from here on asks for another round
                try:
                    self._launch(await self._build())
                except OmiumError as error:
                    if error.code == "storage_unavailable" and self.stopping is None:
                        _log.warning("run %s cannot be read, trying again: %s", self.run_id, error)
                        await anyio.sleep(pause)
                        pause = min(pause * 2, MAX_PAUSE_S)
                        self._again = self._behind = True
                    else:
                        await self._refused(error)
        finally:
            self._building = False
            self._open, self._idle = True, None
            if self._opened is not None:
                self._opened.set()
                self._opened = None
        self.engine.deal(None)
        await self.rest()

    async def _build(self) -> list[NodeId]:
        """One round: bring the fold up to date, stop and settle what must not go on, and schedule the rest."""
        if self._behind or await self._has_grown():
            await self._read()
        if self.program.has_plans:
            await steps.reopen_plans(self)
        unsaid, named = await stopping.stop_what_is_not_wanted(self)
        if self.folded.status not in RUN_TERMINAL:
            commands, due = stopping.settle_in_flight(self, unsaid, not self._settled)
            if commands:
                await self.commit(commands, named)
            if due is not None:
                self.arm(due)
            self._settled = True
        if self.folded.undoing is not None and not self._behind and self.stopping is None:
            await self.engine.undo(self.run_id, self.fence)
        while self.folded.setbacks and not self._behind and not self.is_over():
            await setbacks.take_up(self)
        if self.program.has_children:
            await self.engine.children.settle(self)
        if self._behind:
            self.nudge()
            return []
        turn = Turn()
        if not self.is_over():
            await self._rebuild(turn)
            await self._go_on(turn)
        return await self._commit(turn)

    async def _read(self) -> None:
        """Fold the log again. What is committed while it is read is heard afterwards."""
        self._heard = []
        try:
            self.folded = await self.engine.store.state(self.run_id)
            self._behind = False
        finally:
            heard, self._heard = self._heard, None
            self.hear(heard)

    async def _has_grown(self) -> bool:
        heads = await self.engine.store.heads([self.run_id])
        return heads.get(self.run_id, Seq(0)) > self.folded.seq

    def is_over(self) -> bool:
        """Whether nothing is to start here: the run has ended, is paused, or has still to undo what a rollback has left
        behind, or this worker gives it up."""
        return self.stopping is not None or self.folded.status in _STILL or bool(self.folded.owed)

    async def _rebuild(self, turn: Turn) -> None:
        self.parked, self.children, self.closed, self.tree_ahead = {}, {}, False, None
        self.recall.forget_items()
        if self.inputs is None or "inputs" in self.folded.overrides:
            given: Any = await self.engine.values.load(self.folded.inputs)
            self.inputs = {**given, **self.folded.overrides.get("inputs", {})}
        await steps.restore_workspace(self)
        await steps.open_boards(self)
        await parking.take_parked(self, turn)
        turn.wake(parking.next_due(self))

    @classmethod
    def unreadable(cls, engine: Engine, state: RunState, fence: Fence) -> Execution:
        """A run whose definition cannot be had: it can only be failed."""
        return cls(engine, state, fence, Program(WorkflowDef(state.workflow, ())))

    async def give_up(self, error: Exception) -> None:
        """The run cannot go on at all: its definition cannot be read, a value is damaged, a bug was met."""
        if self._released:
            return
        code = error.code if isinstance(error, OmiumError) else None
        if code != "fenced":
            _log.error("run %s cannot go on: %s", self.run_id, error)
        for attempt in self.attempts.values():
            attempt.cancel()
        try:
            # A database that is away while this worker stops is no fault of the run's: the next owner goes on.
            if code not in ("fenced", "storage_unavailable") and self.folded.status not in RUN_TERMINAL:
                self.closed = True
                await self.commit([c.FailRun(describe(error))])
        except OmiumError as refused:
            _log.error("run %s cannot be failed either: %s", self.run_id, refused)
        if code != "fenced":
            await self._release_as_it_is()
        self._lost()

    async def _release_as_it_is(self) -> None:
        """Leave a run that cannot go on here. One that could not even be failed is looked at again in a minute."""
        pause, last = PAUSE_S, None
        while True:
            try:
                row = await self.engine.store.run(self.run_id)
                if row is None or row.seq == last:
                    return  # it is another one's by now
                last = row.seq  # the log may grow meanwhile
                wake_at = None if row.ended_at and not self.folded.owed else self.engine.clock.now_us() + _LATER_US
                if await self.engine.store.release(self.run_id, self.fence, row.seq, wake_at):
                    return
            except OmiumError as refused:
                _log.error("run %s cannot be released: %s", self.run_id, refused)
                if refused.code != "storage_unavailable" or self.stopping is not None:
                    return
                last = None
                await anyio.sleep(pause)  # a claim that nobody gives back would have the run stand still for good
                pause = min(pause * 2, MAX_PAUSE_S)

    async def fail_waiting(self, node_id: NodeId, wait: Mapping[str, Any], error: OmiumError) -> None:
        """What a node waits for cannot come: its child run could not be created."""

        async def fail(turn: Turn) -> None:
            if self.folded.node(node_id).wait == wait and not self.is_over():
                steps.failed(self, turn, node_id, describe(error))

        await self._take_turn(fail)

    # --- the end ----------------------------------------------------------------------------------------------------

    @property
    def is_resting(self) -> bool:
        """Whether there is nothing left to do here for now, so that it is given up, or has been."""
        return self._released

    async def rest(self) -> None:
        """Give the run up when nothing is left to do here for now."""
        if self.attempts or self.tickets or self._busy or self._building or self._released:
            return
        if self._queued or self.creating:
            return
        wake_at = None
        if not self.is_over():
            wake_at = parking.next_due(self)
            if wake_at is not None and wake_at < self.engine.clock.now_us() + _LINGER_US:
                self.arm(wake_at)
                return
        elif not self.folded.sleeps:  # for the next worker at once; what could not be undone yet, a little later
            wake_at = self.engine.clock.now_us() + (0 if self.stopping is not None else _UNDO_AGAIN_US)
        self._released = True
        pause = PAUSE_S
        while True:
            seq = self.folded.seq
            try:
                free = await self.engine.store.release(self.run_id, self.fence, seq, wake_at)
                break
            except OmiumError as error:
                if error.code != "storage_unavailable" or self.stopping is not None:
                    _log.error("run %s cannot be released: %s", self.run_id, error)
                    self._lost()
                    return
                await anyio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_S)
        if free:
            self._gone()
            if self._called:
                await self.engine.store.wake([self.run_id], self.engine.clock.now_us())
                self.engine.look()
        elif await self._is_anothers(seq):
            self._lost()
        else:  # the log has grown: look again
            self._released = self._called = False
            self._behind = True
            self.nudge()

    async def _is_anothers(self, seq: Seq) -> bool:
        """Whether the run could not be released because it was taken away, or is released already: its log ends where
        it did."""
        try:
            row = await self.engine.store.run(self.run_id)
        except OmiumError:
            return False
        return row is None or row.seq == seq

    def _lost(self) -> None:
        """Another process owns the run: stop everything, write nothing."""
        self._released = True
        for attempt in self.attempts.values():
            attempt.cancel()
        for node_id in list(self.tickets):
            self.drop_attempt(node_id)
        self._gone()
        self.engine.deal(None)

    def _gone(self) -> None:
        self._released = self._is_gone = True
        if self.finished is not None:
            self.finished.set()
        self.engine.forget(self)

    async def stop(self, reason: str) -> None:
        """Stop what runs and give the run up, so that another worker, or this one later, can take it."""
        self.stopping = reason
        if not self._released:  # what is being given up anyway need not be looked at again by anybody
            self.nudge()
        self.finished = anyio.Event()
        if not self._is_gone:
            await self.finished.wait()

    def note(self, node_id: NodeId, outcome: Outcome) -> None:
        """A node has ended, as far as this turn goes."""
        self.parked.pop(node_id, None)
        self.board.ended(node_id, outcome)
