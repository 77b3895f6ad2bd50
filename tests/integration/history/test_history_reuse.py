"""Results that are taken over: every node and every instance has the one again that it had itself."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from omium.orchestration.definition import ForEach, Need, NodeDef, Repeat, WorkflowDef
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.ports import Attempt
from tests.history_core import ME, Function, HistoryCore, opened
from tests.history_help import node

pytestmark = pytest.mark.anyio


def numbering() -> Function:
    """A function that never gives the same twice, whatever it is given."""
    numbers = count(1)

    async def number(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        return next(numbers)

    return number


def numbered(name: str, *needs: str, **more: Any) -> NodeDef:
    return NodeDef(name, "function", use="number", needs=tuple(map(Need, needs)), **more)


async def finished(core: HistoryCore, run_id: RunId) -> Any:
    with anyio.fail_after(20):
        view = await core.wait(ME, run_id, 20, detail=True)
    assert view.status == "completed", view.error
    return view.output


async def again(core: HistoryCore, run_id: RunId, name: str, overrides: Mapping[str, Any] | None = None) -> RunId:
    with anyio.fail_after(20):
        return (await core.play_from_node(ME, run_id, name, overrides=overrides, reuse="unchanged")).run.id


ALIKE = WorkflowDef(
    "alike",
    (
        numbered("top"),
        numbered("fan", "top", for_each=ForEach([7, 7, 7]), input={"x": "${{ item }}"}),
        numbered("a", "top", input={"x": 7}),
        numbered("b", "top", input={"x": 7}),
        NodeDef("rounds", "group", body=(numbered("try"),), repeat=Repeat("iteration >= 2", 5)),
        node("end", "fan", "a", "b", "rounds", input={"fan": "${{ nodes.fan.output }}", "a": "${{ nodes.a.output }}"}),
    ),
)


@pytest.mark.parametrize("seed", range(6))
async def test_each_takes_its_own_result_over_in_whatever_order_history_goes(tmp_path: Path, seed: int) -> None:
    """Replays, branches and rollbacks, one upon the other."""
    chance = Random(seed)
    async with opened(tmp_path, ALIKE, functions={"number": numbering()}, executing=True) as (core, functions):
        run = (await core.run_workflow(ME, "alike")).id
        await finished(core, run)
        first = outputs(await core.store.state(run))
        assert len(functions.calls) == 10
        functions.calls.clear()
        for step in range(6):
            act = chance.choice(["play", "play", "branch", "back"])
            if act == "branch":
                run = (await core.branch(ME, run, name=f"b{step}")).run.id
            elif act == "back":
                head = (await core.get_run(ME, run)).seq
                with anyio.fail_after(20):
                    await core.rollback(ME, run, "start")
                    await core.rollback(ME, run, head)
            name = chance.choice(["top", "fan", "fan[1]", "a", "b", "rounds", "rounds[1]", "rounds[0].try"])
            plan = await core.preview_play_from(ME, run, name, reuse="unchanged")
            assert (plan.reruns, "end" in plan.reused) == (tuple(one for one in plan.reruns if is_whole(one)), True)
            run = await again(core, run, name)
            await finished(core, run)
            assert outputs(await core.store.state(run)) == first, (seed, step, act, name)
        assert functions.calls == []


def outputs(state: Any) -> dict[NodeId, Any]:
    return {node_id: one.output for node_id, one in state.nodes.items()}


def is_whole(name: str) -> bool:
    """Whether it has only what its insides have given."""
    return name in ("fan", "rounds") or (name.startswith("rounds[") and name.endswith("]"))


async def test_what_has_no_result_of_its_own_takes_an_equal_one_but_no_round_that_of_another(tmp_path: Path) -> None:
    nodes = (
        numbered("fan", for_each=ForEach("${{ inputs.xs }}"), input={"x": "${{ item }}"}),
        numbered("poll", "fan", repeat=Repeat("iteration >= inputs.last", 9)),
        node("end", "poll", input={"fan": "${{ nodes.fan.output }}", "poll": "${{ nodes.poll.output }}"}),
    )
    workflow = WorkflowDef("w", nodes, inputs={"type": "object"})
    async with opened(tmp_path, workflow, functions={"number": numbering()}, executing=True) as (core, functions):
        run = (await core.run_workflow(ME, "w", {"xs": [7, 8, 8], "last": 1})).id
        fan = (await finished(core, run))["end"]["fan"]
        functions.calls.clear()
        run = await again(core, run, "fan", {"inputs": {"xs": [7, 8, 8, 7], "last": 3}})
        assert (await finished(core, run))["end"]["fan"] == [*fan, fan[0]]
        assert functions.calls == ["poll[2]", "poll[3]", "end"]
        changed = await core.store.state(run)
        functions.calls.clear()
        once_more = await again(core, run, "fan")
        await finished(core, once_more)
        assert functions.calls == []
        assert outputs(await core.store.state(once_more)) == outputs(changed)


async def test_a_node_that_is_played_often_has_its_latest_result_again(tmp_path: Path) -> None:
    workflow = WorkflowDef("w", (numbered("fan", for_each=ForEach([7, 7])), node("end", "fan")))
    async with opened(tmp_path, workflow, functions={"number": numbering()}, executing=True) as (core, functions):
        run = (await core.run_workflow(ME, "w")).id
        await finished(core, run)
        for played in ("fan[0]", "fan", "fan[1]"):
            with anyio.fail_after(20):
                run = (await core.play_from_node(ME, run, played)).run.id
            await finished(core, run)
        latest = outputs(await core.store.state(run))
        functions.calls.clear()
        run = await again(core, await again(core, run, "fan[0]"), "fan")
        await finished(core, run)
        assert (outputs(await core.store.state(run)), functions.calls) == (latest, [])


async def write(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
    assert attempt.workspace is not None
    (attempt.workspace / attempt.node_id).write_text(str(inputs))


async def test_the_preview_tells_the_files_that_are_there_with_what_is_taken_over(tmp_path: Path) -> None:
    nodes = tuple(
        NodeDef(name, "function", use="write", workspace="write", needs=tuple(map(Need, needs)), input={"x": 0})
        for name, *needs in (("a",), ("b", "a"), ("c", "b"))
    )
    workflow, functions = WorkflowDef("w", nodes), {"write": write}
    async with opened(tmp_path, workflow, functions=functions, executing=True, workspaces=True) as (core, executor):
        run = (await core.run_workflow(ME, "w")).id
        await finished(core, run)
        plain = await core.preview_play_from(ME, run, "a")
        unchanged = await core.preview_play_from(ME, run, "a", reuse="unchanged")
        partly = await core.preview_play_from(ME, run, "a", {"nodes": {"b": {"with": {"x": 1}}}}, "unchanged")
        assert [removed(plan) for plan in (plain, unchanged, partly)] == [["a", "b", "c"], [], ["b", "c"]]
        assert [plan.reused for plan in (unchanged, partly)] == [("a", "b", "c"), ("a",)]
        executor.calls.clear()
        await finished(core, await again(core, run, "a"))
        assert executor.calls == []


async def test_the_preview_takes_nothing_over_that_will_find_other_files(tmp_path: Path) -> None:
    """`look` saw less than there is now, and `c` began with what `beside` had written, on which it does not depend."""
    looked, written = anyio.Event(), anyio.Event()

    async def step(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        name = attempt.node_id
        with anyio.fail_after(20):
            if name in ("late", "later"):
                await (looked if name == "late" else written).wait()
        if name in ("a", "beside", "c"):
            await write(inputs, attempt)
        {"look": looked, "beside": written}.get(name, anyio.Event()).set()

    def stepping(name: str, *needs: str, workspace: Any = "none") -> NodeDef:
        return NodeDef(name, "function", use="step", workspace=workspace, needs=tuple(map(Need, needs)))

    nodes = (
        stepping("a", workspace="write"),
        stepping("look", "a", workspace="read"),
        stepping("late"),
        stepping("beside", "late", workspace="write"),
        stepping("later"),
        stepping("c", "a", "later", workspace="write"),
    )
    workflow, functions = WorkflowDef("w", nodes), {"step": step}
    async with opened(tmp_path, workflow, functions=functions, executing=True, workspaces=True) as (core, executor):
        run = (await core.run_workflow(ME, "w")).id
        await finished(core, run)
        for played, reused, reruns, gone in (("a", ["a", "look"], ["c"], ["beside", "c"]), ("look", [], ["look"], [])):
            plan = await core.preview_play_from(ME, run, played, reuse="unchanged")
            assert (sorted(plan.reused), list(plan.reruns), removed(plan)) == (reused, reruns, gone)
            executor.calls.clear()
            await finished(core, await again(core, run, played))
            assert executor.calls == reruns


def removed(plan: Any) -> list[str]:
    return sorted(one["path"] for one in plan.files if one["status"] in ("removed", "deleted"))
