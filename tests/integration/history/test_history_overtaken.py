"""Operations of history whose run goes on between their plan and their write."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from omium.orchestration.definition import ForEach, Need, NodeDef, WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.history import branching, playing, rollback
from omium.orchestration.ids import NodeId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.courses import is_overtaken
from omium.orchestration.log.state import NodeStatus
from omium.orchestration.ports import NewBlob
from omium.orchestration.values import encode
from omium.storage import maintenance as m
from tests.history_core import ME, Hand, by_hand, opened
from tests.history_help import node

pytestmark = pytest.mark.anyio

WRITERS = WorkflowDef(
    "w", (node("top"), node("a", "top", workspace="write"), node("b", "a"), node("look", workspace="read"))
)
EMPTY, FULL = "0" * 40, "1" * 40


def overtake(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, *then: Callable[[], Awaitable[Any]]
) -> list[Any]:
    """Have these things happen, one after each plan that is made; the plans."""
    planned: list[Any] = []
    real = getattr(module, name)

    async def plan(*args: Any, **more: Any) -> Any:
        planned.append(await real(*args, **more))
        if len(planned) <= len(then):
            await then[len(planned) - 1]()
        return planned[-1]

    monkeypatch.setattr(module, name, plan)
    return planned


async def first_writer(hand: Hand) -> None:
    await hand.do(c.CaptureWorkspace(EMPTY, "start"))
    await hand.start("a", tree=EMPTY)


async def test_files_of_a_writer_that_begins_once_a_rollback_is_planned_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        await hand.run("top")
        core._ground._claim_wait_s = 0.0
        planned = overtake(monkeypatch, rollback, "plan_rollback", lambda: first_writer(hand))
        await core.rollback(ME, hand.run_id, "start")
        assert ((await hand.state()).restoring, len(planned)) == (EMPTY, 2)


@pytest.mark.parametrize("with_token", [False, True])
async def test_files_of_writers_that_begin_once_a_replay_is_planned_are_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_token: bool
) -> None:
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        await hand.run("top")
        token = (await core.preview_play_from(ME, hand.run_id, "top")).plan_token if with_token else None

        async def went_on() -> None:
            await first_writer(hand)
            await hand.end("a", tree=FULL)
            await hand.start("b")

        planned = overtake(monkeypatch, playing, "plan_play", went_on)
        done = await core.play_from_node(ME, hand.run_id, "top", plan_token=token)
        state = await hand.state()
        assert (state.restoring, done.reset, len(planned)) == (EMPTY, ("a", "b", "top"), 2)
        assert {state.nodes[one].status for one in done.reset} == {NodeStatus.PENDING}


async def test_readers_that_begin_meanwhile_are_no_reason_to_plan_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fan = NodeDef("fan", "function", use="f", workspace="read", needs=(Need("top"),), for_each=ForEach("${{ [1, 2] }}"))
    workflow = WorkflowDef("w", (node("top"), fan))
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow)
        await hand.run("top")

        async def went_on() -> None:
            await hand.do(c.CaptureWorkspace(EMPTY, "start"))
            await hand.start("fan")
            await hand.do(c.ExpandNode(NodeId("fan"), 0, 2))
            await hand.start("fan[0]", tree=EMPTY)

        planned = overtake(monkeypatch, playing, "plan_play", went_on)
        await core.play_from_node(ME, hand.run_id, "top")
        state = await hand.state()
        assert (state.restoring, len(planned)) == (None, 1)
        assert state.nodes[NodeId("fan[0]")].status is NodeStatus.PENDING


async def test_what_begins_to_work_with_files_that_are_put_back_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        await hand.run("top")
        await first_writer(hand)
        await hand.end("a", tree=FULL)
        planned = overtake(monkeypatch, playing, "plan_play", lambda: hand.start("look", tree=FULL))
        await core.play_from_node(ME, hand.run_id, "a")
        state = await hand.state()
        assert (state.restoring, len(planned)) == (EMPTY, 1)
        assert (state.nodes[NodeId("look")].status, state.nodes[NodeId("look")].generation) == (NodeStatus.PENDING, 1)


async def test_a_replay_is_planned_again_where_the_run_was_taken_elsewhere_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        await hand.do(c.CaptureWorkspace(EMPTY, "start"))
        await hand.start("look", tree=EMPTY)
        await hand.end("look")
        await hand.run("top")
        await hand.start("a", tree=FULL)
        before = (await hand.state()).nodes[NodeId("look")].seq
        planned = overtake(monkeypatch, playing, "plan_play", lambda: hand.do(c.RollBack(Seq(before), None, EMPTY)))
        await core.play_from_node(ME, hand.run_id, "a")
        state = await hand.state()
        assert (state.restoring, len(planned), planned[0].tree) == (EMPTY, 2, FULL)


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize("operation", ["rollback", "play_from_node", "branch"])
async def test_a_call_that_is_made_once_it_is_planned_is_not_repeated_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, with_token: bool
) -> None:
    """Between the check of the plan and the write: see `plans.redeemed`."""
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        first = await hand.run("top")
        await hand.start("look", tree=EMPTY)
        core._ground._claim_wait_s = 0.0
        preview, act, module, name = {
            "rollback": (
                lambda: core.preview_rollback(ME, hand.run_id, first),
                lambda token: core.rollback(ME, hand.run_id, first, plan_token=token),
                rollback, "plan_rollback",
            ),
            "play_from_node": (
                lambda: core.preview_play_from(ME, hand.run_id, "look"),
                lambda token: core.play_from_node(ME, hand.run_id, "look", plan_token=token),
                playing, "plan_play",
            ),
            "branch": (
                lambda: core.preview_branch(ME, hand.run_id, "before:look"),
                lambda token: core.branch(ME, hand.run_id, "before:look", name="x", plan_token=token),
                branching, "plan_fork",
            ),
        }[operation]  # fmt: skip
        token = (await preview()).plan_token if with_token else None
        overtake(monkeypatch, module, name, lambda: hand.effect("look", "pay"))
        if operation == "branch" and with_token:  # what is read last sees it: let it come after that
            monkeypatch.undo()
            overtake(monkeypatch, branching, "draft_fork", lambda: hand.effect("look", "pay"))
        with pytest.raises(OmiumError) as refused:
            await act(token)
        assert refused.value.code == ("plan_expired" if with_token else "plan_required")
        state = await hand.state()
        assert (state.generation, state.branches, state.nodes[NodeId("look")].in_flight) == (0, {}, True)


async def test_calls_of_nodes_that_keep_their_results_are_no_reason_to_plan_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        await hand.run("top")
        await hand.start("look")
        planned = overtake(monkeypatch, playing, "plan_play", lambda: hand.effect("look", "pay"))
        done = await core.play_from_node(ME, hand.run_id, "top")
        assert (done.reset, len(planned)) == (("top",), 1)
        state = await hand.state()
        assert state.nodes[NodeId("look")].in_flight and state.called == state.nodes[NodeId("look")].called


@pytest.mark.parametrize("operation", ["play_from_node", "branch"])
async def test_calls_that_may_be_repeated_stand_against_a_rollback_alone_which_would_undo_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """Of a run that makes such calls again and again."""
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        first = await hand.run("top")
        seen = await hand.start("look")
        numbers = iter(range(100))

        async def calls() -> None:
            await hand.effect("look", f"call {next(numbers)}", on_unknown="rerun", compensate="f")

        await calls()
        with pytest.raises(OmiumError) as refused:
            await hand.do(c.RollBack(first, seen=seen))
        assert is_overtaken(refused.value) and "pause" in str(refused.value.hint)
        if operation == "play_from_node":
            planned = overtake(monkeypatch, playing, "plan_play", *[calls] * 50)
            assert (await core.play_from_node(ME, hand.run_id, "look")).reset == ("look",)
        else:
            planned = overtake(monkeypatch, branching, "plan_fork", *[calls] * 50)
            await core.branch(ME, hand.run_id, "before:look", name="x")
        assert len(planned) == 1


async def test_calls_of_the_parent_are_none_of_a_branch_that_is_planned(tmp_path: Path) -> None:
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        for _ in range(50):
            await hand.do(c.Signal("s", encode({}).digest, 2), blobs=[NewBlob(encode({}))])
        await hand.start("top")
        await hand.effect("top", "pay")
        await hand.end("top")
        child = (await core.branch(ME, hand.run_id, name="x")).run.id
        plan = await core.preview_play_from(ME, child, "top")
        assert (await core.play_from_node(ME, child, "top", plan_token=plan.plan_token)).reset == ("top",)


async def test_a_run_that_is_taken_up_again_once_a_child_of_it_is_planned_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, WRITERS) as (core, _):
        hand = await by_hand(core, WRITERS)
        first = await hand.run("top")
        await hand.complete()

        async def goes_on() -> None:
            await hand.do(c.RollBack(first), c.ResumeRun())
            await hand.start("look")
            await hand.effect("look", "pay")

        planned = overtake(monkeypatch, playing, "plan_play", goes_on)
        done = await core.play_from_node(ME, hand.run_id, "top")
        assert (done.run.id, done.reset, len(planned)) == (hand.run_id, ("top",), 2)
        assert (await hand.state()).branches == {}


async def test_a_branch_of_what_is_erased_once_it_is_planned_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = NodeDef("b", "function", use="f", input={"x": "${{ nodes.a.output }}"}, needs=(Need("a"),))
    workflow = WorkflowDef("w", (node("a"), given))
    async with opened(tmp_path, workflow) as (core, _):
        hand = await by_hand(core, workflow)
        first = await hand.run("a")
        await hand.run("b")
        await hand.complete()
        await hand.let_go()
        overtake(monkeypatch, branching, "plan_fork", lambda: m.erase(m.keeper(core.store), hand.run_id, "asked for"))
        with pytest.raises(OmiumError) as refused:
            await core.branch(ME, hand.run_id, first, name="x")
        assert (refused.value.code, (await hand.state()).branches) == ("integrity", {})
