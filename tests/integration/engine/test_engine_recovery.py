"""Machines that die, that are taken for dead, and that share a database."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Attempt, RunQuery, WorkerRow, Write
from omium.storage.sqlite.store import SqliteStore
from tests.integration.engine.worlds import ME, Machine, Store, World, eventually, world

pytestmark = pytest.mark.anyio

FLOW = """
name: flow
nodes:
- {id: a, kind: function, use: add, with: {x: 1}}
- {id: b, kind: function, use: hold, with: {name: b, value: 2}, needs: a}
- {id: c, kind: function, use: add, with: {x: "${{ nodes.a.output }}", y: "${{ nodes.b.output }}"}, needs: b}
- {id: f, kind: function, use: add, for_each: [1, 2, 3], with: {x: "${{ item }}"}, needs: a}
"""


async def test_another_machine_takes_over_and_repeats_nothing_that_was_done(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW) as w:
        run = await w.run("flow")
        await w.entered("b")
        await w.until(run, lambda s: s.completed_nodes == 5)
        await w.crash(w.machine)
        await w.start()
        w.let_go("b")
        view = await w.finished(run)
        assert view.output == {"c": 4, "f": [2, 3, 4]}
        assert sorted(w.called()) == sorted(["a", "b", "b", "c", "f[0]", "f[1]", "f[2]"])
        assert (await w.log(run, "b"))[:3] == ["node.started", "node.interrupted", "node.started"]
        recovered = next(event for event in await w.events(run) if event.type == "run.recovered")
        assert recovered.data == {"fence": 2, "interrupted": 1}


async def test_a_second_machine_that_is_there_already_takes_over_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW) as w:
        first = w.machine
        run = await w.run("flow")
        await w.entered("b")
        await w.start()
        w.let_go("b")
        await w.crash(first)
        await w.finished(run)


async def test_an_attempt_that_is_taken_over_knows_that_it_is(tmp_path: Path) -> None:
    resumed: list[bool] = []
    there = anyio.Event()

    async def act(attempt: Attempt) -> None:
        resumed.append(attempt.resumed)
        if len(resumed) == 1:
            there.set()
            await anyio.sleep_forever()

    flow = "{name: one, nodes: [{id: a, kind: function, use: act}]}"
    async with world(tmp_path, flow, functions={"act": act}) as w:
        run = await w.run("one")
        await there.wait()
        await w.crash(w.machine)
        await w.start()
        await w.finished(run)
    assert resumed == [False, True]


async def test_the_late_writes_of_a_machine_that_was_taken_for_dead_are_refused_and_it_stops(tmp_path: Path) -> None:
    # It has room for no other run, and does not look whether it is still known: it cannot be the one to take the run.
    async with world(tmp_path, FLOW, runs=1, beat_s=60.0) as w:
        first = w.machine
        run = await w.run("flow")
        await w.entered("b")
        fence = first.engine.owned(run).fence  # type: ignore[union-attr]
        second = await w.start()
        await second.store.retire(first.engine.worker)  # somebody thinks that it is dead
        second.engine.look()
        await eventually(lambda: second.engine.owned(run) is not None)
        await w.until(run, lambda s: s.node("b").attempt == 2)
        with pytest.raises(OmiumError) as late:
            await first.store.write(Write(run, [c.WaitRun()], ME.principal, fence=fence))
        assert late.value.code == "fenced"
        w.let_go("b")
        await w.finished(run)
        await eventually(lambda: first.engine.owned(run) is None)
        log = await w.log(run, "b")
        assert log.count("node.completed") == 1


async def test_a_machine_that_was_taken_for_dead_signs_up_again(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW) as w:
        engine, store = w.machine.engine, w.machine.store
        await store.retire(engine.worker)
        await w.start()

        async def known() -> bool:
            return engine.worker in {row.id for row in await store.workers()}

        with anyio.fail_after(10):
            while not await known():
                await anyio.sleep(0.01)


async def test_a_machine_on_another_host_is_taken_over_when_it_was_silent_for_long_enough(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW, stale_s=0.2) as w:
        store = w.machine.store
        stranger = WorkerRow("wrk_far", "far", "boot", 99_999, 0.0, 7, ("default",))  # type: ignore[arg-type]
        living = w.living
        w.living = lambda pid: None if pid == 99_999 else living(pid)  # type: ignore[assignment,method-assign]
        await store.register(stranger)
        with anyio.fail_after(10):
            while "wrk_far" in {row.id for row in await store.workers()}:
                await anyio.sleep(0.01)
        assert w.killed == []


async def test_one_of_this_host_that_lives_but_is_silent_is_killed_first(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW, stale_s=0.2) as w:
        store = w.machine.store
        hung = WorkerRow("wrk_hung", "here", "boot", 77_777, 0.0, 7, ("default",))  # type: ignore[arg-type]
        living = w.living
        w.living = lambda pid: True if pid == 77_777 else living(pid)  # type: ignore[method-assign]
        await store.register(hung)
        with anyio.fail_after(10):
            while "wrk_hung" in {row.id for row in await store.workers()}:
                await anyio.sleep(0.01)
        assert w.killed == [77_777]


async def test_two_machines_share_the_runs_of_one_database(tmp_path: Path) -> None:
    flow = "{name: one, nodes: [{id: a, kind: function, use: hold, with: {name: a}}]}"
    async with world(tmp_path, flow, runs=5) as w:
        second = await w.start(runs=5)
        runs = [await w.run("one") for _ in range(10)]
        await eventually(lambda: w.running == 10)
        assert {machine.engine.busy for machine in (w.machine, second)} == {5}
        w.let_go("a")
        for run in runs:
            await w.finished(run)
        assert sorted(call.run for call in w.calls) == sorted(runs)


async def test_any_machine_may_pause_decide_signal_and_cancel_what_another_executes(tmp_path: Path) -> None:
    flow = """
