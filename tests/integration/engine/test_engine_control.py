"""Steering: pause, resume, cancel, time-outs, deadlines, limits and queues."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import EventType
from omium.orchestration.ports import Attempt, RunQuery, Write
from tests.integration.engine.worlds import ME, WITHIN_S, Function, eventually, world

pytestmark = pytest.mark.anyio

FIVE = """
name: five
nodes:
- {id: a, kind: function, use: hold, with: {name: a}}
- {id: b, kind: function, use: echo, needs: a}
- {id: c, kind: function, use: echo, needs: b}
"""


async def test_after_a_pause_nothing_starts_and_what_is_in_flight_finishes(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five")
        await w.entered("a")
        await w.core.pause(ME, run, reason="lunch")
        w.let_go("a")
        await w.until(run, lambda s: s.node("a").status == "completed")
        await w.idle()
        assert w.called() == ["a"]
        view = await w.core.get_run(ME, run, detail=True)
        assert (view.status, view.reason) == ("paused", "lunch")
        paused = next(event for event in await w.events(run) if event.type == "run.paused")
        assert paused.actor == "user:me"
        await w.core.resume(ME, run)
        await w.finished(run)
        assert w.called() == ["a", "b", "c"]


async def test_a_pause_that_comes_together_with_the_end_of_a_node_does_not_lose_it(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five")
        await w.entered("a")
        reached, on = anyio.Event(), anyio.Event()

        async def hold(write: Write) -> None:
            if any(isinstance(command, c.CompleteNode) for command in write.commands) and not on.is_set():
                reached.set()
                await on.wait()

        w.machine.store.before_write = hold
        w.let_go("a")
        await reached.wait()  # the end of `a` and the start of `b` are one write, and it is on its way
        await w.core.pause(ME, run)
        on.set()
        await w.until(run, lambda s: s.node("a").status == "completed")
        await w.idle()
        await w.core.resume(ME, run)
        await w.finished(run)
        assert w.called() == ["a", "b", "c"]


async def test_an_interrupting_pause_stops_what_allows_it_and_resuming_runs_it_again(tmp_path: Path) -> None:
    flow = """
name: mixed
nodes:
- {id: soft, kind: function, use: hold, with: {name: soft}, on_pause: interrupt}
- {id: hard, kind: function, use: hold, with: {name: hard}}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("mixed")
        await w.entered("soft")
        await w.entered("hard")
        await w.core.pause(ME, run, interrupt=True)
        await eventually(lambda: w.running == 1)
        state = await w.until(run, lambda s: s.node("soft").status == "paused")
        assert state.node("hard").status == "running"
        w.let_go("hard")
        w.let_go("soft")
        await w.until(run, lambda s: s.node("hard").status == "completed")
        await w.idle()
        await w.core.resume(ME, run)
        await w.finished(run)
        assert sorted(w.called()) == ["hard", "soft", "soft"]
        assert (await w.log(run, "soft"))[:3] == ["node.started", "node.interrupted", "node.started"]


TWO = """
name: two
nodes:
- {id: a, kind: function, use: hold, with: {name: a}}
- {id: b, kind: function, use: hold, with: {name: b}, needs: a, on_pause: interrupt}
- {id: c, kind: function, use: echo, needs: b}
"""


async def test_stopping_an_attempt_that_is_over_stops_nothing_that_follows_it(tmp_path: Path) -> None:
    async with world(tmp_path, TWO) as w:
        run = await w.run("two")
        await w.entered("a")
        execution = w.machine.engine.owned(run)
        assert execution is not None
        first = execution.attempts[NodeId("a")]
        w.let_go("a")
        await w.entered("b")  # in the same task as `a`
        first.cancel()
        w.let_go("b")
        await w.finished(run)
        assert w.called() == ["a", "b", "c"]
        assert (await w.log(run, "b"))[:2] == ["node.started", "node.completed"]


