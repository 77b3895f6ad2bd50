"""Whole worlds in a test: real stores on one SQLite file, engines over them, executors that the test holds in its hand.

A `Machine` is what a process would be: a store, an engine and a core of its own. A world has as many as a test wants on
one database; each can be crashed, so that nothing of it is written any more, or stopped in an orderly way.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from omium.orchestration.definition.load import load_workflow
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.engine.engine import Engine, EngineConfig
from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.gates.deciding import Policies
from omium.orchestration.gates.policy import PolicySource, read_policy
from omium.orchestration.ids import RunId, Seq
from omium.orchestration.log.events import FIELDS, Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.state import NodeStatus, RunState
from omium.orchestration.ports import Attempt, Done, RunQuery, WorkerRow, Write, Written
from omium.orchestration.service.catalog import Catalog, FunctionSpec
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller, RunView
from omium.orchestration.service.watching import watching
from omium.storage.maintenance import keeper, verify
from omium.storage.sqlite.store import SqliteStore

ME = Caller("user:me")  # type: ignore[arg-type]
WITHIN_S = 20.0  # that anything takes in a test, on a busy machine
START_US = 1_800_000_000_000_000


class Clock:
    """Stands still but for a microsecond a reading, until it is told to go on."""

    def __init__(self) -> None:
        self._now = START_US

    def now_us(self) -> int:
        self._now += 1
        return self._now

    def monotonic(self) -> float:
        return self._now / 1e6

    def advance(self, seconds: float) -> None:
        self._now += int(seconds * 1e6)


class Killed(BaseException):
    """Stands for the end of a process: nothing catches it."""


class Store(SqliteStore):
    """A store that can be cut off from its file, as that of a killed process is: what comes then stays where it is
    until the machine is `buried`. `before_write`, if set, is awaited before a write is submitted."""

    cut = False
    buried: anyio.Event | None = None
    before_write: Callable[[Write], Awaitable[None]] | None = None

    async def write(self, write: Write) -> Written:
        if self.before_write is not None:
            await self.before_write(write)
        await self._live()
        return await super().write(write)

    async def claim(self, *args: Any) -> Any:
        await self._live()
        return await super().claim(*args)

    async def release(self, *args: Any) -> Any:
        await self._live()
        return await super().release(*args)

    async def retire(self, *args: Any) -> Any:
        await self._live()
        return await super().retire(*args)

    async def wake(self, *args: Any) -> Any:
        await self._live()
        return await super().wake(*args)

    async def beat(self, *args: Any) -> Any:
        await self._live()
        return await super().beat(*args)

    async def _live(self) -> None:
        if self.cut:
            self.buried = self.buried or anyio.Event()
            await self.buried.wait()
            raise Killed


class Processes:
    """Which of the world's machines live."""

    def __init__(self, world: World, pid: int) -> None:
        self._world = world
        self._pid = pid

    def this(self) -> tuple[str, str, int, float]:
        return ("here", "boot", self._pid, 0.0)

    def alive(self, worker: WorkerRow) -> bool | None:
        return self._world.living(worker.pid)

    def kill(self, worker: WorkerRow) -> None:
        self._world.killed.append(worker.pid)


