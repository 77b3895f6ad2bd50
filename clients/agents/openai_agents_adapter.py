"""Agents on the OpenAI Agents SDK: its models, tools and items, one response at a time. Nothing is traced."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from omium.clients.agents.adapter import AgentContext, ToolAnswer
from omium.clients.agents.kept import unreadable
from omium.clients.agents.script import answer, read_script
from omium.clients.agents.turns import Answer, Asked, Chat, TurnAdapter, arguments, as_object, settings

if TYPE_CHECKING:
    from agents.items import ModelResponse
    from agents.models.interface import Model
    from openai import AsyncOpenAI

_KINDS = frozenset({"message", "function_call", "function_call_output", "reasoning"})


class OpenAiAgentsAdapter(TurnAdapter):
    """See `turns.TurnAdapter`."""

    framework = "openai-agents"
    package = "openai-agents"

    def imported(self) -> None:
        for name in ("agents", "agents.models.openai_chatcompletions"):
            import_module(name)

    def open(self, ctx: AgentContext, system: str, client: AsyncOpenAI | None) -> Chat:
        from agents.models.openai_chatcompletions import OpenAIChatCompletionsModel

        assert ctx.agent.model is not None
        name = ctx.agent.model.name
        model = _scripted(ctx) if client is None else OpenAIChatCompletionsModel(name, client)
        return _Chat(ctx, system, model)


class _Chat:
    """See `turns.Chat`. The items are plain JSON, as the SDK replays them; one that begins with `answer` marks where an
    answer begins, which may be several items."""

    def __init__(self, ctx: AgentContext, system: str, model: Model) -> None:
        from agents import FunctionTool, ModelSettings

        self._ctx = ctx
        self._system = system
        self._model = model
        self._items: list[Any] = []
        self._answered = -1  # where the last answer begins, if the items end with one
        known = settings(ctx)
        extra = {name: known.pop(name) for name in ("seed",) if name in known}
        self._settings = ModelSettings(**known, extra_args=extra or None)
        self._tools: list[Any] = [
            FunctionTool(
                name=offer.name,
                description=offer.description,
                params_json_schema=dict(offer.parameters),
                on_invoke_tool=_never,
                strict_json_schema=False,
            )
            for offer in ctx.offers
        ]

    def tell(self, text: str) -> None:
        self._items.append({"type": "message", "role": "user", "content": text})
        self._answered = -1

    def results(self, calls: Sequence[Asked], answers: Sequence[ToolAnswer]) -> None:
        self._items += [
            {"type": "function_call_output", "call_id": call.id, "output": one.text}
            for call, one in zip(calls, answers, strict=True)
        ]
        self._answered = -1

    async def ask(self) -> Answer:
        from agents.models.interface import ModelTracing

        response: ModelResponse = await self._model.get_response(
            self._system,
            list(self._items),
            self._settings,
            self._tools,
            None,
            [],
            ModelTracing.DISABLED,
            previous_response_id=None,
            conversation_id=None,
            prompt=None,
        )
        items: list[Any] = [dict(item) for item in response.to_input_items()]
        found = _answer(items)
        for item in items:
            if item.get("type") == "function_call":
                item["arguments"] = as_object(item["arguments"])
        self._answered = len(self._items)
        self._items += items
        usage = response.usage
        name = self._ctx.agent.model.name if self._ctx.agent.model is not None else None
        cached = usage.input_tokens_details.cached_tokens
        return Answer(found.text, found.calls, usage.input_tokens, usage.output_tokens, cached or 0, name)

    def last(self) -> Answer:
        if self._answered < 0:
            raise unreadable("it does not end with an answer of the model")
        return _answer(self._items[self._answered :])

    def dump(self) -> list[Any]:
        return [{"items": self._items, "answered": self._answered}]

    def load(self, messages: list[Any]) -> None:
        (told,) = messages
        for item in told["items"]:
            if item["type"] not in _KINDS:
                raise unreadable(f"it holds an item {str(item['type'])[:40]!r} that is not expected")
        self._items, self._answered = list(told["items"]), int(told["answered"])


async def _never(_: Any, __: str) -> str:
    raise AssertionError("the SDK only tells the model of this tool")


def _answer(items: Sequence[Any]) -> Answer:
    texts = [
        str(part.get("text") or part.get("refusal") or "")
        for item in items
        if item.get("type") == "message"
        for part in item["content"]
    ]
    calls = [
        Asked(item["call_id"], item["name"], arguments(item["arguments"]))
        for item in items
        if item.get("type") == "function_call"
    ]
    return Answer("".join(texts), calls)


def _scripted(ctx: AgentContext) -> Model:
    from agents.items import ModelResponse
    from agents.models.interface import Model
    from agents.usage import Usage
    from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

    spec = ctx.agent.model
    assert spec is not None and spec.script is not None, "checked when the agent was registered"
    script = read_script(spec.script)

    class Scripted(Model):
        place = -1

        async def get_response(self, system_instructions: Any, input: Any, *_: Any, **__: Any) -> ModelResponse:
            told, place, inside = [], 0, False
            for item in input:
                mine = item["type"] == "function_call" or item.get("role") == "assistant"
                place += mine and not inside  # items beside each other are one answer
                inside = mine
                if not mine:
                    told.append(str(item.get("output", item.get("content"))))
            said = answer(script, place, ctx.attempt, told)
            output: list[Any] = []
            if said.text is not None:
                part = ResponseOutputText(type="output_text", text=said.text, annotations=[], logprobs=[])
                output.append(
                    ResponseOutputMessage(
                        id=f"msg_{place}", type="message", role="assistant", status="completed", content=[part]
                    )
                )
            output += [
                ResponseFunctionToolCall(type="function_call", call_id=one, name=name, arguments=made)
                for one, name, made in said.calls
            ]
            total = said.input_tokens + said.output_tokens
            usage = Usage(
                requests=1, input_tokens=said.input_tokens, output_tokens=said.output_tokens, total_tokens=total
            )
            return ModelResponse(output=output, usage=usage, response_id=None)

        def stream_response(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("answers are asked for whole")

    return Scripted()