async def test_what_follows_can_be_stopped_and_what_was_before_it_stands(tmp_path: Path) -> None:
    async with world(tmp_path, TWO) as w:
        run = await w.run("two")
        await w.entered("a")
        w.let_go("a")
        await w.entered("b")
        await w.core.pause(ME, run, interrupt=True)
        await w.until(run, lambda s: s.node("b").status == "paused")
        w.let_go("b")
        await w.core.resume(ME, run)
        await w.finished(run)
        assert w.called() == ["a", "b", "b", "c"]
        assert (await w.log(run, "b"))[:3] == ["node.started", "node.interrupted", "node.started"]


async def test_pausing_and_resuming_survives_a_restart_and_repeats_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five")
        await w.entered("a")
        await w.core.pause(ME, run)
        w.let_go("a")
        await w.until(run, lambda s: s.node("a").status == "completed")
        await w.crash(w.machine)
        await w.start()
        await w.idle()
        assert (await w.core.get_run(ME, run)).status == "paused"
        await w.core.resume(ME, run)
        await w.finished(run)
        assert w.called() == ["a", "b", "c"]


async def test_a_node_that_was_in_flight_when_its_machine_died_is_not_running_in_a_paused_run(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five")
        await w.entered("a")
        await w.core.pause(ME, run)
        await w.crash(w.machine)
        await w.start()
        await w.until(run, lambda s: s.node("a").status == "pending")
        await w.idle()
        w.let_go("a")
        await w.core.resume(ME, run)
        await w.finished(run)


async def test_pausing_often_and_at_random_moments_loses_and_repeats_nothing(tmp_path: Path) -> None:
    nodes = "".join(
        f"- {{id: n{i}, kind: function, use: add, with: {{x: {i}}}{f', needs: n{i - 1}' if i else ''}}}\n"
        for i in range(60)
    )
    async with world(tmp_path, f"name: long\nnodes:\n{nodes}") as w:
        run = await w.run("long")
        for _ in range(15):
            try:
                await w.core.pause(ME, run)
                await w.core.resume(ME, run)
            except OmiumError as refused:
                assert refused.code == "not_allowed"
        await w.finished(run)
        assert w.called() == [f"n{i}" for i in range(60)]


async def test_a_cancelled_run_stops_within_moments(tmp_path: Path) -> None:
    stopped: list[str] = []

    async def stubborn(attempt: Attempt) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.append(attempt.node_id)

    flow = "{name: many, nodes: [{id: f, kind: function, use: stubborn, for_each: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}]}"
    async with world(tmp_path, flow, functions={"stubborn": stubborn}) as w:
        run = await w.run("many")
        await eventually(lambda: w.running == 10)
        with anyio.fail_after(5):
            view = await w.core.cancel(ME, run, reason="enough")
            await w.idle()
        assert len(stopped) == 10
        assert (view.status, view.reason) == ("cancelled", "enough")
        assert set((await w.nodes(run)).values()) == {"cancelled"}


async def test_what_is_cancelled_slowly_is_cancelled_together(tmp_path: Path) -> None:
    here = anyio.Event()
    stopping: list[str] = []

    async def slow(attempt: Attempt) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopping.append(attempt.node_id)
            with anyio.move_on_after(WITHIN_S, shield=True):
                await here.wait()

    flow = "{name: many, nodes: [{id: f, kind: function, use: slow, for_each: [0, 1, 2]}]}"
    async with world(tmp_path, flow, functions={"slow": slow}) as w:
        run = await w.run("many")
        await eventually(lambda: w.running == 3)
        await w.core.cancel(ME, run)
        await eventually(lambda: len(stopping) == 3)
        here.set()
        await w.idle()


async def test_a_result_that_comes_after_the_cancellation_changes_nothing(tmp_path: Path) -> None:
    late = anyio.Event()

    async def deaf(attempt: Attempt) -> int:
        with anyio.move_on_after(WITHIN_S, shield=True):
            await late.wait()
        return 1

    flow = "{name: deaf, nodes: [{id: a, kind: function, use: deaf}, {id: b, kind: function, use: echo, needs: a}]}"
    async with world(tmp_path, flow, functions={"deaf": deaf}) as w:
        run = await w.run("deaf")
        await eventually(lambda: w.running == 1)
        await w.core.cancel(ME, run)
        late.set()
        await w.idle()
        assert await w.nodes(run) == {"a": "cancelled", "b": "cancelled"}


async def test_verbs_are_refused_with_what_is_allowed(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five")
        assert (await w.core.resume(ME, run)).status == "executing"  # it is so already
        await w.core.cancel(ME, run)
        assert (await w.core.cancel(ME, run)).status == "cancelled"  # it is so already
        for verb in (w.core.pause, w.core.resume):
            with pytest.raises(OmiumError) as refused:
                await verb(ME, run)
            assert refused.value.code == "not_allowed"
            assert "rollback" in refused.value.data["allowed"] and "pause" not in refused.value.data["allowed"]


async def test_racing_verbs_leave_one_history(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five")
        await w.entered("a")
        done: list[str] = []

        async def attempt(verb: str) -> None:
            try:
                await getattr(w.core, verb)(ME, run)
                done.append(verb)
            except OmiumError as refused:
                assert refused.code == "not_allowed"

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(attempt, ("pause", "cancel", "resume", "pause")[number % 4])
        assert done.count("cancel") == 5  # whoever comes later hears that it is so
        assert [event.type for event in await w.core.store.events(run)].count(EventType.RUN_CANCELLED) == 1
        await w.idle()


async def test_a_draft_waits_until_it_is_resumed(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five", start=False)
        assert (await w.core.get_run(ME, run)).status == "draft"
        w.let_go("a")
        await w.core.resume(ME, run)
        await w.finished(run)


# --- time-outs ------------------------------------------------------------------------------------------------------


async def test_a_node_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    stopped = anyio.Event()

    async def slow(attempt: Attempt) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    flow = "{name: slow, nodes: [{id: a, kind: function, use: slow, timeout: 50ms}]}"
    async with world(tmp_path, flow, functions={"slow": slow}) as w:
        view = await w.finished(await w.run("slow"), "failed")
        assert stopped.is_set()
        assert view.error is not None and (view.error["category"], view.error["code"]) == ("timeout", "timeout")
        await w.idle()


async def test_what_a_stopped_node_complains_of_is_not_the_reason(tmp_path: Path) -> None:
    async def untidy(attempt: Attempt) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("the bed")

    flow = "{name: slow, nodes: [{id: a, kind: function, use: untidy, timeout: 20ms}]}"
    async with world(tmp_path, flow, functions={"untidy": untidy}) as w:
        view = await w.finished(await w.run("slow"), "failed")
        assert view.error is not None and view.error["category"] == "timeout"


async def test_a_time_out_may_be_retried(tmp_path: Path) -> None:
    async def once(attempt: Attempt) -> int:
        if attempt.attempt == 1:
            await anyio.sleep_forever()
        return attempt.attempt

    flow = (
        "{name: slow, nodes: [{id: a, kind: function, use: once, timeout: 50ms, retry: {max_attempts: 2, initial: 0}}]}"
    )
    async with world(tmp_path, flow, functions={"once": once}) as w:
        assert (await w.finished(await w.run("slow"))).output == {"a": 2}


async def test_a_run_past_its_deadline_fails_and_everything_in_it_stops(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five", deadline_s=60)
        await w.entered("a")
        w.advance(61)
        view = await w.finished(run, "failed")
        assert view.error is not None and view.error["category"] == "timeout"
        await eventually(lambda: w.running == 0)
        assert await w.nodes(run) == {"a": "cancelled", "b": "cancelled", "c": "cancelled"}
        await w.idle()


@pytest.mark.parametrize(("asked", "limit", "after"), [(None, 60, 60), (30, 60, 30), (90, 60, 60), (30, None, 30)])
async def test_no_run_takes_longer_than_the_operator_lets_it(
    tmp_path: Path, asked: float | None, limit: float | None, after: float
) -> None:
    async with world(tmp_path, FIVE) as w:
        w.core.longest_s = limit
        run = await w.run("five", deadline_s=asked)
        state = await w.machine.store.state(run)
        assert state.deadline_at is not None
        assert abs(state.deadline_at - state.created_at - after * 1_000_000) < 1_000_000
        await w.core.cancel(ME, run)


async def test_a_deadline_passes_also_while_nobody_owns_the_run(tmp_path: Path) -> None:
    flow = "{name: sleepy, nodes: [{id: w, kind: wait, wait: {for: 1d}}, {id: b, kind: function, use: echo}]}"
    async with world(tmp_path, flow) as w:
        run = await w.run("sleepy", deadline_s=3600)
        await w.until(run, lambda s: s.nodes and s.node("w").wait)
        await w.idle()
        w.advance(3601)
        await w.finished(run, "failed")


async def test_a_deadline_that_passed_while_the_machine_was_down_fails_a_run_with_work_to_start(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, FIVE) as w:
        run = await w.run("five", deadline_s=60)
        await w.entered("a")
        await w.crash(w.machine)
        w.clock.advance(61)
        await w.start()
        await w.finished(run, "failed")
        assert w.called() == ["a"]


# --- limits ---------------------------------------------------------------------------------------------------------


def hundred(name: str, more: str = "", node: str = "") -> str:
    return f"""
name: {name}
{more}
nodes:
- {{id: f, kind: function, use: brief, for_each: {{items: {list(range(100))}}}{node}}}
"""


async def brief(attempt: Attempt) -> None:
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


BRIEF: dict[str, Function] = {"brief": brief}


@pytest.mark.parametrize(
    ("flows", "config", "most"),
    [
        ([hundred("a"), hundred("b")], {"slots": 7}, 7),
        ([hundred("a", "max_parallel: 4")], {}, 4),
        ([hundred("a", "max_parallel: 3"), hundred("b", "max_parallel: 3")], {}, 6),
        ([hundred("a", node=", resources: gpu"), hundred("b", node=", resources: gpu")], {"resources": {"gpu": 2}}, 2),
        ([hundred("a"), hundred("b")], {"resources": {"function:brief": 5}}, 5),
        ([hundred("a", "max_parallel: 9", ", resources: [gpu, net]")], {"resources": {"gpu": 3, "net": 8}}, 3),
    ],
)
async def test_limits_hold_and_are_used_up(tmp_path: Path, flows: list[str], config: dict[str, Any], most: int) -> None:
    async with world(tmp_path, *flows, functions=BRIEF, **config) as w:
        runs = [await w.run(name) for name in ("a", "b")[: len(flows)]]
        for run in runs:
            await w.finished(run)
        assert w.most == most
        process = w.machine.engine.queue.process
        assert (process.used, len(w.machine.engine.queue)) == (0, 0)


async def test_slots_that_a_paused_or_cancelled_run_frees_go_to_the_others(tmp_path: Path) -> None:
    other = "{name: other, nodes: [{id: x, kind: function, use: echo}]}"
    for verb in ("pause", "cancel"):
        (tmp_path / verb).mkdir()
        async with world(tmp_path / verb, FIVE, other, slots=1) as w:
            first = await w.run("five")
            await w.entered("a")
            second = await w.run("other")
            await w.until(second, lambda s: s.status == "executing")
            assert w.called() == ["a"]
            await getattr(w.core, verb)(ME, first)
            w.let_go("a")
            await w.finished(second)
            if verb == "pause":
                await w.core.resume(ME, first)
                await w.finished(first)
            assert w.machine.engine.queue.process.used == 0


async def test_a_paused_run_that_waits_for_slots_gives_its_place_up_and_gets_another(tmp_path: Path) -> None:
    wide = "{name: wide, nodes: [{id: f, kind: function, use: echo, for_each: [1, 2, 3]}]}"
    async with world(tmp_path, FIVE, wide, slots=1) as w:
        first = await w.run("five")
        await w.entered("a")
        second = await w.run("wide")
        await w.until(second, lambda s: "f" in s.nodes)
        await w.core.pause(ME, second)
        await eventually(lambda: w.machine.engine.busy == 1)
        w.let_go("a")
        await w.finished(first)
        assert w.called() == ["a", "b", "c"]
        await w.core.resume(ME, second)
        await w.finished(second)
        assert w.machine.engine.queue.process.used == 0


async def test_the_more_urgent_goes_first_and_within_one_priority_who_came_first(tmp_path: Path) -> None:
    one = "{name: one, nodes: [{id: x, kind: function, use: note, with: {name: '${{ inputs.name }}'}}]}"
    order: list[str] = []

    async def note(attempt: Attempt, name: str) -> None:
        order.append(name)

    async with world(tmp_path, FIVE, one, functions={"note": note}, slots=1) as w:
        block = await w.run("five", priority=9)
        await w.entered("a")
        runs = []
        for name, priority in (("low", -1), ("a", 0), ("b", 0), ("high", 5), ("c", 0)):
            runs.append(await w.run("one", {"name": name}, priority=priority))
            await w.until(runs[-1], lambda s: s.status == "executing")
            wanted = len(runs)
            await eventually(lambda n=wanted: len(w.machine.engine.queue) == n)
        w.let_go("a")
        for run in [block, *runs]:
            await w.finished(run)
        assert order == ["high", "a", "b", "c", "low"]


async def test_runs_beyond_what_a_machine_takes_wait_in_the_database_and_keep_their_order(tmp_path: Path) -> None:
    one = "{name: one, nodes: [{id: x, kind: function, use: note, with: {name: '${{ inputs.name }}'}}]}"
    order: list[int] = []

    async def note(attempt: Attempt, name: int) -> None:
        order.append(name)

    async with world(tmp_path, FIVE, one, functions={"note": note}, runs=1) as w:
        await w.run("five")
        await w.entered("a")
        runs = [await w.run("one", {"name": number}, priority=number == 7) for number in range(9)]
        assert w.machine.engine.busy == 1
        await w.crash(w.machine)
        w.let_go("a")
        await w.start(runs=1)
        for run in runs:
            await w.finished(run)
        assert order == [7, 0, 1, 2, 3, 4, 5, 6, 8]
        assert w.machine.engine.busy <= 1


async def test_a_machine_never_owns_more_runs_than_it_takes(tmp_path: Path) -> None:
    most = 0
    one = "{name: one, nodes: [{id: x, kind: function, use: brief}]}"
    async with world(tmp_path, one, functions=BRIEF, runs=3) as w:
        runs = []
        for _ in range(40):
            runs.append(await w.run("one"))
            most = max(most, w.machine.engine.busy)
        for run in runs:
            await w.finished(run)
            most = max(most, w.machine.engine.busy)
        assert most == 3


async def test_a_run_whose_caller_goes_away_while_it_is_written_is_executed_all_the_same(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        reached, on = anyio.Event(), anyio.Event()

        async def hold(write: Write) -> None:
            if isinstance(write.commands[0], c.CreateRun):
                reached.set()
                await on.wait()

        w.let_go("a")
        w.machine.store.before_write = hold
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(w.run, "five")
            await reached.wait()
            tasks.cancel_scope.cancel()
            on.set()
        (row,) = await w.machine.store.runs(RunQuery())
        await w.finished(row.id)


async def test_a_full_queue_refuses_and_says_when_to_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omium.orchestration.service.core.MAX_QUEUED", 2)
    async with world(tmp_path, FIVE, runs=1) as w:
        runs = [await w.run("five")]
        await w.entered("a")
        runs += [await w.run("five") for _ in range(2)]
        with pytest.raises(OmiumError) as full:
            await w.run("five")
        assert full.value.code == "queue_full" and full.value.data["retry_after_s"] > 0
        w.let_go("a")
        for run in runs:
            await w.finished(run)


async def test_one_machine_hands_its_runs_over_when_it_stops(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        first = w.machine
        run = await w.run("five")
        await w.entered("a")
        await w.start()
        await w.stop(first)
        w.let_go("a")
        await w.finished(run)
        assert [call.machine for call in w.calls if call.node == "a"] == [1, 2]
        assert (await w.log(run, "a"))[:3] == ["node.started", "node.interrupted", "node.started"]


async def test_the_same_request_twice_is_one_run(tmp_path: Path) -> None:
    async with world(tmp_path, FIVE) as w:
        w.let_go("a")
        first = await w.run("five", idempotency_key="k")
        assert await w.run("five", idempotency_key="k") == first
        with pytest.raises(OmiumError) as other:
            await w.run("five", {"x": 1}, idempotency_key="k")
        assert other.value.code == "conflict"
        await w.finished(first)
        assert w.called() == ["a", "b", "c"]
