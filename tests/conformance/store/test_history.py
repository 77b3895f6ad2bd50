"""However a run came to where it is, everybody who looks sees the same: the process that wrote it, one that loads it
afresh, one that starts from a snapshot, and the tables beside the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log.commands import (
    EXECUTION,
    Label,
    NoteBranch,
    PlanRun,
    ResumeRun,
    RollBack,
    StartNode,
    StartRun,
)
from omium.orchestration.log.events import Event
from omium.orchestration.log.fold import Touched
from omium.orchestration.log.load import NeedEvents, NeedSnapshot, NeedValue, load, step
from omium.orchestration.log.rows import (
    APPROVAL_COLUMNS,
    EFFECT_COLUMNS,
    RUN_COLUMNS,
    approval_rows,
    effect_rows,
    run_row,
)
from omium.orchestration.log.state import NodeStatus, RunState
from omium.orchestration.ports import NewBlob, Write
from omium.storage import batch
from omium.storage import schema as t
from tests.conformance.store.acting import (
    INPUTS,
    OUTPUT,
    USER,
    A,
    B,
    Run,
    completion,
    creation,
    document,
    executing,
    new_run,
    refused,
)
from tests.conformance.store.databases import AnyStore, Database
from tests.conformance.store.histories import MAX_ROLLBACKS, branch, choose, play_from, roll_back


class Logs:
    """The logs of a store, read once, for folding without the store's help and without snapshots."""

    def __init__(self, store: AnyStore) -> None:
        self._store = store
        self._events: dict[RunId, list[Event]] = {}

    async def events(self, run_id: RunId) -> list[Event]:
        if run_id not in self._events:
            self._events[run_id] = await self._store.events(run_id, limit=100_000)
        return self._events[run_id]

    async def drive(self, loading: Any) -> Any:
        try:
            need = next(loading)
            while True:
                need = loading.send(await self._answer(need))
        except StopIteration as done:
            return done.value

    async def _answer(self, need: Any) -> Any:
        if isinstance(need, NeedSnapshot):
            return None
        if isinstance(need, NeedValue):
            return await self._store.value(need.digest)
        assert isinstance(need, NeedEvents)
        last = need.upto if need.upto is not None else 2**62
        return [event for event in await self.events(need.run_id) if need.after < event.seq <= last]


async def check(store: AnyStore, run_id: RunId) -> RunState:
    """All views of a run agree; gives its state."""
    logs = Logs(store)
    events = await logs.events(run_id)
    assert store.chain.breaks(events) == []
    folded = await logs.drive(load(run_id))
    written = store._writer._cache._states.get(run_id)
    assert written is None or document(written) == document(folded)
    assert document(await store.state(run_id)) == document(folded)
    await check_tables(store, logs, run_id, events)
    return await store.state(run_id)


async def check_tables(store: AnyStore, logs: Logs, run_id: RunId, events: Sequence[Event]) -> None:
    """The projections are those that follow from the log, event by event."""
    state = RunState(run_id)
    approvals: set[Any] = set()
    effects: dict[Any, tuple[Any, ...]] = {}
    for event in events:
        touched = Touched()
        state = await logs.drive(step(state, event, touched))
        approvals |= touched.approvals
        effects |= {row[0]: row for row in effect_rows(state, touched.effects, touched.forgotten)}
    row = await store.run(run_id)
    assert row is not None
    [found] = await rows(store, t.runs, RUN_COLUMNS, t.runs.c.id == run_id)
    for column, is_, expected in zip(RUN_COLUMNS, found, run_row(state), strict=True):
        # What a branch takes over stands in its row from its next write on.
        late = state.parent is not None and column in ("generation", "completed_nodes") and is_ == 0
        assert is_ == expected or late, (column, is_, expected)
    for table, columns, expected_rows in (
        (t.approvals, APPROVAL_COLUMNS, approval_rows(state, approvals)),
        (t.effects, EFFECT_COLUMNS, list(effects.values())),
    ):
        stored = await rows(store, table, columns, table.c.run_id == run_id)
        assert sorted(stored, key=str) == sorted(expected_rows, key=str), table.name


async def rows(store: AnyStore, table: Any, columns: Sequence[str], where: Any) -> list[tuple[Any, ...]]:
    found = await store._all(select(*(table.c[name] for name in columns)).where(where))
    return [tuple(bytes(value) if isinstance(value, memoryview) else value for value in row) for row in found]


