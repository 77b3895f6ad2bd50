"""What is erased is gone, whatever happens meanwhile, and the logs that name it still verify."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Principal, RunId, Seq, new_id
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob
from omium.orchestration.values import encode
from omium.storage import maintenance as m
from omium.storage.maintenance import erasing
from tests.conformance.store.databases import AnyStore, TestClock
from tests.conformance.store.test_maintenance import finished, out, stored
from tests.storage_histories import Life

pytestmark = pytest.mark.anyio
DAY = 86_400.0
USER = Principal("user:ada")


async def test_erasing_deletes_what_only_this_run_names(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    run_id, other = await life.create(), await life.create()
    await life.finish(run_id, "a", "b")
    shared = encode({"of": run_id, "node": "a", "value": None})
    await life.do(other, c.Signal("same", shared.digest, shared.size), blobs=[NewBlob(shared)])
    with pytest.raises(OmiumError) as refusal:
        await m.erase(m.keeper(store), run_id, "asked for")
    assert refusal.value.code == "not_allowed"
    result = await life.end(run_id)
    clock.advance(1)
    erased = await m.erase(m.keeper(store), run_id, "asked for", USER)
    assert (erased.logged, erased.deleted, erased.shared) == (4, 3, 1)
    assert not await stored(store, out(run_id, "b"))
    assert not await stored(store, result.digest)
    assert await stored(store, shared.digest)
    with pytest.raises(OmiumError) as gone:
        await store.value(out(run_id, "b"))
    assert gone.value.code == "not_found"
    assert (await store.events(run_id))[-1].data["reason"] == "asked for"
    assert await m.verify(m.keeper(store)) == []
    assert (await store.state(run_id)).status == "completed"
    again = await m.erase(m.keeper(store), run_id, "asked for")
    assert (again.logged, again.deleted) == (0, 0)
    await life.do(other, c.CancelRun())
    clock.advance(1)
    await m.erase(m.keeper(store), other, "asked for")  # the last that names it
    assert not await stored(store, shared.digest)
    assert await m.verify(m.keeper(store)) == []
    assert await m.rebuild(m.keeper(store)) == m.Rebuilt(2, [])
    assert await m.verify(m.keeper(store)) == []


async def test_what_a_branch_took_over_goes_with_the_branch(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    run_id = await life.create()
    await life.finish(run_id, "a")
    at = (await store.state(run_id)).seq
    branch = await life.create(parent={"run": run_id, "seq": at})
    await life.finish(run_id, "b")
    await life.end(run_id)
    clock.advance(1)
    found = await m.forget(m.keeper(store), [run_id], "blobs", reason="asked for", actor=USER)
    assert (found.erased, list(found.kept)) == ([run_id], [run_id])  # in part
    erased = await m.erase(m.keeper(store), run_id, "asked for")
    assert erased.branches == [branch]
    assert await stored(store, out(run_id, "a"))
    assert not await stored(store, out(run_id, "b"))
    await life.do(branch, c.CancelRun())
    clock.advance(1)
    await m.erase(m.keeper(store), branch, "asked for")
    assert (await m.erase(m.keeper(store), run_id, "asked for")).branches == []
    assert not await stored(store, out(run_id, "a"))
    assert await m.verify(m.keeper(store)) == []


async def test_it_is_said_what_stays_for_branches(store: AnyStore, clock: TestClock) -> None:
    """One that has nothing but what a branch took over is not called erased, and not touched."""
    life, there = Life(store), []
    run_id = await finished(life)
    branch = await life.create(parent={"run": run_id, "seq": (await store.state(run_id)).seq}, branch="x")
    await life.end(branch)
    clock.advance(1)

    async def beside(runs: Sequence[RunId], workspaces: bool) -> None:
        there.extend(runs)

    async def forget(*runs: RunId, preview: bool = False) -> m.Retained:
        told: dict[str, Any] = {"reason": "asked for", "actor": USER, "preview": preview, "beside": beside}
        return await m.forget(m.keeper(store), list(runs), "blobs", **told)

    for preview in (True, False):
        found = await forget(run_id, preview=preview)
        assert (found.erased, list(found.kept), there) == ([], [run_id], [])
        assert f"stay for branches x ({branch})" in found.kept[run_id]
    assert "erased" not in {event.type for event in await store.events(run_id)}
    both = await forget(run_id, branch, preview=True)
    assert (both.erased, both.kept, both.origins) == ([branch, run_id], {}, [])
    alone = await forget(branch)
    assert (alone.erased, alone.kept, alone.origins) == ([branch], {}, [run_id])
    last = await forget(run_id)
    assert (last.erased, last.kept, await stored(store, out(run_id, "a"))) == ([run_id], {}, False)
    assert await m.verify(m.keeper(store)) == []


@pytest.mark.parametrize("late", [False, True])
async def test_what_a_branch_is_to_take_over_that_is_just_being_made_stays(
    store: AnyStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """The log of its parent names it, and it has none yet. `late`: it was named once the erasure had looked."""
    life = Life(store)
    run_id = await finished(life)
    clock.advance(100)
    child, at = RunId(new_id("run")), (await store.state(run_id)).seq
    noted = c.NoteBranch(child, at, "x")
    carry_out = erasing._carry_out

    async def note(*args: Any) -> Any:
        monkeypatch.setattr(erasing, "_carry_out", carry_out)
        await life.do(run_id, noted)
        return await carry_out(*args)

    if late:
        monkeypatch.setattr(erasing, "_carry_out", note)
    else:
        await life.do(run_id, noted)
    erased = await m.erase(m.keeper(store), run_id, "asked for")
    assert (erased.deleted, erased.branches) == (0, [child])
    assert await stored(store, out(run_id, "a"))
    kept = await m.forget(m.keeper(store), [run_id], "runs", reason="asked for", actor=USER)
    assert (kept.dropped, list(kept.kept)) == ([], [run_id])
    clock.advance(61)  # whoever was to make it has died
    assert (await m.erase(m.keeper(store), run_id, "asked for")).branches == []
    assert not await stored(store, out(run_id, "a"))
    assert await m.verify(m.keeper(store)) == []


async def test_what_was_a_patch_upon_the_erased_stands_alone(store: AnyStore, clock: TestClock) -> None:
    rng = random.Random(3)
    text = "".join(rng.choice("abcdefgh") for _ in range(20_000))
    secret, kept, later = (encode({"text": text, "n": n}) for n in range(3))
    life = Life(store)
    run_id, other = await life.create(), await life.create()
    await life.do(run_id, c.Signal("s", secret.digest, secret.size), blobs=[NewBlob(secret)])
    await life.do(other, c.Signal("s", kept.digest, kept.size), blobs=[NewBlob(kept, secret.digest)])
    await life.do(other, c.Signal("s", later.digest, later.size), blobs=[NewBlob(later, kept.digest)])
    await life.do(run_id, c.CancelRun())
    clock.advance(1)
    await m.erase(m.keeper(store), run_id, "asked for")
    assert not await stored(store, secret.digest)
    assert [(await store.value(blob.digest))["n"] for blob in (kept, later)] == [1, 2]  # type: ignore[call-overload,index]
    assert await m.verify(m.keeper(store)) == []


async def test_a_run_can_go_on_after_it_was_erased(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    run_id = await finished(life)
    clock.advance(1)
    await m.erase(m.keeper(store), run_id, "asked for")
    await life.do(run_id, c.RollBack(Seq(3)), c.ResumeRun())
    await life.finish(run_id, "a")  # the same value again
    assert await stored(store, out(run_id, "a"))
    assert await m.verify(m.keeper(store)) == []
    await life.do(run_id, c.CancelRun())
    clock.advance(1)
    assert (await m.erase(m.keeper(store), run_id, "asked for")).deleted == 1
    assert not await stored(store, out(run_id, "a"))
    assert await m.verify(m.keeper(store)) == []


class _PowerCut(Exception):
    pass


async def interrupted(store: AnyStore, run_id: RunId, monkeypatch: pytest.MonkeyPatch, before: str = "_delete") -> None:
    """Erase the run as far as its log, and no further, or up to another step."""

    def cut(*_: object, **__: object) -> None:
        raise _PowerCut

    with monkeypatch.context() as patched:
        patched.setattr(erasing, before, cut)
        with pytest.raises(_PowerCut):
            await m.erase(m.keeper(store), run_id, "asked for", USER)


async def test_an_interrupted_erasure_is_finished_by_the_sweep_an_hour_later(
    store: AnyStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a run that has gone on since: what it made then stays."""
    life = Life(store)
    old, again = await finished(life), await finished(life)
    clock.advance(1)
    for run_id in (old, again):
        await interrupted(store, run_id, monkeypatch)
    await life.do(again, c.RollBack(Seq(3)), c.ResumeRun())
    await life.finish(again, "b", value="new")
    clock.advance(3000)
    assert (await m.sweep(m.keeper(store), clock.now_us())).erasures == 0  # somebody may be at it
    assert await stored(store, out(old, "a"))
    clock.advance(1000)
    assert (await m.sweep(m.keeper(store), clock.now_us())).erasures == 2
    assert not await stored(store, out(old, "a"))
    assert not await stored(store, out(again, "a"))
    assert await stored(store, out(again, "b", "new"))
    told = "SELECT actor FROM project_events WHERE type = 'run.erased'"
    assert await m.keeper(store).read(lambda tables: tables.all(told)) == [(USER,), (USER,)]
    assert (await m.sweep(m.keeper(store), clock.now_us())).erasures == 0
    assert await m.verify(m.keeper(store)) == []