Function = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt as its executor saw it."""

    run: RunId
    node: str
    generation: int
    attempt: int
    use: str
    machine: int


class Functions:
    """Runs the registered functions in the loop of the test, and notes every call."""

    def __init__(self, world: World, machine: int) -> None:
        self._world = world
        self._machine = machine

    def digest(self, use: str) -> str:
        return use

    async def run(self, use: str, inputs: Any, attempt: Attempt) -> Done:
        call = Call(attempt.run_id, attempt.node_id, attempt.generation, attempt.attempt, use, self._machine)
        world = self._world
        world.calls.append(call)
        world.running += 1
        world.most = max(world.most, world.running)
        try:
            return Done(await world.functions[use](attempt, **inputs))
        finally:
            world.running -= 1


@dataclass(slots=True)
class Machine:
    number: int
    store: Store
    engine: Engine
    core: Core
    dead: bool = False
    _end: anyio.Event = field(default_factory=anyio.Event)
    _ended: anyio.Event = field(default_factory=anyio.Event)


class World:
    """One database, and the machines on it."""

    def __init__(self, path: Path, workflows: Iterable[WorkflowDef], functions: Mapping[str, Function]) -> None:
        self.path = path
        self.clock = Clock()
        self.functions: dict[str, Function] = {**BUILT_IN, **functions, "hold": self._hold}
        self.catalog = Catalog(
            functions={name: FunctionSpec(name, f"tests:{name}", "async") for name in self.functions},
            workflows={one.name: one for one in workflows},
        )
        self.policies: PolicySource | None = None
        self.budgets: Sequence[BudgetRule] = ()
        self.machines: list[Machine] = []
        self.killed: list[int] = []
        self.calls: list[Call] = []
        self.running = 0
        self.most = 0  # calls under way at once
        self._holds: dict[str, anyio.Event] = {}
        self._entered: dict[str, anyio.Event] = {}
        self._tasks = anyio.create_task_group()
        self._pids = itertools.count(1)

    # --- machines -------------------------------------------------------------------------------------------------

    async def start(self, **config: Any) -> Machine:
        """Another machine, ready to execute."""
        number = next(self._pids)
        store = await Store.open(self.path / "omium.db", clock=self.clock, durability="normal")
        core = Core(store, self.catalog, clock=self.clock, policies=self.policies)
        engine = Engine(
            store,
            {"function": Functions(self, number)},
            processes=Processes(self, number),
            create_child=core.create_child,
            check_names=core.check_names,
            config=EngineConfig(**{"beat_s": 0.05, **config}),
            clock=self.clock,
            rng=random.Random(number),
            policies=Policies(store.value, self.policies),
            budgets=lambda: self.budgets,
        )
        core.bind(engine)
        machine = Machine(number, store, engine, core)
        self.machines.append(machine)
        await self._tasks.start(self._host, machine)
        return machine

    async def _host(self, machine: Machine, *, task_status: Any) -> None:
        """The task that the engine of a machine lives in."""
        engine = machine.engine
        try:
            await engine.__aenter__()
            task_status.started()
            await machine._end.wait()
            if machine.dead:
                assert engine._tasks is not None
                engine._tasks.cancel_scope.cancel()
                machine.store.buried = machine.store.buried or anyio.Event()
                machine.store.buried.set()
                await engine._tasks.__aexit__(None, None, None)
                engine._unlisten()
            else:
                await engine.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            if not machine.dead or group.split(Killed)[1] is not None:
                raise
        finally:
            machine.store.cut = False
            with anyio.CancelScope(shield=True):
                await machine.store.close()
            machine._ended.set()

    async def crash(self, machine: Machine) -> None:
        """The machine is gone, between two instructions: nothing is settled, released or signed off."""
        machine.dead = machine.store.cut = True
        await self._finish(machine)

    async def stop(self, machine: Machine) -> None:
        """An orderly end."""
        await self._finish(machine)

    async def _finish(self, machine: Machine) -> None:
        machine._end.set()
        with anyio.fail_after(WITHIN_S):
            await machine._ended.wait()
        self.machines.remove(machine)

    def living(self, pid: int) -> bool:
        return any(machine.number == pid and not machine.dead for machine in self.machines)

    @property
    def machine(self) -> Machine:
        return self.machines[0]

    @property
    def core(self) -> Core:
        return self.machine.core

    # --- time and holds -------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Time goes on, and every engine looks at its clock."""
        self.clock.advance(seconds)
        for machine in self.machines:
            machine.engine._timer_set.set()
            machine.engine.look()

    async def _hold(self, attempt: Attempt, name: str, value: Any = None) -> Any:
        """The function `hold`: waits until the test lets it go."""
        self._event(self._entered, name).set()
        await self._event(self._holds, name).wait()
        return value

    async def entered(self, name: str) -> None:
        """Until `hold` was called with this name."""
        with anyio.fail_after(WITHIN_S):
            await self._event(self._entered, name).wait()

    def let_go(self, name: str) -> None:
        self._event(self._holds, name).set()

    @staticmethod
    def _event(events: dict[str, anyio.Event], name: str) -> anyio.Event:
        return events.setdefault(name, anyio.Event())

    # --- runs -----------------------------------------------------------------------------------------------------

    async def run(self, workflow: str, inputs: Mapping[str, Any] | None = None, **options: Any) -> RunId:
        return (await self.core.run_workflow(ME, workflow, inputs, **options)).id

    def add(self, workflow: WorkflowDef) -> str:
        """Register another workflow; its name."""
        workflows: Any = self.catalog.workflows
        workflows[workflow.name] = workflow
        return workflow.name

    async def finished(self, run_id: RunId, status: str | None = "completed") -> RunView:
        """The run with its nodes, once it has ended."""
        await self.until(run_id, lambda state: state.ended_at is not None)
        view = await self.core.get_run(ME, run_id, detail=True)
        assert status is None or view.status == status, (view.status, view.error)
        return view

    async def until(self, run_id: RunId, holds: Callable[[RunState], Any]) -> RunState:
        """The run's state as soon as it is as wanted."""
        store = self.machine.store
        state = RunState(run_id)
        try:
            with anyio.fail_after(WITHIN_S):
                with watching(store, run_id) as watch:
                    while not holds(state := await store.state(run_id)):
                        await watch.wait()
        except TimeoutError:
            told = {name: (node.status.value, node.wait, node.error) for name, node in state.nodes.items()}
            raise AssertionError(f"the run is {state.status} with {told} and {state.error}") from None
        return state

    async def status(self, run_id: RunId, status: str) -> RunState:
        return await self.until(run_id, lambda state: state.status == status)

    async def given_up_until(self, due_us: int) -> None:
        """Until nobody owns any run, and the first one is due at this time."""
        with anyio.fail_after(WITHIN_S):
            while await self.machine.store.next_wake([ME.project]) != due_us:
                await anyio.sleep(0.005)
        await self.idle()

    async def idle(self) -> None:
        """Until no machine owns a run."""
        await eventually(lambda: not any(machine.engine.busy for machine in self.machines))

    async def approve(self, run_id: RunId, decision: str = "approve", node: str | None = None, **more: Any) -> None:
        """Decide the oldest pending approval of the run, or that of a node, as soon as it is there."""
        await self.until(run_id, lambda state: _pending(state, node))
        for approval in await self.core.list_approvals(ME, run_id=run_id):
            if node is None or approval.node == node:
                await self.core.decide(ME, approval.id, decision, assurance="elicited", **more)
                return

    async def events(self, run_id: RunId) -> list[Event]:
        return await all_events(self.machine.store, run_id)

    async def log(self, run_id: RunId, node: str | None = None) -> list[str]:
        """The types of the events, of one node if it is named."""
        return [e.type.value for e in await self.events(run_id) if node is None or e.data.get("node") == node]

    async def nodes(self, run_id: RunId) -> dict[str, str]:
        view = await self.core.get_run(ME, run_id, detail=True)
        return {node.id: node.status for node in view.nodes}

    def called(self, node: str | None = None) -> list[str]:
        """The nodes that were executed, in order; or those calls of one node."""
        return [call.node for call in self.calls if node is None or call.node == node]


