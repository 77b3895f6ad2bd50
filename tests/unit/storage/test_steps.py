"""What a step writes is what a batch writes, and it is refused, or left to a batch, where a batch would be needed."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.ids import ApprovalId, EffectId, NodeId, RunId, Seq
from omium.orchestration.log.commands import (
    Command,
    CompleteNode,
    Decide,
    IntendEffect,
    Label,
    PlanRun,
    SettleEffect,
    StartNode,
    StartRun,
)
from omium.orchestration.ports import NewBlob, Write
from omium.orchestration.values import Encoded, encode
from omium.storage.sqlite import writer as writing
from omium.storage.sqlite.store import SqliteStore
from tests.conformance.store.acting import DEFINITION, INPUTS, USER, WORKER, A, B, Run, creation, refused, request
from tests.conformance.store.databases import TestClock

pytestmark = pytest.mark.anyio

Steps = Callable[[], int]
OUTPUTS = [encode(value) for value in (None, True, {"n": 1}, {"n": 2}, "x" * 1_000, "y" * 3_000, INPUTS.size)]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    """How many steps were written as such."""
    made: list[Any] = []
    write = writing.write_step

    def counted(*args: Any) -> Any:
        made.append(args)
        return write(*args)

    monkeypatch.setattr(writing, "write_step", counted)
    monkeypatch.setattr(writing, "_QUICK_S", 60.0)  # whatever this disk is like
    return lambda: len(made)


async def opened(path: Path, clock: TestClock | None = None) -> SqliteStore:
    store = await SqliteStore.open(path, clock=clock or TestClock())
    store._writer._commit_s = 0.0
    return store


@pytest.fixture
async def store(tmp_path: Path, steps: Steps) -> AsyncIterator[SqliteStore]:
    store = await opened(tmp_path / "omium.db")
    yield store
    await store.close()


async def executing(store: SqliteStore, number: int = 1) -> Run:
    run_id, commands = RunId(f"run_{number:026}"), [creation(), PlanRun(), StartRun()]
    blobs = [NewBlob(INPUTS), NewBlob(DEFINITION)]
    return Run(store, run_id, (await store.write(Write(run_id, commands, USER, blobs=blobs, claim=WORKER))).fence)


def end(node: NodeId, output: Encoded, **more: Any) -> CompleteNode:
    return CompleteNode(node, 0, output.digest, output.size, **more)


def tables(path: Path) -> dict[str, list[Any]]:
    with closing(sqlite3.connect(path)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(db.execute(f"SELECT * FROM {name}"), key=repr) for name in names}


async def some_history(store: SqliteStore, clock: TestClock, seed: int, length: int) -> None:
    """Two runs whose nodes start and end, with all that may stand around that."""
    chance = random.Random(seed)
    runs = [await executing(store, number) for number in (1, 2)]
    under_way: dict[RunId, list[NodeId]] = {run.id: [] for run in runs}
    for number in range(length):
        clock.advance(0.001)
        run, fresh = chance.choice(runs), NodeId(f"n{number}")
        busy, commands, blobs = under_way[run.id], list[Command](), list[NewBlob]()
        if busy and chance.random() < 0.9:
            node, output = busy.pop(chance.randrange(len(busy))), chance.choice([*OUTPUTS, encode(number)])
            usage = {"cost_usd": 0.25, "tokens": 7} if chance.random() < 0.2 else None
            commands.append(end(node, output, usage=usage, tree="t" if chance.random() < 0.1 else None, ms=1.5))
            blobs.append(NewBlob(output))
        if not commands or chance.random() < 0.9:
            commands.append(StartNode(fresh, 0, key=f"{number:064}"))
            busy.append(fresh)
        rare = chance.random()
        if rare < 0.03 and busy:
            effect = EffectId(f"{run.id}/{number}")
            commands += [IntendEffect(effect, busy[0], 0, 1, "call", "tool", "ask"), SettleEffect(effect, "done")]
        elif rare < 0.06:
            commands.append(Label(Seq(3), f"label {number}"))
        elif rare < 0.08 and number > 100:
            asked = ApprovalId(f"ap_{number}")
            await run.do(request(asked, None))
            await run.ask(Decide(asked, "approve", USER, "elicited"))
        await run.do(*commands, blobs=blobs)


@pytest.mark.parametrize("seed", range(5))
async def test_it_writes_what_a_batch_writes(
    tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    written = []
    for way in ("step", "batch"):
        if way == "batch":
            made = steps()
            monkeypatch.setattr(writing, "is_step", lambda write, state: False)
        path, clock = tmp_path / f"{way}.db", TestClock()
        store = await opened(path, clock)
        await some_history(store, clock, seed, 150 if seed else 1_200)
        await store.close()
        written.append(tables(path))
    assert made >= 40 and steps() == made
    assert written[0].keys() == written[1].keys()
    for name, rows in written[1].items():
        assert written[0][name] == rows, name


async def test_a_content_that_is_stored_already_is_named_by_whoever_has_not_brought_it(
    store: SqliteStore, steps: Steps
) -> None:
    one, two = await executing(store, 1), await executing(store, 2)
    for run in (one, two):
        await run.do(StartNode(A, 0))
        await run.do(end(A, OUTPUTS[2]), StartNode(B, 0), blobs=[NewBlob(OUTPUTS[2])])
        await run.do(end(B, OUTPUTS[2]), blobs=[NewBlob(OUTPUTS[2])])
    assert steps() == 6
    await store.close()
    found = tables(store.path)
    digest = OUTPUTS[2].digest
    assert [row[6] for row in found["blobs"] if row[0] == digest] == [one.id]
    assert [set(row) for row in found["links"] if digest in row] == [{two.id, digest}]


async def test_one_that_is_refused_in_its_middle_leaves_nothing(store: SqliteStore, steps: Steps) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    before = tables(store.path)
    await refused("conflict", run.do(end(A, OUTPUTS[2]), StartNode(B, 7), blobs=[NewBlob(OUTPUTS[2])]))
    await refused("conflict", run.do(end(A, OUTPUTS[2], attempt=3), blobs=[NewBlob(OUTPUTS[2])]))
    assert tables(store.path) == before and steps() == 2
    await run.do(end(A, OUTPUTS[2]), StartNode(B, 0), blobs=[NewBlob(OUTPUTS[2])])
    assert store.chain.breaks(await store.events(run.id)) == []
    assert (await run.state()).completed_nodes == 1


async def test_a_refusal_makes_nobody_read_again(store: SqliteStore, steps: Steps) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    await refused("conflict", run.do(end(A, OUTPUTS[2], attempt=3), StartNode(B, 0), blobs=[NewBlob(OUTPUTS[2])]))
    await run.do(end(A, OUTPUTS[2]), StartNode(B, 0), blobs=[NewBlob(OUTPUTS[2])])
    assert steps() == 3


class _Gone:
    """A connection to a disk that is gone: no transaction can be ended."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def execute(self, statement: str, *values: Any) -> Any:
        if statement in ("COMMIT", "ROLLBACK"):
            raise sqlite3.OperationalError("disk I/O error")
        return self._db.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


