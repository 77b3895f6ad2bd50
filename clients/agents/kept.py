"""What a node of an agent keeps between its attempts: who has the work, the conversation, what it has used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, cast

from omium.clients.agents.adapter import State
from omium.clients.agents.metering import Usage
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value

_FORMAT: Final = 1


@dataclass(slots=True)
class Kept:
    """agent: who has the work, with its `input`; passed: through whose hands it went; conversation: where it stands;
    answers: results of the calls that the conversation does not hold yet; told: what people said that it has been
    told; attempt: the last that kept something."""

    agent: str
    input: Value
    passed: list[dict[str, Any]] = field(default_factory=list)
    conversation: State | None = None
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    told: list[str] = field(default_factory=list)
    attempt: int = 0

    def as_value(self) -> Value:
        state = self.conversation
        return cast(
            Value,
            {
                "format": _FORMAT,
                "agent": self.agent,
                "input": self.input,
                "passed": list(self.passed),
                "state": None
                if state is None
                else {
                    "framework": state.framework,
                    "version": state.version,
                    "format": state.format,
                    "blob": state.blob,
                },
                "answers": dict(self.answers),
                "usage": self.usage.as_dict(),
                "told": list(self.told),
                "attempt": self.attempt,
            },
        )

    @classmethod
    def of(cls, value: Value) -> Kept | None:
        """What was kept; None if nothing was. Raises `unsupported` for what another version of Omium kept."""
        if value is None:
            return None
        told: Any = value
        if not isinstance(told, dict) or told.get("format") != _FORMAT:
            raise unreadable("it was kept by another version of Omium")
        state = told["state"]
        return cls(
            agent=told["agent"],
            input=told["input"],
            passed=list(told["passed"]),
            conversation=None
            if state is None
            else State(state["framework"], state["version"], state["format"], state["blob"]),
            answers=dict(told["answers"]),
            usage=Usage.of(told["usage"]),
            told=list(told["told"]),
            attempt=told["attempt"],
        )


def unreadable(why: str) -> OmiumError:
    return OmiumError(
        "unsupported",
        f"the conversation in the middle of which the agent was interrupted cannot be read: {why}.",
        "Play the run from this node: it then begins anew.",
    )
