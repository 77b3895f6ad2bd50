"""The worker: claims runs, keeps their executions, and watches over other workers.

One engine serves one process. It never looks for runs that nobody has given it a reason to look for: a control event, a
timer that is due, another process's commit, or a free place wakes it.
"""

from __future__ import annotations

import heapq
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskGroup

from omium.orchestration.definition.address import containers_of
from omium.orchestration.definition.model import NodeDef, WorkflowDef
from omium.orchestration.engine.attempt import NodeAttempt
from omium.orchestration.engine.children import Children, CreateChild
from omium.orchestration.engine.execution import Execution, Place
from omium.orchestration.engine.files import RunFiles
from omium.orchestration.engine.left import StatesLeft
from omium.orchestration.engine.limits import Limit, ReadyQueue, Ticket
from omium.orchestration.engine.mending import remedies
from omium.orchestration.engine.programs import Program, Programs
from omium.orchestration.engine.setbacks import TakeBack, Undo, nobody, nothing
from omium.orchestration.engine.values import ValueCache
from omium.orchestration.engine.watch import Watch
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import BudgetsNow, no_budgets
from omium.orchestration.gates.deciding import Policies
from omium.orchestration.ids import Digest, Fence, ProjectId, RunId, Seq, WorkerId, new_id
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import Claimed, Clock, Executor, Store, SystemClock
from omium.orchestration.ports_agents import KeepsAgents
from omium.orchestration.ports_calls import Guidance
from omium.orchestration.ports_processes import Processes
from omium.orchestration.ports_workspace import Workspaces, WorkspaceSpec
from omium.orchestration.values import Value

_log = logging.getLogger(__name__)

_ENDS = frozenset({E.RUN_COMPLETED, E.RUN_FAILED, E.RUN_CANCELLED})
_LOOK_S = 15.0  # between looks at the wall clock while a timer runs
_TOLD_OF_REMEDIES = frozenset({"agent", "cli"})  # whoever can make something of them; a lookup in other runs


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """slots: nodes that run at once in this process (those that need a process of their own have tighter limits: `cli`
    below, and the pool that runs functions); runs: runs that it owns at once; resources: named limits, also
    `agent:NAME`, `function:NAME`; pools: what shares a named limit (`function:NAME` -> its name), so that a node's
    time-out does not run while it waits for a place; weights: how many slots of a named limit something takes
    (`cli:NAME` -> limit -> slots); projects: whose runs it claims."""

    slots: int = 4_096
    commands: int = 16
    runs: int = 2_000
    resources: Mapping[str, int] = field(default_factory=dict)
    pools: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    projects: Sequence[ProjectId] = (ProjectId("default"),)
    beat_s: float = 5.0
    stale_s: float = 30.0


CheckNames = Callable[[Sequence[NodeDef]], None]