async def test_one_that_cannot_be_ended_at_all_is_no_part_of_what_follows(
    store: SqliteStore, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    with monkeypatch.context() as gone:
        gone.setattr(store._writer, "_db", _Gone(store._writer._db))  # type: ignore[arg-type]
        error = await refused("storage_unavailable", run.do(end(A, OUTPUTS[2]), blobs=[NewBlob(OUTPUTS[2])]))
    assert "disk" in error.message and steps() == 2
    await run.do(end(A, OUTPUTS[3]), StartNode(B, 0), blobs=[NewBlob(OUTPUTS[3])])
    assert (await run.state()).node(A).output == OUTPUTS[3].digest
    assert store.chain.breaks(await store.events(run.id)) == []


async def test_what_another_process_has_written_to_the_run_is_read_first(store: SqliteStore, steps: Steps) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    other = await opened(store.path)
    await Run(other, run.id, None).ask(Label(Seq(1), "from there"))
    await run.do(end(A, OUTPUTS[2]), StartNode(B, 0), blobs=[NewBlob(OUTPUTS[2])])
    assert steps() == 1  # the one before
    await run.do(end(B, OUTPUTS[2]), blobs=[NewBlob(OUTPUTS[2])])
    assert steps() == 2
    await other.close()
    assert store.chain.breaks(await store.events(run.id)) == []
    assert (await store.events(run.id))[-1].seq == (await store.heads([run.id]))[run.id]


async def test_one_of_an_owner_that_has_lost_the_run_is_refused(store: SqliteStore, steps: Steps) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:  # as a claim does, which is no event
        db.execute("UPDATE claims SET fence = fence + 1")
    await refused("fenced", run.do(end(A, OUTPUTS[2]), StartNode(B, 0), blobs=[NewBlob(OUTPUTS[2])]))
    assert (await run.state()).completed_nodes == 0


async def test_one_that_the_disk_refuses_is_no_part_of_what_follows(store: SqliteStore, steps: Steps) -> None:
    run = await executing(store)
    await run.do(StartNode(NodeId("n0"), 0))
    db = store._writer._db
    assert db is not None
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages + 2}")  # "database or disk is full"
    done = 0

    async def go_on() -> None:
        nonlocal done
        output = encode(str(done) * 1_000)
        following = StartNode(NodeId(f"n{done + 1}"), 0)
        await run.do(end(NodeId(f"n{done}"), output), following, blobs=[NewBlob(output)])
        done += 1

    async def until_full() -> None:
        for _ in range(100):
            await go_on()

    await refused("storage_unavailable", until_full())
    assert steps() == done + 2  # with the first, and the one that there was no room for
    assert (await run.state()).completed_nodes == done
    db.execute("PRAGMA max_page_count = 1073741823")
    for _ in range(3):
        await go_on()
    assert (await run.state()).completed_nodes == done
    assert store.chain.breaks(await store.events(run.id)) == []