class Player:
    """Plays a random history on a store, on a run and the branches that it makes."""

    def __init__(self, store: AnyStore, database: Database, data: st.DataObject) -> None:
        self._store = store
        self._database = database
        self._data = data
        self._rollbacks: dict[RunId, int] = {}
        self.run: Run

    def _draw(self, strategy: Any) -> Any:
        return self._data.draw(strategy)

    async def play(self, steps: int) -> None:
        self.run = await executing(self._store)
        for _ in range(steps):
            self._database.clock.advance(self._draw(st.sampled_from([0, 0.000001, 0.5])))
            move = self._draw(
                st.sampled_from(["one"] * 12 + ["two"] * 4 + ["burst", "roll", "play", "branch", "snapshot"])
            )
            await getattr(self, f"_{move}")(await self.run.state())

    async def _attempt(self, *commands: Any, blobs: Sequence[NewBlob] = ()) -> None:
        fenced = any(type(command) in EXECUTION for command in commands) or self._draw(st.booleans())
        act = self.run.do if fenced else self.run.ask
        before = document(await self.run.state())
        try:
            await act(*commands, blobs=blobs)
        except OmiumError as refusal:
            assert refusal.code in ("not_allowed", "conflict", "already_decided", "not_found")
            assert document(await self.run.state()) == before

    def _pick(self, state: RunState) -> Any:
        return choose(self._draw, state, self._database.clock.us)

    async def _one(self, state: RunState) -> None:
        await self._attempt(self._pick(state))

    async def _two(self, state: RunState) -> None:
        await self._attempt(self._pick(state), self._pick(state))

    async def _burst(self, state: RunState) -> None:
        """Several writes in one batch, a rollback among them."""
        commands = [self._pick(state) for _ in range(3)] + [Label(Seq(1), "x")]
        if self._may_roll_back(state):
            to = self._draw(st.integers(1, state.seq + 2))
            commands.insert(self._draw(st.integers(0, 3)), RollBack(Seq(to)))
        outcomes = await asyncio.gather(*(self.run.do(command) for command in commands), return_exceptions=True)
        assert all(isinstance(outcome, OmiumError) or hasattr(outcome, "events") for outcome in outcomes)

    def _may_roll_back(self, state: RunState) -> bool:
        self._rollbacks[state.run_id] = self._rollbacks.get(state.run_id, 0) + 1
        return self._rollbacks[state.run_id] <= MAX_ROLLBACKS

    async def _roll(self, state: RunState) -> None:
        if self._may_roll_back(state):
            await self._attempt(roll_back(self._draw, state))
            await self._attempt(ResumeRun())
            await check(self._store, self.run.id)

    async def _play(self, state: RunState) -> None:
        command, nodes = play_from(self._draw)
        await self._attempt(command, blobs=[NewBlob(nodes)])

    async def _branch(self, state: RunState) -> None:
        created, reset = branch(self._draw, state)
        run_id = new_run()
        await self.run.ask(NoteBranch(run_id, Seq(created.parent["seq"])))  # type: ignore[index]
        rest = [PlanRun(), StartRun()] if self._draw(st.booleans()) else []
        write = Write(run_id, [created, *rest], USER, blobs=[NewBlob(reset)], claim=None if not rest else "w")  # type: ignore[arg-type]
        written = await self._store.write(write)
        await check(self._store, self.run.id)
        self.run = Run(self._store, run_id, written.fence)
        if not rest:
            await check(self._store, run_id)
            await self.run.ask(PlanRun(), StartRun())
            self.run.fence = await self._store.take("w", run_id)  # type: ignore[arg-type]

    async def _snapshot(self, state: RunState) -> None:
        await self._store.snapshot(self.run.id)


def test_every_view_of_a_random_history_is_the_same(empty: Database) -> None:
    with asyncio.Runner() as runner:
        store = runner.run(empty.open(durability="normal"))
        other = runner.run(empty.open(durability="normal"))

        @settings(
            max_examples=20 if empty.name == "sqlite" else 10, deadline=None, suppress_health_check=list(HealthCheck)
        )
        @given(data=st.data())
        def examples(data: st.DataObject) -> None:
            runner.run(play_and_compare(store, other, empty, data))

        try:
            examples()
        finally:
            runner.run(empty.close())


async def play_and_compare(store: AnyStore, other: AnyStore, database: Database, data: st.DataObject) -> None:
    player = Player(store, database, data)
    await player.play(data.draw(st.integers(15, 40)))
    state = await check(store, player.run.id)
    # A process that begins here agrees, and goes on from a snapshot as well as without.
    await store.snapshot(state.run_id)
    assert document(await other.state(state.run_id)) == document(state)
    await Run(other, state.run_id, None).ask(Label(Seq(1), "by another process"))
    await check(other, state.run_id)
    at = Seq(data.draw(st.integers(1, state.seq)))
    assert document(await other.state(state.run_id, at)) == document(await Logs(other).drive(load(state.run_id, at)))


async def chain_of(store: AnyStore, nodes: int) -> Run:
    run = await executing(store)
    for start in range(0, nodes, 50):
        names = [NodeId(f"n{n}") for n in range(start, min(start + 50, nodes))]
        await run.do(*(command for name in names for command in (StartNode(name, 0), completion(name))))
    return run