def _pending(state: RunState, node: str | None) -> bool:
    return any(a.decision is None and (node is None or a.node == node) for a in state.approvals.values())


async def eventually(holds: Callable[[], Any]) -> None:
    """Until something is so that nobody is told of."""
    with anyio.fail_after(WITHIN_S):
        while not holds():
            await anyio.sleep(0.005)


@asynccontextmanager
async def world(
    path: Path,
    *workflows: WorkflowDef | str,
    functions: Mapping[str, Function] | None = None,
    policy: str | None = None,
    budgets: Sequence[BudgetRule] = (),
    **config: Any,
) -> AsyncIterator[World]:
    """A world with one machine; `workflows` as definitions or as YAML. At its end everything in it is checked."""
    loaded = [load_workflow(one) if isinstance(one, str) else one for one in workflows]
    made = World(path, loaded, functions or {})
    made.policies = None if policy is None else PolicySource(read_policy(policy, "policy.yaml"))
    made.budgets = budgets
    async with made._tasks:
        await made.start(**config)
        try:
            yield made
            for machine in made.machines:
                await check_world(machine.core)
        finally:
            with anyio.CancelScope(shield=True):
                for machine in list(made.machines):
                    await made.stop(machine)
    store = await SqliteStore.open(path / "omium.db")
    try:
        await check_world(Core(store, made.catalog))
        assert await verify(keeper(store)) == []
    finally:
        await store.close()


