"""A conversation one call of the model at a time, for frameworks whose models can be asked for a single answer.

Each answer is checkpointed, its calls are made under policy and ledger, and the next question is made of their results.
So the way that a conversation takes after a crash, a question to a person or a failed attempt is the way that it always
takes. A framework brings its messages and its models (`Chat`); nothing else of it runs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, cast

import anyio.to_thread
import orjson

from omium.clients.agents.adapter import AgentContext, Outcome, Task, ToolAnswer
from omium.clients.agents.kept import unreadable
from omium.clients.agents.spec import SCRIPTED, AgentDef
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FORMAT: Final = 1
_REPAIRS: Final = 2  # how often an answer that does not fit its schema is sent back
_GO_ON: Final = "Go on."
_OPENAI: Final = "openai"
_NO_OBJECT: Final = "no JSON object"  # with spaces, so no parameter of a tool is called that
_NO_KEY: Final = "none"  # a server of one's own asks for no key; the client wants one all the same


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that an answer of the model asks for. arguments: an object, or the text that was none."""

    id: str
    name: str
    arguments: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the model, and what it took."""

    text: str
    calls: Sequence[Asked] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    model: str | None = None


class Chat(Protocol):
    """The messages of one conversation, in the framework's own classes, and its model."""

    def tell(self, text: str) -> None:
        """Add a message of the user."""

    def results(self, calls: Sequence[Asked], answers: Sequence[ToolAnswer]) -> None:
        """Add what came of the calls of the last answer."""

    async def ask(self) -> Answer:
        """Have the model answer, and add that. Nothing is added when it raises."""

    def last(self) -> Answer:
        """The answer that the messages end with. Raises `unsupported` if they end with something else."""

    def dump(self) -> list[Any]:
        """The messages as JSON values."""

    def load(self, messages: list[Any]) -> None:
        """Take over what `dump` gave. Raises `unsupported`, ValueError, TypeError or LookupError for anything else."""


class TurnAdapter(ABC):
    """See `adapter.Adapter`. For each framework: its package, extra, and how a conversation is opened."""

    framework: str = ""
    package: ClassVar[str] = ""
    formats = frozenset({FORMAT})

    def version(self) -> str:
        try:
            return version(self.package)
        except PackageNotFoundError as error:
            raise OmiumError(
                "unsupported", f"the framework {self.framework} is not installed.", "pip install 'omium-mcp[agents]'"
            ) from error

    def check(self, agent: AgentDef) -> Sequence[tuple[str, str]]:
        model = agent.model
        if agent.factory is not None:
            return [("factory", f"means nothing to {self.framework}")]
        if agent.worker is not None:
            return [("worker", "goes with the framework worker")]
        if model is None:
            return [("model", "is missing")]
        if model.provider == SCRIPTED:
            there = model.script is not None and model.script.is_file()
            return [] if there else [("model.script", "is missing, or there is no such file")]
        if model.provider != _OPENAI:
            return [("model.provider", f"is {model.provider!r}; expected openai (with base_url, whatever speaks it)")]
        if model.script is not None:
            return [("model.script", "means nothing to a real model")]
        if model.stream:
            return [("model.stream", f"is not offered by {self.framework}; its answers come whole")]
        if unknown := sorted(set(model.options) - _SETTINGS):
            return [(f"model.options.{unknown[0]}", f"is unknown; expected one of {', '.join(sorted(_SETTINGS))}")]
        return [] if model.name else [("model.name", "is missing")]

    @abstractmethod
    def imported(self) -> None:
        """Import the framework. In a thread: it takes a second or two, which would stand every other run still."""

    @abstractmethod
    def open(self, ctx: AgentContext, system: str, client: AsyncOpenAI | None) -> Chat:
        """A conversation without messages. client: None for a scripted model."""

    async def run(self, task: Task, ctx: AgentContext) -> Outcome:
        self.version()
        await anyio.to_thread.run_sync(self.imported)
        async with _client(ctx) as client:
            return await _Turns(task, ctx, self.open(ctx, _system(task, ctx), client)).run()