name: steered
nodes:
- {id: long, kind: function, use: hold, with: {name: long}}
- {id: gate, kind: approval, approval: {prompt: "ok?"}}
- {id: w, kind: wait, wait: {signal: go}}
- {id: end, kind: function, use: echo, needs: [gate, w]}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("steered")
        await w.entered("long")
        other: Machine = await w.start()
        core = other.core
        await core.signal(ME, run, "go", 1)
        await w.until(run, lambda s: s.node("w").status == "completed")
        await core.pause(ME, run)
        (approval,) = await core.list_approvals(ME, run_id=run)
        await core.decide(ME, approval.id, "approve", assurance="elicited")
        await core.resume(ME, run)
        await w.until(run, lambda s: s.node("end").status == "completed")
        assert {call.machine for call in w.calls} == {1}
        with anyio.fail_after(5):
            await core.cancel(ME, run)
            await eventually(lambda: w.running == 0)


async def test_a_child_that_another_machine_executes_wakes_its_parent(tmp_path: Path) -> None:
    child = "{name: child, nodes: [{id: a, kind: function, use: hold, with: {name: a}}]}"
    parent = """
name: parent
nodes:
- {id: sub, kind: workflow, use: child}
- {id: long, kind: function, use: hold, with: {name: long}}
- {id: end, kind: function, use: echo, needs: sub}
"""
    async with world(tmp_path, child, parent, runs=1) as w:
        run = await w.run("parent")
        await w.entered("long")
        second = await w.start(runs=1)
        await w.entered("a")
        assert second.engine.busy == 1
        w.let_go("a")
        await w.until(run, lambda s: s.node("end").status == "completed")
        w.let_go("long")
        await w.finished(run)


# --- death at every write -------------------------------------------------------------------------------------------

WHOLE = """
name: whole
nodes:
- {id: a, kind: function, use: act}
- {id: l, kind: function, use: act, repeat: {until: "iteration >= 1", max: 3}, needs: a}
- {id: f, kind: function, use: act, for_each: {items: [1, 2], key: item}, needs: a}
- id: g
  kind: group
  needs: f
  nodes: [{id: x, kind: function, use: act}, {id: y, kind: function, use: act, needs: x}]
- {id: t, kind: wait, wait: {for: 0}, needs: a}
- {id: p, kind: function, use: plan, expands: true, needs: l}
- {id: end, kind: function, use: act, needs: [g, t, p]}
"""
PLANNED = {"steps": [{"id": "s", "kind": "function", "use": "act"}]}


