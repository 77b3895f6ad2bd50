"""A write of an owner that cannot be made for a fault of the store, and those that may follow from it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Seq
from omium.orchestration.log.commands import StartNode
from omium.orchestration.ports import NewBlob, Write
from omium.storage.blobs import Packer
from tests.conformance.store.acting import ENGINE, USER, A, B, C, Run, blob, executing, refused
from tests.conformance.store.databases import Database

pytestmark = pytest.mark.anyio

LARGE = blob("of this there is no file")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """While it holds something, there is no room for `LARGE`."""
    holds, pack = [True], Packer.pack

    def packing(self: Packer, blobs: Sequence[NewBlob], *more: Any) -> Any:
        if holds and LARGE in blobs:
            raise OmiumError("storage_unavailable", "the disk is full.")
        return pack(self, blobs, *more)

    monkeypatch.setattr(Packer, "pack", packing)
    return holds


def start(run: Run, node: Any, *blobs: NewBlob) -> Write:
    return Write(run.id, [StartNode(node, 0)], ENGINE, fence=run.fence, blobs=blobs)


async def test_what_may_follow_from_a_write_that_cannot_be_made_is_not_made_either(
    database: Database, full: list[bool]
) -> None:
    store = await database.open()
    run, other = await executing(store), await executing(store)
    before = (await run.state()).seq
    writes = [start(run, A, LARGE), start(run, B), start(other, A)]
    found = await asyncio.gather(*map(store.write, writes), return_exceptions=True)
    assert [getattr(one, "code", None) for one in found] == ["storage_unavailable", "storage_unavailable", None]
    await refused("storage_unavailable", store.write(start(run, B)))  # submitted as if nothing had been heard
    assert (await run.state()).seq == before

    full.clear()
    for write in writes[:2]:
        await store.write(replace(write, faults=1))
    await store.write(start(run, C))  # all is as it was before
    assert [event.data["node"] for event in await store.events(run.id) if "node" in event.data] == [A, B, C]


async def test_a_refusal_by_the_log_is_no_fault(database: Database) -> None:
    store = await database.open()
    run = await executing(store)
    again = Write(run.id, [StartNode(A, 7)], ENGINE, fence=run.fence)
    found = await asyncio.gather(store.write(again), store.write(start(run, B)), return_exceptions=True)
    assert [getattr(one, "code", None) for one in found] == ["conflict", None]


async def test_a_write_that_took_place_unheard_is_given_and_not_made_again(database: Database) -> None:
    store = await database.open()
    run = await executing(store)
    heard: list[int] = []
    store.listen(lambda _, events: heard.extend(event.seq for event in events))
    written = await store.write(start(run, A))
    again = await store.write(replace(start(run, A), tried=written.events))
    assert (again.events, again.seq) == (written.events, 4)
    assert heard == [4, 4]  # the first time, in truth, nobody was told
    lost = replace(written.events[0], seq=Seq(5), hash=bytes(32))
    assert (await store.write(replace(start(run, B), tried=[lost]))).seq == 5
    lost = replace(written.events[0], seq=Seq(5), hash=bytes(32))  # another one's is there
    assert (await store.write(replace(start(run, C), tried=[lost]))).seq == 6
    assert [event.data["node"] for event in await store.events(run.id, Seq(3))] == [A, B, C]
    assert run.fence is not None and await store.release(run.id, run.fence, Seq(6), None)
    await refused("fenced", store.write(replace(start(run, A), tried=written.events)))  # nor may its code run here


async def test_nobody_else_is_kept_from_steering_the_run(database: Database, full: list[bool]) -> None:
    from omium.orchestration.log.commands import PauseRun

    store = await database.open()
    run = await executing(store)
    await refused("storage_unavailable", store.write(start(run, A, LARGE)))
    await store.write(Write(run.id, [PauseRun()], USER))
    assert (await run.state()).status == "paused"
