"""The one protocol between Omium and an agent framework: what an adapter is given, may ask, and answers.

An adapter turns a task into calls of its framework and holds no truth of its own. It calls tools, people and models
only through its context, checkpoints after every answer of the model and before any call, and can be thrown away and
made again at each of these points: then `ctx.restored` is what it last kept, and a call with the same `call_id` and
arguments is not made twice. `tests/agents/contract.py` is what every adapter passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from omium.clients.agents.spec import AgentDef
from omium.orchestration.ports_calls import Suspended
from omium.orchestration.values import Value

__all__ = [
    "Adapter",
    "AgentContext",
    "Emission",
    "ModelCall",
    "Offer",
    "Outcome",
    "State",
    "Suspended",
    "Task",
    "ToolAnswer",
]

Emission = Literal["text", "turn", "tool", "note"]
"""A part of an answer as it streams; a whole answer; a call of a tool; anything else."""


@dataclass(frozen=True, slots=True)
class State:
    """A conversation in the middle. blob: JSON values only; format: which form of it this is, of this framework."""

    framework: str
    version: str
    format: int
    blob: Value


@dataclass(frozen=True, slots=True)
class Task:
    """What the agent is to do. system: its prompt; message: the first thing it is told."""

    system: str
    message: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as the model sees it. The name fits every provider: letters, digits, `_` and `-`, at most 64."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    """What came of a call. text: for the model; failed: it was refused or went wrong, which is no end of the work.
    final: the work has passed to another agent: the adapter ends with `Outcome("handed_over")`."""

    text: str
    failed: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an adapter ended. ok: with `output`. failed: with `error`, whose type or `category` says what kind of
    failure. suspended: a person has to decide first. cancelled: it stopped by itself. unknown: it cannot say, for
    example because its process died. handed_over: see `ToolAnswer`."""

    kind: Literal["ok", "failed", "suspended", "cancelled", "unknown", "handed_over"]
    output: Value = None
    error: BaseException | None = None
    category: str | None = None


class ModelCall(Protocol):
    """One call of a model, for which a part of the budgets is held."""

    def used(self, *, input_tokens: int, output_tokens: int, cached_tokens: int = 0, model: str | None = None) -> None:
        """What it took. Once, before the block ends; without it the call is counted with no tokens."""


class AgentContext(Protocol):
    """What an adapter may know and ask while it runs one agent."""

    agent: AgentDef
    attempt: int
    offers: Sequence[Offer]
    restored: State | None  # of this adapter's framework and a form that it said it can read

    @property
    def cancelled(self) -> bool:
        """Whether the work is to stop: for adapters whose framework runs where a cancellation does not reach."""

    @property
    def output_schema(self) -> Mapping[str, Any] | None:
        """What the output has to fit; `check_output` does the checking."""

    def news(self) -> str:
        """What the agent does not know yet: failures of earlier attempts, what people said; empty if nothing. To be
        told with its next message, once the calls that were left over from its last answer have been made."""

    def secret(self, name: str) -> str | None:
        """The value of an environment variable that the agent's declaration names; None if it is not set. It must not
        be kept, and is taken out of whatever leaves the adapter."""

    async def emit(self, kind: Emission, text: str) -> None:
        """Show how far it is. Most of it is dropped: one note a second is recorded."""

    async def call_tool(self, name: str, arguments: Any, call_id: str) -> ToolAnswer:
        """Call an offered tool under policy, approvals and ledger. call_id: unique in the conversation, and the same
        when the conversation is restored. Raises `Suspended`, `budget_exceeded`, and what ends the attempt; all else
        that goes wrong is an answer."""

    async def call_tools(self, calls: Sequence[tuple[str, Any, str]]) -> list[ToolAnswer]:
        """Several calls (name, arguments, call_id) of one answer of the model, at the same time. When one of them
        suspends the others are brought to their end first."""

    async def human(self, question: str, call_id: str, options: Sequence[str] = ()) -> str:
        """Ask a person. Raises `Suspended` until there is an answer."""

    async def checkpoint(self, blob: Value) -> None:
        """Keep the conversation as it stands now."""

    def lease(self, name: str) -> AbstractAsyncContextManager[None]:
        """Hold a session that only one attempt may use at a time. Raises `conflict`."""

    def model_call(self, prompt_chars: int) -> AbstractAsyncContextManager[ModelCall]:
        """Around every call of a model: holds a part of the budgets before, settles after. Raises `budget_exceeded`
        when a limit is reached. What the block raises is marked as the model's failure."""

    def check_output(self, text: str | None) -> tuple[Value, str]:
        """The output that an answer gives, and what is wrong with it (empty if nothing)."""


class Adapter(Protocol):
    """A framework. One instance serves every agent of it, at the same time."""

    framework: str
    formats: frozenset[int]  # the forms of state that it can read

    def version(self) -> str:
        """The framework's version, without importing it."""

    def check(self, agent: AgentDef) -> Sequence[tuple[str, str]]:
        """What is wrong with a declaration for this framework: (key, problem). Imports nothing slow."""

    async def run(self, task: Task, ctx: AgentContext) -> Outcome:
        """Have the agent do the task. Cancelling it stops the work; `Suspended` passes through."""
