"""AG2 agents: one call of the model at a time through AG2, everything between two of them through Omium.

AG2 would call the tools of an answer by itself, inside its turn. Here each answer ends AG2's turn; it is checkpointed,
its calls are made under policy and ledger, and the conversation is resumed with their results. So the way that a
conversation takes after a crash, a question to a person or a failed attempt is the way that it always takes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import anyio.to_thread
import orjson

from omium.clients.agents.adapter import AgentContext, Offer, Outcome, Task, ToolAnswer
from omium.clients.agents.ag2_adapter.history import FORMAT, dump, load
from omium.clients.agents.ag2_adapter.models import PROVIDERS, configured
from omium.clients.agents.kept import unreadable
from omium.clients.agents.spec import SCRIPTED, AgentDef
from omium.clients.agents.turns import arguments, as_object
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value

if TYPE_CHECKING:
    from ag2.config import LLMClient, ModelConfig
    from ag2.events import BaseEvent, ModelResponse

Configure = Callable[[AgentContext], AbstractAsyncContextManager["ModelConfig"]]

_REPAIRS: Final = 2  # how often an answer that does not fit its schema is sent back
_GO_ON: Final = "Go on."
_CUT: Final = frozenset({"length", "max_tokens", "MAX_TOKENS"})


class Ag2Adapter:
    """See `adapter.Adapter`. configure: where the configuration of an agent's model comes from."""

    framework = "ag2"
    formats = frozenset({FORMAT})

    def __init__(self, configure: Configure = configured) -> None:
        self._configure = configure

    def version(self) -> str:
        return version("ag2")

    def check(self, agent: AgentDef) -> Sequence[tuple[str, str]]:
        model = agent.model
        if agent.factory is not None:
            return [("factory", "means nothing to AG2")]
        if agent.worker is not None:
            return [("worker", "goes with the framework worker")]
        if model is None:
            return [("model", "is missing; an AG2 agent needs one")]
        if model.provider == SCRIPTED:
            if model.script is None:
                return [("model.script", "is missing; a scripted model answers from a file")]
            return [] if model.script.is_file() else [("model.script", f"there is no file {str(model.script)!r}")]
        if model.provider not in PROVIDERS:
            return [("model.provider", f"is {model.provider!r}; expected one of {', '.join([SCRIPTED, *PROVIDERS])}")]
        if not model.name:
            return [("model.name", "is missing")]
        return [("model.script", "means nothing to a real model")] if model.script is not None else []

    async def run(self, task: Task, ctx: AgentContext) -> Outcome:
        if "ag2.config" not in sys.modules:  # it takes a second or two, which would stand every other run still
            await anyio.to_thread.run_sync(_read_ag2)
        async with self._configure(ctx) as config:
            return await _Conversation(task, ctx, config).run()


class _Conversation:
    """One agent's conversation, from its beginning or from where it was kept."""

    def __init__(self, task: Task, ctx: AgentContext, config: ModelConfig) -> None:
        from ag2 import Agent, MemoryStream
        from ag2.events import ModelMessage, ModelMessageChunk
        from ag2.response import ResponseSchema

        self._ctx = ctx
        self._task = task
        self._events: list[BaseEvent] = []
        self._turn = 0
        self._repairs = 0
        schema, system = ctx.output_schema, task.system
        model = ctx.agent.model
        native = model is not None and model.structured == "native" and model.provider != SCRIPTED
        as_object = schema is not None and schema.get("type") == "object"
        asked = ResponseSchema.from_schema(dict(schema), name="output") if schema and native and as_object else None
        if schema is not None and asked is None and schema.get("type") != "string":
            told = json.dumps(schema)
            system += f"\n\nAnswer with JSON that fits this JSON Schema, and with nothing else:\n{told}"
        self._agent = Agent(
            ctx.agent.name,
            prompt=system.strip() or "You are a helpful assistant.",
            config=_one_client(config),
            tools=[_offered(offer) for offer in ctx.offers],
            middleware=[_metered(ctx)],
            response_schema=asked,
        )
        self._stream = MemoryStream()
        self._stream.where(ModelMessageChunk).subscribe(self._heard_piece)
        self._stream.where(ModelMessage).subscribe(self._heard)

    async def _heard_piece(self, event: Any) -> None:
        await self._ctx.emit("text", event.content)

    async def _heard(self, event: Any) -> None:
        await self._ctx.emit("turn", event.content)

    async def run(self) -> Outcome:
        """To its end: an output, a failure, or the work in other hands."""
        from ag2.events import ModelRequest, TextInput

        if self._ctx.restored is None:
            told = [self._task.message or _GO_ON, self._ctx.news()]
            trigger: BaseEvent = ModelRequest([TextInput("\n\n".join(filter(None, told)))])
        else:
            self._restore(self._ctx.restored.blob)
            after = await self._after(self._last_response())
            news = self._ctx.news()
            if isinstance(after, Outcome):
                if after.kind != "failed" or not news:
                    return after
                after = ModelRequest([TextInput(news)])
            elif news:
                self._stream.enqueue(news)  # told with the next call of the model
            trigger = after
        while True:
            response = await self._asked(trigger)
            after = await self._after(response)
            if isinstance(after, Outcome):
                return after
            trigger = after

    def _restore(self, blob: Value) -> None:
        if not isinstance(blob, dict):
            raise unreadable("it has no events")
        told: Any = blob
        self._events, self._turn, self._repairs = load(told["events"]), told["turn"], told["repairs"]

    def _last_response(self) -> ModelResponse:
        from ag2.events import ModelResponse

        last = self._events[-1] if self._events else None
        if not isinstance(last, ModelResponse):
            raise unreadable("it does not end with an answer of the model")
        return last

    async def _asked(self, trigger: BaseEvent) -> ModelResponse:
        """One answer of the model, checkpointed."""
        from omium.clients.agents.ag2_adapter.scripted import ATTEMPT

        reply = await self._agent.resume(
            *self._events, trigger, stream=self._stream, variables={ATTEMPT: self._ctx.attempt}
        )
        response = reply.response
        response.response_force = False  # it was true to end AG2's turn, and is no part of what was said
        self._events = list(await self._stream.history.get_events())
        self._turn += 1
        await self._keep()
        return response

    async def _keep(self) -> None:
        blob = {"events": dump(self._events), "turn": self._turn, "repairs": self._repairs}
        await self._ctx.checkpoint(cast(Value, blob))

    async def _after(self, response: ModelResponse) -> BaseEvent | Outcome:
        """What follows an answer: the results of its calls, a request to say it properly, or the end."""
        from ag2.events import ModelRequest, TextInput, ToolResult, ToolResultEvent, ToolResultsEvent

        calls = response.tool_calls.calls
        if calls:
            asked = [
                (call.name, arguments(call.arguments), f"t{self._turn}.{place}") for place, call in enumerate(calls)
            ]
            answers: list[ToolAnswer] = await self._ctx.call_tools(asked)
            if any(answer.final for answer in answers):
                return Outcome("handed_over")
            return ToolResultsEvent(
                [
                    ToolResultEvent(parent_id=call.id, name=call.name, result=ToolResult(answer.text))
                    for call, answer in zip(calls, answers, strict=True)
                ]
            )
        if (unsaid := _unsaid(response)) is not None:
            return unsaid
        output, problem = self._ctx.check_output(response.content)
        if not problem:
            return Outcome("ok", output)
        if self._repairs >= _REPAIRS:
            why = f"the answer does not fit what the agent has to give: {problem}"
            return Outcome("failed", error=OmiumError("invalid_value", why), category="validation")
        self._repairs += 1
        return ModelRequest([TextInput(f"Your answer does not fit what is asked for: {problem}. Answer again.")])


