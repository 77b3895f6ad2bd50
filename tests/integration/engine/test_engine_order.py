"""The order of what an owner writes when the store cannot be written for a while, and letting go of another's runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import RunQuery, Write
from tests.integration.engine.worlds import ME, eventually, world

pytestmark = pytest.mark.anyio

JOIN = """
name: join
nodes:
- {id: a, kind: function, use: hold, with: {name: a, value: 1}}
- {id: b, kind: function, use: hold, with: {name: b, value: 2}}
- {id: d, kind: function, use: add, with: {x: "${{ nodes.a.output }}", y: "${{ nodes.b.output }}"}, needs: [a, b]}
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("execution", "writing"):
        monkeypatch.setattr(f"omium.orchestration.engine.{module}.PAUSE_S", 0.001)
        monkeypatch.setattr(f"omium.orchestration.engine.{module}.MAX_PAUSE_S", 0.01)
    monkeypatch.setattr("omium.orchestration.engine.values._PAUSES_S", (0.001, 0.001))


async def test_nothing_starts_on_an_end_that_could_not_be_written(tmp_path: Path) -> None:
    async with world(tmp_path, JOIN) as w:
        tries = 0
        full = True

        async def before(write: Write) -> None:
            nonlocal tries
            if full and any(isinstance(one, c.CompleteNode) and one.node == "a" for one in write.commands):
                tries += 1
                raise OmiumError("storage_unavailable", "the disk is full.")

        w.machine.store.before_write = before
        run = await w.run("join")
        await w.entered("a")
        await w.entered("b")
        w.let_go("a")
        await eventually(lambda: tries >= 1)
        w.let_go("b")
        await eventually(lambda: tries >= 5)
        assert not any(event.type in (E.NODE_COMPLETED, E.RUN_COMPLETED) for event in await w.events(run))
        full = False
        await w.finished(run)
        told = [(event.type, event.data.get("node")) for event in await w.events(run)]
        ended, started = told.index((E.NODE_COMPLETED, "a")), told.index((E.NODE_STARTED, "d"))
        assert told.index((E.NODE_COMPLETED, "b")) < started and ended < started
        assert w.called().count("a") == w.called().count("b") == 1


async def test_a_cancellation_stops_what_runs_though_a_result_cannot_be_stored(tmp_path: Path) -> None:
    there, entered = anyio.Event(), anyio.Event()
    stopped: list[str] = []

    async def large(attempt: Any) -> str:
        await there.wait()
        return "".join(f"{number:06}" for number in range(200_000)) + attempt.run_id

    async def work(attempt: Any) -> None:
        entered.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append("b")

    nodes = "{name: two, nodes: [{id: a, kind: function, use: large}, {id: b, kind: function, use: work}]}"
    async with world(tmp_path, nodes, functions={"large": large, "work": work}) as w:
        run = await w.run("two")
        await entered.wait()
        blobs = tmp_path / "blobs"
        shutil.rmtree(blobs, ignore_errors=True)
        blobs.write_text("this is no directory")
        there.set()
        await w.core.cancel(ME, run)
        await eventually(lambda: bool(stopped) and w.machine.engine.owned(run) is None)
        blobs.unlink()


async def test_a_result_is_kept_when_what_comes_next_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, JOIN) as w:
        run = await w.run("join")
        await w.entered("a")
        await w.entered("b")
        w.let_go("a")
        await w.until(run, lambda state: state.node("a").status == "completed")
        store, left = w.machine.store, 5
        w.machine.engine.values._values.clear()
        value = store.value

        async def away(*arguments: Any) -> Any:
            nonlocal left
            if left:
                left -= 1
                raise OmiumError("storage_unavailable", "the server restarts.")
            return await value(*arguments)

        monkeypatch.setattr(store, "value", away)
        w.let_go("b")
        view = await w.finished(run)
        assert view.output == {"d": 3} and not left
        assert w.called().count("b") == 1


async def test_a_run_that_was_taken_away_and_ended_elsewhere_is_let_go_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = """
    name: flow
    nodes:
    - {id: b, kind: function, use: hold, with: {name: b}}
    - {id: c, kind: approval, approval: {prompt: ok?}, needs: b}
    """
    async with world(tmp_path, nodes, runs=1, beat_s=60.0) as w:
        first = w.machine
        run = await w.run("flow")
        await w.entered("b")
        second = await w.start()
        releases = 0
        release = first.store.release

        async def counted(*arguments: Any) -> bool:
            nonlocal releases
            releases += 1
            return await release(*arguments)

        monkeypatch.setattr(first.store, "release", counted)
        await second.store.retire(first.engine.worker)
        second.engine.look()
        await w.until(run, lambda state: state.node("b").attempt == 2)
        await second.core.cancel(ME, run)
        await eventually(lambda: first.engine.owned(run) is None)
        assert releases <= 2


