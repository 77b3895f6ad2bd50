"""A run that a node starts is created only while that node waits for it."""

from __future__ import annotations

import asyncio

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, Seq
from omium.orchestration.log.below import Below
from omium.orchestration.log.commands import CancelRun, PlanRun, RollBack, StartNode, StartRun, WaitNode
from omium.orchestration.ports import NewBlob, Store, Write, Written
from tests.conformance.store.acting import (
    DEFINITION,
    ENGINE,
    INPUTS,
    USER,
    WORKER,
    A,
    B,
    Run,
    creation,
    executing,
    new_run,
    refused,
)
from tests.conformance.store.databases import AnyStore, Database

pytestmark = pytest.mark.anyio

BACK = RollBack(Seq(3), None, None)


async def create(store: Store, child: RunId, parent: Run) -> Written:
    """As the owner of the parent does it."""
    caller = {"run": parent.id, "node": A, "generation": 0}
    commands, blobs = [creation(caller=caller), PlanRun(), StartRun()], [NewBlob(INPUTS), NewBlob(DEFINITION)]
    return await store.write(Write(child, commands, ENGINE, blobs=blobs, claim=WORKER, awaited_by=parent.id))


async def waiting(store: Store) -> tuple[Run, RunId]:
    """A run of which a node waits for another that is not created yet."""
    parent, child = await executing(store), new_run()
    await parent.do(StartNode(A, 0), WaitNode(A, 0, child=child))
    return parent, child


async def test_what_a_node_waits_for_is_created_once(database: Database) -> None:
    one, other = await database.open(), await database.open()
    for store in (one, other):  # the second does not know the parent
        parent, child = await waiting(one)
        await create(store, child, parent)
        assert (await other.state(child)).status == "executing"
        for again in (one, other):
            await refused("conflict", create(again, child, parent))
        await parent.complete(B)  # which it goes on with


async def test_what_no_node_waits_for_is_not_created(database: Database) -> None:
    one, other = await database.open(), await database.open()
    for store in (one, other):
        parent, child = await waiting(one)
        await refused("not_allowed", create(store, new_run(), parent))
        await parent.ask(BACK)
        await refused("not_allowed", create(store, child, parent))
        parent, child = await waiting(one)
        await parent.ask(CancelRun())
        error = await refused("not_allowed", create(store, child, parent))
        assert error.message == f"node {A} of run {parent.id} does not wait for run {child}."
        assert await one.run(child) is None
    nobody = Run(one, new_run(), None)
    await refused("not_allowed", create(one, new_run(), nobody))


@pytest.mark.parametrize("processes", [1, 2])
async def test_it_is_not_created_or_it_ends_with_what_takes_its_parent_back(database: Database, processes: int) -> None:
    stores: list[AnyStore] = [await database.open() for _ in range(processes)]
    for turn in range(12):
        parent, child = await waiting(stores[0])
        below = Below({parent.id: (await parent.state()).seq, child: Seq(0)}, {child: "reset"})
        back = Write(parent.id, [BACK], USER, below=below)
        both = [create(stores[-1], child, parent), stores[0].write(back)]
        first, second = await asyncio.gather(*(both if turn % 2 else reversed(both)), return_exceptions=True)
        created, gone_back = (first, second) if turn % 2 else (second, first)
        assert isinstance(gone_back, Written)
        if isinstance(created, Written):
            assert (await stores[0].state(child)).status == "cancelled"
        else:
            assert isinstance(created, OmiumError) and created.code == "not_allowed"
            assert await stores[0].run(child) is None
