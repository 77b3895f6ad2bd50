"""pydantic-ai, openai-agents and agent-framework pass the contract, and speak to a server as they should."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from omium.clients.agents.adapter import Adapter
from omium.clients.agents.agent_framework_adapter import AgentFrameworkAdapter
from omium.clients.agents.executor import AgentExecutor
from omium.clients.agents.openai_agents_adapter import OpenAiAgentsAdapter
from omium.clients.agents.pydantic_ai_adapter import PydanticAiAdapter
from omium.clients.agents.secrets import Secrets
from omium.clients.agents.spec import AgentDef, ModelSpec, Price
from omium.orchestration.engine.failures import classify, describe
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_calls import Suspended
from tests.agents.attempts import Killed, Ledger
from tests.agents.contract import Contract, Tools
from tests.agents.models import Api, message, serving

ADAPTERS: list[Adapter] = [PydanticAiAdapter(), OpenAiAgentsAdapter(), AgentFrameworkAdapter()]
KEY = "sk-canary-0123456789"


class _Scripted(Contract):
    """Collected by its subclasses only."""

    one: Adapter

    def agent(self, turns: Sequence[Mapping[str, Any]], directory: Path, **options: Any) -> AgentDef:
        script = directory / f"script{len(list(directory.iterdir()))}.json"
        script.write_text(json.dumps({"turns": list(turns)}))
        return AgentDef("tester", framework=self.one.framework, model=ModelSpec("scripted", script=script), **options)

    def adapter(self) -> Adapter:
        return self.one


class TestPydanticAi(_Scripted):
    one = PydanticAiAdapter()


class TestOpenAiAgents(_Scripted):
    one = OpenAiAgentsAdapter()


class TestAgentFramework(_Scripted):
    one = AgentFrameworkAdapter()


@pytest.fixture(params=ADAPTERS, ids=lambda one: one.framework)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    found: Adapter = request.param
    return found


def executor(adapter: Adapter, agent: AgentDef, tools: Tools | None = None) -> AgentExecutor:
    tools = tools or Tools()
    secrets = Secrets({"TEST_KEY": KEY, "OPENAI_API_KEY": "sk-of-somebody-else"})
    return AgentExecutor(
        {agent.name: agent},
        {adapter.framework: adapter},
        functions=tools,
        describe=tools.describe,
        secrets=secrets,
    )


def agent_of(adapter: Adapter, api: Api, *, key: str | None = "TEST_KEY", **options: Any) -> AgentDef:
    model = ModelSpec(
        "openai",
        "gpt-4o",
        base_url=api.url,
        api_key_env=key,
        price=Price(1.0, 10.0),
        max_tokens=77,
        options={"temperature": 0.5},
    )
    return AgentDef("tester", framework=adapter.framework, model=model, **options)


@pytest.mark.anyio
async def test_a_conversation_with_a_tool_over_the_wire(adapter: Adapter) -> None:
    tools, ledger = Tools(), Ledger(ask={"add"})
    with serving(message(None, ("call_1", "add", {"a": 2, "b": 2})), message("four")) as api:
        agent = agent_of(adapter, api, prompt="Add ${{ input.a }}.", tools=("add",))
        running = executor(adapter, agent, tools)
        with pytest.raises(Suspended):
            await running.run("tester", {"a": 2}, ledger.attempt())
        ledger.answer("approve")
        done = await running.run("tester", {"a": 2}, ledger.attempt(resumed=True))
    assert done.output == "four" and tools.made == [("add", {"a": 2, "b": 2})]
    first, second = api.requests
    assert (first["messages"][0]["role"], first["messages"][0]["content"]) == ("system", "Add 2.")
    assert first["tools"][0]["function"]["parameters"]["required"] == ["a", "b"]
    assert first["temperature"] == 0.5 and 77 in (first.get("max_tokens"), first.get("max_completion_tokens"))
    assert second["messages"][-2]["tool_calls"][0]["id"] == "call_1"
    assert (second["messages"][-1]["role"], second["messages"][-1]["content"]) == ("tool", "4")
    assert done.usage is not None
    assert (done.usage["tokens"], done.usage["calls"], done.usage["model"]) == (220, 2, "gpt-4o")
    assert done.usage["cost_usd"] == pytest.approx(200e-6 + 200e-6)
    assert api.keys == [f"Bearer {KEY}"] * 2
    assert KEY.encode() not in ledger.written()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "category"),
    [(429, "rate_limited"), (500, "api_error"), (401, "permission_error"), (400, "validation"), (302, "")],
)
async def test_refusals_are_classified_not_repeated_and_hold_no_key(
    adapter: Adapter, status: int, category: str
) -> None:
    with serving(status, echo_key=True) as api, pytest.raises(OmiumError) as caught:
        await executor(adapter, agent_of(adapter, api)).run("tester", {}, Ledger().attempt())
    told = describe(caught.value)
    assert not category or classify(caught.value) == category
    assert told["reason"] == "model_call" and KEY not in str(told)
    assert len(api.requests) == 1


@pytest.mark.anyio
async def test_what_a_model_makes_up_as_arguments_does_not_break_the_history(adapter: Adapter) -> None:
    broken = message(None, ("call_1", "add", {}))
    broken["tool_calls"][0]["function"]["arguments"] = "{not json"
    with serving(broken, message("sorry")) as api:
        done = await executor(adapter, agent_of(adapter, api, tools=("add",))).run("tester", {}, Ledger().attempt())
    assert done.output == "sorry"
    json.loads(api.requests[1]["messages"][-2]["tool_calls"][0]["function"]["arguments"])
    assert "do not fit" in api.requests[1]["messages"][-1]["content"]


@pytest.mark.anyio
async def test_made_up_arguments_reach_no_tool_after_a_crash_either(adapter: Adapter) -> None:
    """The history holds them as an object, and the tool would take any."""
    broken = message(None, ("call_1", "open", {}))
    broken["tool_calls"][0]["function"]["arguments"] = '{"path": "/srv/a'
    ledger, tools = Ledger(die_after_keeps=1), Tools()
    with serving(broken, message("sorry")) as api:
        agent = agent_of(adapter, api, tools=("open",))
        with pytest.raises(Killed):
            await executor(adapter, agent, tools).run("tester", {}, ledger.attempt())
        done = await executor(adapter, agent, tools).run("tester", {}, ledger.attempt(resumed=True))
    assert done.output == "sorry" and tools.made == []
    assert "no JSON object" in api.requests[1]["messages"][-1]["content"]


@pytest.mark.anyio
async def test_a_key_of_the_provider_goes_nowhere_else(adapter: Adapter) -> None:
    with serving(message("hi")) as api:
        await executor(adapter, agent_of(adapter, api, key=None)).run("tester", {}, Ledger().attempt())
        with pytest.raises(OmiumError) as caught:
            await executor(adapter, agent_of(adapter, api, key="NOT_SET")).run("tester", {}, Ledger().attempt())
    assert caught.value.code == "unauthenticated" and api.keys == ["Bearer none"]


def test_a_declaration_is_checked(adapter: Adapter, tmp_path: Path) -> None:
    def keys(model: ModelSpec | None, **options: Any) -> list[str]:
        return [key for key, _ in adapter.check(AgentDef("a", model=model, **options))]

    assert keys(None) == ["model"]
    assert keys(ModelSpec("openai", "m"), factory="a:b") == ["factory"]
    assert keys(ModelSpec("scripted", script=tmp_path / "none.json")) == ["model.script"]
    assert keys(ModelSpec("acme", "m")) == ["model.provider"]
    assert keys(ModelSpec("openai")) == ["model.name"]
    assert keys(ModelSpec("openai", "m", stream=True)) == ["model.stream"]
    assert keys(ModelSpec("openai", "m", options={"sparkle": 1})) == ["model.options.sparkle"]
    assert keys(ModelSpec("openai", "m", options={"top_p": 1})) == []
