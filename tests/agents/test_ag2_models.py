"""AG2 against a server that speaks OpenAI's protocol: tools, schemas, streams, failures, prices and keys."""

from __future__ import annotations

import json

import pytest

from omium.clients.agents.ag2_adapter.adapter import Ag2Adapter
from omium.clients.agents.executor import AgentExecutor
from omium.clients.agents.secrets import Secrets
from omium.clients.agents.spec import AgentDef, AgentLimits, ModelSpec, Price
from omium.orchestration.engine.failures import classify, describe
from omium.orchestration.errors import OmiumError
from tests.agents.attempts import Ledger, kept_state
from tests.agents.contract import Tools
from tests.agents.models import Api, message, serving

pytestmark = pytest.mark.anyio

KEY = "sk-canary-0123456789"


def executor(agent: AgentDef, tools: Tools | None = None) -> AgentExecutor:
    tools = tools or Tools()
    return AgentExecutor(
        {agent.name: agent},
        {"ag2": Ag2Adapter()},
        functions=tools,
        describe=tools.describe,
        secrets=Secrets({"TEST_KEY": KEY, "OPENAI_API_KEY": "sk-of-somebody-else"}),
    )


def agent_of(api: Api, *, price: Price | None = None, stream: bool = False, **options: object) -> AgentDef:
    model = ModelSpec("openai", "gpt-4o", base_url=api.url, api_key_env="TEST_KEY", price=price, stream=stream)
    return AgentDef("tester", model=model, **options)  # type: ignore[arg-type]


async def test_a_conversation_with_a_tool() -> None:
    tools, ledger = Tools(), Ledger()
    with serving(message(None, ("call_1", "add", {"a": 2, "b": 2})), message("four")) as api:
        agent = agent_of(api, prompt="Add ${{ input.a }}.", tools=("add",), price=Price(1.0, 10.0))
        done = await executor(agent, tools).run("tester", {"a": 2}, ledger.attempt())
    assert done.output == "four"
    first, second = api.requests
    assert first["messages"][0] == {"role": "system", "content": "Add 2."}
    assert first["tools"][0]["function"]["parameters"]["required"] == ["a", "b"]
    assert second["messages"][-1]["role"] == "tool" and second["messages"][-1]["content"] == "4"
    assert done.usage is not None
    assert (done.usage["tokens"], done.usage["calls"], done.usage["model"]) == (220, 2, "gpt-4o")
    assert done.usage["cost_usd"] == pytest.approx(200e-6 + 200e-6)
    assert "price_unknown" not in done.usage
    assert api.keys == [f"Bearer {KEY}"] * 2
    assert KEY.encode() not in ledger.written()


async def test_an_unknown_price_is_flagged_and_a_limit_in_money_refuses_it() -> None:
    with serving(message("hi"), message("hi")) as api:
        done = await executor(agent_of(api)).run("tester", {}, Ledger().attempt())
        assert done.usage is not None and done.usage["price_unknown"] is True and done.usage["cost_usd"] == 0.0
        with pytest.raises(OmiumError) as caught:
            await executor(agent_of(api, limits=AgentLimits(usd=1.0))).run("tester", {}, Ledger().attempt())
    assert (caught.value.code, len(api.requests)) == ("budget_exceeded", 1)


async def test_a_listed_price_is_used() -> None:
    from omium.clients.agents.metering import cost_usd

    known = cost_usd(ModelSpec("openai", "gpt-4o"), 1_000, 100)
    assert known is not None and 0.0001 < known < 0.1
    assert cost_usd(ModelSpec("openai", "no-such-model"), 1_000, 100) is None


async def test_a_stream_is_shown_as_it_comes() -> None:
    ledger = Ledger()
    with serving(message("one two three")) as api:
        done = await executor(agent_of(api, stream=True)).run("tester", {}, ledger.attempt())
    assert str(done.output).strip() == "one two three" and ledger.progress
    assert done.usage is not None and done.usage["tokens"] == 110


async def test_a_schema_goes_to_the_provider() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    with serving(message('{"n": 1}')) as api:
        done = await executor(agent_of(api, output_schema=schema)).run("tester", {}, Ledger().attempt())
    assert done.output == {"n": 1}
    assert api.requests[0]["response_format"]["json_schema"]["schema"]["properties"] == {"n": {"type": "integer"}}