@pytest.mark.anyio
async def test_a_branch_costs_the_same_whatever_its_parent(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await database.open()
    written = []
    for nodes in (10, 1500):
        run = await chain_of(store, nodes)
        folds: list[RunId] = []

        def counted(run_id: RunId, upto: Seq | None = None, folds: list[RunId] = folds) -> Any:
            folds.append(run_id)
            return load(run_id, upto)

        monkeypatch.setattr(batch, "load", counted)
        child = new_run()
        await store.write(
            Write(child, [creation(parent={"run": run.id, "seq": nodes}, branch="b", hypothesis="h")], USER)
        )
        await run.ask(NoteBranch(child, Seq(nodes), "b", "h"))
        assert folds == []
        monkeypatch.undo()
        written.append(stored_bytes(database, child))
        assert len((await store.state(child)).nodes) == (nodes - 3) // 2
    assert max(written) < 4096 and abs(written[0] - written[1]) < 16


def stored_bytes(database: Database, run_id: RunId) -> int:
    """What the database holds of a run, columns of all tables together."""
    total = 0
    for table in (t.events, t.runs, t.links, t.claims, t.labels, t.snapshots, t.approvals, t.effects):
        key = "id" if table is t.runs else "run_id"
        cast = "BLOB" if database.name == "sqlite" else "text"
        sizes = " + ".join(f"coalesce(length(CAST({column.name} AS {cast})), 0)" for column in table.columns)
        [(size,)] = database.execute(f"SELECT coalesce(sum({sizes}), 0) FROM {table.name} WHERE {key} = '{run_id}'")
        total += int(size)
    return total


@pytest.mark.anyio
async def test_a_rollback_adds_one_event(database: Database) -> None:
    store = await database.open()
    run = await chain_of(store, 60)
    await run.do(StartNode(A, 0))
    before = (await run.state()).seq
    written = await run.ask(RollBack(Seq(43), "wrong way"))
    assert (len(written.events), written.seq) == (1, before + 1)
    state = await check(store, run.id)
    assert state.completed_nodes == 20
    assert state.nodes[NodeId("n19")].generation == 0 and state.nodes[NodeId("n20")].generation == 1
    assert state.nodes[A].status is NodeStatus.PENDING
    # And forward again, to where it was.
    await run.ask(RollBack(Seq(before)))
    assert (await check(store, run.id)).completed_nodes == 60


@pytest.mark.anyio
async def test_long_logs_are_loaded_from_snapshots(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await database.open()
    run = await chain_of(store, 1200)
    assert int(database.execute("SELECT count(*) FROM snapshots")[0][0]) >= 1
    other = await database.open()
    read: list[int] = []
    events = other._events

    async def counted(run_id: RunId, after: int, upto: int, limit: int | None) -> list[Event]:
        found = await events(run_id, after, upto, limit)
        read.append(len(found))
        return found

    monkeypatch.setattr(other, "_events", counted)
    assert (await other.state(run.id)).completed_nodes == 1200
    assert sum(read) < 2000
    monkeypatch.undo()
    await check(other, run.id)
    await Run(other, run.id, run.fence).do(StartNode(A, 0))
    await check(other, run.id)


@pytest.mark.anyio
async def test_a_branch_of_a_branch_keeps_what_both_finished(store: AnyStore) -> None:
    first = await executing(store)
    await first.complete(A)
    second = await executing(store, parent={"run": first.id, "seq": 5})
    await second.complete(B)
    head = (await second.state()).seq
    third = await executing(store, parent={"run": second.id, "seq": head}, reset=None)
    state = await check(store, third.id)
    assert {name: node.status for name, node in state.nodes.items()} == dict.fromkeys((A, B), NodeStatus.COMPLETED)
    assert (state.generation, state.completed_nodes) == (2, 2)
    await third.complete(NodeId("c"))
    await refused("not_allowed", third.do(StartNode(A, 0)))
    assert (await check(store, third.id)).completed_nodes == 3
    assert (await check(store, first.id)).completed_nodes == 1
    assert INPUTS.digest != OUTPUT.digest


@pytest.mark.anyio
async def test_a_branch_written_to_in_the_batch_that_creates_it(store: AnyStore) -> None:
    parent = await executing(store)
    await parent.complete(A)
    child = new_run()
    await asyncio.gather(
        store.write(Write(child, [creation(parent={"run": parent.id, "seq": 5})], USER)),
        store.write(Write(child, [PlanRun()], USER)),
        store.write(Write(child, [StartRun()], USER)),
        parent.do(StartNode(B, 0)),
    )
    state = await check(store, child)
    assert (state.seq, state.generation, set(state.nodes)) == (3, 1, {A})
