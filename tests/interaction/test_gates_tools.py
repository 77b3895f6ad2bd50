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
    studio.core.budget_rules = (BudgetRule("all", usd=5.0), BudgetRule("fresh", tokens=100))
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
