"""LangGraph passes the contract of adapters; its interrupts ask people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from omium.clients.agents.adapter import Adapter
from omium.clients.agents.spec import AgentDef, ModelSpec
from omium.clients.langgraph.adapter import LanggraphAdapter
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_calls import Suspended
from tests.agents.attempts import Ledger, kept_state
from tests.agents.contract import Contract, Tools

TALK = "tests.frameworks.graphs:talk"
SCHEMA = {"type": "object", "required": ["sum", "colour", "size"]}


class TestLanggraph(Contract):
    def agent(self, turns: Sequence[Mapping[str, Any]], directory: Path, **options: Any) -> AgentDef:
        script = directory / f"script{len(list(directory.iterdir()))}.json"
        script.write_text(json.dumps({"turns": list(turns)}))
        return AgentDef(
            "tester", framework="langgraph", factory=TALK, model=ModelSpec("scripted", script=script), **options
        )

    def adapter(self) -> Adapter:
        return LanggraphAdapter()


@pytest.mark.anyio
async def test_interrupts_ask_people_one_after_the_other() -> None:
    ledger, tools = Ledger(), Tools()
    agent = AgentDef(
        "tester", framework="langgraph", factory="tests.frameworks.graphs:ask", tools=("add",), output_schema=SCHEMA
    )
    run = TestLanggraph().executor(agent, tools=tools).run
    with pytest.raises(Suspended):
        await run("tester", {"a": 1, "b": 2}, ledger.attempt())
    assert list(ledger.asked.values()) == [("3 of which colour?", ("red", "green"))]
    ledger.answer("green")
    with pytest.raises(Suspended):
        await run("tester", {"a": 1, "b": 2}, ledger.attempt(resumed=True))
    assert [question for question, _ in ledger.asked.values()] == ["3 of which colour?", "Which size?"]
    ledger.answer("answer", "large")
    done = await run("tester", {"a": 1, "b": 2}, ledger.attempt(resumed=True))
    assert done.output == {"sum": "3", "colour": "green", "size": "large"}
    assert tools.made == [("add", {"a": 1, "b": 2})]


@pytest.mark.anyio
async def test_a_constructor_in_the_kept_state_is_refused(tmp_path: Path) -> None:
    ledger = Ledger(ask={"add"})
    turns = [{"calls": [{"name": "add", "arguments": {"a": 1, "b": 2}}]}, {"text": "done"}]
    agent = TestLanggraph().agent(turns, tmp_path, tools=("add",))
    executor = TestLanggraph().executor(agent)
    with pytest.raises(Suspended):
        await executor.run("tester", {}, ledger.attempt())
    state = kept_state(ledger)
    tree = state["state"]["blob"]["checkpoints"][""]["document"]["tree"]
    tree["channel_values"]["messages"] = {"$ext": 0, "of": ["os", "system", "touch pwned"]}
    from tests.agents.attempts import put_state

    put_state(ledger, state)
    ledger.answer("approve")
    with pytest.raises(OmiumError) as caught:
        await executor.run("tester", {}, ledger.attempt(resumed=True))
    assert caught.value.code == "not_allowed" and "os.system" in caught.value.message
    assert not Path("pwned").exists()


@pytest.mark.anyio
@pytest.mark.parametrize("factory", ["tests.frameworks.graphs:nothing", "tests.nowhere:build", "json:build"])
async def test_a_factory_that_gives_no_graph_is_said(factory: str) -> None:
    agent = AgentDef("tester", framework="langgraph", factory=factory)
    with pytest.raises(OmiumError) as caught:
        await TestLanggraph().executor(agent).run("tester", {}, Ledger().attempt())
    assert caught.value.code == "invalid_definition"


def test_a_declaration_is_checked(tmp_path: Path) -> None:
    check = LanggraphAdapter().check
    assert [key for key, _ in check(AgentDef("a"))] == ["factory"]
    assert [key for key, _ in check(AgentDef("a", factory="os.system('x')"))] == ["factory"]
    missing = ModelSpec("scripted", script=tmp_path / "none.json")
    assert [key for key, _ in check(AgentDef("a", factory=TALK, model=missing))] == ["model.script"]
    assert check(AgentDef("a", factory=TALK)) == []