async def all_events(store: SqliteStore, run_id: RunId) -> list[Event]:
    found: list[Event] = []
    while page := await store.events(run_id, Seq(len(found))):
        found += page
    return found


async def check_world(core: Core) -> None:
    """Every log is contiguous, of the declared form, tells each thing once, and folds to what is stored."""
    store: Any = core.store
    for row in await store.runs(RunQuery(limit=100_000)):
        state = await store.state(row.id)  # before the events: a run that is still at work writes more of them
        events = await all_events(store, row.id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        _check_form(events)
        _check_once(events)
        assert state.seq <= len(events)
        assert state == await store.state(row.id, state.seq)
        if state.ended_at is not None:
            assert not any(node.status is NodeStatus.RUNNING for node in state.nodes.values())


def _check_form(events: Iterable[Event]) -> None:
    for event in events:
        required, optional = FIELDS[event.type]
        names = set(event.data)
        assert required <= names <= required | optional, (event.type, names)


def _check_once(events: Iterable[Event]) -> None:
    """An attempt starts once; a node ends once in a generation; a call is done once. What was open at the point that a
    rollback goes back to, with nodes inside it, goes on from there in its generation: its end was taken back."""
    seen: dict[tuple[Any, ...], int] = {}
    opened: dict[str, int] = {}  # where nodes were first expanded
    for event in events:
        data = event.data
        if event.type is E.NODE_EXPANDED:
            opened.setdefault(data["node"], event.seq)
        if event.type is E.RUN_ROLLED_BACK:
            back = data["to"]
            for key in [key for key, seq in seen.items() if key[0] == "end" and seq > back >= opened.get(key[1], seq)]:
                del seen[key]
        if event.type in (E.NODE_STARTED, E.NODE_RETRY_STARTED):
            key = ("start", data["node"], data["generation"], data["attempt"])
            assert ("end", data["node"], data["generation"]) not in seen, key
        elif event.type in (E.NODE_COMPLETED, E.NODE_FAILED, E.NODE_SKIPPED, E.NODE_REUSED):
            key = ("end", data["node"], data["generation"])
        elif event.type is E.EFFECT_SETTLED and data["outcome"] == "done":
            key = ("done", data["effect"])
        else:
            continue
        assert key not in seen, key
        seen[key] = event.seq


# --- functions that most tests use ----------------------------------------------------------------------------------


async def _echo(attempt: Attempt, value: Any = None) -> Any:
    return value


async def _add(attempt: Attempt, x: float = 0, y: float = 1) -> float:
    return x + y


async def _items(attempt: Attempt, n: int = 3) -> list[int]:
    return list(range(n))


async def _boom(attempt: Attempt, message: str = "bad timeout value") -> Any:
    raise ValueError(message)


async def _flaky(attempt: Attempt, failures: int = 2) -> int:
    if attempt.attempt <= failures:
        raise ConnectionError("refused")
    return attempt.attempt


BUILT_IN: Mapping[str, Function] = {"echo": _echo, "add": _add, "items": _items, "boom": _boom, "flaky": _flaky}
