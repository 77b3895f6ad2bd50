"""Agents on pydantic-ai: its models and messages, one request at a time."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from omium.clients.agents.adapter import AgentContext, ToolAnswer
from omium.clients.agents.kept import unreadable
from omium.clients.agents.script import answer, read_script
from omium.clients.agents.turns import Answer, Asked, Chat, TurnAdapter, arguments, as_object, settings

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from pydantic_ai.messages import ModelMessage, ModelResponse
    from pydantic_ai.models import Model

_PARTS = frozenset({"system-prompt", "user-prompt", "tool-return", "text", "tool-call", "thinking"})


class PydanticAiAdapter(TurnAdapter):
    """See `turns.TurnAdapter`."""

    framework = "pydantic-ai"
    package = "pydantic-ai-slim"

    def imported(self) -> None:
        for name in ("pydantic_ai.direct", "pydantic_ai.models.function", "pydantic_ai.models.openai"):
            import_module(name)

    def open(self, ctx: AgentContext, system: str, client: AsyncOpenAI | None) -> Chat:
        return _Chat(ctx, system, _scripted(ctx) if client is None else _openai(ctx, client))


class _Chat:
    """See `turns.Chat`."""

    def __init__(self, ctx: AgentContext, system: str, model: Model) -> None:
        from pydantic_ai.models import ModelRequestParameters
        from pydantic_ai.tools import ToolDefinition

        self._ctx = ctx
        self._system = system
        self._model = model
        self._messages: list[ModelMessage] = []
        self._parameters = ModelRequestParameters(
            function_tools=[
                ToolDefinition(
                    name=offer.name, description=offer.description, parameters_json_schema=dict(offer.parameters)
                )
                for offer in ctx.offers
            ]
        )

    def _add(self, *parts: Any) -> None:
        from pydantic_ai.messages import ModelRequest, SystemPromptPart

        last = self._messages[-1] if self._messages else None
        if isinstance(last, ModelRequest):  # one request holds all that came since the last answer
            self._messages[-1] = ModelRequest([*last.parts, *parts])
        else:
            first = [] if self._messages else [SystemPromptPart(self._system)]
            self._messages.append(ModelRequest([*first, *parts]))

    def tell(self, text: str) -> None:
        from pydantic_ai.messages import UserPromptPart

        self._add(UserPromptPart(text))

    def results(self, calls: Sequence[Asked], answers: Sequence[ToolAnswer]) -> None:
        from pydantic_ai.messages import ToolReturnPart

        self._add(
            *(
                ToolReturnPart(tool_name=call.name, content=one.text, tool_call_id=call.id)
                for call, one in zip(calls, answers, strict=True)
            )
        )

    async def ask(self) -> Answer:
        from pydantic_ai.direct import model_request

        response = await model_request(
            self._model,
            self._messages,
            model_settings=settings(self._ctx),  # type: ignore[arg-type]  # names that ModelSettings has
            model_request_parameters=self._parameters,
        )
        found = _answer(response)
        for part in response.tool_calls:
            part.args = as_object(part.args)
        self._messages.append(response)
        return found

    def last(self) -> Answer:
        from pydantic_ai.messages import ModelResponse

        last = self._messages[-1] if self._messages else None
        if not isinstance(last, ModelResponse):
            raise unreadable("it does not end with an answer of the model")
        return _answer(last)

    def dump(self) -> list[Any]:
        from pydantic_ai.messages import ModelMessagesTypeAdapter

        told: list[Any] = ModelMessagesTypeAdapter.dump_python(self._messages, mode="json")
        return told

    def load(self, messages: list[Any]) -> None:
        from pydantic_ai.messages import ModelMessagesTypeAdapter

        for message in messages:
            for part in message["parts"]:
                plain = isinstance(part.get("content", ""), str)  # anything else may name files and addresses to fetch
                if part["part_kind"] not in _PARTS or not plain:
                    raise unreadable(f"it holds a part {str(part['part_kind'])[:40]!r} that is not expected")
        self._messages = list(ModelMessagesTypeAdapter.validate_python(messages))


def _answer(response: ModelResponse) -> Answer:
    return Answer(
        response.text or "",
        [Asked(part.tool_call_id, part.tool_name, arguments(part.args or "{}")) for part in response.tool_calls],
        response.usage.input_tokens,
        response.usage.output_tokens,
        response.usage.cache_read_tokens,
        response.model_name,
    )


def _openai(ctx: AgentContext, client: AsyncOpenAI) -> Model:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    assert ctx.agent.model is not None
    return OpenAIChatModel(ctx.agent.model.name, provider=OpenAIProvider(openai_client=client))


def _scripted(ctx: AgentContext) -> Model:
    from pydantic_ai.messages import (
        ModelRequest,
        ModelResponse,
        TextPart,
        ToolCallPart,
        ToolReturnPart,
        UserPromptPart,
    )
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.usage import RequestUsage

    model = ctx.agent.model
    assert model is not None and model.script is not None, "checked when the agent was registered"
    script, name = read_script(model.script), model.name or model.provider

    async def scripted(messages: list[Any], info: Any) -> ModelResponse:
        parts = [part for one in messages if isinstance(one, ModelRequest) for part in one.parts]
        told = [str(part.content) for part in parts if isinstance(part, UserPromptPart | ToolReturnPart)]
        said = answer(script, sum(isinstance(one, ModelResponse) for one in messages), ctx.attempt, told)
        calls = [ToolCallPart(tool_name=name, args=made, tool_call_id=one) for one, name, made in said.calls]
        texts = [TextPart(said.text)] if said.text is not None else []
        usage = RequestUsage(input_tokens=said.input_tokens, output_tokens=said.output_tokens)
        return ModelResponse([*texts, *calls], usage=usage, model_name=name)

    return FunctionModel(scripted, model_name=name)
