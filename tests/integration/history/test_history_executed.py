"""History of runs that an engine executes meanwhile: nothing is repeated that need not be, nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.definition import ApprovalSpec, ForEach, Need, NodeDef, Repeat, WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, Principal, RunId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Attempt, Write
from tests.history_core import ME, HistoryCore, opened
from tests.history_help import node

pytestmark = pytest.mark.anyio

DIAMOND = WorkflowDef(
    "diamond",
    (
        node("top", input={"x": "${{ inputs.x }}"}),
        node("left", "top", input={"from": "${{ nodes.top.output.x }}", "mood": "calm"}),
        node("right", "top", input={"from": "${{ nodes.top.output.x }}"}),
        node("end", "left", "right", input={"l": "${{ nodes.left.output }}", "r": "${{ nodes.right.output }}"}),
    ),
    inputs={"type": "object", "properties": {"x": {"type": "integer"}}},
)
UNLIKELY = Need("top", when="nodes.top.output.x > 5")


async def finished(core: HistoryCore, run_id: RunId) -> Any:
    with anyio.fail_after(20):
        view = await core.wait(ME, run_id, 20, detail=True)
    assert view.status == "completed", view.error
    return view.output


async def test_back_and_on_again_executes_only_what_lies_behind(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND, executing=True) as (core, functions):
        run = await core.run_workflow(ME, "diamond", {"x": 1})
        output = await finished(core, run.id)
        assert Counter(functions.calls) == Counter(["top", "left", "right", "end"])
        functions.calls.clear()
        with anyio.fail_after(10):
            await core.rollback(ME, run.id, "node:top")
            await core.resume(ME, run.id)
        assert await finished(core, run.id) == output
        assert sorted(functions.calls) == ["end", "left", "right"]
        functions.calls.clear()
        head = (await core.get_run(ME, run.id)).seq
        await core.rollback(ME, run.id, "start")
        await core.rollback(ME, run.id, head)
        await core.resume(ME, run.id)
        assert await finished(core, run.id) == output
        assert functions.calls == []


async def test_what_is_in_flight_is_stopped_before_the_answer(tmp_path: Path) -> None:
    started, stopped, undone = anyio.Event(), anyio.Event(), []

    async def hang(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        if attempt.generation:
            return "done"
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        assert stopped.is_set()
        undone.append(inputs["node"])

    workflow = WorkflowDef(
        "w", (node("a"), node("b", "a", compensate="undo"), NodeDef("c", "function", use="hang", needs=(Need("b"),)))
    )
    async with opened(tmp_path, workflow, functions={"hang": hang, "undo": undo}, executing=True) as (core, _):
        run = await core.run_workflow(ME, "w")
        with anyio.fail_after(10):
            await started.wait()
            plan = await core.preview_rollback(ME, run.id, "node:a")
            done = await core.rollback(ME, run.id, "node:a", plan_token=plan.plan_token)
        assert (done.run.status, done.reset, undone) == ("paused", ("b", "c"), ["b"])
        await core.resume(ME, run.id)
        assert await finished(core, run.id) == {"c": "done"}


async def test_a_branch_runs_with_another_hypothesis(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND, executing=True) as (core, functions):
        run = await core.run_workflow(ME, "diamond", {"x": 1})
        output = await finished(core, run.id)
        functions.calls.clear()
        bold = {"nodes": {"left": {"with": {"mood": "${{ not read }}"}}}}
        made = await core.branch(ME, run.id, "before:left", name="bold", overrides=bold)
        told = await finished(core, made.run.id)
        assert told == {"end": {"l": {"from": 1, "mood": "${{ not read }}"}, "r": {"from": 1}}}
        assert sorted(functions.calls) == ["end", "left"]
        again = await core.branch(ME, run.id, "start", name="other", overrides={"inputs": {"x": 7}})
        assert (await finished(core, again.run.id))["end"]["r"] == {"from": 7}
        assert await finished(core, run.id) == output
        found = await core.compare(ME, run.id, made.run.id)
        assert (found.first_divergence, found.outputs_equal) == ("left", False)
        assert {one.node: one.change for one in found.nodes} == {
            "top": "same", "left": "changed", "right": "same", "end": "changed",
        }  # fmt: skip


async def test_an_output_that_is_given_is_not_executed(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND, executing=True) as (core, functions):
        run = await core.run_workflow(ME, "diamond", {"x": 1})
        await finished(core, run.id)
        functions.calls.clear()
        made = await core.branch(
            ME, run.id, "before:left", name="b", overrides={"nodes": {"left": {"output": "given"}}}
        )
        assert await finished(core, made.run.id) == {"end": {"l": "given", "r": {"from": 1}}}
        assert functions.calls == ["end"]


async def test_playing_again_runs_the_node_and_what_follows_once(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND, executing=True) as (core, functions):
        run = await core.run_workflow(ME, "diamond", {"x": 1})
        await finished(core, run.id)
        functions.calls.clear()
        done = await core.play_from_node(ME, run.id, "left", overrides={"inputs": {"x": 2}})
        assert done.run.id != run.id
        assert (await finished(core, done.run.id))["end"]["l"] == {"from": 1, "mood": "calm"}
        assert sorted(functions.calls) == ["end", "left"]
        await core.rollback(ME, run.id, "node:left")
        functions.calls.clear()
        in_place = await core.play_from_node(ME, run.id, "top", overrides={"inputs": {"x": 3}})
        assert in_place.run.id == run.id
        assert (await finished(core, run.id))["end"]["r"] == {"from": 3}
        assert Counter(functions.calls) == Counter(["top", "left", "right", "end"])


async def test_only_what_has_changed_is_executed(tmp_path: Path) -> None:
    calls = Counter[str]()

    async def constant(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        calls[attempt.node_id] += 1
        return "always the same"

    workflow = WorkflowDef(
        "w",
        (
            NodeDef("a", "function", use="constant", input={"x": 1}),
            NodeDef("b", "function", use="constant", input={"a": "${{ nodes.a.output }}"}, needs=(Need("a"),)),
            NodeDef("c", "function", use="constant", input={"b": "${{ nodes.b.output }}"}, needs=(Need("b"),)),
        ),
    )
    async with opened(tmp_path, workflow, functions={"constant": constant}, executing=True) as (core, _):
        run = await core.run_workflow(ME, "w")
        await finished(core, run.id)
        plan = await core.preview_play_from(ME, run.id, "a", reuse="unchanged")
        assert (sorted(plan.reused), plan.saved_tokens) == (["a", "b", "c"], 30)
        changed = {"nodes": {"a": {"with": {"x": 2}}}}
        done = await core.play_from_node(ME, run.id, "a", overrides=changed, reuse="unchanged")
        await finished(core, done.run.id)
        assert calls == Counter({"a": 2, "b": 1, "c": 1})  # what `a` gave is the same, so nothing after it changed
        state = await core.store.state(done.run.id)
        assert [state.nodes[NodeId(one)].reused_from is not None for one in "abc"] == [False, True, True]


async def test_an_approval_is_asked_again_when_its_node_is_reset(tmp_path: Path) -> None:
    gate = NodeDef("gate", "approval", approval=ApprovalSpec("Go on?", min_assurance="none"), needs=(Need("a"),))
    workflow = WorkflowDef("w", (node("a"), gate, node("b", "gate")))
    async with opened(tmp_path, workflow, executing=True) as (core, functions):
        run = await core.run_workflow(ME, "w")
        with anyio.fail_after(10):
            for generation in (0, 1):
                assert (await core.wait(ME, run.id, 10)).status == "waiting_approval"
                (asked,) = await core.list_approvals(ME, run_id=run.id)
                if not generation:
                    plan = await core.preview_play_from(ME, run.id, "a")
                    assert list(plan.asked_again) == ["gate"]
                    await core.play_from_node(ME, run.id, "a")
                    first = asked
                else:
                    assert asked.id != first.id
                    assert (await core.get_approval(ME, first.id)).status == "cancelled"
                    await core.decide(ME, asked.id, "approve", assurance="none")
        await finished(core, run.id)
        assert functions.calls == ["a", "a", "b"]


async def test_loops_and_fans_go_on_from_the_middle(tmp_path: Path) -> None:
    async def count(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        return {"n": inputs["n"], "ok": inputs["n"] >= 2}

    body = (
        NodeDef("try", "function", use="count", input={"n": "${{ iteration }}"}),
        node("test", "try", input={"ok": "${{ nodes.try.output.ok }}"}),
    )
    workflow = WorkflowDef(
        "w",
        (
            NodeDef("fix", "group", body=body, repeat=Repeat("output.test.ok", 5)),
            node("fan", for_each=ForEach(["a", "b", "c"], key="item"), input={"i": "${{ item }}"}),
            node("end", "fix", "fan"),
        ),
    )
    async with opened(tmp_path, workflow, functions={"count": count}, executing=True) as (core, functions):
        run = await core.run_workflow(ME, "w")
        await finished(core, run.id)
        assert functions.calls.count("fix[2].test") == 1
        functions.calls.clear()
        await core.rollback(ME, run.id, (await core.get_run(ME, run.id)).seq)
        await core.play_from_node(ME, run.id, "fix[1].test")
        await finished(core, run.id)
        assert sorted(functions.calls) == ["end", "fix[1].test", "fix[2].test", "fix[2].try"]
        functions.calls.clear()
        branch = await core.branch(ME, run.id, "before:fan[b]", name="b")
        await finished(core, branch.run.id)
        assert sorted(functions.calls) == ["end", "fan[b]"]


async def test_a_replay_of_what_was_recorded_finds_the_first_difference(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND, executing=True) as (core, functions):
        run = await core.run_workflow(ME, "diamond", {"x": 1})
        await finished(core, run.id)
        functions.calls.clear()
        one, two = await core.replay(ME, run.id), await core.replay(ME, run.id)
        assert (one.identical, one.replayed, one.divergence) == (True, 4, None)
        assert one == two
        functions.versions["f"] = "2"
        found = await core.replay(ME, run.id)
        assert found.divergence is not None
        assert (found.identical, found.divergence["node"], found.divergence["reason"]) == (False, "top", "code_changed")
        assert found.digest != one.digest
        assert functions.calls == []


@pytest.mark.parametrize(
    ("change", "where", "reason"),
    [
        ({"left": replace(DIAMOND.nodes[1], input={"mood": "wild"})}, "left", "definition_changed"),
        ({"right": replace(DIAMOND.nodes[2], needs=(UNLIKELY,))}, "right", "condition_changed"),
        ({"end": None}, "end", "node_removed"),
        ({"new": node("new", "top")}, "new", "node_added"),
        ({}, None, "outputs_changed"),
    ],
)
async def test_a_changed_definition_shows_where_it_would_part(
    tmp_path: Path, change: Mapping[str, NodeDef | None], where: str | None, reason: str
) -> None:
    async with opened(tmp_path, DIAMOND, executing=True) as (core, _):
        run = await core.run_workflow(ME, "diamond", {"x": 1})
        await finished(core, run.id)
        nodes = {**{one.id: one for one in DIAMOND.nodes}, **change}
        kept = tuple(one for one in nodes.values() if one is not None)
        outputs = {"other": "${{ nodes.top.output }}"} if where is None else None
        now = WorkflowDef("diamond", kept, inputs=DIAMOND.inputs, outputs=outputs)
        core.catalog.workflows["diamond"] = now  # type: ignore[index]
        found = await core.replay(ME, run.id)
        assert found.divergence is not None
        assert (found.divergence["node"], found.divergence["reason"]) == (where, reason)


async def test_files_follow_history_while_runs_are_executed(tmp_path: Path) -> None:
    async def write(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        assert attempt.workspace is not None
        seen = sorted(one.name for one in attempt.workspace.iterdir())
        (attempt.workspace / attempt.node_id).write_text(str(inputs["text"]))
        return seen

    nodes = tuple(
        NodeDef(
            f"w{i}", "function", use="write", workspace="write", input={"text": f"v{i}"},
            needs=(Need(f"w{i - 1}"),) if i else (),
        )
        for i in range(3)
    )  # fmt: skip
    workflow = WorkflowDef("files", nodes)
    async with opened(tmp_path, workflow, functions={"write": write}, executing=True, workspaces=True) as (core, _):
        run = await core.run_workflow(ME, "files")
        assert await finished(core, run.id) == {"w2": ["w0", "w1"]}
        state = await core.store.state(run.id)
        with anyio.fail_after(20):
            back = await core.rollback(ME, run.id, "node:w0")
        assert (back.files_removed, back.notes) == (2, ())
        await core.resume(ME, run.id)
        assert await finished(core, run.id) == {"w2": ["w0", "w1"]}

        changed = {"nodes": {"w1": {"with": {"text": "other"}}}}
        made = await core.branch(ME, run.id, "before:w1", name="b", overrides=changed)
        assert await finished(core, made.run.id) == {"w2": ["w0", "w1"]}
        found = await core.compare(ME, run.id, made.run.id)
        assert [(one["path"], one["status"]) for one in found.files] == [("w1", "modified")]
        assert "+other" in found.files[0]["patch"]
        same = await core.compare(ME, f"{run.id}@{state.seq}", run.id)
        assert same.files == []

        with anyio.fail_after(20):
            await core.rollback(ME, run.id, "node:w2")
            await core.play_from_node(ME, run.id, "w1", reuse="unchanged")
        assert await finished(core, run.id) == {"w2": ["w0", "w1"]}
        assert core.engine is not None
        directory = await core.engine.workspaces.open(await core.store.state(run.id))
        assert sorted(one.name for one in directory.iterdir()) == ["w0", "w1", "w2"]
        state = await core.store.state(run.id)
        assert [state.nodes[NodeId(one)].reused_from is not None for one in ("w1", "w2")] == [True, True]


async def append(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
    """The node's own letter behind those of the nodes before it."""
    assert attempt.workspace is not None
    log = attempt.workspace / "log.txt"
    log.write_text((log.read_text() if log.exists() else "") + attempt.node_id)
    return log.read_text()


