"""Writes that say what they know of the runs below their run, which have logs and owners of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import EffectId, RunId, Seq
from omium.orchestration.log.below import Below
from omium.orchestration.log.commands import (
    Command,
    IntendEffect,
    Label,
    PauseRun,
    PlayFrom,
    RollBack,
    StartNode,
    WaitNode,
)
from omium.orchestration.log.courses import is_overtaken
from omium.orchestration.log.events import Event
from omium.orchestration.ports import NewBlob, Store, Write, Written
from omium.orchestration.values import encode
from tests.conformance.store.acting import USER, A, B, Run, executing, new_run, refused
from tests.conformance.store.databases import AnyStore, Database

pytestmark = pytest.mark.anyio

BACK = RollBack(Seq(3), None, None)


async def child_of(run: Run, store: Store | None = None) -> Run:
    """What a node of a run has started; `store`: that of the process that executes it."""
    caller = {"run": run.id, "node": A, "generation": 0}
    child = await executing(store or run.store, caller=caller)
    await run.do(StartNode(A, 0), WaitNode(A, 0, child=child.id))
    await child.do(StartNode(A, 0))
    return child


def call(run: Run, name: str = "pay", on_unknown: str = "ask", **more: Any) -> IntendEffect:
    return IntendEffect(EffectId(f"{run.id}/{name}"), A, 0, 1, name, "tool", on_unknown, **more)


async def known(*runs: Run) -> dict[RunId, Seq]:
    return {run.id: (await run.state()).seq for run in runs}


async def write(run: Run, below: Below, *commands: Command) -> Written:
    return await run.store.write(Write(run.id, commands or [BACK], USER, below=below))


async def test_a_write_is_refused_once_a_run_below_has_made_a_call_that_it_does_not_know_of(database: Database) -> None:
    one, other = await database.open(), await database.open()
    parent = await executing(one)
    child = await child_of(parent, other)
    below = Below(await known(parent, child), {child.id: "reset"})
    await child.do(call(child))
    before = await parent.state()
    assert is_overtaken(await refused("conflict", write(parent, below)))
    assert is_overtaken(await refused("conflict", write(parent, Below(below.known), Label(Seq(1), "x"))))
    assert (await parent.state()).seq == before.seq and (await child.state()).status == "executing"
    await write(parent, Below(await known(parent, child), {child.id: "reset"}))
    assert (await parent.state()).generation == 1


async def test_calls_that_may_be_repeated_stand_against_nothing_but_their_undoing(database: Database) -> None:
    one, other = await database.open(), await database.open()
    parent = await executing(one)
    child = await child_of(parent, other)
    below = Below(await known(parent, child))
    await child.do(call(child, "look", "rerun"))
    await write(parent, below, PauseRun())
    await child.do(call(child, "book", "rerun", compensate="cancel"))
    await write(parent, below, Label(Seq(1), "x"))
    assert is_overtaken(await refused("conflict", write(parent, below)))


@pytest.mark.parametrize("created", [False, True], ids=["named", "created"])
async def test_what_was_started_since_counts_with_all_that_it_did(database: Database, created: bool) -> None:
    """A run below one that is known; the write may know that it is to be created."""
    one, other = await database.open(), await database.open()
    parent = await executing(one)
    child = await child_of(parent, other)
    positions = await known(parent, child)
    grandchild = await executing(other, caller={"run": child.id, "node": A, "generation": 0})
    await child.do(WaitNode(A, 0, child=grandchild.id))
    if not created:
        positions |= {grandchild.id: Seq(0), child.id: (await child.state()).seq}
    await grandchild.do(StartNode(A, 0), call(grandchild))
    assert is_overtaken(await refused("conflict", write(parent, Below(positions, {child.id: "reset"}))))
    await write(parent, Below(await known(parent, child, grandchild)), PauseRun())


async def test_runs_below_end_with_the_write_and_everybody_hears_of_it(database: Database) -> None:
    one, other = await database.open(), await database.open()
    parent = await executing(one)
    child, over = await child_of(parent, other), await executing(other)
    await over.ask(PauseRun())
    below = Below({**await known(parent, child), over.id: Seq(4), new_run(): Seq(0)}, {child.id: "reset", over.id: "x"})
    grandchild = await executing(other, caller={"run": child.id, "node": A, "generation": 0})
    await child.do(WaitNode(A, 0, child=grandchild.id))
    heard: list[tuple[RunId, Sequence[Event]]] = []
    one.listen(lambda run_id, events: heard.append((run_id, events)))
    written = await write(parent, below)
    assert [event.type.value for event in written.events] == ["run.rolled_back"]
    assert [(run_id, events[-1].type.value) for run_id, events in heard] == [
        (parent.id, "run.rolled_back"),
        (child.id, "run.cancelled"),
        (over.id, "run.cancelled"),
        (grandchild.id, "run.cancelled"),
    ]
    assert (await child.state()).reason == "reset"
    assert (await grandchild.state()).reason == f"its parent {child.id} was cancelled"
    await refused("not_allowed", child.do(call(child)))
    for run in (parent, child, grandchild, over):
        events = await other.events(run.id)
        assert one.chain.breaks(events) == []
        row = await other.run(run.id)
        assert row is not None and row.status == (await run.state()).status
    await write(parent, Below(await known(parent, child), {child.id: "again"}), Label(Seq(1), "x"))  # it has ended
    assert (await child.state()).reason == "reset"


@pytest.mark.parametrize("processes", [1, 2])
async def test_either_the_call_is_known_or_it_is_not_made(database: Database, processes: int) -> None:
    stores: list[AnyStore] = [await database.open() for _ in range(processes)]
    for turn in range(12):
        parent = await executing(stores[0])
        child = await child_of(parent, stores[-1])
        below = Below(await known(parent, child), {child.id: "reset"})
        both = [child.do(call(child)), write(parent, below)]
        first, second = await asyncio.gather(*(both if turn % 2 else reversed(both)), return_exceptions=True)
        called, gone_back = (first, second) if turn % 2 else (second, first)
        refusal = gone_back if isinstance(called, Written) else called
        assert isinstance(refusal, OmiumError) and isinstance(called, Written) != isinstance(gone_back, Written)
        assert refusal.code == ("conflict" if isinstance(called, Written) else "not_allowed")
        made = [event for event in await stores[0].events(child.id) if event.type.value == "effect.intended"]
        assert (len(made), (await parent.state()).generation) in ((1, 0), (0, 1))


async def test_what_a_node_starts_that_is_not_played_again_goes_on(store: AnyStore) -> None:
    parent = await executing(store)
    await parent.complete(B)
    below = Below(await known(parent), {})
    child = await child_of(parent)
    await child.do(call(child))
    listed = encode([B])
    play = Write(parent.id, [PlayFrom(B, listed.digest, (B,))], USER, blobs=[NewBlob(listed)], below=below)
    await store.write(play)
    assert (await child.state()).status == "executing"
    listed = encode([A])
    play = Write(parent.id, [PlayFrom(A, listed.digest, (A,))], USER, blobs=[NewBlob(listed)], below=below)
    assert is_overtaken(await refused("conflict", store.write(play)))