async def test_an_owner_that_slept_undoes_nothing_that_another_has_undone(tmp_path: Path) -> None:
    undone: list[str] = []
    failures = 0

    async def pay(attempt: Any, n: int) -> Any:
        async def paid() -> int:
            return n

        return await attempt.effect(f"pay{n}", paid, kind="effect")

    async def refund(attempt: Any, **given: Any) -> str:
        undone.append(given["call"])
        return "ok"

    async def shaky(attempt: Any) -> int:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise ValueError("bad")
        return 1

    flow = """
    name: flow
    on_failure: [{do: rollback, max: 2, to: start}]
    nodes:
    - {id: a, kind: function, use: pay, compensate: refund, with: {n: 1}}
    - {id: b, kind: function, use: pay, compensate: refund, with: {n: 2}, needs: a}
    - {id: c, kind: function, use: shaky, needs: b}
    - {id: z, kind: function, use: hold, with: {name: z}, needs: c}
    """
    functions = {"pay": pay, "refund": refund, "shaky": shaky}
    async with world(tmp_path, flow, functions=functions, beat_s=60.0, runs=1) as w:
        first = w.machine
        asleep, awake, fenced = anyio.Event(), anyio.Event(), anyio.Event()
        begun = 0

        async def before(write: Write) -> None:
            nonlocal begun
            if any(isinstance(one, c.NoteCompensation) and one.outcome == "started" for one in write.commands):
                begun += 1
                if begun == 2:
                    asleep.set()
                    await awake.wait()
                    fenced.set()

        first.store.before_write = before
        run = await w.run("flow")
        await asleep.wait()
        second = await w.start()
        await second.store.retire(first.engine.worker)
        second.engine.look()
        await w.until(run, lambda state: state.node("z").status == "running")
        awake.set()
        await fenced.wait()
        await eventually(lambda: first.engine.owned(run) is None)
        assert undone == ["pay2", "pay1"]
        w.let_go("z")
        await w.finished(run)


async def test_a_child_that_ends_while_its_parent_is_given_up_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = "{name: ch, nodes: [{id: q, kind: approval, approval: {prompt: ok?}}]}"
    parent = (
        "{name: pa, nodes: [{id: w, kind: workflow, use: ch}, {id: n, kind: function, use: hold, with: {name: n}}]}"
    )
    async with world(tmp_path, child, parent) as w:
        store, engine = w.machine.store, w.machine.engine
        run = await w.run("pa")
        await w.entered("n")
        while not (rows := await store.runs(RunQuery(caller=run))) or rows[0].status != "waiting_approval":
            await anyio.lowlevel.checkpoint()
        await eventually(lambda: engine.owned(rows[0].id) is None)
        release, cancelled = store.release, False

        async def releasing(given_up: Any, *arguments: Any) -> bool:
            nonlocal cancelled
            if given_up == run and not cancelled:
                cancelled = True
                await w.core.cancel(ME, rows[0].id)
            return await release(given_up, *arguments)

        monkeypatch.setattr(store, "release", releasing)
        w.let_go("n")
        view = await w.finished(run, "failed")
        assert view.error is not None and view.error["node"] == "w"


async def test_a_plan_that_is_ready_while_the_run_is_paused_is_not_made_again(tmp_path: Path) -> None:
    entered, ready = anyio.Event(), anyio.Event()
    attempts: list[int] = []

    async def plan(attempt: Any) -> Any:
        attempts.append(attempt.attempt)
        entered.set()
        await ready.wait()
        return {"steps": [{"id": "s", "kind": "function", "use": "echo", "with": {"value": 1}}]}

    nodes = "{name: planned, nodes: [{id: p, kind: function, use: plan, expands: true}]}"
    async with world(tmp_path, nodes, functions={"plan": plan}) as w:
        run = await w.run("planned")
        await entered.wait()
        await w.core.pause(ME, run)
        ready.set()
        await w.until(run, lambda state: state.node("p").expansion is not None)
        await w.core.resume(ME, run)
        view = await w.finished(run)
        assert view.output == {"p": {"s": 1}} and attempts == [1]


async def test_a_call_that_is_asked_for_twice_at_once_is_made_once(tmp_path: Path) -> None:
    made: list[int] = []

    async def twice(attempt: Any) -> list[Any]:
        both, found = anyio.Event(), []

        async def call() -> int:
            await both.wait()
            made.append(1)
            return len(made)

        async def one() -> None:
            found.append(await attempt.effect("k", call, kind="effect"))

        async with anyio.create_task_group() as group:
            group.start_soon(one)
            group.start_soon(one)
            await anyio.wait_all_tasks_blocked()
            both.set()
        return found

    nodes = "{name: one, nodes: [{id: a, kind: function, use: twice}]}"
    async with world(tmp_path, nodes, functions={"twice": twice}) as w:
        view = await w.finished(await w.run("one"))
        assert view.output == {"a": [1, 1]} and made == [1]


async def test_a_result_that_was_written_though_nobody_was_told_may_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(attempt: Any) -> Any:
        async def call() -> int:
            return 7

        return await attempt.effect("k", call, kind="effect")

    async with world(tmp_path, "{name: one, nodes: [{id: a, kind: function, use: act}]}", functions={"act": act}) as w:
        store, lost = w.machine.store, False
        write = store.write

        async def losing(what: Write) -> Any:
            nonlocal lost
            written = await write(what)
            if not lost and any(isinstance(one, c.SettleEffect) for one in what.commands):
                lost = True
                raise OmiumError("storage_unavailable", "the answer to a commit was lost.", outcome="unknown")
            return written

        monkeypatch.setattr(store, "write", losing)
        view = await w.finished(await w.run("one"))
        assert view.output == {"a": 7} and lost