@pytest.mark.parametrize("after", [False, True])
async def test_a_death_at_any_write_loses_nothing_and_repeats_nothing_known(tmp_path: Path, after: bool) -> None:
    done: list[tuple[RunId, str]] = []

    async def act(attempt: Attempt) -> str:
        async def call() -> str:
            done.append((attempt.run_id, attempt.node_id))
            return attempt.node_id

        return str(await attempt.effect("call", call, kind="x"))

    async def plan(attempt: Attempt) -> object:
        return PLANNED

    expected = sorted(["a", "l[0]", "l[1]", "f[1]", "f[2]", "g.x", "g.y", "p.s", "end"])
    async with world(tmp_path, WHOLE, functions={"act": act, "plan": plan}) as w:
        for number in range(2, 60):
            store = w.machine.store
            died = anyio.Event()
            die_at(store, number, after, died)
            run = await w.run("whole")
            with anyio.fail_after(20):
                while not died.is_set() and not await ended(w, run):
                    await anyio.sleep(0.001)
            store.before_write = None
            if not died.is_set():
                break  # it has fewer writes than that
            await w.crash(w.machine)
            await w.start()
            view = await w.finished(run)
            assert view.output == {"end": "end"}
            made = sorted(node for one, node in done if one == run)
            # What was under way at that moment may have happened twice, as nobody knew; everything else, once.
            assert set(made) == set(expected)
            assert len(made) <= len(expected) + 3
        else:
            raise AssertionError("the workflow did not end")
        assert number > 20


def die_at(store: Store, number: int, after: bool, died: anyio.Event) -> None:
    """Cut the store off at its nth write, before that write or just after it."""
    left = number

    async def count(write: Write) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            if after:
                await SqliteStore.write(store, write)
            store.cut = True
            died.set()

    store.before_write = count


async def ended(w: World, run: RunId) -> bool:
    row = await w.machine.store.run(run)
    return row is not None and row.ended_at is not None


# --- nothing is kept ------------------------------------------------------------------------------------------------


async def test_runs_that_wait_are_owned_by_nobody_and_cost_the_engine_nothing(tmp_path: Path) -> None:
    flow = """
name: ask
nodes:
- {id: g, kind: approval, approval: {prompt: ok}}
- {id: b, kind: function, use: echo, needs: g}
"""
    async with world(tmp_path, flow) as w:
        runs = [await w.run("ask") for _ in range(200)]
        for run in runs:
            await w.status(run, "waiting_approval")
        await w.idle()
        engine = w.machine.engine
        assert not engine._executions and engine.children.watched() == [] and len(engine.queue) == 0
        for approval in await w.core.list_approvals(ME):
            await w.core.decide(ME, approval.id, "approve", assurance="elicited")
        for run in runs:
            await w.finished(run)


async def test_a_log_that_cannot_be_folded_leaves_the_others_alone(tmp_path: Path) -> None:
    flow = "{name: one, nodes: [{id: a, kind: function, use: hold, with: {name: a}}]}"
    async with world(tmp_path, flow) as w:
        bad, good = await w.run("one"), await w.run("one")
        await eventually(lambda: w.running == 2)
        await w.crash(w.machine)
        w.let_go("a")
        machine = await unreadable(w, bad)
        await w.finished(good)
        await w.idle()
        machine.store.__dict__.pop("state")
        machine.engine.look()
        await machine.store.wake([bad], w.clock.now_us())
        machine.engine.look()
        await w.finished(bad)


async def unreadable(w: World, bad: RunId) -> Machine:
    """A machine whose store cannot read one of the runs."""
    original = Store.state

    async def state(self: Store, run_id: RunId, upto: Seq | None = None) -> object:
        if run_id == bad:
            raise OmiumError("integrity", "a blob is damaged.")
        return await original(self, run_id, upto)

    Store.state = state  # type: ignore[assignment,method-assign]
    try:
        machine = await w.start()
        machine.store.state = state.__get__(machine.store)  # type: ignore[method-assign]
    finally:
        Store.state = original  # type: ignore[method-assign]
    return machine


async def test_a_database_that_is_away_for_a_moment_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omium.orchestration.engine.writing.PAUSE_S", 0.01)
    async with world(tmp_path, FLOW) as w:
        away = 6

        async def fail(write: Write) -> None:
            nonlocal away
            if write.fence is not None and away:
                away -= 1
                raise OmiumError("storage_unavailable", "the disk is full.")

        w.machine.store.before_write = fail
        w.let_go("b")
        run = await w.run("flow")
        await w.finished(run)
        assert away == 0
        assert sorted(w.called()) == sorted(["a", "b", "c", "f[0]", "f[1]", "f[2]"])


async def test_a_definition_that_cannot_be_read_fails_its_run(tmp_path: Path) -> None:
    async with world(tmp_path, FLOW) as w:
        run = await w.run("flow", start=False)
        engine = w.machine.engine

        async def damaged(digest: object) -> object:
            raise OmiumError("integrity", "the definition is damaged.")

        engine._program = damaged  # type: ignore[assignment,method-assign]
        await w.core.resume(ME, run)
        await w.until(run, lambda s: s.status == "failed")
        await w.idle()
        assert len(await w.machine.store.runs(RunQuery())) == 1