class Engine:
    """Owns and executes runs. An async context manager; leaving it hands over what it still owns."""

    def __init__(
        self,
        store: Store,
        executors: Mapping[str, Executor],
        *,
        processes: Processes,
        create_child: CreateChild,
        check_names: CheckNames,
        workspaces: Workspaces | None = None,
        specs: Mapping[str, WorkspaceSpec] | None = None,
        config: EngineConfig | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        policies: Policies | None = None,
        budgets: BudgetsNow = no_budgets,
        redact: Callable[[Value], Value] = lambda value: value,
    ) -> None:
        self.store = store
        self.config = config or EngineConfig()
        self.clock = clock or SystemClock()
        self.rng = rng or random.SystemRandom()
        self.values = ValueCache(store)
        self.programs = Programs()
        self.workspaces = RunFiles(store, workspaces, specs or {})
        self.queue: ReadyQueue[Place] = ReadyQueue(
            self.config.slots, {"kind:cli": self.config.commands, **self.config.resources}
        )
        self.worker = WorkerId(new_id("wrk"))
        self.check_names = check_names
        self.policies = policies or Policies(self.values.load)
        self.budgets = budgets
        self.shares_told: dict[str, int] = {}  # of counters, in percent: see `budgets.tell_what_is_reached`
        self.redact = redact  # what is shown and stored of a call's arguments
        self._executors = executors
        self.children = Children(self, create_child)
        self.take_back: TakeBack = nobody  # history's part, which the core gives when it is bound
        self.undo: Undo = nothing  # likewise
        self._executions: dict[RunId, Execution] = {}
        self._left = StatesLeft()
        self._limits: dict[tuple[str, str | None, tuple[str, ...]], Sequence[tuple[Limit, int]]] = {}
        self.may_claim: Callable[[], bool] = lambda: True  # asked before each look for runs
        self.reserved = 0  # places for runs that are claimed or being created, and not yet among the executions
        self._in_hand: Counter[RunId] = Counter()  # owned, or about to be, without an execution
        self._claiming = False  # the answer to a claim is on its way
        self._timers: list[tuple[int, int, RunId]] = []
        self._timer_count = 0
        self._timer_set = anyio.Event()
        self._look = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._stopping = False
        self._watch = Watch(store, processes, self.worker, self.config)

    # --- life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Engine:
        await self._watch.register()
        self._unlisten = self.store.listen(self._hear)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._claim_loop)
        self._tasks.start_soon(self._timer_loop)
        self._tasks.start_soon(self._tail_loop)
        self._tasks.start_soon(self._compare_loop)
        self._tasks.start_soon(self._watch.run, self.look)
        return self

    async def __aexit__(self, *error: Any) -> None:
        assert self._tasks is not None
        with anyio.CancelScope(shield=True):
            await self.stop()
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(None, None, None)
        self._unlisten()
        with anyio.CancelScope(shield=True):
            await self._watch.retire()

    async def stop(self, reason: str = "handover", within_s: float = 10.0) -> None:
        """Give every run up: what is in flight is interrupted and noted, so that the next owner starts it again."""
        self._stopping = True
        with anyio.move_on_after(within_s):
            async with anyio.create_task_group() as stopping:
                for execution in list(self._executions.values()):
                    stopping.start_soon(execution.stop, reason)

    def spawn(self, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        """Run something of an execution in the background. What it raises unexpectedly ends that run, no other one."""
        assert self._tasks is not None
        self._tasks.start_soon(self._guard, function, args)

    async def _guard(self, function: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        try:
            await function(*args)
        except Exception as error:  # a boundary: one run's trouble, or a bug met in it, must not end the others
            foreseen = isinstance(error, OmiumError)  # one of these is told in a line; a bug with its traceback
            _log.error("%s failed: %s", getattr(function, "__qualname__", function), error, exc_info=not foreseen)
            owner = getattr(function, "__self__", None)
            if isinstance(owner, Execution):
                await owner.give_up(error)

    @property
    def busy(self) -> int:
        """How many runs this process owns now."""
        return len(self._executions) + self.reserved

    @property
    def is_executing(self) -> bool:
        """Whether it owns, or is about to own, a run that it does not let go of already."""
        return self.reserved > 0 or any(not execution.is_resting for execution in self._executions.values())

    @property
    def is_stopping(self) -> bool:
        """Whether it gives everything up: what may take long is not begun, and not waited for."""
        return self._stopping

    def owned(self, run_id: RunId | None) -> Execution | None:
        """The execution of a run, if this process owns it."""
        return self._executions.get(run_id) if run_id is not None else None

    def state_at(self, run_id: RunId, seq: int) -> RunState | None:
        """The run as it is at this position, if it is, or lately was, in this process's hands. An execution goes on
        with it: read it before the next await, and change nothing."""
        execution = self._executions.get(run_id)
        state = execution.folded if execution is not None else self._left.get(run_id)
        return state if state is not None and state.seq == seq else None

    # --- hearing --------------------------------------------------------------------------------------------------

    def _hear(self, run_id: RunId, events: Sequence[Event]) -> None:
        execution = self._executions.get(run_id)
        if execution is not None:
            execution.hear(events)
        elif events[0].type is not E.RUN_CREATED:
            self.look()
        if events[-1].type in _ENDS:
            if execution is None:
                self.children.has_ended(run_id, None)
            elif execution.folded.caller is not None:
                self.children.has_ended(run_id, RunId(execution.folded.caller["run"]))

    def look(self) -> None:
        """There may be runs to claim."""
        self._look.set()

    async def _tail_loop(self) -> None:
        """Other processes' commits: what they did to runs that are owned here, and what they left to be claimed."""
        changes = self.store.changes(own=False)
        try:
            async for _ in changes:
                self.look()
                await self._catch_up()
        finally:
            with anyio.CancelScope(shield=True):
                await changes.aclose()

    async def _catch_up(self) -> None:
        try:
            heads = await self.store.heads(list(self._executions))
            for run_id, head in heads.items():
                execution = self._executions.get(run_id)
                while execution is not None and head > execution.folded.seq:
                    page = await self.store.events(run_id, execution.folded.seq)
                    before = execution.folded.seq
                    execution.hear(page)
                    if execution.folded.seq == before:
                        break  # it reads the log itself
            for child in self.children.watched():
                row = await self.store.run(child)
                if row is not None and row.ended_at is not None:
                    self.children.has_ended(child, row.caller_run)
        except OmiumError:
            _log.exception("other processes' changes cannot be read now")

    # --- claiming -------------------------------------------------------------------------------------------------

    async def _claim_loop(self) -> None:
        while True:
            self._look = anyio.Event()
            wait_s = await self._claim_what_is_due()
            with anyio.move_on_after(wait_s):
                await self._look.wait()

    async def _claim_what_is_due(self) -> float:
        """Claim as long as there is something and room for it; seconds until it is worth looking again."""
        try:
            while not self._stopping and self.may_claim():
                now = self.clock.now_us()
                due = await self.store.next_wake(self.config.projects)
                if due is None:
                    return 60.0
                if due > now:
                    return min(60.0, (due - now) / 1e6)
                room = min(self.config.runs - self.busy, 100)
                if room <= 0:
                    return 60.0  # the next run that ends here calls
                self.reserved += room  # so that no run is created in these places meanwhile
                self._claiming = True
                try:
                    claimed = await self.store.claim(self.worker, self.config.projects, room, now)
                except BaseException:
                    self.reserved -= room
                    raise
                finally:
                    self._claiming = False
                self.reserved -= room - len(claimed)
                for one in claimed:
                    self.keep(one.run_id)
                    self.spawn(self._adopt, one)
                if not claimed:
                    return 1.0
        except OmiumError:
            _log.exception("runs cannot be claimed now")
            return 1.0
        return 60.0

    async def _adopt(self, claimed: Claimed) -> None:
        try:
            state = await self._state(claimed)
            execution = await self._take_up(state, claimed.fence) if state is not None else None
        finally:
            self.unreserve(claimed.run_id)
        if execution is not None:
            await self._guard(execution.adopt, ())  # it is here by now: what it raises ends this run

    async def _state(self, claimed: Claimed) -> RunState | None:
        """The state of a run that was just claimed; None when its log cannot be folded, and the run is given up."""
        pause = 0.5
        while True:
            try:
                return await self.store.state(claimed.run_id)
            except OmiumError as error:
                if error.code != "storage_unavailable":
                    _log.exception("run %s cannot be read, and stays as it is", claimed.run_id)
                    heads = await self.store.heads([claimed.run_id])
                    await self.store.release(claimed.run_id, claimed.fence, heads.get(claimed.run_id, Seq(0)), None)
                    return None
                await anyio.sleep(pause)
                pause = min(pause * 2, 30.0)

    def reserve(self, run_id: RunId, project: str) -> bool:
        """Keep a place for a run of this project that is about to be created, if there is one, until `unreserve`."""
        if self._stopping or project not in self.config.projects or self.busy >= self.config.runs:
            return False
        self.reserved += 1
        self.keep(run_id)
        return True

    def unreserve(self, run_id: RunId) -> None:
        """The run is among the executions, or is not to be."""
        self.reserved -= 1
        self.let_go(run_id)

    def keep(self, run_id: RunId) -> None:
        """This process owns the run, or is about to, without executing it: that is no claim that nobody knows of."""
        self._in_hand[run_id] += 1

    def let_go(self, run_id: RunId) -> None:
        """The end of `keep`, which whoever calls it pairs with this."""
        self._in_hand[run_id] -= 1
        if not self._in_hand[run_id]:
            del self._in_hand[run_id]

    async def _compare_loop(self) -> None:
        """Give back what this worker owns without knowing: as long as it lives, nobody else may take that."""
        while True:
            await anyio.sleep(self.config.beat_s)
            try:
                await self._give_back_what_is_unknown()
            except OmiumError as error:
                _log.debug("claims cannot be compared now: %s", error)  # the heartbeat says that loudly

    async def _give_back_what_is_unknown(self) -> None:
        """Release runs whose claim, or creation, was committed and never heard of: the answer was lost. They are due
        at once, unless they sleep. The fence of each tells whether it is still the claim that was seen."""
        owned = await self.store.claimed_by(self.worker)
        if self._claiming or self._stopping:
            return  # what comes with the answer is not unknown
        for one in [one for one in owned if one.run_id not in self._executions and one.run_id not in self._in_hand]:
            state = await self._state(one)
            if state is not None:
                wake_at = None if state.sleeps else self.clock.now_us()
                if await self.store.release(one.run_id, one.fence, state.seq, wake_at):
                    _log.warning("run %s was owned here, and nothing had come of it: it is free again", one.run_id)
                    self.look()

    def adopt_new(self, state: RunState, fence: Fence, definition: WorkflowDef, inputs: Any) -> None:
        """Take up a run that this process has just created and claimed; `state` is the engine's from here on."""
        program = self.programs.get(state.definition) or self.programs.keep(state.definition, Program(definition))
        execution = self._executions[state.run_id] = Execution(self, state, fence, program)
        execution.inputs = inputs
        if state.deadline_at is not None:
            execution.arm(state.deadline_at)
        self.spawn(execution.begin)

    async def _take_up(self, state: RunState, fence: Fence) -> Execution | None:
        """The execution of a run that was claimed; None when its definition cannot be read, and it has failed for
        that."""
        try:
            program = await self._program(state.definition)
            execution = Execution(self, state, fence, program)
        except OmiumError as error:
            execution = Execution.unreadable(self, state, fence)
            self._executions[state.run_id] = execution
            await execution.give_up(error)
            return None
        self._executions[state.run_id] = execution
        if state.deadline_at is not None:
            execution.arm(state.deadline_at)
        return execution

    async def _program(self, digest: Digest) -> Program:
        known = self.programs.get(digest)
        if known is None:
            known = self.programs.put(digest, await self.values.load(digest))
        return known

    def forget(self, execution: Execution) -> None:
        """The run is no longer owned here."""
        if self._executions.get(execution.run_id) is execution:
            del self._executions[execution.run_id]
            self._left.put(execution.folded)
            if execution.children:
                self.children.forget(execution)
            self.look()

    # --- slots and timers -----------------------------------------------------------------------------------------

    def deal(self, execution: Execution | None) -> list[Ticket[Place]]:
        """Hand out free slots, best first: this run's tickets are returned, the others' runs are told."""
        mine: list[Ticket[Place]] = []
        if not self.queue.heap:
            return mine
        others: dict[RunId, tuple[Execution, list[Ticket[Place]]]] = {}
        for ticket in self.queue.take():
            owner = ticket.item[0]
            if owner is execution:
                mine.append(ticket)
            else:
                others.setdefault(owner.run_id, (owner, []))[1].append(ticket)
        for owner, tickets in others.values():
            self.spawn(owner.start_taken, tickets)
        return mine

    def limits_of(self, node: NodeDef) -> Sequence[tuple[Limit, int]]:
        """The limits of this process that a node counts against, and how much of each it takes."""
        key = (node.kind, node.use, node.resources)
        known = self._limits.get(key)
        if known is None:
            used = f"{node.kind}:{node.use}"
            names = (*node.resources, f"kind:{node.kind}", used, self.config.pools.get(used, used))
            found = dict.fromkeys(limit for name in names if (limit := self.queue.named(name)) is not None)
            weighed = [(limit, slots) for name, slots in self.config.weights.get(used, {}).items()
                       if (limit := self.queue.named(name)) is not None]  # fmt: skip
            known = self._limits[key] = [(limit, 1) for limit in found] + weighed
        return known

    def at(self, due_us: int, execution: Execution) -> None:
        """Have the run's `on_time` called at this time, microseconds UTC; what is past, at once (see `arm`)."""
        self._timer_count += 1
        heapq.heappush(self._timers, (due_us, self._timer_count, execution.run_id))
        if self._timers[0][1] == self._timer_count:
            self._timer_set.set()
        if len(self._timers) > 1_000 + 4 * len(self._executions):  # timers of runs that were given up meanwhile
            owned = self._executions
            self._timers = [timer for timer in self._timers if timer[2] in owned and owned[timer[2]].armed == timer[0]]
            heapq.heapify(self._timers)

    async def _timer_loop(self) -> None:
        """Waits on the monotonic clock; the wall clock only says how long, so that a jump of it delays nothing. The
        first stands still while the machine sleeps, so the second is looked at now and then."""
        while True:
            self._timer_set = anyio.Event()
            if not self._timers:
                await self._timer_set.wait()
                continue
            wait_s = (self._timers[0][0] - self.clock.now_us()) / 1e6
            if wait_s > 0:
                with anyio.move_on_after(min(wait_s, _LOOK_S)):
                    await self._timer_set.wait()
                continue
            due_us, _, run_id = heapq.heappop(self._timers)
            execution = self._executions.get(run_id)
            if execution is not None and execution.armed == due_us:
                execution.armed = None
                self.spawn(execution.on_time)

    # --- what executions ask --------------------------------------------------------------------------------------

    def executor(self, node: NodeDef) -> Executor:
        """Who runs this kind of node. Raises `unsupported`."""
        found = self._executors.get(node.kind)
        if found is None:
            raise OmiumError("unsupported", f"nodes of kind {node.kind!r} cannot be run by this worker.")
        return found

    async def executor_of(self, run: RunState, node: NodeDef) -> Executor:
        """Who runs this node of this run, which keeps the agents that it began with. Raises `unsupported`."""
        found = self.executor(node)
        if run.agents is None or not isinstance(found, KeepsAgents):
            return found
        return found.known(run.agents) or found.keeping(run.agents, await self.values.load(run.agents))

    async def prepare(self, run: Execution, attempt: NodeAttempt) -> None:
        """What an attempt finds ready: its scratch directory, what its checkpoints held, and what went wrong before."""
        if attempt.node.kind != "function":
            attempt.scratch = self.workspaces.scratch(attempt)
        held = run.folded.node(attempt.node_id).restored
        if held:
            attempt.restored = {call: await self.values.load(digest) for call, digest in held.items()}
        if attempt.attempt > 1 or run.folded.approvals:
            attempt.guidance = await self._guidance(run, attempt)

    async def _guidance(self, run: Execution, attempt: NodeAttempt) -> Guidance:
        failures = await run.recall.failures_of(attempt.node_id) if attempt.attempt > 1 else []
        around = {attempt.node_id, *containers_of(attempt.node_id)}  # what was said of a plan is said to its steps
        said = [
            approval.feedback
            for approval in run.folded.approvals.values()
            if approval.node in around and approval.feedback and approval.decision != "cancelled"
        ]
        mended: Sequence[str] = ()
        if failures and attempt.node.kind in _TOLD_OF_REMEDIES:
            category = str(failures[-1].get("category", "unknown"))
            mended = await remedies(self.store, run.folded, attempt.node_id, category)
        return Guidance(failures[-3:], said, mended)
