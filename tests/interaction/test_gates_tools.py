"""What the gates did, as an MCP client sees it."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from mcp import Client

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.ids import Digest, NodeId, WorkerId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob
from omium.orchestration.ports_gates import Amounts, Counter
from omium.orchestration.values import encode
from omium.server.mcp import build_server
from tests.interaction.studio import ADA, MODES, Mode, Studio, Visitor

pytestmark = pytest.mark.anyio


async def decided(studio: Studio) -> str:
    """A run of which policy refused a call."""
    run = await studio.core.run_workflow(ADA, "held")
    engine = studio.core.engine
    assert engine is not None
    with anyio.fail_after(20):
        await studio.holding.wait()
    asked = encode({"action": "tool", "tool": "drop", "arguments": {"sql": "\x1b[31mdrop \u202etable"}})
    owned = engine.owned(run.id)
    assert owned is not None
    note = c.NoteDecision(
        NodeId("second"), 0, 1, "one", "tool", "drop", "deny", asked.digest, Digest("v" * 64), "db",
        rule="never\x1b", reason="tables stay", micros=7.5,
    )  # fmt: skip
    await owned.commit([note], [NewBlob(asked)])
    return run.id


@pytest.mark.parametrize("mode", MODES)
async def test_refused_calls_are_listed_harmlessly(studio: Studio, mode: Mode) -> None:
    run = await decided(studio)
    async with Client(build_server(studio.core, ADA, toolsets=("policy",)), mode=mode) as client:
        visitor = Visitor(client)
        found = await visitor.ok("list_policy_decisions", run_id=run, denied=True)
        assert (await visitor.error("list_policy_decisions", run_id="run_none"))["code"] == "not_found"
    (one,) = found["decisions"]
    assert (one["call"], one["effect"], one["reason"], one["microseconds"]) == ("db/drop", "deny", "tables stay", 7.5)
    assert "drop" in one["question"] and "\x1b" not in str(found) and "\u202e" not in str(found)


async def test_a_stranger_sees_no_decisions(studio: Studio) -> None:
    await decided(studio)
    other = replace(ADA, principal="token:bob", sees="own")
    assert await studio.core.decisions(other) == []
    assert len(await studio.core.decisions(ADA, effects=("deny",))) == 1
    with pytest.raises(OmiumError) as caught:
        await studio.core.decisions(ADA, effects=("denied",))
    assert caught.value.code == "invalid_argument"


async def test_budgets_are_listed_and_raised(studio: Studio) -> None:
    studio.core.budgets_now = lambda: (BudgetRule("all", usd=5.0), BudgetRule("fresh", tokens=100))
    counter = Counter("all", usd=5.0)
    assert await studio.store.hold("hold_1", ADA.project, WorkerId("wrk_1"), [counter], Amounts(usd=4)) == []
    assert await studio.store.hold("hold_2", ADA.project, WorkerId("wrk_1"), [counter], Amounts(usd=2)) == ["all"]
    await studio.store.settle_hold("hold_1", Amounts(usd=3, tokens=10, calls=1))
    await studio.store.settle_hold("hold_1", Amounts(usd=3))  # a repeat
    raised = await studio.core.raise_budget(ADA, "all", usd=1)
    assert (raised.spent.usd, raised.held.usd, raised.extra.usd) == (3, 0, 1)
    for name, usd, code in (("none", 1.0, "not_found"), ("all", 0.0, "invalid_argument")):
        with pytest.raises(OmiumError) as caught:
            await studio.core.raise_budget(ADA, name, usd=usd)
        assert caught.value.code == code
    async with Client(build_server(studio.core, ADA, toolsets=("costs",))) as client:
        found = (await Visitor(client).ok("list_budgets"))["budgets"]
    assert found == [
        {"name": "all", "spent": {"usd": 3, "tokens": 10, "calls": 1}, "limits": {"usd": 5}, "raised": {"usd": 1}},
        {"name": "fresh", "spent": {}, "limits": {"tokens": 100}},
    ]


async def test_what_runs_came_to_is_reported(studio: Studio) -> None:
    run = await studio.core.run_workflow(ADA, "held", title="\x1b[31mheld")
    engine = studio.core.engine
    assert engine is not None
    with anyio.fail_after(20):
        await studio.holding.wait()
    owned = engine.owned(run.id)
    assert owned is not None
    used = [
        c.NoteUsage(NodeId("second"), 0, 1, 1_000, 0.25, 2, "big"),
        c.NoteUsage(NodeId("second"), 0, 1, 500, 0.0, 1, "\x1b[31mmade-up\u202e", True),
    ]
    for one in used:
        await owned.commit([one], [])
    other = await studio.core.run_workflow(replace(ADA, principal="token:bob"), "chain", {"word": "x"})
    async with Client(build_server(studio.core, ADA, toolsets=("costs",))) as client:
        visitor = Visitor(client)
        found = await visitor.ok("report_runs", by="model")
        total = (await visitor.ok("report_runs", by="owner", workflow="held"))["total"]
        assert (await visitor.ok("report_runs", by="day", hours=0.000001))["groups"] == []
    lines = {one["key"]: (one["calls"], one["tokens"], one["cost_usd"], one["unpriced"]) for one in found["groups"]}
    assert lines.pop("big") == (2, 1_000, 0.25, 0)
    assert lines.pop("(none)") == (0, 0, 0.0, 0)
    ((named, figures),) = lines.items()
    assert "made-up" in named and figures == (1, 500, 0.0, 1)
    assert "\x1b" not in str(found) and "\u202e" not in str(found)
    assert (total["runs"], total["going_on"], total["cost_usd"], total["unpriced"]) == (1, 1, 0.25, 1)
    seen = await studio.core.report(replace(ADA, principal="token:bob", sees="own"), since=0)
    assert seen.total.runs == 1 and [one.key for one in seen.groups] == [other.workflow]
    for wrong in ({"by": "colour", "since": 0}, {"since": 2**62}, {"since": -1}):
        with pytest.raises(OmiumError) as caught:
            await studio.core.report(ADA, **wrong)  # type: ignore[arg-type]
        assert caught.value.code == "invalid_argument"
