"""Agents on Microsoft's Agent Framework: its chat clients and messages, one response at a time."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from omium.clients.agents.adapter import AgentContext, ToolAnswer
from omium.clients.agents.kept import unreadable
from omium.clients.agents.script import answer, read_script
from omium.clients.agents.turns import Answer, Asked, Chat, TurnAdapter, arguments, as_object, settings

if TYPE_CHECKING:
    from agent_framework import ChatResponse, Message
    from openai import AsyncOpenAI

_KINDS = frozenset({"text", "text_reasoning", "function_call", "function_result"})


class AgentFrameworkAdapter(TurnAdapter):
    """See `turns.TurnAdapter`."""

    framework = "agent-framework"
    package = "agent-framework-core"

    def imported(self) -> None:
        for name in ("agent_framework", "agent_framework.openai"):
            import_module(name)

    def open(self, ctx: AgentContext, system: str, client: AsyncOpenAI | None) -> Chat:
        from agent_framework.openai import OpenAIChatCompletionClient

        if client is None:
            return _Chat(ctx, system, _scripted(ctx))
        assert ctx.agent.model is not None
        real = OpenAIChatCompletionClient(ctx.agent.model.name, async_client=client)
        real.function_invocation_configuration["enabled"] = False  # calls are made by the node
        return _Chat(ctx, system, real)


class _Chat:
    """See `turns.Chat`."""

    def __init__(self, ctx: AgentContext, system: str, client: Any) -> None:
        from agent_framework import FunctionTool, Message

        self._ctx = ctx
        self._client = client
        self._messages: list[Message] = [Message("system", [system])]
        self._options: dict[str, Any] = settings(ctx)
        tools = [
            FunctionTool(name=offer.name, description=offer.description, input_model=dict(offer.parameters))
            for offer in ctx.offers
        ]
        if tools:
            self._options |= {"tools": tools, "tool_choice": "auto"}

    def tell(self, text: str) -> None:
        from agent_framework import Message

        self._messages.append(Message("user", [text]))

    def results(self, calls: Sequence[Asked], answers: Sequence[ToolAnswer]) -> None:
        from agent_framework import Content, Message

        self._messages += [
            Message("tool", [Content.from_function_result(call.id, result=one.text)])
            for call, one in zip(calls, answers, strict=True)
        ]

    async def ask(self) -> Answer:
        from agent_framework import Message
        from agent_framework.exceptions import ChatClientException

        try:
            response: ChatResponse[Any] = await self._client.get_response(self._messages, options=self._options)
        except ChatClientException as error:
            if isinstance(error.__cause__, Exception):
                raise error.__cause__ from None  # which says what the provider answered
            raise
        contents = [one for message in response.messages for one in message.contents if one.type in _KINDS]
        found = _answer(contents)
        for one in contents:
            one.raw_representation = None
            if one.type == "function_call":
                one.arguments = as_object(one.arguments)
        self._messages.append(Message("assistant", contents))
        used = response.usage_details or {}
        return Answer(
            found.text,
            found.calls,
            int(used.get("input_token_count") or 0),
            int(used.get("output_token_count") or 0),
            int(used.get("cache_read_input_token_count") or 0),
            response.model,
        )

    def last(self) -> Answer:
        last = self._messages[-1]
        if last.role != "assistant":
            raise unreadable("it does not end with an answer of the model")
        return _answer(last.contents)

    def dump(self) -> list[Any]:
        return [message.to_dict() for message in self._messages]

    def load(self, messages: list[Any]) -> None:
        from agent_framework import Message

        for message in messages:
            for content in message["contents"]:
                if content["type"] not in _KINDS:
                    raise unreadable(f"it holds a content {str(content['type'])[:40]!r} that is not expected")
        self._messages = [Message.from_dict(dict(message)) for message in messages]


def _answer(contents: Sequence[Any]) -> Answer:
    calls = [
        Asked(one.call_id, one.name, arguments(one.arguments or "{}"))
        for one in contents
        if one.type == "function_call"
    ]
    return Answer("".join(one.text or "" for one in contents if one.type == "text"), calls)


def _scripted(ctx: AgentContext) -> Any:
    from agent_framework import BaseChatClient, ChatResponse, Content, Message, UsageDetails

    spec = ctx.agent.model
    assert spec is not None and spec.script is not None, "checked when the agent was registered"
    script, name = read_script(spec.script), spec.name or spec.provider

    class Scripted(BaseChatClient):
        def _inner_get_response(self, *, messages: Any, stream: bool, options: Any, **_: Any) -> Any:
            assert not stream, "answers are asked for whole"
            return self._answered(messages)

        async def _answered(self, messages: Sequence[Message]) -> ChatResponse[Any]:
            told = [
                str(one.text if one.type == "text" else one.result)
                for message in messages
                if message.role in ("user", "tool")
                for one in message.contents
            ]
            said = answer(script, sum(one.role == "assistant" for one in messages), ctx.attempt, told)
            contents: list[Any] = [] if said.text is None else [Content.from_text(said.text)]
            contents += [Content.from_function_call(one, name, arguments=made) for one, name, made in said.calls]
            usage = UsageDetails(input_token_count=said.input_tokens, output_token_count=said.output_tokens)
            return ChatResponse(messages=[Message("assistant", contents)], usage_details=usage, model=name)

    return Scripted()