def chain(*names: str) -> tuple[NodeDef, ...]:
    """Nodes that append, one after the other."""
    before: tuple[str | None, ...] = (None, *names)
    return tuple(
        NodeDef(name, "function", use="append", workspace="write", needs=(Need(up),) if up is not None else ())
        for up, name in zip(before, names, strict=False)
    )


async def test_files_of_runs_with_reused_results_go_back_to_where_their_nodes_began(tmp_path: Path) -> None:
    workflow = WorkflowDef("w", chain("z", "y", "x"))
    async with opened(tmp_path, workflow, functions={"append": append}, executing=True, workspaces=True) as (core, _):
        run = await core.run_workflow(ME, "w")
        assert await finished(core, run.id) == {"x": "zyx"}
        reused = (await core.play_from_node(ME, run.id, "z", reuse="unchanged")).run.id
        assert await finished(core, reused) == {"x": "zyx"}
        state = await core.store.state(reused)
        assert all(state.nodes[NodeId(one)].reused_from is not None for one in "zyx")
        branch = (await core.branch(ME, reused, name="b")).run.id
        assert await finished(core, branch) == {"x": "zyx"}
        for again in (
            await core.play_from_node(ME, reused, "z"),
            await core.branch(ME, reused, "before:z", name="z"),
            await core.play_from_node(ME, branch, "y"),
            await core.branch(ME, branch, "before:y", name="y"),
        ):
            assert await finished(core, again.run.id) == {"x": "zyx"}


