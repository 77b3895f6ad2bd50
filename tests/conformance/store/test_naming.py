"""Which run's log names which content is on record once, wherever that is."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import EffectId, NodeId, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob
from omium.orchestration.values import encode
from omium.storage import maintenance as m
from omium.storage.maintenance import erasing
from tests.conformance.store.databases import AnyStore, Database, TestClock
from tests.storage_histories import Life

pytestmark = pytest.mark.anyio
DAY = 86_400.0
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


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


async def test_what_a_run_names_again_while_it_is_erased_stays(
    store: AnyStore, database: Database, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is settled late, with the very content that is being erased."""
    life = Life(store)
    value, node = encode({"result": "the same"}), NodeId("a")
    run_id = await life.create()
    calls = [EffectId(f"{run_id}/a/{name}") for name in ("first", "second")]
    await life.do(run_id, c.StartNode(node, 0))
    for call in calls:
        await life.do(run_id, c.IntendEffect(call, node, 0, 1, call[-6:], "tool", "ask"))
    settle = [c.SettleEffect(call, "done", value.digest, value.size) for call in calls]
    await life.do(run_id, settle[0], blobs=[NewBlob(value)])
    await life.do(run_id, c.CancelRun())
    clock.advance(60)
    begun, unlinked = threading.Event(), threading.Event()
    unlink = erasing.unlink

    def slowly(*args: Any) -> None:
        unlink(*args)
        begun.set()
        unlinked.wait(20)

    async def settle_late() -> None:
        await anyio.to_thread.run_sync(begun.wait)
        clock.advance(1)
        written = asyncio.create_task(life.do(run_id, settle[1], blobs=[NewBlob(value)]))
        while database.name != "sqlite" and database.execute(_WAITING) == [("0",)]:
            await asyncio.sleep(0.01)  # real time: the server's
        unlinked.set()
        await written

    monkeypatch.setattr(erasing, "unlink", slowly)
    with anyio.fail_after(40):
        await asyncio.gather(settle_late(), m.erase(m.keeper(store), run_id, "asked for"))
    clock.advance(2 * DAY)
    await m.sweep(m.keeper(store), clock.now_us())
    assert await m.verify(m.keeper(store)) == []
    assert await store.value(value.digest) == {"result": "the same"}


async def test_dropping_a_run_touches_nothing_that_it_has_brought(store: AnyStore, clock: TestClock) -> None:
    """It would be written anew, and wait for whoever writes the same."""
    life = Life(store)
    value = encode({"several runs": "have it"})
    run_id, other = await life.create(), await life.create()
    for one in (run_id, other):
        await life.do(one, c.Signal("same", value.digest, value.size), blobs=[NewBlob(value)])
    await life.do(run_id, c.CancelRun())
    clock.advance(2 * DAY)
    await m.retain(m.keeper(store), m.Policy(DAY), clock.now_us())
    assert await store.run(run_id) is None
    query = "SELECT brought_by FROM blobs WHERE digest = :digest"
    assert await m.keeper(store).read(lambda tables: tables.all(query, digest=value.digest)) == [(run_id,)]
    await m.sweep(m.keeper(store), clock.now_us())
    assert await store.value(value.digest) == {"several runs": "have it"}
    await life.do(other, c.CancelRun())
    clock.advance(2 * DAY)
    await m.retain(m.keeper(store), m.Policy(DAY), clock.now_us())
    clock.advance(2 * DAY)
    await m.sweep(m.keeper(store), clock.now_us())
    with pytest.raises(OmiumError) as refused:
        await store.value(value.digest)
    assert refused.value.code == "not_found"
