"""What Genie is asked to bring about: a file that a person writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from omium.orchestration.definition.document import read_file, validate
from omium.orchestration.definition.schema import FileModel
from omium.orchestration.values import digest_of

MAX_ATTEMPTS: Final = 10
EpicName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}$")]
Line = Annotated[str, StringConstraints(min_length=1, max_length=400)]


class Bounds(FileModel):
    """attempts: how often it may try again; usd, tokens: what all runs of the epic together may cost, None: no bound of
    its own, beside those of the project."""

    attempts: Annotated[int, Field(ge=0, le=MAX_ATTEMPTS)] = 3
    usd: Annotated[float, Field(ge=0)] | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None


class EpicSpec(FileModel):
    """name: what its memory goes by. workspace: the declared repository. phases: only these and what they need; `auto`:
    as far as the goal says. hypotheses: what to try in branches, one after
    the other. answers: what to propose at gates, by node; a gate that wants a person still gets one. rework: the phase
    to do again when another one fails. feedback: the workflow's input that takes what an earlier try has taught."""

    name: EpicName
    goal: Annotated[str, StringConstraints(min_length=1, max_length=8_000)]
    acceptance: Annotated[list[Line], Field(max_length=50)] = Field(default_factory=list)
    workflow: Annotated[str, StringConstraints(min_length=1, max_length=200)] = "epic"
    workspace: str | None = None
    inputs: dict[str, Any] = Field(default_factory=dict)
    phases: Annotated[list[Line], Field(min_length=1, max_length=100)] | Literal["auto"] | None = None
    bounds: Bounds = Bounds()
    hypotheses: Annotated[list[Line], Field(max_length=MAX_ATTEMPTS)] = Field(default_factory=list)
    answers: dict[str, str] = Field(default_factory=dict)
    rework: dict[str, str] = Field(default_factory=dict)
    feedback: str | None = "feedback"

    def digest(self) -> str:
        """Changes with what is asked for, and not with the bounds under which it is."""
        asked = self.model_dump(include={"goal", "acceptance", "workflow", "workspace", "inputs"})
        if self.phases is not None:
            asked["phases"] = self.phases
        return digest_of(asked)[:16]


def load_epic(path: Path | str) -> EpicSpec:
    """Raises `not_found` and `invalid_definition`, with the line of each problem."""
    return validate(read_file(path), EpicSpec)
