"""Waiting: for a time, for a signal; with nobody there, across restarts, and no longer than allowed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from tests.integration.engine.worlds import ME, START_US, World, world

pytestmark = pytest.mark.anyio


def wait(spec: str) -> str:
    return f"""
name: wait
nodes:
- {{id: w, kind: wait, wait: {spec}}}
- {{id: end, kind: function, use: echo, with: {{value: "${{{{ nodes.w.output }}}}"}}, needs: w}}
"""


async def parked(w: World, run: RunId, node: str = "w") -> dict[str, Any]:
    state = await w.until(run, lambda s: s.nodes and s.node(node).wait)
    wait: dict[str, Any] = state.node(node).wait
    return wait


async def test_a_duration_is_waited_for_by_nobody(tmp_path: Path) -> None:
    async with world(tmp_path, wait("{for: 1h}")) as w:
        run = await w.run("wait")
        due_at = (await parked(w, run))["due_at"]
        await w.idle()
        assert (await w.core.get_run(ME, run)).status == "executing"
        w.advance(3590)
        await w.idle()
        assert w.calls == []
        w.advance(10)
        view = await w.finished(run)
        assert view.output == {"end": {"waited_until": due_at}}


async def test_a_run_that_is_let_go_of_is_not_executed_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who leaves then need not start anybody for it, however long the database takes."""
    flow = wait("{for: 1h}") + "- {id: long, kind: function, use: hold, with: {name: long}}\n"
    async with world(tmp_path, flow) as w:
        released, release = anyio.Event(), w.machine.store.release
        asked = anyio.Event()

        async def slowly(*args: Any) -> Any:
            asked.set()
            await released.wait()
            return await release(*args)

        monkeypatch.setattr(w.machine.store, "release", slowly)
        engine = w.machine.engine
        assert not engine.is_executing
        run = await w.run("wait")
        await w.entered("long")
        assert engine.is_executing
        w.let_go("long")
        with anyio.fail_after(20):
            await asked.wait()
        assert (engine.busy, engine.is_executing) == (1, False)
        released.set()
        await w.idle()
        w.advance(3600)
        await w.finished(run)


async def test_a_run_that_ends_as_its_process_leaves_is_nobody_s_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = "name: short\nnodes:\n- {id: a, kind: function, use: echo}\n"
    async with world(tmp_path, flow) as w:
        other = await w.start(runs=0)
        asked, go_on, release = anyio.Event(), anyio.Event(), w.machine.store.release

        async def slowly(*args: Any) -> Any:
            asked.set()
            await go_on.wait()
            return await release(*args)

        monkeypatch.setattr(w.machine.store, "release", slowly)
        await w.run("short")
        with anyio.fail_after(20):
            await asked.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(w.stop, w.machine)
                while not w.machine.engine._stopping:
                    await anyio.sleep(0.005)
                go_on.set()
        assert await other.store.next_wake([ME.project]) is None


async def test_a_wait_of_no_time_at_all(tmp_path: Path) -> None:
    flow = wait("{for: 0}") + "- {id: long, kind: function, use: hold, with: {name: long}}\n"
    async with world(tmp_path, flow) as w:
        run = await w.run("wait")
        await w.entered("long")
        await w.until(run, lambda s: s.node("end").status == "completed")
        w.let_go("long")
        await w.finished(run)


async def test_a_time_is_waited_for(tmp_path: Path) -> None:
    moment = datetime.fromtimestamp(START_US / 1e6 + 7200, UTC).isoformat()
    async with world(tmp_path, wait("{until: '${{ inputs.at }}'}")) as w:
        run = await w.run("wait", {"at": moment})
        assert (await parked(w, run))["due_at"] == START_US + 7_200_000_000
        w.advance(7201)
        await w.finished(run)


@pytest.mark.parametrize("at", ["soon", "2030-01-01T00:00:00", 5])
async def test_what_is_no_time_fails_the_node(tmp_path: Path, at: Any) -> None:
    async with world(tmp_path, wait("{until: '${{ inputs.at }}'}")) as w:
        view = await w.finished(await w.run("wait", {"at": at}), "failed")
        assert view.error is not None and view.error["code"] == "expression_error"


@pytest.mark.parametrize("seconds", [-1, True, "many", 1e12])
async def test_what_is_no_duration_fails_the_node(tmp_path: Path, seconds: Any) -> None:
    async with world(tmp_path, wait("{for: '${{ inputs.s }}'}")) as w:
        view = await w.finished(await w.run("wait", {"s": seconds}), "failed")
        assert view.error is not None and view.error["code"] == "expression_error"


