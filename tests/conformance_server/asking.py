"""Fixtures that ask the client: by requests of the server (older protocol) and by `input_required` (today's)."""

from __future__ import annotations

import json
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts.base import Prompt, UserMessage
from mcp.server.mcpserver.tools import Tool
from mcp_types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel, Field

from tests.conformance_server.content import Ctx

# --- requests of the server, before 2026-07-28 ------------------------------------------------------------------------


async def test_sampling(prompt: str, ctx: Ctx) -> str:
    """Has the client's model answer."""
    message = SamplingMessage(role="user", content=TextContent(text=prompt))
    result = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
    return f"LLM response: {_text(result)}"


def _text(result: CreateMessageResult) -> str:
    return result.content.text if isinstance(result.content, TextContent) else "?"


class Person(BaseModel):
    username: str = Field(description="User's response")
    email: str = Field(description="User's email address")


async def test_elicitation(message: str, ctx: Ctx) -> str:
    """Asks the user."""
    return await _asked(ctx, message, Person)


class Defaults(BaseModel):
    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field("active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


async def test_elicitation_sep1034_defaults(ctx: Ctx) -> str:
    """Asks with a default for every kind of field."""
    return await _asked(ctx, "Please check your data", Defaults)


def _titled(**titles: str) -> list[dict[str, str]]:
    return [{"const": value, "title": title} for value, title in titles.items()]


_LEGACY = {"enum": ["opt1", "opt2", "opt3"], "enumNames": ["Option One", "Option Two", "Option Three"]}


class Choices(BaseModel):
    untitledSingle: str = Field(json_schema_extra={"enum": ["option1", "option2", "option3"]})
    titledSingle: str = Field(json_schema_extra={"oneOf": _titled(value1="First Option", value2="Second")})
    untitledMulti: list[str] = Field(
        json_schema_extra={"items": {"type": "string", "enum": ["option1", "option2", "option3"]}}
    )
    titledMulti: list[str] = Field(
        json_schema_extra={"items": {"anyOf": _titled(value1="First Choice", value2="Second")}}
    )
    legacyEnum: str = Field(json_schema_extra=_LEGACY)


async def test_elicitation_sep1330_enums(ctx: Ctx) -> str:
    """Asks with every kind of choice."""
    return await _asked(ctx, "Please choose", Choices)


async def _asked(ctx: Ctx, message: str, schema: type[BaseModel]) -> str:
    result = await ctx.elicit(message, schema)
    content = result.data.model_dump_json() if result.action == "accept" else "{}"
    return f"User response: action={result.action}, content={content}"


# --- input_required, since 2026-07-28 ---------------------------------------------------------------------------------


def form(message: str, field: str, kind: str = "string") -> ElicitRequest:
    """A question with one required field."""
    schema = {"type": "object", "properties": {field: {"type": kind}}, "required": [field]}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def answered(ctx: Ctx, key: str, field: str) -> Any:
    """What the user said to the question `key`; None while they have said nothing that fits it."""
    answer = (ctx.input_responses or {}).get(key)
    return answer.content.get(field) if isinstance(answer, ElicitResult) and answer.content else None


def _sample(text: str, tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=tokens))


def test_input_required_result_elicitation(ctx: Ctx) -> str | InputRequiredResult:
    """Asks for a name."""
    name = answered(ctx, "user_name", "name")
    if name is None:
        return InputRequiredResult(input_requests={"user_name": form("What is your name?", "name")})
    return f"Hello, {name}!"


def test_streaming_elicitation(ctx: Ctx) -> str | InputRequiredResult:
    """Asks for a name, for a client that watches the stream."""
    return test_input_required_result_elicitation(ctx)


def test_input_required_result_sampling(ctx: Ctx) -> str | InputRequiredResult:
    """Has the client's model answer."""
    answer = (ctx.input_responses or {}).get("capital_question")
    if not isinstance(answer, CreateMessageResult):
        question = _sample("What is the capital of France?", 100)
        return InputRequiredResult(input_requests={"capital_question": question})
    return f"Model said: {_text(answer)}"


