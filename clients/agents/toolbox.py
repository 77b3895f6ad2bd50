"""The tools of one agent: what the model is offered, and what a call of it does.

Registered functions run as functions do; tools of external servers through the client that policy stands in front of;
`handoff_to_...` and `ask_human` are answered by the session itself. Arguments are held against the schema before
anything happens: what a model makes up is refused, and told to it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from omium.clients.agents.adapter import Offer
from omium.clients.agents.spec import AgentDef
from omium.orchestration.ports import Attempt, Done
from omium.orchestration.ports_calls import ToolDef, Tools
from omium.orchestration.values import Value

HUMAN: Final = "ask_human"
_WIRE: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST: Final = 64

Kind = Literal["function", "external", "handoff", "human"]

_QUESTION: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "What a person should know and decide", "minLength": 1},
        "options": {"type": "array", "items": {"type": "string"}, "description": "Answers to choose from, if any"},
    },
    "required": ["question"],
    "additionalProperties": False,
}
_TASK: Final[Mapping[str, Any]] = {
    "type": "object",
    "properties": {"task": {"type": "string", "description": "What it is to do, with all it needs to know"}},
    "required": ["task"],
    "additionalProperties": False,
}


class Functions(Protocol):
    """What is needed of the executor of functions."""

    def digest(self, use: str) -> str: ...

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done: ...


@dataclass(frozen=True, slots=True)
class Described:
    """A function as a model is told of it."""

    description: str
    parameters: Mapping[str, Any]


Describe = Callable[[str], Awaitable[Described]]


@dataclass(frozen=True, slots=True)
class Tool:
    """One entry: `name` as registered, `offer` as the model sees it, `pin` what its code or definition is."""

    kind: Kind
    name: str
    offer: Offer
    pin: str | None = None
    external: ToolDef | None = None


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of an agent by the name that the model uses."""

    tools: Mapping[str, Tool] = field(default_factory=dict)

    @property
    def offers(self) -> list[Offer]:
        return [tool.offer for tool in self.tools.values()]


def is_external(name: str) -> bool:
    """Whether a tool's name is that of an external server's (`server/tool`, a pattern of it) and no function's."""
    return "/" in name


async def fill(
    agent: AgentDef,
    agents: Mapping[str, AgentDef],
    *,
    functions: Functions | None,
    describe: Describe | None,
    external: Tools | None,
    attempt: Attempt,
) -> Toolbox:
    """What the agent can call now."""
    tools: dict[str, Tool] = {}

    def add(
        kind: Kind, name: str, wanted: str, about: Described, pin: str | None = None, one: ToolDef | None = None
    ) -> None:
        wire = wire_name(wanted, tools)
        tools[wire] = Tool(kind, name, Offer(wire, about.description, about.parameters), pin, one)

    for name in agent.tools:
        if is_external(name):
            continue
        assert functions is not None and describe is not None, "checked when the agents were registered"
        add("function", name, name, await describe(name), functions.digest(name))
    patterns = [name for name in agent.tools if is_external(name)]
    if patterns and external is not None:
        for one in await external.offered(patterns, attempt):
            about = Described(one.description, one.input_schema)
            add("external", one.name, one.name, about, str(one.pin), one)
    for name in agent.handoffs:
        to = agents[name]
        said = f"Pass the work to {to.name}, who finishes it. {to.description}".strip()
        add("handoff", name, f"handoff_to_{to.name}", Described(said, to.input_schema or _TASK), to.digest())
    if agent.human_input:
        said = "Ask a person, and wait for the answer. Only for what no tool can tell you or what a person must decide."
        add("human", HUMAN, HUMAN, Described(said, _QUESTION))
    return Toolbox(tools)


def wire_name(name: str, taken: Mapping[str, Any]) -> str:
    """A name that every provider accepts, and that is not taken."""
    plain = _WIRE.sub("_", name.replace("/", "__")).strip("-") or "tool"
    short = plain[:_LONGEST]
    count = 2
    while short in taken:
        suffix = f"_{count}"
        short, count = plain[: _LONGEST - len(suffix)] + suffix, count + 1
    return short


def names(tools: Sequence[Offer]) -> str:
    return ", ".join(offer.name for offer in tools) or "none"
