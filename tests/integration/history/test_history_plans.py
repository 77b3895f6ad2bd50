"""The one rule of what wants a plan, and what plans are good for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.definition import ApprovalSpec, Need, NodeDef, WorkflowDef
from omium.orchestration.definition.model import WaitSpec
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.playing import key_of
from omium.orchestration.ids import NodeId, PlanToken, Principal
from omium.orchestration.ports import Attempt
from omium.orchestration.service.views import Caller, PlanView
from tests.history_core import ME, Hand, HistoryCore, by_hand, opened
from tests.history_help import node

pytestmark = pytest.mark.anyio

CHAIN = WorkflowDef("w", (node("a"), node("b", "a"), node("c", "b")))


async def refused(call: Any, code: str) -> OmiumError:
    with pytest.raises(OmiumError) as caught:
        await call
    assert caught.value.code == code, caught.value
    return caught.value


async def with_a_call(hand: Hand, **call: Any) -> int:
    """A run that is through, of which `b` made a call; the position before that."""
    first = await hand.run("a")
    await hand.start("b")
    await hand.effect("b", "mail", **call)
    await hand.end("b")
    await hand.run("c")
    await hand.complete()
    await hand.let_go()
    return first


def ways(core: HistoryCore, hand: Hand, first: int) -> dict[str, Any]:
    """Every operation that would have `b` called again, without a plan."""
    return {
        "play_from_node": lambda: core.play_from_node(ME, hand.run_id, "b"),
        "branch before": lambda: core.branch(ME, hand.run_id, "before:b", name="before"),
        "branch at": lambda: core.branch(ME, hand.run_id, first, name="at"),
        "rollback": lambda: core.rollback(ME, hand.run_id, first),
    }


@pytest.mark.parametrize(
    ("kind", "on_unknown", "outcome", "free"),
    [
        ("effect", "rerun", "done", False),  # what a function does with ctx.effect: nobody declared it repeatable
        ("tool", "ask", "done", False),
        ("command", "fail", "done", False),
        ("tool", "resume", "done", False),
        ("tool", "ask", "unknown", False),  # it may have happened
        ("command", "rerun", "done", True),  # declared
        ("tool", "rerun", "unknown", True),
        ("effect", "rerun", "failed", True),  # it has not happened
        ("tool", "ask", "not_sent", True),
    ],
)
async def test_every_call_that_has_happened_wants_a_plan_unless_it_is_declared_repeatable(
    tmp_path: Path, kind: str, on_unknown: str, outcome: str, free: bool
) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await with_a_call(hand, effect_kind=kind, on_unknown=on_unknown, outcome=outcome)
        for operation, attempt in ways(core, hand, first).items():
            if free:
                done = await attempt()
                assert done.operation in operation
                continue
            error = await refused(attempt(), "plan_required")
            plan = error.data["plan"]
            assert [(one["node"], one["call"]) for one in plan["repeated_effects"]] == [("b", "mail")], operation
            assert plan["plan_token"].startswith("plan_")
            assert plan["expires_at"].endswith("Z")


@pytest.mark.parametrize(
    ("detail", "what"),
    [
        ({"tool": "Bash", "rule": "shell"}, "Bash"),
        ({"tool": "create_issue", "server": "github"}, "github/create_issue"),
        ({"command": "deploy", "token": "proc_1"}, "deploy"),
        (None, "mail"),
    ],
)
async def test_a_call_is_named_as_a_person_knows_it(tmp_path: Path, detail: dict[str, Any] | None, what: str) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await with_a_call(hand, detail=detail)
        plan = await core.preview_rollback(ME, hand.run_id, first)
        assert [(one.call, one.what) for one in plan.repeated_effects] == [("mail", what)]
        error = await refused(core.rollback(ME, hand.run_id, first), "plan_required")
        assert f"b: {what}" in error.message


async def test_a_rollback_that_would_call_compensations_wants_a_plan(tmp_path: Path) -> None:
    undone: list[Any] = []

    async def undo(inputs: Mapping[str, Any], attempt: Attempt) -> Any:
        undone.append(inputs["call"])

    workflow = WorkflowDef("w", (node("a"), node("b", "a", compensate="undo"), node("c", "b", compensate="undo")))
    async with opened(tmp_path, workflow, functions={"undo": undo}) as (core, _):
        hand = await by_hand(core, workflow)
        first = await hand.run("a")
        await hand.run("b")  # a node without calls is undone as a whole
        await hand.start("c")
        await hand.effect("c", "mail", on_unknown="rerun", compensate="undo")
        await hand.effect("c", "look", on_unknown="rerun", outcome="unknown", compensate="undo")
        await hand.end("c")
        await hand.let_go()
        error = await refused(core.rollback(ME, hand.run_id, first), "plan_required")
        assert "undo 2 call(s)" in error.message
        assert undone == []
        plan = await core.preview_rollback(ME, hand.run_id, first)
        assert [(one.node, one.call) for one in plan.undone_effects] == [("b", ""), ("c", "mail")]
        assert [(one.node, one.call) for one in plan.not_undone_effects] == [("c", "look")]
        assert plan.notes == ("1 effect(s) stay as they are: nothing is declared that undoes them, or it is unknown"
                              " whether they or their undoing happened.",)  # fmt: skip
        done = await core.rollback(ME, hand.run_id, first, plan_token=plan.plan_token)
        assert undone == ["mail", ""]
        assert [one.call for one in done.not_undone] == ["look"]
        ahead = await core.preview_rollback(ME, hand.run_id, first)  # what is undone is not undone again
        await core.rollback(ME, hand.run_id, first)
        assert ahead.repeated_effects[0].call == "look"
        assert undone == ["mail", ""]


def cause(error: OmiumError) -> str:
    return error.message.partition("cannot be carried out: ")[2]


async def test_a_refused_try_leaves_the_plan_as_good_as_it_was_and_the_cause_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await with_a_call(hand)
        plan: PlanView = await core.preview_branch(ME, hand.run_id, first)
        token, bob = plan.plan_token, Caller(Principal("user:bob"))

        async def branch(caller: Caller = ME, at: Any = first, name: str = "x", given: PlanToken = token) -> Any:
            return await core.branch(caller, hand.run_id, at, name=name, plan_token=given)

        assert "other arguments" in cause(await refused(branch(at="start"), "plan_expired"))
        stolen = cause(await refused(branch(bob), "plan_expired"))
        unknown = cause(await refused(branch(given=PlanToken(token[:-4] + "0000")), "plan_expired"))
        assert stolen == unknown == "there is none of this token for you."
        await refused(branch(given=PlanToken("no token")), "plan_expired")
        free = await core.preview_branch(ME, hand.run_id)
        await core.branch(ME, hand.run_id, name="taken", plan_token=free.plan_token)
        await refused(branch(name="taken"), "conflict")  # refused behind the check of the plan
        assert (await branch()).operation == "branch"
        assert "already" in cause(await refused(branch(name="y"), "plan_expired"))
        late = await core.preview_branch(ME, hand.run_id, first)
        core.clock = _Later(core.clock)
        assert cause(await refused(branch(given=late.plan_token), "plan_expired")) == "it has expired."


@pytest.mark.parametrize("compensate", [None, "f"])
async def test_a_plan_is_void_once_a_call_was_made_that_it_did_not_show(tmp_path: Path, compensate: str | None) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        first = await hand.run("a")
        await hand.start("b")

        async def plans() -> dict[str, Any]:
            place = hand.run_id, first
            back, other = await core.preview_rollback(ME, *place), await core.preview_branch(ME, *place)
            again = await core.preview_play_from(ME, hand.run_id, "b")
            return {
                "rollback": lambda: core.rollback(ME, *place, plan_token=back.plan_token),
                "branch": lambda: core.branch(ME, *place, name="x", plan_token=other.plan_token),
                "play_from_node": lambda: core.play_from_node(ME, hand.run_id, "b", plan_token=again.plan_token),
            }

        early = await plans()
        await hand.effect("b", "look", on_unknown="rerun")  # which may be repeated unseen
        later = await plans()
        await hand.effect("b", "pay", compensate=compensate)
        for old in (early, later):
            for call in old.values():
                assert "1 call(s) that it did not show" in cause(await refused(call(), "plan_expired"))
        seen = await plans()
        await hand.end("b")
        await hand.run("c")  # progress that makes no call leaves them good
        await hand.let_go()
        assert (await seen["branch"]()).operation == "branch"
        assert (await seen["play_from_node" if compensate is None else "rollback"]()).run.generation == 1


async def test_a_plan_that_takes_results_over_is_good_for_that(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, functions):
        hand = await by_hand(core, CHAIN)
        await hand.run("a")
        key = await key_of(await core._ground.recorded(await hand.state()), NodeId("b"), None)
        await hand.start("b", key=key)
        await hand.effect("b", "pay")
        await hand.end("b")
        plan = await core.preview_play_from(ME, hand.run_id, "b", reuse="unchanged")
        assert (plan.reused, plan.repeated_effects) == (("b",), [])
        functions.versions["f"] = "2"  # so that it would be called after all
        again = core.play_from_node(ME, hand.run_id, "b", reuse="unchanged", plan_token=plan.plan_token)
        await refused(again, "plan_expired")
        functions.versions["f"] = "1"
        again = core.play_from_node(ME, hand.run_id, "b", reuse="unchanged", plan_token=plan.plan_token)
        assert (await again).reset == ("b",)


async def test_results_that_are_yet_to_be_taken_over_are_not_made_again_unseen(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)
        await hand.run("a")
        key = await key_of(await core._ground.recorded(await hand.state()), NodeId("b"), None)
        await hand.start("b", key=key)
        await hand.effect("b", "pay")
        await hand.end("b")
        plan = await core.preview_play_from(ME, hand.run_id, "b", reuse="unchanged")
        await core.play_from_node(ME, hand.run_id, "b", reuse="unchanged", plan_token=plan.plan_token)
        for again in (  # while nobody has taken it up
            core.play_from_node(ME, hand.run_id, "b"),
            core.branch(ME, hand.run_id, "before:b", name="before"),
            core.branch(ME, hand.run_id, name="now"),
        ):
            seen = (await refused(again, "plan_required")).data["plan"]
            assert [(one["node"], one["call"]) for one in seen["repeated_effects"]] == [("b", "pay")]
            assert seen["reruns"] == ("b",)
        agreed = await core.preview_play_from(ME, hand.run_id, "b")
        await core.play_from_node(ME, hand.run_id, "b", plan_token=agreed.plan_token)
        await core.play_from_node(ME, hand.run_id, "b")  # that it is called again was agreed to


class _Later:
    """The clock of a service, ten minutes on."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def now_us(self) -> int:
        return int(self._clock.now_us()) + 600_000_001

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)