async def test_a_timer_survives_a_restart_also_beside_something_that_runs(tmp_path: Path) -> None:
    flow = wait("{for: 100s}") + "- {id: long, kind: function, use: hold, with: {name: long}}\n"
    async with world(tmp_path, flow) as w:
        run = await w.run("wait")
        await w.entered("long")
        await parked(w, run)
        await w.crash(w.machine)
        await w.start()
        await w.until(run, lambda s: s.node("long").attempt == 2)
        w.advance(100)
        await w.until(run, lambda s: s.node("end").status == "completed")
        w.let_go("long")
        await w.finished(run)


async def test_a_signal_that_comes_later(tmp_path: Path) -> None:
    async with world(tmp_path, wait("{signal: go}")) as w:
        run = await w.run("wait")
        await parked(w, run)
        await w.idle()
        await w.core.signal(ME, run, "other", 1)
        await w.core.signal(ME, run, "go", {"n": 5})
        view = await w.finished(run)
        assert view.output == {"end": {"n": 5}}


async def test_a_signal_that_came_before(tmp_path: Path) -> None:
    flow = """
name: early
nodes:
- {id: first, kind: function, use: hold, with: {name: first}}
- {id: w, kind: wait, wait: {signal: go}, needs: first}
- {id: long, kind: function, use: hold, with: {name: long}}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("early")
        await w.entered("first")
        await w.core.signal(ME, run, "go", "early")
        w.let_go("first")
        await w.until(run, lambda s: s.node("w").status == "completed")
        assert await w.core.node_output(ME, run, "w") == "early"
        w.let_go("long")
        await w.finished(run)


TWO = """
name: two
nodes:
- {id: first, kind: function, use: hold, with: {name: first}}
- {id: a, kind: wait, wait: {signal: go}, needs: first}
- {id: b, kind: wait, wait: {signal: go}, needs: first}
- {id: c, kind: wait, wait: {signal: go}, needs: first}
"""


async def test_one_signal_wakes_one_node(tmp_path: Path) -> None:
    async with world(tmp_path, TWO) as w:
        run = await w.run("two")
        w.let_go("first")
        await parked(w, run, "c")
        for number in range(3):
            done = (await w.until(run, lambda s, n=number: s.completed_nodes == n + 1)).completed_nodes
            assert done == number + 1
            await w.core.signal(ME, run, "go", number)
        view = await w.finished(run)
        assert sorted(view.output.values()) == [0, 1, 2]


async def test_signals_that_came_before_are_each_taken_once(tmp_path: Path) -> None:
    async with world(tmp_path, TWO) as w:
        run = await w.run("two")
        await w.entered("first")
        for number in range(2):
            await w.core.signal(ME, run, "go", number)
        w.let_go("first")
        state = await w.until(run, lambda s: s.completed_nodes == 3)
        assert sum(state.node(node).status == "completed" for node in "abc") == 2
        await w.core.signal(ME, run, "go", 2)
        view = await w.finished(run)
        assert sorted(view.output.values()) == [0, 1, 2]


async def test_a_signal_to_a_run_that_has_ended_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path, wait("{for: 0}")) as w:
        run = await w.run("wait")
        await w.finished(run)
        with pytest.raises(OmiumError) as refused:
            await w.core.signal(ME, run, "go")
        assert refused.value.code == "not_allowed"


async def test_a_paused_run_keeps_its_signals(tmp_path: Path) -> None:
    async with world(tmp_path, wait("{signal: go}")) as w:
        run = await w.run("wait")
        await parked(w, run)
        await w.core.pause(ME, run)
        await w.core.signal(ME, run, "go", 1)
        await w.idle()
        assert w.calls == []
        await w.core.resume(ME, run)
        view = await w.finished(run)
        assert view.output == {"end": 1}


async def test_waits_that_are_over_in_another_order_than_they_began(tmp_path: Path) -> None:
    flow = """
name: many
nodes:
- {id: long, kind: function, use: hold, with: {name: long}}
- {id: w, kind: wait, for_each: [50, 10, 30, 20, 40], wait: {for: "${{ item }}"}}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("many")
        await w.until(run, lambda s: len(s.nodes) == 7)
        for number in range(1, 6):
            w.advance(10)
            await w.until(run, lambda s, n=number: s.completed_nodes >= n)
        order = [e.data["node"] for e in await w.events(run) if e.type == "node.completed"]
        assert order[:5] == ["w[1]", "w[3]", "w[2]", "w[4]", "w[0]"]
        w.let_go("long")
        await w.finished(run)