def test_input_required_result_list_roots(ctx: Ctx) -> str | InputRequiredResult:
    """Asks for the client's roots."""
    answer = (ctx.input_responses or {}).get("client_roots")
    if not isinstance(answer, ListRootsResult):
        return InputRequiredResult(input_requests={"client_roots": ListRootsRequest()})
    return f"{len(answer.roots)} roots"


def test_input_required_result_request_state(ctx: Ctx) -> str | InputRequiredResult:
    """Needs its state back."""
    if ctx.request_state == "the state" and answered(ctx, "confirm", "ok") is not None:
        return "state-ok"
    return InputRequiredResult(
        input_requests={"confirm": form("Please confirm", "ok", "boolean")}, request_state="the state"
    )


def test_input_required_result_multiple_inputs(ctx: Ctx) -> str | InputRequiredResult:
    """Asks three things at once."""
    asked: dict[str, InputRequest] = {
        "user_name": form("What is your name?", "name"),
        "greeting": _sample("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    if asked.keys() <= (ctx.input_responses or {}).keys():
        return "All inputs received."
    return InputRequiredResult(input_requests=asked, request_state="three things")


def test_input_required_result_multi_round(ctx: Ctx) -> str | InputRequiredResult:
    """Asks one thing after the other."""
    known: dict[str, str] = json.loads(ctx.request_state or "{}")
    if (name := answered(ctx, "step1", "name")) is not None and "name" not in known:
        return InputRequiredResult(
            input_requests={"step2": form("Step 2: What is your favorite color?", "color")},
            request_state=json.dumps({"name": name}),
        )
    if (color := answered(ctx, "step2", "color")) is not None and "name" in known:
        return f"{known['name']} likes {color}."
    return InputRequiredResult(input_requests={"step1": form("Step 1: What is your name?", "name")}, request_state="{}")


def test_input_required_result_tampered_state(ctx: Ctx) -> str | InputRequiredResult:
    """Its state must come back as it went out; the server's seal sees to that before this is called."""
    if ctx.request_state is None:
        return InputRequiredResult(
            input_requests={"confirm": form("Please confirm", "ok", "boolean")}, request_state="sealed"
        )
    return f"state-ok: {ctx.request_state}"


def test_input_required_result_capabilities(ctx: Ctx) -> InputRequiredResult:
    """Asks only what the client can answer."""
    able = ctx.client_capabilities
    asked: dict[str, InputRequest] = {}
    if able is not None and able.sampling is not None:
        asked["sample"] = _sample("Say hello", 50)
    if able is not None and able.elicitation is not None:
        asked["ask"] = form("What is your name?", "name")
    return InputRequiredResult(input_requests=asked, request_state="as declared")


def test_input_required_result_prompt(ctx: Ctx) -> UserMessage | InputRequiredResult:
    """A prompt that asks first."""
    context = answered(ctx, "user_context", "context")
    if context is None:
        return InputRequiredResult(
            input_requests={"user_context": form("What context should the prompt use?", "context")}
        )
    return UserMessage(f"Use the following context: {context}")


def tools() -> list[Tool]:
    functions = (
        test_sampling,
        test_elicitation,
        test_elicitation_sep1034_defaults,
        test_elicitation_sep1330_enums,
        test_input_required_result_elicitation,
        test_streaming_elicitation,
        test_input_required_result_sampling,
        test_input_required_result_list_roots,
        test_input_required_result_request_state,
        test_input_required_result_multiple_inputs,
        test_input_required_result_multi_round,
        test_input_required_result_tampered_state,
        test_input_required_result_capabilities,
    )
    return [Tool.from_function(function) for function in functions]


def add_prompts(server: MCPServer[Any]) -> None:
    server.add_prompt(Prompt.from_function(test_input_required_result_prompt))