async def test_runs_that_differ_only_in_ids_and_times_of_gates_are_the_same(tmp_path: Path) -> None:
    gated = WorkflowDef(
        "gated",
        (
            NodeDef("w", "wait", wait=WaitSpec(seconds=0.01)),
            NodeDef("ok", "approval", approval=ApprovalSpec("Go?"), needs=(Need("w"),)),
        ),
    )
    async with opened(tmp_path, gated, executing=True) as (core, _):
        runs = []
        with anyio.fail_after(20):
            for decision in ("approve", "approve", "reject"):
                run = await core.run_workflow(ME, "gated")
                asked = (await core.wait(ME, run.id, 15, detail=True)).approvals[0]
                feedback = f"said of {decision}"
                await core.decide(ME, asked.id, decision, feedback=feedback, assurance="out_of_band")
                runs.append((await core.wait(ME, run.id, 15)).id)
            same = await core.compare(ME, runs[0], runs[1])
            other = await core.compare(ME, runs[0], runs[2])
        assert (same.first_divergence, same.outputs_equal, same.decisions) == (None, True, [])
        assert {one.change for one in same.nodes} == {"same"}
        assert (other.first_divergence, other.outputs_equal) == ("ok", False)
        assert [one["node"] for one in other.decisions] == ["ok"]
        fresh = await core.run_workflow(ME, "gated", start=False)
        assert (await core.compare(ME, fresh.id, fresh.id)).outputs_equal is None


async def test_progress_is_one_everywhere_and_counts_what_was_done(tmp_path: Path) -> None:
    async with opened(tmp_path, CHAIN) as (core, _):
        hand = await by_hand(core, CHAIN)

        async def progress() -> float:
            (listed,) = (await core.list_runs(ME)).runs
            shown = await core.get_run(ME, hand.run_id)
            assert listed.progress == shown.progress
            return round(shown.progress, 3)

        assert await progress() == 0.0
        await hand.run("a")
        assert await progress() == 0.333
        await core.cancel(ME, hand.run_id)
        assert await progress() == 0.333  # what was cut off, or never began, was not done
        with pytest.raises(OmiumError) as unknown:
            await core.node_output(ME, hand.run_id, "aa")
        assert (unknown.value.data["what"], "Did you mean a" in unknown.value.hint) == ("node", True)
        with pytest.raises(OmiumError) as early:
            await core.node_output(ME, hand.run_id, "b")
        assert early.value.data["what"] == "output"
