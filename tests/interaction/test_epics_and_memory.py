"""The toolsets `epics` and `memory`."""

from __future__ import annotations

from pathlib import Path

import pytest
from mcp import Client

from omium.orchestration.ids import Principal
from omium.orchestration.service.views import Caller
from omium.server.mcp import build_server
from tests.interaction.studio import ADA, HOSTILE, MODES, Mode, Studio, Visitor, open_studio
from tests.interaction.test_toolsets import client

pytestmark = pytest.mark.anyio

EPIC = {
    "epic": """
name: epic
inputs:
  type: object
  required: [goal]
  properties: {goal: {type: string}, acceptance: {type: array, default: []}, more: {type: integer, default: 0}}
nodes:
- {id: plan, kind: function, use: echo, with: {value: "${{ inputs.goal }}"}}
- {id: agree, kind: approval, needs: plan, approval: {prompt: "Agree?", min_assurance: none}}
- id: build
  kind: group
  needs: agree
  nodes:
  - {id: a, kind: function, use: echo, with: {value: 1}}
  - {id: b, kind: function, use: fail, needs: a}
""",
}


async def test_an_epic_takes_only_the_phases_that_are_asked_for(tmp_path: Path) -> None:
    async with open_studio(tmp_path, workflows=EPIC) as studio, client(studio) as visitor:

        async def begun(goal: str = "Do it.", **more: object) -> list[tuple[str, str]]:
            run = await visitor.ok("start_epic", goal=goal, **more)
            epic = await visitor.ok("get_epic", run_id=run["run_id"], wait_seconds=30)
            return [(one["id"], one["status"]) for one in epic["phases"]]

        only_plan = [("plan", "completed")]
        assert await begun(phases=["plan"]) == only_plan
        assert await begun("Only plan it.", phases="auto") == only_plan
        for whole in (await begun("Only plan it."), await begun("Improve the planning prompt.", phases="auto")):
            assert [one for one, _ in whole] == ["plan", "agree", "build"]
        assert await begun(phases=["build"]) == [  # its gate comes along
            ("plan", "completed"), ("agree", "waiting_approval"), ("build", "pending"),
        ]  # fmt: skip
        refused = await visitor.error("start_epic", goal="x", phases=["pln"])
        assert refused["code"] == "invalid_argument" and "plan" in refused["hint"]
        again = [await visitor.ok("start_epic", goal="x", phases=["plan"], idempotency_key="k") for _ in range(2)]
        assert again[0]["run_id"] == again[1]["run_id"]
        refused = await visitor.error("start_epic", goal="x", phases=["agree"], idempotency_key="k")
        assert refused["code"] == "conflict"
        refused = await visitor.error("start_epic", goal="x", workflow="nothing", phases="auto")
        assert refused["code"] == "not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_an_epic_is_shown_and_rolled_back_by_phase(tmp_path: Path, mode: Mode) -> None:
    async with open_studio(tmp_path, workflows=EPIC) as studio, client(studio, mode=mode) as visitor:
        begun = [
            await visitor.ok(
                "start_epic", goal="Do it.\nWell.", acceptance=["done"], idempotency_key="k", wait_seconds=9
            )
            for _ in range(2)
        ]
        run_id = begun[0]["run_id"]
        assert begun[1]["run_id"] == run_id and begun[0]["title"] == "Do it."
        epic = await visitor.ok("get_epic", run_id=run_id, wait_seconds=30)
        assert epic["inputs"]["value"] == {"goal": "Do it.\nWell.", "acceptance": ["done"], "more": 0}
        assert [(one["id"], one["status"]) for one in epic["phases"]] == [
            ("plan", "completed"), ("agree", "waiting_approval"), ("build", "pending"),
        ]  # fmt: skip
        assert epic["phases"][0]["end"] == "node:plan" and "end" not in epic["phases"][1]
        await visitor.ok("approve", approval_id=epic["phases"][1]["approval_id"], decision="approve")
        epic = await visitor.ok("get_epic", run_id=run_id, wait_seconds=30)
        build = epic["phases"][2]
        assert (epic["status"], build["status"], build["failed"], build["nodes"]) == (
            "failed",
            "failed",
            ["build.b"],
            2,
        )
        assert build["error"]["message"]
        for phase in ("build", "build.a", "nothing"):
            refused = await visitor.error("rollback_phase", run_id=run_id, phase=phase)
            assert refused["code"] == "not_found" and refused["data"]["completed"] == ["plan", "agree"]
        plan = (await visitor.ok("rollback_phase", run_id=run_id, phase="plan", preview=True))["plan"]
        assert "agree" in plan["asked_again"]
        for _ in range(2):
            done = await visitor.ok(
                "rollback_phase", run_id=run_id, phase="plan", plan_token=plan["plan_token"], idempotency_key="back"
            )
            assert done["run"]["status"] == "paused"
        phases = (await visitor.ok("get_epic", run_id=run_id))["phases"]
        assert [one["status"] for one in phases] == ["completed", "pending", "pending"]
        both = await visitor.error("rollback_phase", run_id=run_id, phase="plan", preview=True, plan_token="plan_x")
        assert both["code"] == "invalid_argument"


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_remembered_is_found_by_its_owner_only(studio: Studio, mode: Mode) -> None:
    async with client(studio, mode=mode) as visitor:
        for number, outcome in enumerate(("worked", "worked", "failed")):
            await visitor.ok(
                "remember",
                key=f"remedy-{number}",
                text="branch\nearly",
                kind="remedy",
                tags=["phase:test"],
                outcome=outcome,
            )
        await visitor.ok("remember", key="why", text=HOSTILE, scope="epic:a", kind="decision")
        found = await visitor.ok("recall", text="EARLY", tags=["phase:test"])
        assert (found["found"], found["worked"], found["failed"], found["success_rate"]) == (3, 2, 1, 0.667)
        assert found["memories"][0]["text"]["value"] == "branch\nearly"
        hostile = (await visitor.ok("recall", scope="epic:a", key="why"))["memories"][0]["text"]
        assert "value" not in hostile and "\x1b" not in hostile["text"]
        paged = await visitor.ok("recall", kind="remedy", limit=2)
        assert len(paged["memories"]) == 2 and paged["next_offset"] == 2
        assert len((await visitor.ok("recall", kind="remedy", limit=2, offset=2))["memories"]) == 1
    eve = Caller(Principal("user:eve"), ADA.project)
    async with Client(build_server(studio.core, eve, toolsets=["memory"]), mode=mode) as other:
        visitor = Visitor(other)
        assert (await visitor.ok("recall"))["found"] == 0
        assert (await visitor.ok("forget", scope="epic:a"))["forgotten"] == 0
    async with client(studio, mode=mode) as visitor:
        assert (await visitor.ok("forget", scope="epic:a"))["forgotten"] == 1
        assert (await visitor.ok("recall"))["found"] == 3


async def test_a_long_memory_is_whole_when_it_is_named(studio: Studio) -> None:
    async with client(studio) as visitor:
        text = "x" * 4_000
        await visitor.ok("remember", key="long", text=text)
        assert (await visitor.ok("recall", scope="project", key="long"))["memories"][0]["text"]["value"] == text
        assert "next_offset" in (await visitor.ok("recall"))["memories"][0]["text"]
        for refused in ("x" * 4_001, "\u202e" * 3_000, "a\0b"):
            assert (await visitor.error("remember", key="no", text=refused))["code"] == "invalid_argument"
