"""Rollback over a real database: positions, refusals, effects and what undoes them, files, repeats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.definition import WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, Principal, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Attempt, NewBlob, Write
from omium.orchestration.service.views import Caller
from omium.orchestration.values import encode
from tests.history_core import ME, Hand, by_hand, opened
from tests.history_help import node

pytestmark = pytest.mark.anyio

CHAIN = WorkflowDef("chain", tuple(node(f"n{i}", *([f"n{i - 1}"] if i > 1 else [])) for i in range(1, 6)))
READS = WorkflowDef(
    "reads", (node("a"), node("b", "a", input={"x": "${{ nodes.a.output.from }}"}), node("c", "b"), node("d", "c"))
)


async def break_value(core: Any, value: Any) -> None:
    """Flip a byte of a stored value, as a bad disk would."""
    digest = encode(value).digest
    await core.store.job(
        lambda db: (
            db.execute("UPDATE blobs SET data = CAST(x'01ff' || substr(data, 3) AS BLOB) WHERE digest = ?", (digest,))
            and None
        )
    )


async def refused(call: Any, code: str) -> OmiumError:
    with pytest.raises(OmiumError) as caught:
        await call
    assert caught.value.code == code, caught.value
    return caught.value


async def test_going_back_leaves_what_stood_and_lands_paused(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        second = await hand.run("n1", "n2")
        await hand.run("n3", "n4", "n5")
        await hand.complete()
        await hand.let_go()
        done = await core.rollback(ME, hand.run_id, second)
        assert (done.run.status, done.run.output_digest) == ("paused", None)
        assert done.reset == ("n3", "n4", "n5")
        state = await hand.state()
        assert {one: node.status.value for one, node in state.nodes.items()} == {
            "n1": "completed", "n2": "completed", "n3": "pending", "n4": "pending", "n5": "pending",
        }  # fmt: skip
        last = Seq(second + 7)  # the run's completion: five nodes, and then itself
        forward = await core.rollback(ME, hand.run_id, f"{hand.run_id}@{last}")
        assert forward.run.status == "paused"
        assert (await hand.state()).completed_nodes == 5


@pytest.mark.parametrize("text", ["start", "node:n1", "named", "position", "number"])
async def test_positions_are_found_in_every_form(tmp_path: Path, text: str) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await hand.run("n1")
        await core.checkpoint(ME, hand.run_id, "named", at="node:n1", note="before the rest")
        await hand.run("n2", "n3")
        await hand.let_go()
        forms = {"position": f"{hand.run_id}@{first}", "number": str(first)}
        done = await core.rollback(ME, hand.run_id, forms.get(text, text))
        kept = [] if text == "start" else ["n1"]
        assert [one for one, node in (await hand.state()).nodes.items() if node.status == "completed"] == kept
        event = (await core.store.events(hand.run_id, Seq(done.run.seq - 1)))[0]
        assert event.data.get("label") == ("named" if text == "named" else None)


async def test_each_illegal_target_has_its_own_code_and_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand, other = await by_hand(core, CHAIN), await by_hand(core, CHAIN)
        await hand.run("n1")
        await refused(
            core.checkpoint(ME, hand.run_id, "bad", expects=["nodes.n1.output.from == 'n2'"]), "precondition_failed"
        )
        before = await hand.state()
        for target, code in (
            ("no such form: @", "invalid_argument"),
            ("before:n1", "invalid_argument"),
            (9_999, "not_found"),
            (0, "not_found"),
            ("no-such-label", "not_found"),
            ("node:n2", "not_found"),
            (f"{other.run_id}@2", "not_allowed"),
            ("bad", "precondition_failed"),
        ):
            await refused(core.rollback(ME, hand.run_id, target), code)
        assert await hand.state() == before
        stranger = Caller(Principal("user:eve"), project="another")  # type: ignore[arg-type]
        await refused(core.rollback(stranger, hand.run_id, 1), "not_found")
        await refused(core.rollback(ME, RunId("run_" + "0" * 26), 1), "not_found")


async def test_a_damaged_value_is_never_gone_back_to_and_the_nearest_whole_position_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path, READS) as (core, _):
        hand = await by_hand(core, READS)
        start = (await hand.state()).seq
        at_a = await hand.run("a")
        await hand.run("b")
        await break_value(core, {"from": "a"})
        before = await hand.state()
        error = await refused(core.rollback(ME, hand.run_id, "node:a"), "integrity")
        assert error.data["nearest"] == 1 < start
        assert error.data["position"] == at_a
        assert (await hand.state()).seq == before.seq
        await refused(core.checkpoint(ME, hand.run_id, "broken", at=at_a), "integrity")
        await hand.let_go()
        whole = await core.rollback(ME, hand.run_id, error.data["nearest"])
        assert whole.run.status == "paused"


async def test_a_value_that_nobody_will_read_again_is_in_nobodys_way(tmp_path: Path) -> None:
    async with opened(tmp_path, READS) as (core, _):
        hand = await by_hand(core, READS)
        await hand.run("a", "b", "c")
        await break_value(core, {"from": "a"})
        await hand.let_go()
        assert (await core.rollback(ME, hand.run_id, "node:b")).reset == ("c",)


async def test_effects_behind_the_position_are_undone_newest_first_and_failures_are_told(tmp_path: Path) -> None:
    undone: list[Any] = []

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        undone.append((inputs["node"], inputs["call"], inputs["result"], inputs["input"]))
        if inputs["call"] == "second":
            raise ValueError("it does not want to be undone")
        return "gone"

    workflow = WorkflowDef(
        "shop",
        (
            node("look"),
            node("order", "look", input={"what": "${{ nodes.look.output.from }}"}, compensate="undo"),
            node("tell", "order"),
            node("book", "tell", compensate="undo"),
        ),
    )
    async with opened(tmp_path, workflow, functions={"undo": undo}) as (core, _):
        hand = await by_hand(core, workflow)
        here = await hand.run("look")
        await hand.start("order")
        await hand.effect("order", "first", compensate="undo")
        await hand.effect("order", "second", compensate="undo")
        await hand.effect("order", "never", compensate="undo", outcome="not_sent")
        await hand.end("order", 1)
        await hand.start("tell")
        await hand.effect("tell", "mail")
        await hand.end("tell", 2)
        await hand.run("book")
        await hand.let_go()

        error = await refused(core.rollback(ME, hand.run_id, here), "plan_required")
        plan = error.data["plan"]
        assert [one["call"] for one in plan["repeated_effects"]] == ["mail"]
        assert undone == []
        done = await core.rollback(ME, hand.run_id, here, plan_token=plan["plan_token"])
        assert undone == [
            ("book", "", {"from": "book"}, {}),
            ("order", "second", {"called": "second"}, {"what": "look"}),
            ("order", "first", {"called": "first"}, {"what": "look"}),
        ]
        assert [(one.node, one.call) for one in done.undone] == [("order", "first"), ("book", "")]
        assert [(one.call, one.compensated) for one in done.not_undone] == [("second", "failed"), ("mail", None)]
        assert done.not_undone[0].error is not None and done.not_undone[0].error["category"] == "value_error"
        undone.clear()
        again = await core.preview_rollback(ME, hand.run_id, here)
        assert [(one.call, one.compensated) for one in again.undone_effects] == [
            ("first", "done"), ("second", "failed"), ("", "done"),
        ]  # fmt: skip
        assert [one.call for one in again.not_undone_effects] == ["mail"]
        await core.rollback(ME, hand.run_id, here, plan_token=again.plan_token)
        assert [one[1] for one in undone] == ["second"]  # what is undone stays so, what failed is tried once more


async def test_going_forward_names_what_was_undone_of_the_results_that_stand_again(tmp_path: Path) -> None:
    workflow = WorkflowDef("w", (node("a"), node("b", "a"), node("c", "b", compensate="f"), node("d", "c")))
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "pay", compensate="f")
        await hand.effect("b", "mail")
        second = await hand.end("b")
        last = await hand.run("c", "d")
        await hand.let_go()

        async def go(to: Seq) -> tuple[str, ...]:
            plan = await core.preview_rollback(ME, hand.run_id, to)
            done = await core.rollback(ME, hand.run_id, to, plan_token=plan.plan_token)
            assert [one for one in plan.notes if "stand again" in one] == list(done.notes)
            return tuple(done.notes)

        told = "effect(s) were undone although their results stand again:"
        assert await go(first) == ()
        assert await go(second) == (f"1 {told} b (pay).",)
        assert await go(last) == (f"1 {told} c.",)
        assert await go(first) == ()
        assert await go(last) == (f"2 {told} b (pay), c.",)


async def test_a_repeated_request_is_answered_again_and_done_once(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await hand.run("n1")
        await hand.run("n2", "n3")
        await hand.let_go()
        one = await core.rollback(ME, hand.run_id, first, reason="x", idempotency_key="k")
        two = await core.rollback(ME, hand.run_id, first, reason="x", idempotency_key="k")
        assert one == two
        assert one.run.generation == 1
        await refused(core.rollback(ME, hand.run_id, first, reason="y", idempotency_key="k"), "conflict")


async def test_a_request_that_was_cut_off_is_finished_by_its_repeat(tmp_path: Path) -> None:
    undone: list[str] = []

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        undone.append(inputs["call"])

    workflow = WorkflowDef("w", (node("a"), node("b", "a", compensate="undo")))
    async with opened(tmp_path, workflow, functions={"undo": undo}) as (core, _):
        hand = await by_hand(core, workflow)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "call", compensate="undo")
        await hand.let_go()
        key = core.idempotency(
            ME,
            "rollback",
            "k",
            [hand.run_id, str(first), None],
            {"run": hand.run_id, "to": str(first), "generation": 0},
        )
        await core.store.write(Write(hand.run_id, [c.RollBack(first, undo=True)], ME.principal, idempotency=key))
        done = await core.rollback(ME, hand.run_id, first, idempotency_key="k")
        assert undone == ["call"]
        assert [one.call for one in done.undone] == ["call"]


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("after", ["resume", "repeat"])
async def test_a_rollback_of_a_run_at_rest_that_dies_while_undoing_is_finished_before_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool, after: str
) -> None:
    undone: list[str] = []

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        undone.append(inputs["call"])
        if inputs["call"] == "never":
            raise ValueError("it does not want to be undone")

    workflow = WorkflowDef("w", (node("a"), node("b", "a", compensate="undo")))
    async with opened(tmp_path, workflow, functions={"undo": undo}) as (core, _):
        hand = await by_hand(core, workflow)
        first = await hand.run("a")
        await hand.start("b")
        for call in ("first", "never", "last"):
            await hand.effect("b", call, compensate="undo")
        await hand.end("b")
        await (hand.complete() if ended else core.pause(ME, hand.run_id))
        await hand.let_go()
        write, left = core.store.write, 3  # it is on record; what undoes "last" is begun, and ends

        async def dies(one: Write) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return await write(one)

        plan = await core.preview_rollback(ME, hand.run_id, first)
        monkeypatch.setattr(core.store, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        monkeypatch.undo()
        (told,) = await core.rollbacks(ME, hand.run_id)
        assert (undone, (await hand.state()).status, told.outcome) == (["last"], "paused", "unfinished")
        assert await core.store.next_wake([ME.project]) is not None
        if after == "resume":
            await core.resume(ME, hand.run_id)
        else:
            plan = await core.preview_rollback(ME, hand.run_id, first)
            await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
            assert undone == ["last", "never", "first"]
    async with opened(tmp_path, workflow, functions={"undo": undo}, executing=True) as (core, functions):
        if after == "resume":
            with anyio.fail_after(20):
                assert (await core.wait(ME, hand.run_id, 20)).status == "completed"
        assert undone == ["last", "never", "first"]
        assert functions.calls == (["b", "b", "b"] if after == "resume" else [])  # two compensations first, for b
        told = (await core.rollbacks(ME, hand.run_id))[0 if after == "resume" else -1]
        assert told.outcome == "failed" and told.compensated["failed"] == 1


async def test_a_late_repeat_undoes_nothing_of_what_the_run_has_done_since(tmp_path: Path) -> None:
    undone: list[str] = []

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        undone.append(inputs["call"])

    workflow = WorkflowDef("w", (node("a"), node("b", "a", compensate="undo")))
    async with opened(tmp_path, workflow, functions={"undo": undo}) as (core, _):
        hand = await by_hand(core, workflow)
        first = await hand.run("a")
        await hand.start("b")
        await hand.effect("b", "old", compensate="undo")
        key = core.idempotency(
            ME, "rollback", "k", [hand.run_id, str(first), None], {"run": hand.run_id, "to": "", "generation": 0}
        )
        await core.store.write(Write(hand.run_id, [c.RollBack(first)], ME.principal, idempotency=key))
        await core.resume(ME, hand.run_id)
        await hand.start("b")
        await hand.effect("b", "new", compensate="undo")
        await hand.let_go()
        done = await core.rollback(ME, hand.run_id, first, idempotency_key="k")
        assert (undone, done.run.status) == ([], "executing")
        assert [(one.call, one.compensated) for one in done.not_undone] == [("old", None)]


async def test_a_run_that_is_held_by_another_worker_is_rolled_back_and_the_answer_says_what_waits(
    tmp_path: Path,
) -> None:
    workflow = WorkflowDef("w", (node("a"), node("b", "a", compensate="f")))
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow)
        first = await hand.run("a")
        await hand.run("b")
        core._ground._claim_wait_s = 0.0
        plan = await core.preview_rollback(ME, hand.run_id, first)
        done = await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        assert done.run.status == "paused"
        assert len(done.notes) == 1
        assert [(one.node, one.compensated) for one in done.not_undone] == [("b", None)]


async def test_a_resume_meanwhile_is_not_lost(tmp_path: Path) -> None:
    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        await core.resume(ME, hand.run_id)

    workflow = WorkflowDef("w", (node("a"), node("b", "a", compensate="undo")))
    async with opened(tmp_path, workflow, functions={"undo": undo}) as (core, _):
        hand: Hand = await by_hand(core, workflow)
        first = await hand.run("a")
        await hand.run("b")
        await hand.let_go()
        plan = await core.preview_rollback(ME, hand.run_id, first)
        done = await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        assert done.run.status == "executing"
        due = await core.store.next_wake([ME.project])
        assert due is not None and due <= core.clock.now_us()


async def test_files_go_back_with_the_state_and_forward_again(tmp_path: Path) -> None:
    workflow = WorkflowDef(
        "files", tuple(node(f"w{i}", *([f"w{i - 1}"] if i else []), workspace="write") for i in range(3))
    )
    async with opened(tmp_path, workflow, workspaces=True) as (core, _):
        assert core.engine is not None and core.engine.workspaces is not None
        files = core.engine.workspaces
        hand = await by_hand(core, workflow)
        directory = await files.open(await hand.state())
        spaces = files._need()
        start = await spaces.capture(hand.run_id, "start")
        await hand.do(c.CaptureWorkspace(start, "start"))
        trees, ends = [start], []
        for place in range(3):
            await hand.start(f"w{place}", tree=trees[-1])
            (directory / f"file{place}").write_text(f"by w{place}\n")
            (directory / "shared").write_text(f"w{place}\n")
            trees.append(await spaces.capture(hand.run_id, f"w{place}"))
            ends.append(await hand.end(f"w{place}", place, tree=trees[-1]))
        await hand.let_go()

        plan = await core.preview_rollback(ME, hand.run_id, ends[0])
        assert [(one["path"], one["status"]) for one in plan.files] == [
            ("file1", "removed"), ("file2", "removed"), ("shared", "modified"),
        ]  # fmt: skip
        (directory / "stray").write_text("nobody captured this\n")
        done = await core.rollback(ME, hand.run_id, ends[0])
        assert (done.files_changed, done.files_removed, done.files_added) == (1, 3, 0)
        assert sorted(one.name for one in directory.iterdir()) == ["file0", "shared"]
        state = await hand.state()
        assert (state.tree, state.restoring) == (trees[1], None)
        beginning = await core.rollback(ME, hand.run_id, "start")
        assert list(directory.iterdir()) == []
        assert beginning.files_removed == 2
        forward = await core.rollback(ME, hand.run_id, ends[2])
        assert forward.files_added == 4
        assert (directory / "shared").read_text() == "w2\n"
        assert sorted(one.name for one in directory.iterdir()) == ["file0", "file1", "file2", "shared"]
        assert (await hand.state()).tree == trees[3]


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_what_has_ended_can_be_gone_back_in(tmp_path: Path, end: str) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await hand.run("n1")
        await hand.start("n2")
        if end == "failed":
            await hand.do(c.FailRun({"category": "unknown", "message": "x"}))
        elif end == "cancelled":
            await core.cancel(ME, hand.run_id)
        else:
            await hand.end("n2")
            await hand.run("n3", "n4", "n5")
            await hand.complete()
        await hand.let_go()
        done = await core.rollback(ME, hand.run_id, first)
        assert (done.run.status, done.run.error, done.run.ended_at) == ("paused", None, None)
        assert (await core.resume(ME, hand.run_id)).status == "executing"


async def test_runs_that_reset_nodes_had_started_are_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await hand.run("n1")
        await hand.start("n2")
        stored = encode({})
        child = RunId("run_" + "1" * 26)
        create = c.CreateRun(
            (await hand.state()).definition, "chain", stored.digest, ME.project,
            caller={"run": hand.run_id, "node": "n2", "generation": 0},
        )  # fmt: skip
        await core.store.write(Write(child, [create, c.PlanRun(), c.StartRun()], ME.principal, blobs=[NewBlob(stored)]))
        await hand.do(c.WaitNode(NodeId("n2"), 0, child=child))
        await hand.let_go()
        with anyio.fail_after(5):
            await core.rollback(ME, hand.run_id, first)
        row = await core.store.run(child)
        assert row is not None and row.status == "cancelled"


async def test_a_plan_is_good_once_for_one_caller_and_for_what_was_looked_at(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await hand.run("n1")
        await hand.run("n2")
        bob = Caller(Principal("user:bob"))
        plan = await core.preview_rollback(ME, hand.run_id, first)
        await refused(core.rollback(bob, hand.run_id, first, plan_token=plan.plan_token), "plan_expired")
        other = await core.preview_rollback(ME, hand.run_id, "start")
        await refused(core.rollback(ME, hand.run_id, first, plan_token=other.plan_token), "plan_expired")
        await hand.run("n3")  # progress elsewhere leaves it good
        await hand.let_go()
        done = await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        assert done.reset == ("n2", "n3")
        await refused(core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token), "plan_expired")
        old = await core.preview_rollback(ME, hand.run_id, "start")
        await core.rollback(ME, hand.run_id, first)
        await refused(core.rollback(ME, hand.run_id, "start", plan_token=old.plan_token), "plan_expired")


async def test_rollbacks_are_recounted_with_how_they_ended(tmp_path: Path) -> None:
    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        if inputs["call"] == "second":
            raise ConnectionError("it does not answer")

    async with opened(tmp_path, CHAIN, functions={"undo": undo}) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await hand.run("n1")
        for node_id, call in (("n2", "first"), ("n3", "second")):
            await hand.start(node_id)
            await hand.effect(node_id, call, compensate="undo")
            await hand.end(node_id)
        await hand.let_go()
        end = (await hand.state()).seq
        assert await core.rollbacks(ME, hand.run_id) == []
        for to, reason in ((first, "both were wrong"), ("start", None)):
            plan = await core.preview_rollback(ME, hand.run_id, to)
            await core.rollback(ME, hand.run_id, to, reason=reason, plan_token=plan.plan_token)
        before, after = await core.rollbacks(ME, hand.run_id)
        assert (before.from_seq, before.to, before.reason) == (end, first, "both were wrong")
        assert (before.outcome, before.compensated) == ("failed", {"done": 1, "failed": 1})
        assert (before.by, before.trigger, before.files) == (ME.principal, "manual", None)
        assert before.ms >= 0 and after.seq > before.seq


async def test_a_position_whose_files_are_gone_is_not_gone_back_to(tmp_path: Path) -> None:
    workflow = WorkflowDef("files", (node("w", workspace="write"), node("x", "w")))
    async with opened(tmp_path, workflow, workspaces=True) as (core, _):
        assert core.engine is not None and core.engine.workspaces is not None
        files = core.engine.workspaces
        hand = await by_hand(core, workflow)
        await files.open(await hand.state())
        spaces = files._need()
        tree = await spaces.capture(hand.run_id, "start")
        await hand.do(c.CaptureWorkspace(tree, "start"))
        await hand.start("w", tree=tree)
        at = await hand.end("w", 1, tree=tree)
        await hand.run("x")
        await hand.let_go()
        await spaces.drop([hand.run_id])  # a database that was brought here without the files of its runs
        before = (await hand.state()).seq
        for call in (core.preview_rollback(ME, hand.run_id, at), core.rollback(ME, hand.run_id, at)):
            assert "not here" in (await refused(call, "workspace")).message
        assert (await hand.state()).seq == before
