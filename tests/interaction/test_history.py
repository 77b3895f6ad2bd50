"""Checkpoints, rollback, branch, play-from-node and compare, each by a preview and by itself."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from omium.orchestration.ids import Principal
from omium.orchestration.service.views import Caller
from tests.interaction.studio import MODES, Mode, Studio

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("mode", MODES)
async def test_checkpoints_are_named_and_listed(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("chain")
            named = await tester.ok("checkpoint", run_id=run_id, label="before-b", at="node:a", note="so far so good")
            assert named["label"] == "before-b"
            assert named["position"] == f"{run_id}@{named['seq']}"
            taken = await tester.error("checkpoint", run_id=run_id, label="before-b")
            assert taken["code"] == "conflict"
            again = {"run_id": run_id, "label": "twice", "idempotency_key": "k"}
            assert await tester.ok("checkpoint", **again) == await tester.ok("checkpoint", **again)
            found = []
            before: int | None = None
            while True:
                page = await tester.ok(
                    "list_checkpoints", run_id=run_id, limit=2, **({"before": before} if before else {})
                )
                found += page["checkpoints"]
                before = page.get("before")
                if before is None:
                    break
    assert [one["seq"] for one in found] == sorted({one["seq"] for one in found}, reverse=True)
    assert {one.get("node") for one in found} >= {"a", "b", "c"}
    assert any(one.get("label") == "before-b" for one in found)


@pytest.mark.parametrize("mode", MODES)
async def test_rolling_back_by_its_preview(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("chain")
            before = await tester.ok("get_run", run_id=run_id)
            planned = await tester.ok("rollback", run_id=run_id, to="node:a", preview=True)
            assert set(planned["plan"]["reruns"]) == {"b", "c"}
            assert planned["plan"]["in_place"] is True
            assert "run" not in planned
            assert (await tester.ok("get_run", run_id=run_id))["seq"] == before["seq"]
            token = planned["plan"]["plan_token"]
            done = await tester.ok("rollback", run_id=run_id, to="node:a", plan_token=token)
            assert done["run"]["status"] == "paused"
            assert set(done["reset"]) == {"b", "c"}
            spent = await tester.error("rollback", run_id=run_id, to="node:a", plan_token=token)
            assert spent["code"] == "plan_expired"
            assert "preview=true" in spent["next"]
            await tester.ok("control_run", run_id=run_id, action="resume")
            ended = await tester.ok("get_run", run_id=run_id, wait_seconds=45, detail=True)
    assert ended["status"] == "completed"
    assert ended["output"]["value"] == "one-b-c"
    assert studio.calls["echo"] == 5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("to", ["start", "node:b", "2", 2])
async def test_positions_in_every_form(studio: Studio, mode: Mode, to: Any) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("chain")
            done = await tester.ok("rollback", run_id=run_id, to=to)
    assert done["run"]["status"] == "paused"


@pytest.mark.parametrize("mode", MODES)
async def test_a_rollback_with_a_key_happens_once(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("chain")
            arguments = {"run_id": run_id, "to": "node:a", "idempotency_key": "back"}
            await tester.ok("rollback", **arguments)
            seq = (await tester.ok("get_run", run_id=run_id))["seq"]
            await tester.ok("rollback", **arguments)
            assert (await tester.ok("get_run", run_id=run_id))["seq"] == seq


@pytest.mark.parametrize("mode", MODES)
async def test_a_branch_tries_something_else(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("chain")
            other = {"nodes": {"b": {"with": {"value": "other-b"}}}}
            arguments: dict[str, Any] = {"run_id": run_id, "at": "before:b", "overrides": other}
            planned = await tester.ok("branch", **arguments, preview=True)
            assert planned["plan"]["in_place"] is False
            assert set(planned["plan"]["reruns"]) == {"b", "c"}
            token = planned["plan"]["plan_token"]
            made = await tester.ok(
                "branch", **arguments, name="other", hypothesis="b is better so", plan_token=token, idempotency_key="k"
            )
            child = made["run"]["run_id"]
            assert child != run_id
            assert made["run"]["branch"] == "other"
            assert made["run"]["parent"].startswith(f"{run_id}@")
            ended = await tester.ok("get_run", run_id=child, wait_seconds=45, detail=True)
            assert ended["output"]["value"] == "other-b-c"
            assert ended["hypothesis"] == "b is better so"
            [listed] = (await tester.ok("list_runs", parent=run_id))["runs"]
            assert listed["run_id"] == child
            taken = await tester.error("branch", run_id=run_id, name="other")
            assert taken["code"] == "conflict"
            compared = await tester.ok("compare_runs", a=run_id, b=child, detail=True)
    assert compared["outputs_equal"] is False
    assert compared["first_divergence"] == "b"
    assert {one["node"]: one["change"] for one in compared["nodes"]} == {"b": "changed", "c": "changed"}
    assert "other-b" in compared["nodes"][0]["output_diff"]
    assert compared["same_nodes"] == 1
    assert studio.calls["echo"] == 5


@pytest.mark.parametrize("mode", MODES)
async def test_a_branch_needs_a_name_and_one_of_preview_and_token(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("chain")
            before = await studio.changes()
            unnamed = await tester.error("branch", run_id=run_id)
            both = await tester.error("branch", run_id=run_id, name="b", preview=True, plan_token="plan_x")
            smuggled = await tester.error(
                "branch", run_id=run_id, name="b", overrides={"nodes": {"b": {"use": "os:system"}}}
            )
            unknown = await tester.error("branch", run_id=run_id, name="b", at="nowhere")
            other = await tester.error("branch", run_id=run_id, name="b", overrides={"nodes": {"zz": {"output": 1}}})
            assert await studio.changes() == before
    assert [one["code"] for one in (unnamed, both, smuggled)] == ["invalid_argument"] * 3
    assert unknown["code"] == other["code"] == "not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_playing_again_from_a_node(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("chain")
            arguments: dict[str, Any] = {
                "run_id": run_id,
                "node": "b",
                "overrides": {"nodes": {"b": {"output": "given"}}},
            }
            planned = await tester.ok("play_from_node", **arguments, preview=True)
            assert planned["plan"]["in_place"] is False  # the run has completed
            done = await tester.ok("play_from_node", **arguments, plan_token=planned["plan"]["plan_token"])
            child = done["run"]["run_id"]
            ended = await tester.ok("get_run", run_id=child, wait_seconds=45, detail=True)
            missing = await tester.error("play_from_node", run_id=run_id, node="zz")
    assert ended["output"]["value"] == "given-c"
    assert missing["code"] == "not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_a_failed_run_is_played_in_place(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run = await tester.ok("run_workflow", workflow="failing", wait_seconds=45)
            done = await tester.ok("play_from_node", run_id=run["run_id"], node="bad", reason="once more")
            assert done["run"]["run_id"] == run["run_id"]
            ended = await tester.ok("get_run", run_id=run["run_id"], wait_seconds=45)
    assert ended["status"] == "failed"


@pytest.mark.parametrize("mode", MODES)
async def test_what_would_repeat_unsafe_effects_wants_a_plan(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("unsafe")
            before = await studio.changes()
            refused = await tester.error("play_from_node", run_id=run_id, node="send")
            assert refused["code"] == "plan_required"
            assert refused["data"]["plan"]["reruns"] == ["send"]
            assert studio.calls["echo"] == 2
            token = refused["data"]["plan"]["token"]
            stranger = Caller(Principal("user:bob"))
            async with studio.client(mode, caller=stranger) as bob:
                stolen = await bob.error("play_from_node", run_id=run_id, node="send", plan_token=token)
                assert stolen["code"] == "plan_expired"
            done = await tester.ok("play_from_node", run_id=run_id, node="send", plan_token=token)
            ended = await tester.ok("get_run", run_id=done["run"]["run_id"], wait_seconds=45)
    assert before
    assert ended["status"] == "completed"
    assert studio.calls["echo"] == 3


@pytest.mark.parametrize("mode", MODES)
async def test_positions_of_runs_are_compared(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        with anyio.fail_after(30):
            run_id = await tester.finished("chain")
            [early] = [
                one
                for one in (await tester.ok("list_checkpoints", run_id=run_id))["checkpoints"]
                if one.get("node") == "a"
            ]
            compared = await tester.ok("compare_runs", a=early["position"], b=run_id[-10:])
            same = await tester.ok("compare_runs", a=run_id, b=run_id)
    assert compared["outputs_equal"] is False
    assert same["outputs_equal"] is True
    assert same["nodes"] == []


@pytest.mark.parametrize("mode", MODES)
async def test_read_only_tools_change_nothing(studio: Studio, mode: Mode) -> None:
    """Every tool that says so, called over runs in every state, leaves every row as it was."""
    async with studio.client(mode) as tester:
        with anyio.fail_after(60):
            first = await tester.finished("chain")
            second = await tester.finished("chain", {"word": "two"})
            waiting, _ = await tester.asking()
            failed = (await tester.ok("run_workflow", workflow="failing", wait_seconds=45))["run_id"]
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
            tools = (await tester.client.list_tools()).tools
            assert {name for name, _ in calls} == {
                tool.name for tool in tools if tool.annotations is not None and tool.annotations.read_only_hint
            }
            before = await studio.changes()
            for name, arguments in calls:
                await tester.ok(name, **arguments)
                assert await studio.changes() == before, name


@pytest.mark.parametrize("mode", MODES)
async def test_a_dry_run_shows_what_would_happen(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        shown = await tester.ok("simulate_workflow", workflow="gated")
        assert await tester.ok("simulate_workflow", workflow="gated") == shown
    assert [step["node"] for step in shown["order"]] == ["draft", "ask", "publish"]
    assert shown["approvals"] == 1
    assert shown["order"][1]["asks"] == "Publish it?"
    assert studio.calls["echo"] == 0


@pytest.mark.parametrize("mode", MODES)
async def test_workflows_are_found_and_described(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as tester:
        everything = await tester.ok("list_workflows")
        [found] = (await tester.ok("list_workflows", text="greets"))["workflows"]
        [detailed] = (await tester.ok("list_workflows", name="greet"))["workflows"]
        nothing = await tester.ok("list_workflows", text="no such thing")
    assert len(everything["workflows"]) > 10
    assert found == {"name": "greet", "description": "Greets somebody.", "nodes": 1, "required": ["name"]}
    assert detailed["inputs"]["value"]["required"] == ["name"]
    assert nothing["workflows"] == []
    assert "omium.yaml" in nothing["next"]
