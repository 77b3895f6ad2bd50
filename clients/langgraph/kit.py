"""What the factory of a graph is given: the agent's model, tools and people, each behind policy, ledger and budgets.

def build(kit: GraphKit) -> StateGraph:
    model = kit.chat_model()

    async def think(state: MessagesState) -> dict:
        return {"messages": [await model.ainvoke([*kit.system(), *state["messages"]])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", kit.run_tools)
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", kit.next_of, {"tools": "tools", "end": END})
    graph.add_edge("tools", "think")
    return graph
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, Literal
from uuid import UUID

import anyio
import orjson
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult, LLMResult
from langgraph.config import get_config
from langgraph.errors import GraphInterrupt
from langgraph.types import Interrupt

from omium.clients.agents.adapter import AgentContext, ModelCall, Task, ToolAnswer
from omium.clients.agents.script import Script, answer, read_script
from omium.clients.agents.spec import SCRIPTED
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_calls import Suspended

STOPPED: Final = "omium:stopped"
"""The value of the interrupt with which a graph is brought to its end because the node itself ends."""


class GraphKit:
    """See the module. One for each time that a graph is run. classes: those of the graph's state that are rebuilt when
    it is restored, beyond LangGraph's own; for the factory to fill."""

    def __init__(self, task: Task, ctx: AgentContext) -> None:
        self._task = task
        self._ctx = ctx
        self._counts: Counter[str] = Counter()
        self._running: dict[anyio.CancelScope, anyio.Event] = {}
        self.classes: list[type] = []
        self.news = ""
        self.suspended: Suspended | None = None
        self.handed_over = False

    @property
    def message(self) -> str:
        """The first thing that the agent is told: its input."""
        return self._task.message

    def system(self) -> list[BaseMessage]:
        """The agent's prompt, as the messages to begin with."""
        text = self._task.system
        schema = self._ctx.output_schema
        if schema is not None and schema.get("type") != "string":
            told = orjson.dumps(schema).decode()
            text += f"\n\nAnswer with JSON that fits this JSON Schema, and with nothing else:\n{told}"
        return [SystemMessage(text.strip())] if text.strip() else []

    def tool_schemas(self) -> list[dict[str, Any]]:
        """The tools that the agent has, for `bind_tools` of a chat model."""
        return [
            {
                "type": "function",
                "function": {
                    "name": offer.name,
                    "description": offer.description,
                    "parameters": dict(offer.parameters),
                },
            }
            for offer in self._ctx.offers
        ]

    def secret(self, name: str) -> str | None:
        """See `AgentContext.secret`."""
        return self._ctx.secret(name)

    def chat_model(self) -> BaseChatModel:
        """The model of the provider `scripted`. Any other, a factory makes of LangChain's own packages; calls of it are
        held to the same limits as long as nodes are asynchronous."""
        model = self._ctx.agent.model
        if model is None or model.provider != SCRIPTED or model.script is None:
            raise OmiumError(
                "unsupported",
                f"the agent {self._ctx.agent.name} has no scripted model.",
                "Make the model in the factory, with the LangChain package of its provider.",
            )
        return ScriptedChat(script=read_script(model.script), name=model.name or SCRIPTED, attempt=self._ctx.attempt)

    def next_of(self, state: Mapping[str, Any]) -> Literal["tools", "end"]:
        """Whether the last message asks for tools."""
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and _calls(last) else "end"

    async def run_tools(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A node: the calls that the last message asks for, at the same time."""
        calls = _calls(state["messages"][-1])
        place = len(state["messages"])
        answers = await self._made([(name, made, f"m{place}.{at}") for at, (_, name, made) in enumerate(calls)])
        messages: list[BaseMessage] = [
            ToolMessage(one.text, tool_call_id=call_id, name=name, status="error" if one.failed else "success")
            for one, (call_id, name, _) in zip(answers, calls, strict=True)
        ]
        if self.news:
            messages.append(HumanMessage(self.news))
            self.news = ""
        return {"messages": messages}

    async def call(self, name: str, arguments: Mapping[str, Any], call_id: str | None = None) -> ToolAnswer:
        """Call one of the agent's tools in a node. call_id: what makes this call the same one when the node is run
        again; unless it is given, its place among the calls of the node's step."""
        if call_id is None:
            step = str(get_config()["configurable"]["checkpoint_ns"])
            self._counts[step] += 1
            call_id = f"{step[-80:]}.{self._counts[step]}"
        return (await self._made([(name, dict(arguments), call_id)]))[0]

    async def _made(self, calls: Sequence[tuple[str, Any, str]]) -> list[ToolAnswer]:
        try:
            answers = await self._tracked(calls)
        except Suspended as suspended:  # other nodes of this step come to their ends, and are kept
            self.suspended = suspended
        else:
            self.handed_over = self.handed_over or any(one.final for one in answers)
            if not self.handed_over:
                return answers
        raise GraphInterrupt((Interrupt(STOPPED),))

    async def _tracked(self, calls: Sequence[tuple[str, Any, str]]) -> list[ToolAnswer]:
        done = anyio.Event()
        with anyio.CancelScope() as scope:
            self._running[scope] = done
            try:
                return await self._ctx.call_tools(calls)
            finally:
                del self._running[scope]
                done.set()
        raise anyio.get_cancelled_exc_class()("the graph is stopped")

    async def stop(self) -> None:
        """Have what nodes are doing come to its end: LangGraph cancels its tasks without waiting for them."""
        running = dict(self._running)
        for scope in running:
            scope.cancel()
        with anyio.CancelScope(shield=True):
            for done in running.values():
                await done.wait()


def _calls(message: AIMessage) -> list[tuple[str, str, Any]]:
    """(id, name, arguments) of the calls of a message, those included whose arguments are no JSON."""
    good = [(str(call["id"]), call["name"], call["args"]) for call in message.tool_calls]
    bad = [(str(call["id"]), str(call["name"]), call["args"]) for call in message.invalid_tool_calls]
    return good + bad


class ScriptedChat(BaseChatModel):
    """LangChain's chat model of the provider `scripted`."""

    script: Script
    name: str
    attempt: int = 1

    @property
    def _llm_type(self) -> str:
        return SCRIPTED

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        place = sum(isinstance(one, AIMessage) for one in messages)
        told = [str(one.content) for one in messages if isinstance(one, HumanMessage | ToolMessage)]
        said = answer(self.script, place, self.attempt, told)
        good, bad = [], []
        for call_id, name, text in said.calls:
            try:
                made = orjson.loads(text)
            except orjson.JSONDecodeError:
                made = text
            if isinstance(made, dict):
                good.append({"id": call_id, "name": name, "args": made, "type": "tool_call"})
            else:
                bad.append({"id": call_id, "name": name, "args": text, "error": None, "type": "invalid_tool_call"})
        usage = {
            "input_tokens": said.input_tokens,
            "output_tokens": said.output_tokens,
            "total_tokens": said.input_tokens + said.output_tokens,
        }
        message = AIMessage(
            said.text or "",
            tool_calls=good,
            invalid_tool_calls=bad,
            usage_metadata=usage,
            response_metadata={"model_name": self.name},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


class Metered(AsyncCallbackHandler):
    """Holds a part of the budgets around every call of a chat model in the graph."""

    raise_error = True  # a limit that is reached stops the call

    def __init__(self, ctx: AgentContext) -> None:
        self._ctx = ctx
        self._loop = asyncio.get_running_loop()
        self._open: dict[UUID, tuple[AbstractAsyncContextManager[ModelCall], ModelCall]] = {}

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **_: Any
    ) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise OmiumError(
                "unsupported", "a node called a model outside the event loop.", "Make the node async, and use ainvoke."
            )
        told = sum(len(str(one.content)) for some in messages for one in some)
        block = self._ctx.model_call(told)
        self._open[run_id] = (block, await block.__aenter__())

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        block, call = self._open.pop(run_id)
        message = getattr(response.generations[0][0], "message", None) if response.generations else None
        used = getattr(message, "usage_metadata", None)
        if used:
            call.used(
                input_tokens=used["input_tokens"],
                output_tokens=used["output_tokens"],
                cached_tokens=int((used.get("input_token_details") or {}).get("cache_read") or 0),
                model=getattr(message, "response_metadata", {}).get("model_name"),
            )
        await block.__aexit__(None, None, None)
        await self._ctx.emit("turn", str(getattr(message, "content", "")))

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        block, _call = self._open.pop(run_id, (None, None))
        if block is not None:
            with suppress(type(error)):  # LangChain raises it itself
                await block.__aexit__(type(error), error, error.__traceback__)