class _Turns:
    """One conversation, from its beginning or from where it was kept."""

    def __init__(self, task: Task, ctx: AgentContext, chat: Chat) -> None:
        self._task = task
        self._ctx = ctx
        self._chat = chat
        self._turn = 0
        self._repairs = 0

    async def run(self) -> Outcome:
        if self._ctx.restored is None:
            told = [self._task.message or _GO_ON, self._ctx.news()]
            self._chat.tell("\n\n".join(filter(None, told)))
        else:
            self._restore(self._ctx.restored.blob)
            ended = await self._after(self._chat.last())
            news = self._ctx.news()
            if ended is not None and (ended.kind != "failed" or not news):
                return ended
            if news:
                self._chat.tell(news)
        while True:
            ended = await self._after(await self._asked())
            if ended is not None:
                return ended

    def _restore(self, blob: Value) -> None:
        told: Any = blob
        try:
            self._chat.load(told["messages"])
            self._turn, self._repairs = int(told["turn"]), int(told["repairs"])
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise unreadable(f"it has not the form that is expected: {str(error)[:200]}") from error

    async def _asked(self) -> Answer:
        """One answer of the model, checkpointed."""
        told = len(orjson.dumps(self._chat.dump(), default=str)) + len(self._task.system)
        async with self._ctx.model_call(told) as call:
            answer = await self._chat.ask()
            if answer.input_tokens or answer.output_tokens:
                call.used(
                    input_tokens=answer.input_tokens,
                    output_tokens=answer.output_tokens,
                    cached_tokens=answer.cached_tokens,
                    model=answer.model,
                )
        self._turn += 1
        blob = {"messages": self._chat.dump(), "turn": self._turn, "repairs": self._repairs}
        await self._ctx.checkpoint(cast(Value, blob))
        if answer.text:
            await self._ctx.emit("turn", answer.text)
        return answer

    async def _after(self, answer: Answer) -> Outcome | None:
        """What an answer leads to: results of its calls or a request to say it properly, which are added to the
        messages; or the end."""
        if answer.calls:
            asked = [(call.name, call.arguments, f"t{self._turn}.{at}") for at, call in enumerate(answer.calls)]
            answers = await self._ctx.call_tools(asked)
            if any(one.final for one in answers):
                return Outcome("handed_over")
            self._chat.results(answer.calls, answers)
            return None
        output, problem = self._ctx.check_output(answer.text)
        if not problem:
            return Outcome("ok", output)
        if self._repairs >= _REPAIRS:
            why = f"the answer does not fit what the agent has to give: {problem}"
            return Outcome("failed", error=OmiumError("invalid_value", why), category="validation")
        self._repairs += 1
        self._chat.tell(f"Your answer does not fit what is asked for: {problem}. Answer again.")
        return None


_SETTINGS: Final = frozenset({"temperature", "top_p", "seed"})


def settings(ctx: AgentContext) -> dict[str, Any]:
    """What the declaration of the model sets, by the names that frameworks share."""
    model = ctx.agent.model
    assert model is not None, "checked when the agent was registered"
    found = dict(model.options)
    if model.max_tokens is not None:
        found["max_tokens"] = model.max_tokens
    return found


def arguments(text: Any) -> Any:
    """The arguments of a call, as an object where they are one; otherwise what the model said in their place, also when
    the history holds it `as_object`."""
    made = text
    if isinstance(text, str):
        try:
            made = orjson.loads(text or "{}")
        except orjson.JSONDecodeError:
            return text
    return made[_NO_OBJECT] if isinstance(made, dict) and made.keys() == {_NO_OBJECT} else made


def as_object(text: Any) -> str:
    """Arguments as the history may hold them: providers refuse a call whose arguments are no object."""
    made = arguments(text)
    return json.dumps(made if isinstance(made, dict) else {_NO_OBJECT: str(text)[:2_000]})


def _system(task: Task, ctx: AgentContext) -> str:
    system, schema = task.system, ctx.output_schema
    if schema is not None and schema.get("type") != "string":
        told = json.dumps(schema)
        system += f"\n\nAnswer with JSON that fits this JSON Schema, and with nothing else:\n{told}"
    return system.strip() or "You are a helpful assistant."


@asynccontextmanager
async def _client(ctx: AgentContext) -> AsyncIterator[AsyncOpenAI | None]:
    """The client of the agent's model; retries are the engine's, so it makes none. Raises `unauthenticated`."""
    model = ctx.agent.model
    assert model is not None, "checked when the agent was registered"
    if model.provider == SCRIPTED:
        yield None
        return
    import httpx2
    from openai import AsyncOpenAI

    # A redirect would have the key sent to wherever it points.
    async with httpx2.AsyncClient(timeout=model.timeout_s, follow_redirects=False) as http:
        yield AsyncOpenAI(
            base_url=model.base_url or "https://api.openai.com/v1",
            api_key=_key(ctx),
            max_retries=0,
            timeout=model.timeout_s,
            http_client=http,
        )


def _key(ctx: AgentContext) -> str:
    """The key of the provider. That of the provider's own service is never sent to another address by default."""
    model = ctx.agent.model
    assert model is not None
    variable = model.api_key_env or ("OPENAI_API_KEY" if model.base_url is None else None)
    if variable is None:
        return _NO_KEY
    value = ctx.secret(variable)
    if value is None:
        raise OmiumError(
            "unauthenticated",
            f"the agent {ctx.agent.name} needs a key, and {variable} is not set.",
            f"Set {variable} where the worker runs, or name another variable as model.api_key_env.",
        )
    return value