@pytest.mark.parametrize(
    ("status", "category"),
    [(429, "rate_limited"), (500, "api_error"), (503, "api_error"), (401, "permission_error"), (400, "validation")],
)
async def test_refusals_are_classified_not_repeated_and_hold_no_key(status: int, category: str) -> None:
    ledger = Ledger()
    with serving(status, echo_key=True) as api, pytest.raises(OmiumError) as caught:
        await executor(agent_of(api)).run("tester", {}, ledger.attempt())
    assert classify(caught.value) == category
    told = describe(caught.value)
    assert told["reason"] == "model_call" and KEY not in str(told) and "[secret]" in told["message"]
    assert len(api.requests) == 1


def _ended(reason: str) -> bytes:
    choice = {"index": 0, "message": message(None), "finish_reason": reason}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(whole).encode()


@pytest.mark.parametrize(
    ("sent", "category", "said"),
    [
        (b"{]", "api_error", "no JSON"),
        (b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[]}', "api_error", "no answer"),
        (_ended("length"), "validation", "max_tokens"),
    ],
)
async def test_what_is_no_answer_is_no_success(sent: bytes, category: str, said: str) -> None:
    ledger = Ledger()
    with serving(sent, message("two")) as api:
        running = executor(agent_of(api))
        with pytest.raises(OmiumError, match=said) as caught:
            await running.run("tester", {}, ledger.attempt())
        assert classify(caught.value) == category
        done = await running.run("tester", {}, ledger.attempt(failures=[describe(caught.value)]))
    assert done.output == "two"


async def test_a_model_may_end_without_a_word() -> None:
    with serving(_ended("stop")) as api:
        done = await executor(agent_of(api)).run("tester", {}, Ledger().attempt())
    assert done.output == ""


async def test_after_a_refusal_the_conversation_goes_on() -> None:
    tools, ledger = Tools(), Ledger()
    call = message(None, ("call_1", "add", {"a": 1, "b": 1}))
    with serving(call, 503, message("two")) as api:
        running = executor(agent_of(api, tools=("add",)), tools)
        with pytest.raises(OmiumError) as caught:
            await running.run("tester", {}, ledger.attempt())
        again = ledger.attempt(failures=[describe(caught.value)])
        done = await running.run("tester", {}, again)
    assert done.output == "two" and len(tools.made) == 1
    assert api.requests[1] == api.requests[2]  # a provider that did not answer is no news to the model
    assert kept_state(ledger)["usage"]["calls"] == 2  # a refusal is none


async def test_without_a_key_nothing_is_sent_and_a_key_of_the_provider_goes_nowhere_else() -> None:
    with serving(message("hi")) as api:
        missing = AgentDef("tester", model=ModelSpec("openai", "m", base_url=api.url, api_key_env="NOT_SET"))
        with pytest.raises(OmiumError) as caught:
            await executor(missing).run("tester", {}, Ledger().attempt())
        assert (caught.value.code, api.requests) == ("unauthenticated", [])
        plain = AgentDef("tester", model=ModelSpec("openai", "m", base_url=api.url))
        await executor(plain).run("tester", {}, Ledger().attempt())
    assert api.keys == ["Bearer none"]


@pytest.mark.parametrize("made_up", ["{not json", '{"path": "/srv/a', "[1, 2]", "null"])
async def test_what_a_model_makes_up_as_arguments_reaches_no_tool_and_does_not_break_the_history(made_up: str) -> None:
    """Not even a tool that takes any object, and whose own schema would refuse nothing."""
    tools = Tools()
    broken = message(None, ("call_1", "open", {}))
    broken["tool_calls"][0]["function"]["arguments"] = made_up
    with serving(broken, message("sorry")) as api:
        done = await executor(agent_of(api, tools=("open",)), tools).run("tester", {}, Ledger().attempt())
    assert done.output == "sorry" and tools.made == []
    said, told = api.requests[1]["messages"][-2:]
    assert isinstance(json.loads(said["tool_calls"][0]["function"]["arguments"]), dict)
    assert "no JSON object" in told["content"]


async def test_options_that_the_provider_has_not_are_refused() -> None:
    model = ModelSpec("openai", "m", base_url="http://127.0.0.1:9/v1", options={"sparkle": 1})
    with pytest.raises(OmiumError) as caught:
        await executor(AgentDef("tester", model=model)).run("tester", {}, Ledger().attempt())
    assert caught.value.code == "invalid_definition" and "sparkle" in caught.value.message
