"""Checkpoints, rollback, branch, play-from-node and compare, each by a preview and by itself."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from omium.orchestration.ids import Principal
from omium.orchestration.service.views import Caller
from tests.interaction.studio import ADA, MODES, Mode, Studio

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", MODES)
async def test_checkpoints_are_named_and_listed(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run_id = await visitor.finished("chain")
            named = await visitor.ok("checkpoint", run_id=run_id, label="before-b", at="node:a", note="so far so good")
            assert named["label"] == "before-b"
            assert named["position"] == f"{run_id}@{named['seq']}"
            taken = await visitor.error("checkpoint", run_id=run_id, label="before-b")
            assert taken["code"] == "conflict"
            again = {"run_id": run_id, "label": "twice", "idempotency_key": "k"}
            assert await visitor.ok("checkpoint", **again) == await visitor.ok("checkpoint", **again)
            found = []
            before: int | None = None
            while True:
                page = await visitor.ok(
                    "list_checkpoints", run_id=run_id, limit=2, **({"before": before} if before else {})
                )
                found += page["checkpoints"]
                before = page.get("before")
                if before is None:
                    break
    named_ones = [one["label"] for one in found if "label" in one]
    assert named_ones == ["twice", "before-b"]
    others = [one["seq"] for one in found if "label" not in one]
    assert others == sorted(set(others), reverse=True)
    assert {one.get("node") for one in found} >= {"a", "b", "c"}


@pytest.mark.parametrize("mode", MODES)
async def test_rolling_back_by_its_preview(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run_id = await visitor.finished("chain")
            before = await visitor.ok("get_run", run_id=run_id)
            planned = await visitor.ok("rollback", run_id=run_id, to="node:a", preview=True)
            assert set(planned["plan"]["reruns"]) == {"b", "c"}
            assert planned["plan"]["in_place"] is True
            assert "run" not in planned
            assert (await visitor.ok("get_run", run_id=run_id))["seq"] == before["seq"]
            token = planned["plan"]["plan_token"]
            done = await visitor.ok("rollback", run_id=run_id, to="node:a", plan_token=token)
            assert done["run"]["status"] == "paused"
            assert set(done["reset"]) == {"b", "c"}
            spent = await visitor.error("rollback", run_id=run_id, to="node:a", plan_token=token)
            assert spent["code"] == "plan_expired"
            assert "preview=true" in spent["next"]
            await visitor.ok("control_run", run_id=run_id, action="resume")
            ended = await visitor.ok("get_run", run_id=run_id, wait_seconds=45, detail=True)
    assert ended["status"] == "completed"
    assert ended["output"]["value"] == "one-b-c"
    assert studio.calls["echo"] == 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("to", ["start", "node:b", "4", 4], ids=repr)
async def test_positions_in_every_form(studio: Studio, mode: Mode, to: Any) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run_id = await visitor.finished("chain")
            done = await visitor.ok("rollback", run_id=run_id, to=to)
    assert done["run"]["status"] == "paused"


@pytest.mark.parametrize("mode", MODES)
async def test_a_rollback_with_a_key_happens_once(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run_id = await visitor.finished("chain")
            arguments = {"run_id": run_id, "to": "node:a", "idempotency_key": "back"}
            await visitor.ok("rollback", **arguments)
            seq = (await visitor.ok("get_run", run_id=run_id))["seq"]
            await visitor.ok("rollback", **arguments)
            assert (await visitor.ok("get_run", run_id=run_id))["seq"] == seq


@pytest.mark.parametrize("mode", MODES)
async def test_a_branch_tries_something_else(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run_id = await visitor.finished("chain")
            other = {"nodes": {"b": {"with": {"value": "other-b"}}}}
            arguments: dict[str, Any] = {"run_id": run_id, "at": "before:b", "overrides": other}
            planned = await visitor.ok("branch", **arguments, preview=True)
            assert planned["plan"]["in_place"] is False
            assert set(planned["plan"]["reruns"]) == {"b", "c"}
            token = planned["plan"]["plan_token"]
            made = await visitor.ok(
                "branch", **arguments, name="other", hypothesis="b is better so", plan_token=token, idempotency_key="k"
            )
            child = made["run"]["run_id"]
            assert child != run_id
            assert made["run"]["branch"] == "other"
            assert made["run"]["parent"].startswith(f"{run_id}@")
            ended = await visitor.ok("get_run", run_id=child, wait_seconds=45, detail=True)
            assert ended["output"]["value"] == "other-b-c"
            assert ended["hypothesis"] == "b is better so"
            [listed] = (await visitor.ok("list_runs", parent=run_id))["runs"]
            assert listed["run_id"] == child
            taken = await visitor.error("branch", run_id=run_id, name="other")
            assert taken["code"] == "conflict"
            compared = await visitor.ok("compare_runs", a=run_id, b=child, detail=True)
    assert compared["outputs_equal"] is False
    assert compared["first_divergence"] == "b"
    assert {one["node"]: one["change"] for one in compared["nodes"]} == {"b": "changed", "c": "changed"}
    assert "other-b" in compared["nodes"][0]["output_diff"]
    assert compared["same_nodes"] == 1
    assert compared["given"] == ['nodes.b.with.value: not given -> "other-b"']
    assert studio.calls["echo"] == 5


@pytest.mark.parametrize("mode", MODES)
async def test_a_branch_needs_a_name_and_one_of_preview_and_token(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run_id = await visitor.finished("chain")
            before = await studio.changes()
            unnamed = await visitor.error("branch", run_id=run_id)
            both = await visitor.error("branch", run_id=run_id, name="b", preview=True, plan_token="plan_x")
            smuggled = await visitor.error(
                "branch", run_id=run_id, name="b", overrides={"nodes": {"b": {"use": "os:system"}}}
            )
            unknown = await visitor.error("branch", run_id=run_id, name="b", at="nowhere")
            other = await visitor.error("branch", run_id=run_id, name="b", overrides={"nodes": {"zz": {"output": 1}}})
            assert await studio.changes() == before
    assert [one["code"] for one in (unnamed, both, smuggled)] == ["invalid_argument"] * 3
    assert unknown["code"] == other["code"] == "not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_playing_again_from_a_node(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run_id = await visitor.finished("chain")
            arguments: dict[str, Any] = {
                "run_id": run_id,
                "node": "b",
                "overrides": {"nodes": {"b": {"output": "given"}}},
            }
            planned = await visitor.ok("play_from_node", **arguments, preview=True)
            assert planned["plan"]["in_place"] is False  # the run has completed
            done = await visitor.ok("play_from_node", **arguments, plan_token=planned["plan"]["plan_token"])
            child = done["run"]["run_id"]
            ended = await visitor.ok("get_run", run_id=child, wait_seconds=45, detail=True)
            missing = await visitor.error("play_from_node", run_id=run_id, node="zz")
    assert ended["output"]["value"] == "given-c"
    assert missing["code"] == "not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_run_is_played_in_place(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run = await visitor.ok("run_workflow", workflow="failing", wait_seconds=45)
            done = await visitor.ok("play_from_node", run_id=run["run_id"], node="bad", reason="once more")
            assert done["run"]["run_id"] == run["run_id"]
            ended = await visitor.ok("get_run", run_id=run["run_id"], wait_seconds=45)
    assert ended["status"] == "failed"


@pytest.mark.parametrize("mode", MODES)
async def test_what_would_repeat_unsafe_effects_wants_a_plan(studio: Studio, mode: Mode) -> None:
    stranger = Caller(Principal("user:bob"))
    async with studio.client(mode) as visitor, studio.client(mode, caller=stranger) as bob:
        with anyio.fail_after(30):
            run_id = await visitor.finished("unsafe")
            assert studio.calls["send"] == 1
            refused = await visitor.error("play_from_node", run_id=run_id, node="send")
            assert refused["code"] == "plan_required"
            assert refused["data"]["plan"]["reruns"] == ["send"]
            assert "data.plan.plan_token" in refused["next"]
            token = refused["data"]["plan"]["plan_token"]
            stolen = await bob.error("play_from_node", run_id=run_id, node="send", plan_token=token)
            assert stolen["code"] == "plan_expired"
            planned = await visitor.ok("play_from_node", run_id=run_id, node="send", preview=True)
            [repeated] = planned["plan"]["repeated_effects"]
            assert repeated.startswith("send: ")
            assert studio.calls["send"] == 1
            done = await visitor.ok("play_from_node", run_id=run_id, node="send", plan_token=token)
            ended = await visitor.ok("get_run", run_id=done["run"]["run_id"], wait_seconds=45)
    assert ended["status"] == "completed"
    assert studio.calls["send"] == 2


@pytest.mark.parametrize("mode", MODES)
async def test_positions_of_runs_are_compared(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            run_id = await visitor.finished("chain")
            [early] = [
                one
                for one in (await visitor.ok("list_checkpoints", run_id=run_id))["checkpoints"]
                if one.get("node") == "a"
            ]
            compared = await visitor.ok("compare_runs", a=early["position"], b=run_id[-10:])
            same = await visitor.ok("compare_runs", a=run_id, b=run_id)
    assert compared["outputs_equal"] is False
    assert same["outputs_equal"] is True
    assert same["nodes"] == []


@pytest.mark.parametrize("mode", MODES)
async def test_a_question_that_is_open_is_told_from_one_that_was_never_asked(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(30):
            open_, _ = await visitor.asking()
            decided, approval = await visitor.asking()
            await studio.core.decide(ADA, approval, "reject", assurance="elicited")
            never = await visitor.finished("chain")
            told = [(await visitor.ok("compare_runs", a=open_, b=other))["decisions"] for other in (decided, never)]
            same = await visitor.ok("compare_runs", a=open_, b=(await visitor.asking())[0])
    assert told == [["ask: a not decided, b reject"], ["ask: a not decided, b not asked"]]
    assert "decisions" not in same


@pytest.mark.parametrize("mode", MODES)
async def test_read_only_tools_change_nothing(studio: Studio, mode: Mode) -> None:
    """Every tool that says so, called over runs in every state, leaves every row as it was."""
    async with studio.client(mode) as visitor:
        with anyio.fail_after(60):
            first = await visitor.finished("chain")
            second = await visitor.finished("chain", {"word": "two"})
            waiting, _ = await visitor.asking()
            failed = (await visitor.ok("run_workflow", workflow="failing", wait_seconds=45))["run_id"]
            calls: list[tuple[str, dict[str, Any]]] = [
                ("list_workflows", {}),
                ("list_workflows", {"name": "greet"}),
                ("simulate_workflow", {"workflow": "gated"}),
                ("list_runs", {}),
                ("list_approvals", {"detail": True}),
                ("list_approvals", {"pending": False}),
                ("compare_runs", {"a": first, "b": second, "detail": True}),
                ("get_run", {"run_id": first, "node": "b"}),
                ("get_run", {"run_id": waiting, "wait_seconds": 0.1}),
            ]
            for run_id in (first, waiting, failed):
                calls += [("get_run", {"run_id": run_id, "detail": True}), ("list_checkpoints", {"run_id": run_id})]
            tools = (await visitor.client.list_tools()).tools
            assert {name for name, _ in calls} == {
                tool.name for tool in tools if tool.annotations is not None and tool.annotations.read_only_hint
            }
            before = await studio.changes()
            for name, arguments in calls:
                await visitor.ok(name, **arguments)
                assert await studio.changes() == before, name


@pytest.mark.parametrize("mode", MODES)
async def test_a_dry_run_shows_what_would_happen(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        shown = await visitor.ok("simulate_workflow", workflow="gated")
        assert await visitor.ok("simulate_workflow", workflow="gated") == shown
    assert [step["node"] for step in shown["order"]] == ["draft", "ask", "publish"]
    assert shown["approvals"] == 1
    assert shown["order"][1]["asks"] == "Publish it?"
    assert studio.calls["echo"] == 0


@pytest.mark.parametrize("mode", MODES)
async def test_workflows_are_found_and_described(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        everything = await visitor.ok("list_workflows")
        [found] = (await visitor.ok("list_workflows", text="greets"))["workflows"]
        [detailed] = (await visitor.ok("list_workflows", name="greet"))["workflows"]
        nothing = await visitor.ok("list_workflows", text="no such thing")
    assert len(everything["workflows"]) > 10
    assert found == {"name": "greet", "description": "Greets somebody.", "nodes": 1, "required": ["name"]}
    assert detailed["inputs"]["value"]["required"] == ["name"]
    assert nothing["workflows"] == []
    assert "omium.yaml" in nothing["next"]
