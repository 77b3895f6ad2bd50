"""What Genie must not forget, and nothing else. It is written before each step that changes something and after it, so
that whoever takes over repeats the step that was under way, with the same idempotency key."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from omium.orchestration.errors import OmiumError

FORMAT: Final = 1
Remedy = Literal["rollback", "play_from", "branch"]


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is decided and may have been made. kind: `start` or a remedy; run: what it is done to; node: what is
    played again, or branched before, or the phase at whose end a rollback lands; phase and category: of the failure
    that it is to mend; feedback: what the workflow is told; hypothesis: why it should go better."""

    number: int
    kind: Literal["start", "rollback", "play_from", "branch"]
    run: str = ""
    node: str = ""
    phase: str = ""
    category: str = ""
    feedback: str = ""
    hypothesis: str = ""


@dataclass(slots=True)
class Tried:
    """A remedy that was made, and what came of it. run: the run that went on."""

    number: int
    kind: Remedy
    run: str
    node: str
    phase: str
    category: str
    outcome: Literal["worked", "failed"] | None = None


@dataclass(slots=True)
class State:
    """round: how often the epic was begun. spec: the digest of what was asked for. runs: all of this round, the one
    that counts last. ended: how the round ended, `refused` if it was never started; empty while it goes on."""

    round: int
    spec: str
    runs: list[str] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    step: Step | None = None
    ended: str = ""

    @property
    def run(self) -> str:
        return self.runs[-1] if self.runs else ""

    def as_text(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"))


def state_of(text: Any) -> State:
    """Raises `unsupported` for what this version did not write."""
    try:
        told = json.loads(text)
        if told.pop("format") != FORMAT:
            raise ValueError("another format")
        tried = [Tried(**one) for one in told.pop("tried")]
        step = told.pop("step")
        return State(**told, tried=tried, step=Step(**step) if step is not None else None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OmiumError(
            "unsupported",
            "the state of this epic was not written by this version.",
            "Have it forgotten: omium genie memory --forget NAME. Its runs stay.",
        ) from error