async def test_a_branch_that_is_noted_while_the_sweep_finishes_an_erasure_keeps_what_it_takes_over(
    store: AnyStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(store)
    run_id = await finished(life)
    clock.advance(1)
    await interrupted(store, run_id, monkeypatch, "_carry_out")
    clock.advance(4000)
    carry_out, at = erasing._carry_out, (await store.state(run_id)).seq

    async def note(*args: Any) -> Any:
        monkeypatch.setattr(erasing, "_carry_out", carry_out)
        await life.do(run_id, c.NoteBranch(RunId(new_id("run")), at, "x"))
        return await carry_out(*args)

    monkeypatch.setattr(erasing, "_carry_out", note)
    assert (await m.sweep(m.keeper(store), clock.now_us())).erasures == 1
    assert await stored(store, out(run_id, "a"))
    assert await m.verify(m.keeper(store)) == []


async def test_a_run_that_is_dropped_takes_its_interrupted_erasure_along(
    store: AnyStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await finished(Life(store))
    clock.advance(1)
    await interrupted(store, run_id, monkeypatch)
    clock.advance(2 * DAY)
    assert (await m.retain(m.keeper(store), m.Policy(DAY), clock.now_us())).dropped == [run_id]
    assert (await m.sweep(m.keeper(store), clock.now_us())).erasures == 0
    assert not await stored(store, out(run_id, "a"))


async def test_a_run_that_is_dropped_while_an_erasure_of_it_begins_leaves_no_record(
    store: AnyStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await finished(Life(store))
    clock.advance(2 * DAY)
    begin, keeping = erasing.to_erase, m.keeper(store)
    content = await keeping.read(lambda tables: begin(tables, run_id, clock.now_us()))
    await m.retain(keeping, m.Policy(DAY), clock.now_us())
    monkeypatch.setattr(erasing, "to_erase", lambda *_, **__: content)
    with pytest.raises(OmiumError) as gone:
        await m.erase(keeping, run_id, "asked for")
    assert gone.value.code == "not_found"
    assert await keeping.read(lambda tables: tables.all("SELECT * FROM erasures")) == []


async def test_a_run_that_is_forgotten_leaves_no_content_behind(store: AnyStore, clock: TestClock) -> None:
    """Not even until the next sweep; what is beside the database goes before the run does."""
    life, there = Life(store), []
    run_id, other = await finished(life), await finished(life)
    clock.advance(1)

    async def beside(runs: Sequence[RunId], workspaces: bool) -> None:
        there.append((list(runs), workspaces, await store.run(run_id) is not None))

    found = await m.forget(m.keeper(store), [run_id], "runs", reason="asked for", actor=USER, beside=beside)
    assert found.dropped == [run_id]
    assert not await stored(store, out(run_id, "a"))
    assert await stored(store, out(other, "a"))
    assert there == [([run_id], True, True), ([run_id], True, False)]
    assert await m.keeper(store).read(lambda tables: tables.all("SELECT * FROM erasures")) == []
    assert await m.verify(m.keeper(store)) == []


@pytest.mark.parametrize("dropped", [False, True])
async def test_what_could_not_be_removed_beside_the_database_is_removed_later(
    store: AnyStore, clock: TestClock, dropped: bool
) -> None:
    run_id = await finished(Life(store))
    clock.advance(2 * DAY)
    removed: list[tuple[list[RunId], bool]] = []

    async def fails(*_: object) -> None:
        raise _PowerCut

    async def beside(runs: Sequence[RunId], workspaces: bool) -> None:
        removed.append((list(runs), workspaces))

    keeping = m.keeper(store)
    with pytest.raises(_PowerCut):
        if dropped:
            await m.retain(keeping, m.Policy(DAY), clock.now_us(), beside=fails)
        else:
            await m.erase(keeping, run_id, "asked for", USER, fails)
    assert (await store.run(run_id) is None) == dropped
    clock.advance(4000)
    assert (await m.sweep(keeping, clock.now_us(), beside=beside)).erasures == 1
    assert removed == [([run_id], True)]
    assert (await m.sweep(keeping, clock.now_us(), beside=beside)).erasures == 0


@pytest.mark.parametrize("ends", [False, True])
async def test_a_run_that_has_gone_on_keeps_what_it_made_since(
    store: AnyStore, clock: TestClock, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """It was not what somebody wanted erased, whether the run has ended by now or not; nor are its files."""
    life, removed = Life(store), []
    run_id = await finished(life)
    clock.advance(1)

    def cut(*_: object, **__: object) -> None:
        raise _PowerCut

    with monkeypatch.context() as patched:  # before its log says anything
        patched.setattr(erasing, "_carry_out", cut)
        with pytest.raises(_PowerCut):
            await m.erase(m.keeper(store), run_id, "asked for", USER)
    clock.advance(1)
    await life.do(run_id, c.RollBack(Seq(3)), c.ResumeRun())
    await life.finish(run_id, "a", value="new")
    if ends:
        await life.do(run_id, c.CancelRun())

    async def beside(runs: Sequence[RunId], _: bool) -> None:
        removed.append(runs)

    clock.advance(4000)
    assert (await m.sweep(m.keeper(store), clock.now_us(), 30 * DAY, beside)).erasures == 1
    assert await stored(store, out(run_id, "a", "new"))
    assert await stored(store, out(run_id, "b")) != ends  # what has not ended still needs it, and nothing says erased
    assert removed == []
    assert await m.keeper(store).read(lambda tables: tables.all("SELECT * FROM erasures")) == []
    assert await m.verify(m.keeper(store)) == []