def _unsaid(response: ModelResponse) -> Outcome | None:
    """The failure that an answer without a word is, unless the model itself ended it there."""
    if response.content:
        return None
    if response.finish_reason in _CUT:
        why = "the model used up max_tokens before it said anything; allow it more"
        return Outcome("failed", error=OmiumError("invalid_value", why), category="validation")
    if response.finish_reason is None and response.provider == "openai":  # whose answers always say why they end
        why = "what the provider sent holds no answer"
        return Outcome("failed", error=OmiumError("process_failed", why), category="api_error")
    return None


def _read_ag2() -> None:
    for name in ("ag2", "ag2.config", "ag2.response", "omium.clients.agents.ag2_adapter.scripted"):
        import_module(name)


def _one_client(config: ModelConfig) -> ModelConfig:
    """The configuration with one client for the whole conversation, where AG2 makes one for each turn."""
    from ag2.config import ModelConfig as Config

    class OneClient(Config):
        client: LLMClient | None = None

        @property
        def provider(self) -> Any:
            return config.provider

        @property
        def model(self) -> str:
            return config.model

        def copy(self) -> Any:
            return self

        def create(self) -> LLMClient:
            if self.client is None:
                self.client = config.create()
            return self.client

        def create_files_client(self) -> Any:
            return config.create_files_client()

    return OneClient()


def _offered(offer: Offer) -> Any:
    """A tool that AG2 only tells the model of."""
    from ag2.tools.final.function_tool import FunctionDefinition, FunctionToolSchema
    from ag2.tools.tool import Tool

    schema = FunctionToolSchema(function=FunctionDefinition(offer.name, offer.description, dict(offer.parameters)))

    class Offered(Tool):
        name = offer.name

        async def schemas(self, context: Any) -> list[FunctionToolSchema]:
            return [schema]

    return Offered()


def _metered(ctx: AgentContext) -> Any:
    """Middleware around each call of the model: budgets before, usage after, and the end of AG2's turn."""
    from ag2.middleware import BaseMiddleware

    class Metered(BaseMiddleware):
        async def on_llm_call(self, call_next: Any, events: Any, context: Any) -> Any:
            told = len(orjson.dumps(dump(events), default=str)) + sum(map(len, context.prompt))
            async with ctx.model_call(told) as call:
                response = await call_next(events, context)
                usage = response.usage
                if usage:
                    call.used(
                        input_tokens=int(usage.prompt_tokens or 0),
                        output_tokens=int(usage.completion_tokens or 0),
                        cached_tokens=int(usage.cache_read_input_tokens or 0),
                        model=response.model,
                    )
            for one in response.tool_calls.calls:
                if not isinstance(arguments(one.arguments), dict):
                    one.arguments = as_object(one.arguments)
            response.response_force = True
            return response

    return lambda event, context: Metered(event, context)
