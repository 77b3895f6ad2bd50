"""Runs that start runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import RunQuery, RunRow, Write
from tests.integration.engine.worlds import ME, World, eventually, world

pytestmark = pytest.mark.anyio

CHILD = """
name: child
inputs: {type: object, properties: {x: {type: integer}}, required: [x], additionalProperties: false}
outputs: {twice: "${{ nodes.b.output }}"}
nodes:
- {id: a, kind: function, use: hold, with: {name: inside}}
- {id: b, kind: function, use: add, with: {x: "${{ inputs.x }}", y: "${{ inputs.x }}"}, needs: a}
"""
PARENT = """
name: parent
nodes:
- {id: sub, kind: workflow, use: child, with: {x: 21}}
- {id: end, kind: function, use: echo, with: {value: "${{ nodes.sub.output.twice }}"}, needs: sub}
"""


async def children(w: World, run: RunId) -> list[RunRow]:
    return await w.machine.store.runs(RunQuery(caller=run))


async def test_a_child_gets_its_inputs_and_gives_its_outputs(tmp_path: Path) -> None:
    async with world(tmp_path, PARENT, CHILD) as w:
        run = await w.run("parent")
        await w.entered("inside")
        w.let_go("inside")
        view = await w.finished(run)
        assert view.output == {"end": 42}
        (child,) = await children(w, run)
        assert (child.caller_run, child.caller_node, child.status) == (run, "sub", "completed")


async def test_while_a_child_runs_its_parent_is_owned_by_nobody(tmp_path: Path) -> None:
    async with world(tmp_path, PARENT, CHILD) as w:
        run = await w.run("parent")
        await w.entered("inside")
        await eventually(lambda: w.machine.engine.busy == 1)
        (child,) = await children(w, run)
        assert w.machine.engine.owned(run) is None and w.machine.engine.owned(child.id) is not None
        w.let_go("inside")
        await w.finished(run)  # at once, though nobody looks for a minute by itself
        assert w.machine.engine.children.watched() == []


async def test_a_child_that_fails_fails_its_node_with_the_reason(tmp_path: Path) -> None:
    bad = "{name: child, nodes: [{id: a, kind: function, use: boom}]}"
    async with world(tmp_path, PARENT.replace(", with: {x: 21}", ""), bad) as w:
        view = await w.finished(await w.run("parent"), "failed")
        (child,) = await children(w, view.id)
        assert view.error is not None
        assert (view.error["category"], view.error["run"]) == ("value_error", child.id)


async def test_a_child_that_fails_is_tried_again_as_a_new_run(tmp_path: Path) -> None:
    tries: list[int] = []

    async def second(attempt: object) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("bad")
        return 7

    child = "{name: child, nodes: [{id: a, kind: function, use: second}]}"
    parent = "{name: parent, approvals: on_error, nodes: [{id: sub, kind: workflow, use: child}]}"
    async with world(tmp_path, parent, child, functions={"second": second}) as w:
        run = await w.run("parent")
        await w.approve(run, "retry")
        view = await w.finished(run)
        assert view.output == {"sub": {"a": 7}}
        assert sorted(row.status for row in await children(w, view.id)) == ["completed", "failed"]
        assert await w.log(view.id, "sub") == [
            "node.started", "node.waiting", "node.attempt_failed", "node.retry_backoff", "approval.requested",
            "node.retry_started", "node.waiting", "node.completed", "node.retry_succeeded",
        ]  # fmt: skip


async def test_inputs_that_the_child_does_not_take_fail_the_node(tmp_path: Path) -> None:
    async with world(tmp_path, PARENT.replace("{x: 21}", "{x: many}"), CHILD) as w:
        view = await w.finished(await w.run("parent"), "failed")
        assert view.error is not None and view.error["code"] == "invalid_argument"
        assert await children(w, view.id) == []


async def test_a_child_that_is_not_registered_fails_the_node(tmp_path: Path) -> None:
    async with world(tmp_path, PARENT) as w:
        view = await w.finished(await w.run("parent"), "failed")
        assert view.error is not None and view.error["code"] == "not_found"


GRANDPARENT = "{name: grand, nodes: [{id: p, kind: workflow, use: parent}]}"


async def test_a_cancellation_reaches_children_and_their_children(tmp_path: Path) -> None:
    async with world(tmp_path, GRANDPARENT, PARENT, CHILD) as w:
        run = await w.run("grand")
        await w.entered("inside")
        with anyio.fail_after(5):
            view = await w.core.cancel(ME, run, reason="enough")
            await eventually(lambda: w.running == 0)
        assert view.status == "cancelled"
        (parent,) = await children(w, run)
        (child,) = await children(w, parent.id)
        assert (parent.status, child.status) == ("cancelled", "cancelled")
        await w.idle()


async def test_a_child_that_is_cancelled_fails_its_node(tmp_path: Path) -> None:
    async with world(tmp_path, PARENT, CHILD) as w:
        run = await w.run("parent")
        await w.entered("inside")
        (child,) = await children(w, run)
        await w.core.cancel(ME, child.id)
        view = await w.finished(run, "failed")
        assert view.error is not None and "cancelled" in view.error["message"]


async def test_a_child_that_is_cancelled_while_nobody_owns_it_wakes_its_parent(tmp_path: Path) -> None:
    ask = "{name: child, nodes: [{id: a, kind: approval, approval: {prompt: ok?}}]}"
    async with world(tmp_path, PARENT.replace(", with: {x: 21}", ""), ask) as w:
        run = await w.run("parent")
        await eventually(lambda: bool(w.machine.engine.worker))
        await w.until(run, lambda s: s.nodes and s.node("sub").wait)
        child = RunId((await w.machine.store.state(run)).node("sub").wait["run"])
        with anyio.fail_after(20):
            while await w.machine.store.run(child) is None:  # it is named before it is created
                await anyio.lowlevel.checkpoint()
        await w.status(child, "waiting_approval")
        await w.idle()
        await w.core.cancel(ME, child)
        await w.finished(run, "failed")


@pytest.mark.parametrize("nth", [1, 2], ids=["child", "grandchild"])
@pytest.mark.parametrize("verb", ["cancel", "rollback", "timeout", "deadline"])
async def test_what_is_just_to_be_created_when_its_parent_is_taken_back_is_not(
    tmp_path: Path, verb: str, nth: int
) -> None:
    """The log of the parent names it by then: a short one would have made its calls before anybody cancelled it."""
    limit = ", timeout: 90s" if verb == "timeout" else ""
    sub = "{id: s, kind: workflow, use: child, needs: [a]" + limit + "}"
    top = "{name: parent, nodes: [{id: a, kind: function, use: one}, " + sub + "]}"
    low = "{name: low, nodes: [{id: pay, kind: function, use: pay}]}"
    child = "{name: child, nodes: [{id: s, kind: workflow, use: low}]}" if nth == 2 else low.replace("low", "child")
    reached, on, paid, named = anyio.Event(), anyio.Event(), [0], [0]

    async def pay(attempt: object) -> int:
        paid.append(1)
        return 1

    async def one(attempt: object) -> int:
        return 1

    async def hold_child(write: Write) -> None:
        first = write.commands[0]
        if isinstance(first, c.CreateRun) and first.caller is not None:
            named.append(1)
            if sum(named) == nth:
                reached.set()
                await on.wait()

    async with world(tmp_path, top, child, low, functions={"pay": pay, "one": one}) as w:
        w.machine.store.before_write = hold_child
        run = await w.run("parent", deadline_s=100 if verb == "deadline" else None)
        with anyio.fail_after(10):
            await reached.wait()
            if verb == "cancel":
                await w.core.cancel(ME, run)
            elif verb == "rollback":
                await w.core.rollback(ME, run, "node:a")
            else:
                w.advance(101)
                await w.finished(run, "failed")
            on.set()
            await w.idle()
        rows = await w.machine.store.runs(RunQuery())
        assert [row.status for row in rows if row.id != run] == ["cancelled"] * (nth - 1)
        assert paid == [0]


async def test_a_crash_between_the_name_of_a_child_and_its_creation_makes_one_child(tmp_path: Path) -> None:
    async with world(tmp_path, PARENT, CHILD) as w:
        reached, store = anyio.Event(), w.machine.store

        async def die(write: Write) -> None:
            first = write.commands[0]
            if isinstance(first, c.CreateRun) and first.caller is not None:
                store.cut = True
                reached.set()

        store.before_write = die
        run = await w.run("parent")
        await reached.wait()
        named = (await w.until(run, lambda s: s.nodes and s.node("sub").wait)).node("sub").wait
        await w.crash(w.machine)
        await w.start()
        w.let_go("inside")
        view = await w.finished(run)
        assert view.output == {"end": 42}
        assert [row.id for row in await children(w, run)] == [named["run"]]


async def test_a_child_that_takes_too_long_is_cancelled(tmp_path: Path) -> None:
    parent = "{name: parent, nodes: [{id: sub, kind: workflow, use: child, with: {x: 1}, timeout: 90s}]}"
    async with world(tmp_path, parent, CHILD) as w:
        run = await w.run("parent")
        await w.entered("inside")
        (child,) = await children(w, run)
        w.advance(91)
        view = await w.finished(run, "failed")
        assert view.error is not None and view.error["category"] == "timeout"
        await w.status(child.id, "cancelled")
        await eventually(lambda: w.running == 0)


async def test_a_parent_whose_deadline_passes_takes_its_children_with_it(tmp_path: Path) -> None:
    async with world(tmp_path, PARENT, CHILD) as w:
        run = await w.run("parent", deadline_s=100)
        await w.entered("inside")
        (child,) = await children(w, run)
        w.advance(101)
        await w.finished(run, "failed")
        await w.status(child.id, "cancelled")


async def test_a_fan_out_of_children(tmp_path: Path) -> None:
    child = "{name: child, nodes: [{id: a, kind: function, use: add, with: {x: '${{ inputs.x }}'}}]}"
    parent = """
