"""The tools that recount a run: where it can go on, how often it went back, what failed and what mended that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from omium.orchestration.ids import Principal
from omium.orchestration.service.views import Caller
from omium.orchestration.values import encode
from omium.server.mcp import build_server
from tests.interaction.studio import ADA, WORKFLOWS, Studio, Visitor, open_studio

pytestmark = pytest.mark.anyio

EVE = Caller(Principal("user:eve"), sees="own")
MIXED = """
name: mixed
inputs: {type: object, properties: {n: {type: integer, default: 0}}}
nodes:
- {id: before, kind: function, use: echo, with: {value: "${{ inputs.n }}"}}
- id: bad
  kind: function
  use: choosy
  needs: before
  with: {n: "${{ inputs.n }}"}
  retry: {max_attempts: 2, initial: 0, on: [value_error]}
- {id: after, kind: function, use: echo, needs: bad, with: {value: 1}}
"""

STUBBORN = """
name: stubborn
on_failure: [{do: rollback, categories: [value_error], max: 2}]
nodes:
- {id: before, kind: function, use: echo, with: {value: 1}}
- {id: bad, kind: function, use: choosy, needs: before, with: {n: 0}}
"""


@pytest.fixture
async def mixed(tmp_path: Path) -> AsyncIterator[Studio]:
    async with open_studio(tmp_path, workflows={**WORKFLOWS, "mixed": MIXED, "stubborn": STUBBORN}) as studio:
        yield studio


@asynccontextmanager
async def visiting(studio: Studio, caller: Caller = ADA) -> AsyncIterator[Visitor]:
    server = build_server(studio.core, caller, toolsets=["default", "replay", "supervision"])
    async with Client(server) as client:
        yield Visitor(client)


async def failed(visitor: Visitor) -> str:
    run = await visitor.ok("run_workflow", workflow="mixed", wait_seconds=45)
    assert run["status"] == "failed", run
    return str(run["run_id"])


async def test_a_failure_is_open_until_something_mends_it(mixed: Studio) -> None:
    async with visiting(mixed) as visitor:
        run = await failed(visitor)
        found = await visitor.ok("list_failures", run_id=run)
        (open_,) = found["failures"]
        assert (open_["node"], open_["category"], open_["status"], open_["attempts"]) == (
            "bad",
            "value_error",
            "open",
            2,
        )
        assert open_["first"] is True
        assert open_["evidence"].startswith("studio.py:")
        assert 0 < open_["chance"] < 0.1 and open_["tried"] == 1
        assert not {"similar", "last_good", "resolution"} & set(open_)
        assert "\x1b" not in open_["message"] and "\u202e" not in open_["message"]
        changes = await mixed.changes()
        for tool in ("list_failures", "list_rollbacks", "list_resumable_nodes"):
            await visitor.ok(tool, run_id=run)
        assert await mixed.changes() == changes
        assert (found["retries"]["attempts"], found["retries"]["exhausted"]) == (3, 1)
        assert found["retries"]["categories"] == {"value_error": 2}
        assert "play_from_node" in found["next"]
        await visitor.ok("play_from_node", run_id=run, node="bad", overrides={"nodes": {"bad": {"with": {"n": 7}}}})
        await visitor.ok("get_run", run_id=run, wait_seconds=45)
        mended = await visitor.ok("list_failures", run_id=run)
        (closed,) = mended["failures"]
        assert (closed["status"], closed["resolution"]) == ("resolved", "run again from bad with other bad.with")
        assert "chance" not in closed and mended["next"] == "nothing is left to mend"


async def test_what_mended_such_a_failure_before_is_told(mixed: Studio) -> None:
    async with visiting(mixed) as visitor:
        good = (await visitor.ok("run_workflow", workflow="mixed", inputs={"n": 3}, wait_seconds=45))["run_id"]
        parent = await failed(visitor)
        branch = await visitor.ok(
            "branch", run_id=parent, at="start", name="more", hypothesis="one is enough", overrides={"inputs": {"n": 1}}
        )
        await visitor.ok("get_run", run_id=branch["run"]["run_id"], wait_seconds=45)
        again = await failed(visitor)
        (found,) = (await visitor.ok("list_failures", run_id=again))["failures"]
        (like,) = found["similar"]
        assert like["how"] == "branch more: one is enough with other inputs.n"
        assert like["position"].startswith(branch["run"]["run_id"])
        assert found["last_good"].startswith((good, branch["run"]["run_id"]))
        assert found["last_good"].split("@")[0] == branch["run"]["run_id"]  # the newer of the two
        compared = await visitor.ok("compare_runs", a=again, b=found["last_good"].split("@")[0])
        assert compared["first_divergence"] == "before"


async def test_a_long_run_is_told_whole_and_long_ones_before_it_are_left_out(
    mixed: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omium.orchestration.engine.mending._EVENTS", 8)
    async with visiting(mixed) as visitor:
        good = (await visitor.ok("run_workflow", workflow="mixed", inputs={"n": 3}, wait_seconds=45))["run_id"]
        (found,) = (await visitor.ok("list_failures", run_id=await failed(visitor)))["failures"]
        assert found["last_good"].startswith(good)  # of four events
        monkeypatch.setattr("omium.orchestration.engine.mending._EVENTS", 3)
        (found,) = (await visitor.ok("list_failures", run_id=await failed(visitor)))["failures"]
        assert (found["node"], found["attempts"]) == ("bad", 2) and "last_good" not in found


async def test_what_is_somebody_elses_is_learnt_from_by_nobody(mixed: Studio) -> None:
    async with visiting(mixed) as visitor:
        run = await failed(visitor)
        await visitor.ok("play_from_node", run_id=run, node="bad", overrides={"nodes": {"bad": {"with": {"n": 7}}}})
        await visitor.ok("get_run", run_id=run, wait_seconds=45)
    async with visiting(mixed, EVE) as visitor:
        for tool in ("list_failures", "list_rollbacks", "list_resumable_nodes"):
            assert (await visitor.error(tool, run_id=run))["code"] == "not_found"
        (own,) = (await visitor.ok("list_failures", run_id=await failed(visitor)))["failures"]
        assert "similar" not in own and "last_good" not in own


async def test_where_a_run_can_go_on_and_why_not(mixed: Studio) -> None:
    async with visiting(mixed) as visitor:
        run = await failed(visitor)
        digest = encode(0).digest  # what `before` gave
        await mixed.store.job(
            lambda db: db.execute("UPDATE blobs SET data = x'013131' WHERE digest = ?", (digest,)) and None
        )
        nodes = {one["node"]: one for one in (await visitor.ok("list_resumable_nodes", run_id=run))["nodes"]}
        assert (nodes["bad"]["can_resume"], nodes["bad"]["obstacle"]) == (False, "integrity")
        assert {name: one["can_resume"] for name, one in nodes.items()} == {"before": True, "bad": False, "after": True}
        assert nodes["before"]["reruns"] == 3 and nodes["bad"]["checkpoint"] > 0
        behind = await visitor.ok("list_resumable_nodes", run_id=run, after="bad")
        assert [one["node"] for one in behind["nodes"]] == ["after"]
        assert (await visitor.error("list_resumable_nodes", run_id=run, after="nobody"))["code"] == "not_found"


async def test_rollbacks_are_listed_with_who_why_and_how_far(mixed: Studio) -> None:
    async with visiting(mixed) as visitor:
        run = await visitor.finished("chain", {"word": "x"})
        assert (await visitor.ok("list_rollbacks", run_id=run))["rollbacks"] == []
        await visitor.ok("checkpoint", run_id=run, label="half", at="node:b")
        before = (await visitor.ok("get_run", run_id=run))["seq"]
        await visitor.ok("rollback", run_id=run, to="half", reason="the second half was wrong")
        await visitor.ok("rollback", run_id=run, to="start")
        first, second = (await visitor.ok("list_rollbacks", run_id=run))["rollbacks"]
        wanted: dict[str, Any] = {"from_seq": before, "label": "half", "by": "user:ada", "outcome": "done"}
        assert {name: first[name] for name in wanted} == wanted
        assert first["reason"] == "the second half was wrong" and first["to"] < before
        assert first["trigger"] == "manual" and second["from_seq"] >= first["seq"]
        only = await visitor.ok("list_rollbacks", run_id=run, after=first["seq"])
        assert [one["seq"] for one in only["rollbacks"]] == [second["seq"]]


async def test_what_a_rule_took_back_says_which_node_failed(mixed: Studio) -> None:
    async with visiting(mixed) as visitor:
        run = await visitor.ok("run_workflow", workflow="stubborn", wait_seconds=45)
        assert run["status"] == "waiting_approval"
        found = (await visitor.ok("list_rollbacks", run_id=run["run_id"]))["rollbacks"]
        told = {(one["trigger"], one["cause"], one["category"], one["by"]) for one in found}
        assert (len(found), told) == (2, {("automatic", "bad", "value_error", "engine")})
        (failure,) = (await visitor.ok("list_failures", run_id=run["run_id"]))["failures"]
        assert (failure["status"], failure["attempts"]) == ("retrying", 3)
