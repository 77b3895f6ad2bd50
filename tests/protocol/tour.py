"""What every client does with the server: one journey, whatever client the calls are made with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tests.protocol.project import Project

DEFAULT_TOOLS = {
    "run_workflow",
    "get_run",
    "list_runs",
    "control_run",
    "checkpoint",
    "list_checkpoints",
    "rollback",
    "branch",
    "play_from_node",
    "compare_runs",
    "list_approvals",
    "approve",
    "list_workflows",
    "simulate_workflow",
}


@dataclass(frozen=True, slots=True)
class Called:
    """The answer to a call. `content`: the structured content, or the failure's own JSON where `failed`."""

    content: dict[str, Any]
    failed: bool


class Host(Protocol):
    """A client connected to the server. `shows_forms`: a human of it accepts what is proposed in any form."""

    shows_forms: bool

    async def tools(self) -> set[str]: ...

    async def call(self, tool: str, **arguments: Any) -> Called: ...

    async def read(self, uri: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Journey:
    """What was made on the way."""

    run: str
    branch: str
    approvals: list[str]


async def travel(host: Host, project: Project) -> Journey:
    """List, start, wait, decide, branch, decide again, compare, roll back, read, and be refused what is wrong."""

    async def ok(tool: str, **arguments: Any) -> dict[str, Any]:
        called = await host.call(tool, **arguments)
        assert not called.failed, called.content
        return called.content

    assert await host.tools() >= DEFAULT_TOOLS
    begun = await ok("run_workflow", workflow="release", inputs={"topic": "otters"}, wait_seconds=30)
    run = str(begun["run_id"])
    assert begun["status"] == "waiting_approval", begun
    first = str(begun["approvals"][0]["approval_id"])
    await _decide(host, project, first, ok)
    ended = await ok("get_run", run_id=run, wait_seconds=45, detail=True)
    assert ended["status"] == "completed", ended
    assert ended["output"]["value"] == "published: all about otters"

    other = {"inputs": {"topic": "stoats"}}
    planned = await ok("branch", run_id=run, at="before:draft", overrides=other, preview=True)
    assert set(planned["plan"]["reruns"]) == {"draft", "ask", "publish"}, planned
    token = planned["plan"]["plan_token"]
    branched = await ok(
        "branch",
        run_id=run,
        at="before:draft",
        name="stoats",
        hypothesis="stoats sell better",
        overrides=other,
        plan_token=token,
    )
    branch = str(branched["run"]["run_id"])
    waiting = await ok("get_run", run_id=branch, wait_seconds=45)
    assert waiting["status"] == "waiting_approval", waiting
    second = str(waiting["approvals"][0]["approval_id"])
    await _decide(host, project, second, ok)
    assert (await ok("get_run", run_id=branch, wait_seconds=45))["status"] == "completed"
    compared = await ok("compare_runs", a=run, b=branch)
    assert compared["outputs_equal"] is False

    back = await ok("rollback", run_id=run, to="node:draft", preview=True)
    assert set(back["plan"]["reruns"]) == {"ask", "publish"}
    rolled = await ok("rollback", run_id=run, to="node:draft", plan_token=back["plan"]["plan_token"], reason="a typo")
    assert rolled["run"]["status"] == "paused"

    assert "paused" in await host.read(f"omium://runs/{run}")
    refused = await host.call("get_run", run_id="run_nonesuch")
    assert refused.failed
    assert refused.content["code"] == "not_found"
    return Journey(run, branch, [first, second])


async def _decide(host: Host, project: Project, approval: str, ok: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    """By the human of the client where it shows forms; else by one at a terminal, as the answer says."""
    asked = await ok("approve", approval_id=approval, decision="approve")
    assert asked["decided"] is host.shows_forms, asked
    if not host.shows_forms:
        assert f"omium approve {approval}" in asked["next"]
        await project.omium("approve", approval)


async def check(project: Project, journey: Journey) -> None:
    """What the database says of it, whatever the client was told."""
    async with project.core() as (core, caller):
        runs = {str(view.id): view for view in (await core.list_runs(caller)).runs}
        assert set(runs) == {journey.run, journey.branch}
        run, branch = runs[journey.run], runs[journey.branch]
        assert run.status == "paused"
        assert run.generation == 1
        assert branch.status == "completed"
        assert branch.parent_run == run.id
        assert (branch.branch, branch.hypothesis) == ("stoats", "stoats sell better")
        whole = await core.get_run(caller, branch.id, detail=True)
        assert whole.output == "published: all about stoats"
        decided = {view.id: view for view in await core.list_approvals(caller, pending=False)}
        assert [(decided[one].decision, decided[one].assurance) for one in journey.approvals] == [
            ("approve", "elicited"),
            ("approve", "elicited"),
        ]
        assert set(decided) == set(journey.approvals)  # nothing was asked or decided besides
    verified = await project.omium("verify")
    assert verified["sound"] is True, verified
