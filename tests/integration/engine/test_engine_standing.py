"""What others do between the moment at which the engine has looked at a run and the one at which it writes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Write
from tests.integration.engine.worlds import ME, World, world

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def held(w: World, *kinds: type[c.Command]) -> AsyncIterator[None]:
    """The first write with a command of these kinds waits until the block is over, which begins when it has come."""
    reached, on = anyio.Event(), anyio.Event()

    async def hold(write: Write) -> None:
        if any(isinstance(command, kinds) for command in write.commands) and not on.is_set():
            reached.set()
            await on.wait()

    w.machine.store.before_write = hold
    with anyio.fail_after(20):
        await reached.wait()
    try:
        yield
    finally:
        on.set()


THREE = """
name: f
nodes:
- {id: a, kind: approval, approval: {prompt: a, expires: 1h}}
- {id: b, kind: approval, approval: {prompt: b, expires: 2h}}
- {id: after, kind: function, use: echo, needs: [{node: a, optional: true}, b]}
"""


async def test_a_question_that_expires_while_the_run_is_paused_fails_its_node_and_the_others_are_asked(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, THREE) as w:
        run = await w.run("f")
        await w.status(run, "waiting_approval")
        await w.core.pause(ME, run)
        await w.idle()
        w.advance(3_700)
        await w.core.resume(ME, run)
        await w.status(run, "waiting_approval")
        assert await w.nodes(run) == {"a": "failed", "b": "waiting_approval", "after": "pending"}
        await w.approve(run, node="b")
        await w.finished(run)


TWO = """
name: f
nodes:
- {id: x, kind: function, use: echo}
- {id: y, kind: approval, approval: {prompt: y}}
"""


@pytest.mark.parametrize(("decision", "status"), [("approve", "completed"), ("reject", "failed")])
async def test_a_course_that_is_set_just_before_the_run_ends_is_taken(
    tmp_path: Path, decision: str, status: str
) -> None:
    async with world(tmp_path, TWO) as w:
        run = await w.run("f")
        await w.status(run, "waiting_approval")
        await w.idle()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play_before_the_end, w, run)
            await w.approve(run, decision, node="y")
        await w.finished(run, status)
        assert w.called("x") == ["x", "x"]


async def play_before_the_end(w: World, run: Any) -> None:
    async with held(w, c.CompleteRun, c.FailRun):
        await w.core.play_from_node(ME, run, "x")


FIRST = """
name: f
nodes:
- {id: pre, kind: function, use: echo}
- {id: a, kind: approval, approval: {prompt: a}}
- {id: b, kind: approval, approval: {prompt: b}, needs: [pre]}
"""


async def test_a_course_that_is_set_just_before_the_run_stands_still_is_taken(tmp_path: Path) -> None:
    async with world(tmp_path, FIRST) as w:
        run = await w.run("f")
        await w.status(run, "waiting_approval")
        await w.idle()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play_before_it_stands, w, run)
            await w.approve(run, node="a")
        await w.status(run, "waiting_approval")
        assert w.called("pre") == ["pre", "pre"]
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        assert asked.node == "b"
        await w.approve(run, node="b")
        await w.finished(run)


async def play_before_it_stands(w: World, run: Any) -> None:
    async with held(w, c.WaitRun):
        await w.core.play_from_node(ME, run, "pre")


GONE = """
name: f
nodes:
- {id: q, kind: approval, approval: {prompt: q}}
- {id: fe, kind: function, use: echo, needs: q, for_each: {items: [1, 2]}, with: {value: "${{ item }}"}}
- {id: end, kind: approval, needs: fe, approval: {prompt: e}}
"""


async def test_an_instance_of_before_a_rollback_is_not_played(tmp_path: Path) -> None:
    async with world(tmp_path, GONE) as w:
        run = await w.run("f")
        await w.approve(run, node="q")
        await w.until(run, lambda s: s.node("end").status == "waiting_approval")
        await w.idle()
        await w.core.rollback(ME, run, "start")
        await w.core.resume(ME, run)
        await w.status(run, "waiting_approval")
        with pytest.raises(OmiumError, match="has not expanded"):
            await w.core.play_from_node(ME, run, "fe[0]")
        await w.approve(run, node="q")
        await w.approve(run, node="end")
        await w.finished(run)


LOOP = """
name: f
nodes:
- id: loop
  kind: group
  repeat: {until: "iteration >= 2", max: 3}
  nodes: [{id: x, kind: approval, approval: {prompt: "x"}}]
- {id: end, kind: approval, needs: loop, approval: {prompt: e}}
"""


async def test_a_round_of_an_earlier_loop_is_not_played(tmp_path: Path) -> None:
    async with world(tmp_path, LOOP) as w:
        run = await w.run("f")
        for number in range(3):
            await w.approve(run, node=f"loop[{number}].x")
        await w.until(run, lambda s: s.node("end").status == "waiting_approval")
        await w.idle()
        await w.core.play_from_node(ME, run, "loop")
        await w.until(run, lambda s: s.node("loop[0].x").status == "waiting_approval")
        await w.idle()
        with pytest.raises(OmiumError, match="has not expanded"):
            await w.core.play_from_node(ME, run, "loop[2].x")


PARENT = """
name: p
on_failure: {do: abort}
nodes:
- {id: c1, kind: workflow, use: bad}
- {id: c2, kind: workflow, use: good}
"""
BAD = "{name: bad, nodes: [{id: h, kind: wait, wait: {signal: go}}, {id: x, kind: function, use: boom, needs: h}]}"
GOOD = "{name: good, nodes: [{id: h, kind: wait, wait: {signal: go}}]}"


async def test_a_run_that_its_first_part_ends_says_why_though_another_part_has_ended_too(tmp_path: Path) -> None:
    async def boom(_: Any, **__: Any) -> None:
        raise ValueError("the real cause")

    async with world(tmp_path, PARENT, BAD, GOOD, functions={"boom": boom}) as w:
        run = await w.run("p")
        state = await w.until(run, lambda s: s.node("c1").wait and s.node("c2").wait)
        await w.idle()
        children = [state.node(name).wait["run"] for name in ("c1", "c2")]
        await w.core.pause(ME, run)
        await w.idle()
        for child in children:
            await w.core.signal(ME, child, "go", 1)
        for child, status in zip(children, ("failed", "completed"), strict=True):
            await w.finished(child, status)
        await w.core.resume(ME, run)
        view = await w.finished(run, "failed")
        assert view.error is not None and view.error["message"] == "the real cause"