async def test_reused_results_are_replayed_and_foretold_like_those_of_the_run_itself(tmp_path: Path) -> None:
    async def look(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        assert attempt.workspace is not None
        return sorted(one.name for one in attempt.workspace.iterdir())

    reader = NodeDef("b", "function", use="look", workspace="read", needs=(Need("a"),))
    functions = {"append": append, "look": look}
    workflow = WorkflowDef("w", (*chain("a"), reader))
    async with opened(tmp_path, workflow, functions=functions, executing=True, workspaces=True) as (core, executor):
        run = await core.run_workflow(ME, "w")
        await finished(core, run.id)
        reused = (await core.play_from_node(ME, run.id, "a", reuse="unchanged")).run.id
        assert await finished(core, reused) == {"b": ["log.txt"]}
        assert (await core.replay(ME, reused)).divergence is None
        plan = await core.preview_play_from(ME, reused, "a", reuse="unchanged")
        assert (plan.reruns, plan.reused) == ((), ("a", "b"))
        executor.versions["append"] = "2"
        found = await core.replay(ME, reused)
        assert found.divergence is not None
        assert (found.divergence["node"], found.divergence["reason"]) == ("a", "code_changed")


async def test_a_run_whose_files_cannot_be_put_back_fails_and_says_so(tmp_path: Path) -> None:
    workflow = WorkflowDef("files", (node("w", workspace="write"), node("x", "w")))
    async with opened(tmp_path, workflow, executing=True, workspaces=True) as (core, _):
        assert core.engine is not None and core.engine.workspaces is not None
        spaces = core.engine.workspaces._need()
        run = await core.run_workflow(ME, "files", {})
        await finished(core, run.id)
        tree = (await core.store.state(run.id)).tree
        assert tree is not None
        await core.rollback(ME, run.id, "node:w")
        # As a restore that a crash cut off, of files that are gone by the time it is taken up again.
        await core.store.write(Write(run.id, [c.StartRestore(tree, "history")], Principal("engine")))
        await spaces.drop([run.id])
        before = (await core.store.state(run.id)).seq
        with anyio.fail_after(20):
            await core.resume(ME, run.id)
            view = await core.wait(ME, run.id, 20, detail=True)
        assert view.status == "failed" and "cannot be put back" in str(view.error), view
        assert (await core.store.state(run.id)).seq < before + 10  # it was not tried over and over


async def test_what_a_reused_result_rests_on_is_not_repeated_unseen(tmp_path: Path) -> None:
    paid: list[str] = []

    async def pay(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        async def action() -> Any:
            paid.append(attempt.node_id)
            return "paid"

        return await attempt.effect("pay", action, kind="command", on_unknown="ask")

    nodes = (node("a"), NodeDef("pay", "function", use="pay", needs=(Need("a"),)))
    ends = WorkflowDef("ends", nodes)
    waits = WorkflowDef(
        "waits", (*nodes, NodeDef("ok", "approval", approval=ApprovalSpec("Go?"), needs=(Need("pay"),)))
    )
    async with opened(tmp_path, ends, waits, functions={"pay": pay}, executing=True) as (core, _):
        for workflow in ("ends", "waits"):  # which is played again in a child, and in place
            run = (await core.run_workflow(ME, workflow)).id
            for times in range(3):
                with anyio.fail_after(20):
                    await core.wait(ME, run, 20)
                for again in (
                    core.play_from_node(ME, run, "a"),
                    core.play_from_node(ME, run, "pay"),
                    core.branch(ME, run, "before:pay", name=f"b{times}"),
                ):
                    with pytest.raises(OmiumError) as refused:
                        await again
                    told = [(one["node"], one["call"]) for one in refused.value.data["plan"]["repeated_effects"]]
                    assert (refused.value.code, told) == ("plan_required", [("pay", "pay")])
                assert [one.repeats for one in await core.resumable(ME, run)][:2] == [1, 1]
                plan = await core.preview_play_from(ME, run, "a", reuse="unchanged")
                done = await core.play_from_node(ME, run, "a", reuse="unchanged", plan_token=plan.plan_token)
                run = done.run.id
    assert paid == ["pay", "pay"]


async def test_what_sub_runs_did_is_shown_and_undone_by_a_rollback_behind_them(tmp_path: Path) -> None:
    world: list[str] = []

    async def pay(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        async def action() -> Any:
            world.append(f"paid {attempt.run_id}")
            return "paid"

        return await attempt.effect("pay", action, kind="command", on_unknown="ask")

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        world.append(f"{inputs['node']}, {inputs['call']}, {inputs['input']} undone in {attempt.run_id}")

    below = (
        NodeDef("pay", "function", use="pay", compensate="undo", input={"sum": "${{ inputs.sum }}"}),
        NodeDef("mail", "function", use="pay", needs=(Need("pay"),)),
    )
    inputs = {"type": "object", "properties": {"sum": {"type": "integer"}}}
    middle = WorkflowDef("middle", (NodeDef("deep", "workflow", use="below", input={"sum": 5}),))
    gate = NodeDef("ok", "approval", approval=ApprovalSpec("Go?"), needs=(Need("s"),))
    top = WorkflowDef("top", (node("a"), NodeDef("s", "workflow", use="middle", needs=(Need("a"),)), gate))
    flows = (WorkflowDef("below", below, inputs=inputs), middle, top)
    async with opened(tmp_path, *flows, functions={"pay": pay, "undo": undo}, executing=True) as (core, _):
        with anyio.fail_after(20):
            run = (await core.run_workflow(ME, "top")).id
            await core.wait(ME, run, 20)
            end = (await core.get_run(ME, run)).seq
            (paid,) = {one.removeprefix("paid ") for one in world}
            with pytest.raises(OmiumError) as refused:
                await core.rollback(ME, run, "node:a")
            assert refused.value.code == "plan_required"
            plan = await core.preview_rollback(ME, run, "node:a")
            calls = {name: ("s", f"{paid}/{name}/pay") for name in ("pay", "mail")}
            assert [(one.node, one.call) for one in plan.undone_effects] == [calls["pay"]]
            assert [(one.node, one.call) for one in plan.not_undone_effects] == [calls["mail"]]
            assert plan.repeated_effects == plan.not_undone_effects and len(plan.notes) == 1
            done = await core.rollback(ME, run, "node:a", plan_token=plan.plan_token)
            assert [(one.node, one.call) for one in done.undone] == [calls["pay"]]
            assert [(one.node, one.call) for one in done.not_undone] == [calls["mail"]]
            assert world[2:] == [f"pay, pay, {{'sum': 5}} undone in {paid}"]
            assert [one.compensated for one in (await core.preview_rollback(ME, run, "start")).undone_effects] == [
                "done"
            ]
            assert (await core.preview_rollback(ME, run, (await core.get_run(ME, run)).seq)).not_undone_effects == []
            (note,) = (await core.preview_rollback(ME, run, end)).notes  # forward
            assert f"stand again: s ({paid}/pay/pay)." in note
            await core.resume(ME, run)
            await core.wait(ME, run, 20)
            assert len(world) == 5
            plan = await core.preview_rollback(ME, run, "node:a")
            assert len(plan.undone_effects) == len(plan.not_undone_effects) == 2  # each time that it was done


async def test_what_an_inherited_sub_run_did_is_not_repeated_unseen(tmp_path: Path) -> None:
    paid: list[str] = []

    async def pay(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        async def action() -> Any:
            paid.append(attempt.node_id)
            return "paid"

        return await attempt.effect("pay", action, kind="command", on_unknown="ask")

    below = WorkflowDef("below", (NodeDef("pay", "function", use="pay"),))
    top = WorkflowDef("top", (node("a"), NodeDef("s", "workflow", use="below", needs=(Need("a"),)), node("b", "s")))
    async with opened(tmp_path, below, top, functions={"pay": pay}, executing=True) as (core, _):
        run = (await core.run_workflow(ME, "top")).id
        await finished(core, run)
        early = (
            await core.branch(
                ME,
                run,
                "node:a",
                name="early",
                start=False,
                plan_token=(await core.preview_branch(ME, run, "node:a")).plan_token,
            )
        ).run.id
        assert (await core.preview_branch(ME, early, "before:a")).repeated_effects == []  # it has not come that far
        child = (await core.play_from_node(ME, run, "b")).run.id
        await finished(core, child)
        for again in (core.play_from_node(ME, child, "s"), core.branch(ME, child, "before:s", name="x")):
            with pytest.raises(OmiumError) as refused:
                await again
            assert refused.value.code == "plan_required"
            assert [one["node"] for one in refused.value.data["plan"]["repeated_effects"]] == ["s"]
    assert paid == ["pay"]
