"""Graphs of LangGraph as agents: `framework: langgraph`, with a factory that the operator names.

The graph's state is checkpointed with each of its steps and each write of a task, so a graph goes on where it was after
a crash, a question to a person or a failed attempt. `interrupt(...)` asks a person; what they say is what it gives.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import orjson

from omium.clients.agents.adapter import AgentContext, Outcome, Task
from omium.clients.agents.spec import SCRIPTED, AgentDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import digest_of

FORMAT: Final = 1
_REPAIRS: Final = 2  # how often an answer that does not fit its schema is sent back
_STEPS: Final = 10_000  # of a graph; the agent's limits stop it long before
_FACTORY: Final = re.compile(r"\A[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*\Z")
_SAID: Final = re.compile(r"\A<human>(.*)</human>\Z", re.DOTALL)


class LanggraphAdapter:
    """See `adapter.Adapter`. path: where factories are looked for besides the installed packages."""

    framework = "langgraph"
    formats = frozenset({FORMAT})

    def __init__(self, path: Sequence[Path] = ()) -> None:
        self._path = tuple(str(entry) for entry in path)

    def version(self) -> str:
        try:
            return version("langgraph")
        except PackageNotFoundError as error:
            raise OmiumError(
                "unsupported", "LangGraph is not installed.", "pip install 'omium-mcp[langgraph]'"
            ) from error

    def check(self, agent: AgentDef) -> Sequence[tuple[str, str]]:
        if agent.factory is None:
            return [("factory", "is missing; a graph is made by package.module:function")]
        if not _FACTORY.match(agent.factory):
            return [("factory", "is not of the form package.module:function")]
        if agent.worker is not None:
            return [("worker", "goes with the framework worker")]
        model = agent.model
        if model is not None and model.provider == SCRIPTED and (model.script is None or not model.script.is_file()):
            return [("model.script", "is missing, or there is no such file")]
        return []

    async def run(self, task: Task, ctx: AgentContext) -> Outcome:
        self.version()
        made = await anyio.to_thread.run_sync(self._factory, ctx.agent)
        return await _GraphRun(task, ctx, made).run()

    def _factory(self, agent: AgentDef) -> Any:
        """What makes the graph. In a thread: LangGraph takes a second or two to import."""
        for entry in reversed(self._path):
            if entry not in sys.path:
                sys.path.insert(0, entry)
        importlib.import_module("omium.clients.langgraph.kit")
        assert agent.factory is not None, "checked when the agent was registered"
        module, _, name = agent.factory.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise OmiumError(
                "invalid_definition", f"the factory {agent.factory} cannot be imported: {error}."
            ) from error
        return found


class _GraphRun:
    """One graph, from its beginning or from where it was kept."""

    def __init__(self, task: Task, ctx: AgentContext, factory: Any) -> None:
        from langgraph.graph import StateGraph

        from omium.clients.langgraph.kit import GraphKit, Metered
        from omium.clients.langgraph.serializing import StrictSerializer
        from omium.clients.langgraph.thread import THREAD, ThreadSaver

        self._task = task
        self._ctx = ctx
        self._kit = GraphKit(task, ctx)
        self._more: dict[str, Any] = {"repairs": 0, "asked": {}}
        self._saver = ThreadSaver(ctx, self._more)
        made = factory(self._kit)
        if not isinstance(made, StateGraph):
            raise OmiumError(
                "invalid_definition", f"the factory {ctx.agent.factory} gives no StateGraph.", "Do not compile it."
            )
        self._saver.serde = StrictSerializer(self._kit.classes)
        self._graph: Any = made.compile(checkpointer=self._saver)
        self._config: Any = {
            "configurable": {"thread_id": THREAD},
            "callbacks": [Metered(ctx)],
            "recursion_limit": _STEPS,
        }

    async def run(self) -> Outcome:
        """To its end: an output, a failure, or the work in other hands."""
        if self._ctx.restored is None:
            return await self._go(self._first())
        self._saver.restore(self._ctx.restored.blob)
        self._kit.news = self._ctx.news()
        state = await self._graph.aget_state(self._config)
        # Nothing is given to a graph that has not ended, or had ended: it goes on, or is found to be at its end.
        return await self._go(await self._answers(state))

    def _talks(self) -> bool:
        """Whether the graph's state is a conversation."""
        return "messages" in self._graph.channels

    def _first(self) -> Any:
        if self._talks():
            told = [self._task.message or "Go on.", self._ctx.news()]
            return _said("\n\n".join(filter(None, told)))
        try:
            given = orjson.loads(self._task.message)
        except orjson.JSONDecodeError:
            given = None
        if not isinstance(given, dict):
            raise OmiumError(
                "invalid_argument",
                f"the graph of {self._ctx.agent.name} has no messages, so its input is an object of its state.",
            )
        return given

    async def _go(self, given: Any) -> Outcome:
        """Run the graph until it ends, asking people what it asks."""
        while True:
            await self._stream(given)
            if self._kit.handed_over:
                return Outcome("handed_over")
            state = await self._graph.aget_state(self._config)
            given = await self._answers(state)
            if given is None and state.next:
                raise OmiumError(
                    "process_failed", f"the graph stopped before {', '.join(state.next)}.", reason="stopped"
                )
            if given is None:
                ended = self._ended(state.values)
                if isinstance(ended, Outcome):
                    return ended
                given = ended

    async def _stream(self, given: Any) -> None:
        modes = ["updates", "custom"]
        try:
            async for mode, part in self._graph.astream(given, self._config, stream_mode=modes, durability="sync"):
                if mode == "custom":
                    text = part if isinstance(part, str) else orjson.dumps(part, default=str).decode()
                    await self._ctx.emit("text", text)
                elif isinstance(part, Mapping):
                    await self._ctx.emit("note", f"finished {', '.join(map(str, part))}")
        finally:
            await self._kit.stop()
        if self._kit.suspended is not None:
            raise self._kit.suspended

    async def _answers(self, state: Any) -> Any:
        """What people answer to the graph's interrupts, as LangGraph wants it; None if it asks nothing."""
        from langgraph.types import Command

        from omium.clients.langgraph.kit import STOPPED

        answers = {}
        asked = dict(self._more["asked"])
        for one in state.interrupts:
            if one.value == STOPPED:
                continue
            answered = asked.get(one.id, 0)  # one step may ask several questions, which have one id
            text, options = _question(one.value)
            said = await self._ctx.human(text, f"i.{one.id}.{answered}.{digest_of(text)[:8]}", options)
            answers[one.id] = _plain(said)
            asked[one.id] = answered + 1
        self._more["asked"] = asked  # kept with the answers
        return Command(resume=answers) if answers else None

    def _ended(self, values: Any) -> Any:
        """The outcome of a graph that has come to its end, or what it is told for a better one."""
        output, problem = self._ctx.check_output(_output(values))
        if not problem:
            return Outcome("ok", output)
        if self._more["repairs"] < _REPAIRS and self._talks():
            self._more["repairs"] += 1
            return _said(f"Your answer does not fit what is asked for: {problem}. Answer again.")
        if self._kit.news and self._talks():  # an attempt that began at the end of a failed one
            news, self._kit.news = self._kit.news, ""
            return _said(news)
        why = f"the answer does not fit what the agent has to give: {problem}"
        return Outcome("failed", error=OmiumError("invalid_value", why), category="validation")


def _said(text: str) -> dict[str, Any]:
    from langchain_core.messages import HumanMessage

    return {"messages": [HumanMessage(text)]}


def _output(values: Any) -> str:
    """What a graph gives: its `output`, or the last message, or all of its state."""
    found = values
    if isinstance(values, Mapping):
        if "output" in values:
            found = values["output"]
        elif values.get("messages"):
            found = values["messages"][-1].text
    return found if isinstance(found, str) else orjson.dumps(found, default=str).decode()


def _question(value: Any) -> tuple[str, Sequence[str]]:
    """What an interrupt asks: a text, or {question, options}, or anything as JSON."""
    if isinstance(value, Mapping) and isinstance(value.get("question"), str):
        options = value.get("options") or ()
        return value["question"], [str(one) for one in options]
    return (value if isinstance(value, str) else orjson.dumps(value, default=str).decode()), ()


def _plain(said: str) -> str:
    """An answer without the tags that tell models who said it: the graph is a program."""
    found = _SAID.match(said)
    return found[1] if found else said