name: parent
nodes:
- {id: f, kind: workflow, use: child, for_each: {items: [1, 2, 3, 4, 5], max_parallel: 2}, with: {x: "${{ item }}"}}
"""
    async with world(tmp_path, parent, child) as w:
        view = await w.finished(await w.run("parent"))
        assert view.output == {"f": [{"a": n + 1} for n in range(1, 6)]}


async def test_runs_that_start_themselves_end(tmp_path: Path) -> None:
    # A catalog refuses such a workflow; a definition that was changed under a run must not go on for ever either.
    endless = "{name: endless, nodes: [{id: again, kind: workflow, use: endless}]}"
    async with world(tmp_path, endless) as w:
        view = await w.finished(await w.run("endless"), "failed")
        assert view.error is not None and "levels" in view.error["message"]
        rows = await w.machine.store.runs(RunQuery(limit=1000))
        assert len(rows) == 17
        assert {row.status for row in rows} == {"failed"}


async def test_a_gate_before_a_child_is_asked_before_it_is_created(tmp_path: Path) -> None:
    parent = PARENT.replace("with: {x: 21}", "with: {x: 21}, approval: {prompt: 'start it?'}")
    async with world(tmp_path, parent, CHILD) as w:
        run = await w.run("parent")
        await w.status(run, "waiting_approval")
        assert await children(w, run) == []
        await w.approve(run)
        w.let_go("inside")
        await w.finished(run)


async def test_a_child_is_seen_by_the_callers_project_only(tmp_path: Path) -> None:
    async with world(tmp_path, PARENT, CHILD) as w:
        run = await w.run("parent")
        await w.entered("inside")
        (child,) = await children(w, run)
        stranger: Any = type(ME)(ME.principal, project="other")  # type: ignore[arg-type]
        with pytest.raises(OmiumError) as refused:
            await w.core.get_run(stranger, child.id)
        assert refused.value.code == "not_found"
        w.let_go("inside")
        await w.finished(run)
