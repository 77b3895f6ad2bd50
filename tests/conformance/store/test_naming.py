"""Which run's log names which content is on record once, wherever that is."""

from __future__ import annotations

import asyncio

import pytest

from omium.orchestration.ids import RunId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob
from omium.orchestration.values import encode
from omium.storage import maintenance as m
from tests.conformance.store.databases import AnyStore, TestClock
from tests.storage_histories import Life

pytestmark = pytest.mark.anyio
DAY = 86_400.0


async def test_the_run_that_brings_a_content_needs_no_link_and_every_other_one_has_its_own(
    store: AnyStore, clock: TestClock
) -> None:
    life = Life(store)
    value = encode({"several runs": "have it"})

    async def signal(run_id: RunId) -> None:
        await life.do(run_id, c.Signal("same", value.digest, value.size), blobs=[NewBlob(value)])

    async def naming() -> tuple[list[tuple[str]], list[tuple[str]]]:
        def work(tables: m.Tables) -> tuple[list[tuple[str]], list[tuple[str]]]:
            linked = "SELECT run_id FROM links WHERE digest = :digest ORDER BY run_id"
            brought = "SELECT brought_by FROM blobs WHERE digest = :digest"
            return tables.all(linked, digest=value.digest), tables.all(brought, digest=value.digest)

        return await m.keeper(store).read(work)

    first, second, third = [await life.create() for _ in range(3)]
    await store.put([NewBlob(value)])  # of no run
    await signal(second)
    assert await naming() == ([(second,)], [(None,)])
    clock.advance(2 * DAY)
    await life.do(second, c.CancelRun())
    assert (await m.erase(m.keeper(store), second, "asked for")).deleted > 0
    assert await naming() == ([], [])
    await asyncio.gather(signal(first), signal(third), signal(first))  # most likely in one commit
    await signal(third)
    links, [(brought_by,)] = await naming()
    assert sorted([brought_by, *(run_id for (run_id,) in links)]) == sorted([first, third])
    assert await m.verify(m.keeper(store)) == []
    other = third if brought_by == first else first
    await life.do(RunId(brought_by), c.CancelRun())
    erased = await m.erase(m.keeper(store), RunId(brought_by), "asked for")
    assert erased.shared >= 1
    assert await naming() == ([(other,)], [(None,)])
    clock.advance(2 * DAY)
    await m.sweep(m.keeper(store), clock.now_us())
    assert await naming() == ([(other,)], [(None,)])  # the content stays for the one that names it
    await life.do(other, c.CancelRun())
    await m.erase(m.keeper(store), other, "asked for")
    assert await naming() == ([], [])
