"""Branches, replays from a node, comparisons and recorded replays over a real database; a hand plays the worker."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.definition import ApprovalSpec, ForEach, Need, NodeDef, Repeat, WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob, Write
from omium.orchestration.service.views import GivenDifference
from omium.orchestration.values import encode
from tests.history_core import ME, HistoryCore, by_hand, opened
from tests.history_help import node

pytestmark = pytest.mark.anyio

DIAMOND = WorkflowDef(
    "diamond",
    (
        node("top"),
        node("left", "top", input={"x": "${{ nodes.top.output.from }}", "mood": "calm"}),
        node("right", "top"),
        node("end", "left", "right", input={"l": "${{ nodes.left.output }}"}),
    ),
    inputs={"type": "object", "properties": {"x": {"type": "integer", "default": 1}}, "additionalProperties": False},
)


async def refused(call: Any, code: str) -> OmiumError:
    with pytest.raises(OmiumError) as caught:
        await call
    assert caught.value.code == code, caught.value
    return caught.value


async def rows_of(core: HistoryCore, run_id: RunId) -> list[Any]:
    """Every stored row of a run, as bytes compare; less the head that the note of the branch moves."""
    return await core.store.job(  # type: ignore[attr-defined,no-any-return]
        lambda db: [
            db.execute(
                "SELECT * FROM events WHERE run_id = ? AND type != 'run.branched' ORDER BY seq", (run_id,)
            ).fetchall(),
            db.execute(
                "SELECT status, generation, completed_nodes, output FROM runs WHERE id = ?", (run_id,)
            ).fetchall(),
        ]
    )


async def test_a_branch_has_the_parents_results_and_leaves_the_parent_as_it_was(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND, {"x": 1})
        top = await hand.run("top")
        await hand.run("left", "right")
        before = await rows_of(core, hand.run_id)
        made = await core.branch(ME, hand.run_id, top, name="again", hypothesis="left was unlucky")
        assert (made.run.parent_run, made.run.parent_seq) == (hand.run_id, top)
        assert (made.run.branch, made.run.hypothesis) == ("again", "left was unlucky")
        assert made.run.status == "executing"
        child = await core.store.state(made.run.id)
        parent = await hand.state()
        assert child.nodes == {NodeId("top"): parent.nodes[NodeId("top")]}
        assert await rows_of(core, hand.run_id) == before
        assert await core.store.next_wake([ME.project]) is not None


async def test_a_branch_before_a_node_keeps_its_siblings(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND, {"x": 1})
        await hand.run("top", "left", "right", "end")
        made = await core.branch(ME, hand.run_id, "before:left", name="b")
        shown = await core.get_run(ME, made.run.id)
        assert (made.run.parent_before, shown.parent_before, shown.parent_run) == ("left", "left", hand.run_id)
        assert made.reset == ("end", "left")
        assert set((await core.store.state(made.run.id)).nodes) == {"top", "right"}


async def test_names_of_branches_are_checked_and_unique_per_parent(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand, other = await by_hand(core, DIAMOND), await by_hand(core, DIAMOND)
        made = await core.branch(ME, hand.run_id, name="b")
        error = await refused(core.branch(ME, hand.run_id, name="b"), "conflict")
        assert error.data["run"] == made.run.id
        assert (await core.branch(ME, other.run_id, name="b")).run.branch == "b"
        for name in ("", "-b", "a b", "../b", "a..b", "b/", "b.lock", "x" * 101, "b\n"):
            await refused(core.branch(ME, hand.run_id, name=name), "invalid_argument")


async def test_a_repeated_request_makes_one_branch_and_finishes_one_that_was_cut_off(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND)
        one = await core.branch(ME, hand.run_id, 3, name="b", idempotency_key="k")
        two = await core.branch(ME, hand.run_id, 3, name="b", idempotency_key="k")
        assert one.run.id == two.run.id
        assert len((await core.branch_tree(ME, hand.run_id)).children) == 1
        lost = RunId("run_" + "2" * 26)
        key = core.idempotency(ME, "branch", "cut", [hand.run_id, "3", "c", None, {}, True], {"run": lost})
        note = c.NoteBranch(lost, Seq(3), "c")
        await core.store.write(Write(hand.run_id, [note], ME.principal, idempotency=key))
        assert (await core.branch(ME, hand.run_id, 3, name="c", idempotency_key="cut")).run.id == lost
        assert (await core.store.state(lost)).status == "executing"


async def test_overrides_reach_the_child_only_and_are_checked_first(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"tone": {"enum": ["kind", "harsh"]}}, "additionalProperties": False}
    gate = NodeDef("gate", "approval", approval=ApprovalSpec("Go on?"), needs=(Need("end"),))
    told = node("told", "end", input={"tone": "kind"}, input_schema=schema)
    fan = node("fan", "end", for_each=ForEach([1, 2]), input={"n": 1})
    workflow = replace(DIAMOND, nodes=(*DIAMOND.nodes, gate, told, fan))
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow, {"x": 1})
        top = await hand.run("top")
        await hand.run("left", "right")
        good = {"inputs": {"x": 2}, "nodes": {"left": {"with": {"mood": "bold"}}, "right": {"output": [1]}}}
        made = await core.branch(ME, hand.run_id, top, name="b", overrides=good)
        child = await core.store.state(made.run.id)
        assert child.overrides == good
        assert await core.store.value(child.inputs) == {"x": 2}
        assert await core.store.value((await hand.state()).inputs) == {"x": 1}

        head = (await hand.state()).seq
        for code, bad in (
            ("invalid_argument", {"other": {}}),
            ("invalid_argument", {"nodes": {"left": {"prompt": "x"}}}),
            ("invalid_argument", {"nodes": {"left": {"with": {"mood": 1}, "output": 1}}}),
            ("invalid_argument", {"inputs": {"y": 1}}),
            ("invalid_argument", {"inputs": {"x": "many"}}),
            ("not_found", {"nodes": {"lefty": {"output": 1}}}),
            ("not_found", {"nodes": {"fan[7]": {"output": 1}}}),
            ("invalid_argument", {"nodes": {"left": {"with": {"unknown": 1}}}}),
            ("invalid_argument", {"nodes": {"top": {"output": 1}}}),  # it stands, so nothing would come of it
            ("invalid_argument", {"nodes": {"told": {"with": {"tone": "loud"}}}}),
            ("invalid_argument", {"nodes": {"fan": {"with": {"n": 2}}}}),
            ("forbidden", {"nodes": {"gate": {"output": {"decision": "approve"}}}}),
            ("invalid_argument", {"nodes": {"left": {"output": b"bytes"}}}),
            ("invalid_argument", {"nodes": {"left": {"output": "x" * 70_000}}}),
        ):
            await refused(core.branch(ME, hand.run_id, top, name="bad", overrides=bad), code)
        assert (await hand.state()).seq == head


async def test_branches_have_depth_and_a_tree(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND)
        await hand.run("top")
        parent = hand.run_id
        for depth in (1, 2, 3):
            parent = (await core.branch(ME, parent, name=f"d{depth}")).run.id
        await core.branch(ME, hand.run_id, name="other")
        tree = await core.branch_tree(ME, parent)
        assert (tree.run.id, tree.depth, [one.run.branch for one in tree.children]) == (hand.run_id, 0, ["d1", "other"])
        deepest = tree.children[0].children[0].children[0]
        assert (deepest.run.id, deepest.depth, deepest.children) == (parent, 3, [])
        assert set((await core.store.state(parent)).nodes) == {"top"}
        error = await refused(core.rollback(ME, parent, "node:top"), "not_found")
        assert "start" in error.hint
        assert (await core.rollback(ME, parent, "start")).run.status == "paused"


async def test_a_branch_is_adopted_once_it_completed_and_only_one_of_a_parents(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND)
        await hand.run("top")
        runs = [(await core.branch(ME, hand.run_id, name=name, start=False)).run for name in ("a", "b", "c")]
        assert runs[0].status == "draft"
        for run in runs[:2]:
            await core.resume(ME, run.id)
            fence = await core.store.take(core.engine.worker, run.id)  # type: ignore[union-attr]
            stored = encode({})
            complete = c.CompleteRun(stored.digest, stored.size)
            await core.store.write(Write(run.id, [complete], ME.principal, fence, [NewBlob(stored)]))
        await refused(core.close_branch(ME, runs[2].id, "adopted"), "not_allowed")
        assert (await core.close_branch(ME, runs[2].id, "abandoned", "no good")).run.closed == "abandoned"
        await refused(core.close_branch(ME, runs[2].id, "adopted"), "not_allowed")
        assert (await core.close_branch(ME, runs[0].id, "adopted")).run.closed == "adopted"
        await refused(core.close_branch(ME, runs[1].id, "adopted"), "conflict")
        await refused(core.close_branch(ME, hand.run_id, "abandoned"), "not_allowed")
        going = (await core.branch(ME, hand.run_id, name="going")).run
        ended = (await core.close_branch(ME, going.id, "abandoned")).run
        assert (ended.status, ended.reason, ended.closed) == ("cancelled", "abandoned", "abandoned")
        (label,) = await core.store.labels(hand.run_id)
        assert label.label == "adopted/a" and label.note is not None and label.note.startswith(f"{runs[0].id}@")


async def test_playing_a_node_again_in_place(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND, {"x": 1})
        await hand.run("top", "left", "right")
        await hand.start("end")
        before = await hand.state()
        done = await core.play_from_node(
            ME,
            hand.run_id,
            "left",
            overrides={"inputs": {"x": 3}, "nodes": {"left": {"with": {"mood": "x"}}}},
            reason="why",
        )
        assert (done.run.id, done.run.status, done.reset) == (hand.run_id, "executing", ("end", "left"))
        after = await hand.state()
        assert after.nodes[NodeId("right")] == before.nodes[NodeId("right")]
        assert [after.nodes[NodeId(one)].generation for one in ("top", "left", "right", "end")] == [0, 1, 0, 1]
        stale = encode(1)
        with pytest.raises(OmiumError) as late:
            await hand.do(c.CompleteNode(NodeId("end"), 0, stale.digest, stale.size, 1), blobs=[NewBlob(stale)])
        assert late.value.code == "conflict"
        await refused(core.play_from_node(ME, hand.run_id, "lef"), "not_found")
        await refused(core.play_from_node(ME, hand.run_id, "left", reuse="some"), "invalid_argument")  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["completed", "cancelled"])
async def test_playing_again_from_a_run_that_has_ended_makes_a_child(tmp_path: Path, end: str) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND, {"x": 1})
        await hand.run("top", "left", "right", "end")
        await (hand.complete() if end == "completed" else core.cancel(ME, hand.run_id))
        before = await rows_of(core, hand.run_id)
        changed = {"inputs": {"x": 5}, "nodes": {"left": {"output": "given"}}}
        one = await core.play_from_node(
            ME, hand.run_id, "left", overrides=changed, reuse="unchanged", idempotency_key="k"
        )
        two = await core.play_from_node(
            ME, hand.run_id, "left", overrides=changed, reuse="unchanged", idempotency_key="k"
        )
        assert one.run.id == two.run.id != hand.run_id
        assert await rows_of(core, hand.run_id) == before
        child = await core.store.state(one.run.id)
        assert set(child.nodes) == {"top", "right"}
        assert (child.reuse, child.overrides, await core.store.value(child.inputs)) == ("unchanged", changed, {"x": 5})
        assert one.reset == ("end", "left")


async def test_a_failed_run_is_played_again_in_place_once(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND)
        await hand.run("top", "right")
        await hand.start("left")
        error = {"category": "unknown", "message": "no"}
        await hand.do(c.FailAttempt(NodeId("left"), 0, 1, error))
        await hand.do(c.SkipNode(NodeId("end"), 0, "upstream_failed", NodeId("left")))
        await hand.do(c.FailRun(error))
        one = await core.play_from_node(ME, hand.run_id, "left", idempotency_key="k")
        two = await core.play_from_node(ME, hand.run_id, "left", idempotency_key="k")
        assert one == two and one.run.generation == 1
        assert (one.run.id, one.run.status, one.run.error, one.reset) == (
            hand.run_id,
            "executing",
            None,
            ("end", "left"),
        )


async def test_what_would_be_repeated_is_previewed_first(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND)
        top = await hand.run("top", usage={"tokens": 5, "cost_usd": 0.5})
        await hand.start("left")
        await hand.effect("left", "mail")
        await hand.effect("left", "look", on_unknown="rerun")
        await hand.end("left", 1, usage={"tokens": 7, "cost_usd": 0.25})
        await hand.run("right", "end", usage={"tokens": 1, "cost_usd": 0.125})
        assert (await core.play_from_node(ME, hand.run_id, "right")).reset == ("end", "right")
        calls = [
            (core.play_from_node, ("left",), core.preview_play_from),
            (core.branch, (top,), core.preview_branch),
            (core.branch, ("before:left",), core.preview_branch),
        ]
        for number, (verb, where, preview) in enumerate(calls):
            more = {"name": f"b{number}"} if verb == core.branch else {}
            error = await refused(verb(ME, hand.run_id, *where, **more), "plan_required")  # type: ignore[operator]
            told = [(one["node"], one["call"]) for one in error.data["plan"]["repeated_effects"]]
            assert told == [("left", "mail"), ("left", "look")]
            plan = await preview(ME, hand.run_id, *where)  # type: ignore[operator]
            assert "left" in plan.reruns and "top" not in plan.reruns
            assert plan.last_cost_usd >= 0.25
        plan = await core.preview_branch(ME, hand.run_id, "before:left")
        await core.branch(ME, hand.run_id, "before:left", name="yes", plan_token=plan.plan_token)
        plan = await core.preview_play_from(ME, hand.run_id, "left")
        assert (plan.in_place, plan.last_tokens) == (True, 7)
        await core.play_from_node(ME, hand.run_id, "right")  # what it affects has changed since
        await refused(core.play_from_node(ME, hand.run_id, "left", plan_token=plan.plan_token), "plan_expired")
        plan = await core.preview_play_from(ME, hand.run_id, "left")
        await core.play_from_node(ME, hand.run_id, "left", plan_token=plan.plan_token)
        await hand.run("left")  # without a call this time: what its older generation did is not repeated by it
        assert (await core.preview_play_from(ME, hand.run_id, "left")).repeated_effects == []
        await core.play_from_node(ME, hand.run_id, "left")


async def test_what_unchanged_results_save_is_foretold(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, functions):
        hand = await by_hand(core, DIAMOND, {"x": 1})
        await hand.run("top")
        state = await hand.state()
        recorded = await core._ground.recorded(state)
        from omium.orchestration.history.playing import key_of

        for name in ("left", "right"):
            key = await key_of(await core._ground.recorded(await hand.state()), NodeId(name), None)
            await hand.start(name, key=key)
            await hand.end(name, {"from": name}, usage={"tokens": 3, "cost_usd": 0.5})
        key = await key_of(await core._ground.recorded(await hand.state()), NodeId("end"), None)
        await hand.start("end", key=key)
        await hand.end("end", 1, usage={"tokens": 4, "cost_usd": 1.0})
        assert recorded.inputs == {"x": 1}
        plan = await core.preview_play_from(ME, hand.run_id, "left", reuse="unchanged")
        assert (set(plan.reused), list(plan.reruns)) == ({"left", "end"}, [])
        assert (plan.saved_tokens, plan.saved_cost_usd) == (7, 1.5)
        assert plan.notes
        changed = {"nodes": {"left": {"with": {"mood": "wild"}}}}
        plan = await core.preview_play_from(ME, hand.run_id, "left", changed, "unchanged")
        assert (list(plan.reused), set(plan.reruns)) == ([], {"left", "end"})
        functions.versions["f"] = "2"
        plan = await core.preview_play_from(ME, hand.run_id, "left", reuse="unchanged")
        assert list(plan.reused) == []


async def test_files_of_a_replay_go_back_to_where_its_first_writer_began(tmp_path: Path) -> None:
    nodes = (
        node("a", workspace="write"),
        node("b", "a", workspace="write"),
        node("beside", "a", workspace="write"),
        node("c", "b"),
    )
    workflow = WorkflowDef("w", nodes)
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow)
        for name, start, end in (("a", "0" * 40, "1" * 40), ("b", "1" * 40, "2" * 40), ("beside", "2" * 40, "3" * 40)):
            await hand.start(name, tree=start)
            await hand.end(name, name, tree=end)
        await hand.run("c")
        plan = await core.preview_play_from(ME, hand.run_id, "c")
        assert plan.notes == ()
        plan = await core.preview_play_from(ME, hand.run_id, "b")
        assert "beside" in plan.notes[0]
        made = await core.branch(ME, hand.run_id, "before:b", name="b")
        assert (await core.store.state(made.run.id)).tree == "1" * 40
        await core.play_from_node(ME, hand.run_id, "b")
        assert (await hand.state()).restoring == "1" * 40


async def test_loops_fans_and_their_insides(tmp_path: Path) -> None:
    body = (node("try"), node("test", "try"))
    workflow = WorkflowDef(
        "w",
        (
            NodeDef("fix", "group", body=body, repeat=Repeat("output.ok", 5)),
            NodeDef("fan", "group", body=(node("x"), node("y", "x")), for_each=ForEach(["a", "b"], key="item")),
            node("end", "fix", "fan"),
        ),
    )
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow)
        items = encode(["a", "b"])
        await hand.start("fix")
        await hand.do(c.ExpandNode(NodeId("fix"), 0, 1))
        for place in range(3):
            await hand.start(f"fix[{place}]")
            await hand.do(c.ExpandNode(NodeId(f"fix[{place}]"), 0, 2))
            await hand.run(f"fix[{place}].try", f"fix[{place}].test")
            await hand.end(f"fix[{place}]", place)
            if place < 2:
                await hand.do(c.ExpandNode(NodeId("fix"), 0, 1, first=place + 1))
        await hand.end("fix", "fixed")
        await hand.start("fan")
        await hand.do(c.ExpandNode(NodeId("fan"), 0, 2, items=items.digest, keys=("a", "b")), blobs=[NewBlob(items)])
        for key in ("a", "b"):
            await hand.start(f"fan[{key}]")
            await hand.do(c.ExpandNode(NodeId(f"fan[{key}]"), 0, 2))
            await hand.run(f"fan[{key}].x", f"fan[{key}].y")
            await hand.end(f"fan[{key}]", key)
        await hand.end("fan", ["a", "b"])
        await hand.run("end")
        await refused(core.play_from_node(ME, hand.run_id, "fan[c].x"), "not_found")

        before = await hand.state()
        child = (await core.branch(ME, hand.run_id, "before:fix[1].test", name="b")).run.id
        states = [await core.store.state(child)]
        await core.play_from_node(ME, hand.run_id, "fix[1].test")
        states.append(await hand.state())
        for state in states:
            gone = {one for one in before.nodes if state.node(one).status == "pending"}
            assert gone == {"fix[1].test", "fix[2]", "fix[2].try", "fix[2].test", "end"}
            for container in ("fix", "fix[1]"):
                reopened = state.nodes[NodeId(container)]
                assert (reopened.status, reopened.wait, reopened.output) == ("running", {"kind": "children"}, None)
            assert (state.nodes[NodeId("fix")].expansion or {})["count"] == 2
            assert state.nodes[NodeId("fan")] == before.nodes[NodeId("fan")]


async def test_containers_of_a_cancelled_run_are_not_expanded_anew(tmp_path: Path) -> None:
    workflow = WorkflowDef("w", (node("plan", expands=True), node("end", "plan")))
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow)
        plan = encode(
            {
                "steps": [
                    {"id": "one", "kind": "function", "use": "f"},
                    {"id": "two", "kind": "function", "use": "f", "needs": ["one"]},
                ]
            }
        )
        await hand.start("plan")
        await hand.do(c.ExpandNode(NodeId("plan"), 0, 2, plan=plan.digest), blobs=[NewBlob(plan)])
        before = await hand.run("plan.one")
        await hand.start("plan.two")
        await core.cancel(ME, hand.run_id)
        made = await core.play_from_node(ME, hand.run_id, "plan.two")
        for state in (await core.store.state(made.run.id), (await core.store.state(hand.run_id))):
            assert state.nodes[NodeId("plan.one")].status == "completed"
        child = await core.store.state(made.run.id)
        assert child.nodes[NodeId("plan")].wait == {"kind": "children"}
        branch = await core.store.state((await core.branch(ME, hand.run_id, name="b")).run.id)
        assert (branch.nodes[NodeId("plan")].wait, set(branch.nodes)) == ({"kind": "children"}, {"plan", "plan.one"})
        await hand.let_go()
        await core.rollback(ME, hand.run_id, before)
        assert (await hand.state()).nodes[NodeId("plan")].wait == {"kind": "children"}
        await core.rollback(ME, hand.run_id, "start")
        shown = await core.get_run(ME, hand.run_id, detail=True)
        assert [one.id for one in shown.nodes] == ["plan", "end"]


async def test_a_comparison_begins_with_what_the_runs_were_given(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND, {"x": 1})
        other = await by_hand(core, DIAMOND, {"x": 2})
        await hand.run("top")
        changed = {"inputs": {"x": 3}, "nodes": {"left": {"with": {"mood": "m" * 600}}, "right": {"output": [1]}}}
        branch = await core.branch(ME, hand.run_id, name="b", overrides=changed)
        found = await core.compare(ME, hand.run_id, other.run_id)
        assert (found.inputs, found.overrides) == ([GivenDifference("x", "1", "2")], [])
        found = await core.compare(ME, hand.run_id, branch.run.id)
        assert found.inputs == [GivenDifference("x", "1", "3")]
        assert [(one.name, one.a) for one in found.overrides] == [("left.with.mood", None), ("right.output", None)]
        assert found.overrides[0].b == '"' + "m" * 499 + "..." and found.overrides[1].b == "[1]"
        found = await core.compare(ME, branch.run.id, hand.run_id)
        assert (found.overrides[1].a, found.overrides[1].b) == ("[1]", None)


@pytest.mark.parametrize(
    ("inputs", "hint"),
    [
        ({"type": "object", "properties": {"tone": {}, "size": {}}}, "Did you mean tone?"),
        ({"type": "object", "properties": {"size": {}}}, "It has size."),
        (None, "Did you mean tone?"),  # it reads inputs.tone
    ],
)
async def test_an_input_that_the_workflow_does_not_have_is_refused(
    tmp_path: Path, inputs: dict[str, Any] | None, hint: str
) -> None:
    first = replace(node("a"), input={"tone": "${{ inputs.tone }}"}) if inputs is None else node("a")
    workflow = WorkflowDef("w", (first, node("b", "a")), inputs=inputs)
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow, {"extra": 1})
        await hand.run("a")
        for call in (
            core.branch(ME, hand.run_id, "start", name="b", overrides={"inputs": {"ton": 1}}),
            core.preview_branch(ME, hand.run_id, "start", {"inputs": {"ton": 1}}),
            core.play_from_node(ME, hand.run_id, "a", overrides={"inputs": {"ton": 1}}),
            core.preview_play_from(ME, hand.run_id, "a", {"inputs": {"ton": 1}}),
        ):
            error = await refused(call, "invalid_argument")
            assert (error.message, error.hint) == ("the workflow 'w' has no input 'ton'.", hint)
        await core.preview_branch(ME, hand.run_id, "start", {"inputs": {"extra": 2}})  # the run has it


@pytest.mark.parametrize(
    "workflow",
    [
        WorkflowDef(
            "w", (node("a"),), inputs={"type": "object", "properties": {"x": {}}, "additionalProperties": True}
        ),
        WorkflowDef("w", (node("a"),), inputs={"type": "object", "patternProperties": {"^n": {}}}),
        WorkflowDef("w", (replace(node("a"), input={"all": "${{ inputs }}"}),)),
        WorkflowDef("w", (replace(node("a"), expands=True),)),
    ],
    ids=["open", "patterns", "reads them all", "plans"],
)
async def test_an_input_that_may_be_read_may_be_changed(tmp_path: Path, workflow: WorkflowDef) -> None:
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow)
        branch = await core.branch(ME, hand.run_id, name="b", overrides={"inputs": {"new": 2}})
        state = await core.store.state(branch.run.id)
        assert await core.store.value(state.inputs) == {"new": 2}


async def test_runs_are_compared_node_by_node(tmp_path: Path) -> None:
    top, left, *rest = DIAMOND.nodes
    longer = replace(DIAMOND, nodes=(top, node("between", "top"), replace(left, needs=(Need("between"),)), *rest))
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND, {"x": 1})
        await hand.run("top", usage={"tokens": 2, "cost_usd": 0.01})
        middle = (await hand.state()).seq
        await hand.run("left", "right", "end")
        same = await core.compare(ME, hand.run_id, hand.run_id)
        assert (same.first_divergence, {one.change for one in same.nodes}, same.outputs_equal) == (None, {"same"}, None)
        assert (same.files, same.decisions, same.cost_usd) == ([], [], (0.01, 0.01))
        branch = await core.branch(ME, hand.run_id, middle, name="b")
        unlike = await core.compare(ME, f"{hand.run_id}@{middle}", branch.run.id)
        assert {one.change for one in unlike.nodes} == {"same"}
        unlike = await core.compare(ME, hand.run_id, branch.run.id)
        assert unlike.first_divergence == "left"
        assert {one.node: one.change for one in unlike.nodes if one.change != "same"} == {
            "left": "only_a", "right": "only_a", "end": "only_a",
        }  # fmt: skip

        other = await by_hand(core, longer, {"x": 1})
        await other.run("top", usage={"tokens": 2, "cost_usd": 0.0225})
        await other.run("between")
        await other.start("left")
        await other.end("left", {"from": "elsewhere"})
        await other.run("right", "end")
        found = await core.compare(ME, hand.run_id, other.run_id)
        assert [one.node for one in found.nodes] == ["top", "between", "left", "right", "end"]
        assert {one.node: one.change for one in found.nodes if one.change != "same"} == {
            "between": "only_b", "left": "changed",
        }  # fmt: skip
        assert found.first_divergence == "between"
        diff = found.nodes[2].output_diff
        assert diff is not None and '-  "from": "left"' in diff and '+  "from": "elsewhere"' in diff
        assert found.cost_usd[1] - found.cost_usd[0] == pytest.approx(0.0125)
        assert (found.inputs, found.overrides) == ([], [])
        await refused(core.compare(ME, "last", hand.run_id), "invalid_argument")
        await refused(core.compare(ME, f"{hand.run_id}@999", hand.run_id), "not_found")


async def test_checkpoints_are_listed_newest_first_and_what_was_left_behind_is_marked(tmp_path: Path) -> None:
    async with opened(tmp_path, DIAMOND) as (core, _):
        hand = await by_hand(core, DIAMOND)
        top = await hand.run("top")
        await hand.run("left")
        await core.checkpoint(ME, hand.run_id, "both", requires=["nodes.left.output.from == 'left'", "inputs == {}"])
        await refused(
            core.checkpoint(ME, hand.run_id, "never", requires=["nodes.left.output.from == 'x'"]), "precondition_failed"
        )
        await refused(core.checkpoint(ME, hand.run_id, "both"), "conflict")
        for bad in ("7", "start", "node:x", "a@b", "", " a", "x" * 101, "bell\x07"):
            await refused(core.checkpoint(ME, hand.run_id, bad), "invalid_argument")
        page = await core.list_checkpoints(ME, hand.run_id, limit=2)
        assert [(one.kind, one.node, one.label) for one in page.checkpoints] == [
            ("checkpoint.created", None, "both"), ("node.completed", "left", None),
        ]  # fmt: skip
        rest = await core.list_checkpoints(ME, hand.run_id, before=page.next)
        assert [one.node for one in rest.checkpoints] == ["top", None]
        assert (rest.next, rest.checkpoints[0].position) == (None, f"{hand.run_id}@{top}")
        await core.play_from_node(ME, hand.run_id, "left")
        await hand.run("left")
        marked = [one.node for one in (await core.list_checkpoints(ME, hand.run_id)).checkpoints if one.superseded]
        assert marked == ["left"]  # as it was before it was played again
        await hand.let_go()
        await core.rollback(ME, hand.run_id, top)
        left = {
            (one.node, one.label)
            for one in (await core.list_checkpoints(ME, hand.run_id)).checkpoints
            if one.superseded
        }
        assert left == {("left", None), (None, "both")}
        await core.checkpoint(ME, hand.run_id, "both", at=top)  # the other one was left behind
        assert (await core.checkpoint(ME, hand.run_id, "k", idempotency_key="k")).label == "k"
        assert (await core.checkpoint(ME, hand.run_id, "k", idempotency_key="k")).label == "k"
        await refused(core.list_checkpoints(ME, hand.run_id, limit=0), "invalid_argument")
