"""The provider `scripted`: a model whose answers stand in a file. For examples, tests and dry runs; no network.

    {"turns": [
        {"calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]},
        {"error": {"status": 429, "message": "slow down", "attempts": 1}},
        {"text": "It is {{last}}.", "usage": {"input": 120, "output": 15}}
    ]}

Turns are taken in order, one for each answer that the conversation already holds, so a restored conversation goes on
where it was. An `error` is raised before the turn that follows it, in the first `attempts` attempts of the node. In a
text, `{{last}}` stands for what the last tool, or else the last message, said, and `{{message}}` for the first message.

One script may answer several tasks: `"cases": [{"when": "Oslo", "turns": [...]}]`. The first case whose words stand in
the first message is taken, `turns` if there is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError, model_validator

from omium.orchestration.definition.document import model_problems
from omium.orchestration.definition.schema import FileModel
from omium.orchestration.errors import OmiumError

_MAX_BYTES: Final = 4 * 1024 * 1024


class CallTurn(FileModel):
    name: str
    arguments: dict[str, Any] | str = Field(default_factory=dict)
    id: str | None = None


class ErrorTurn(FileModel):
    status: int | None = Field(default=None, ge=400, le=599)
    message: str = "the script says so"
    attempts: int = Field(default=1, ge=1, le=1_000)


class UsageTurn(FileModel):
    input: int = Field(default=0, ge=0)
    output: int = Field(default=0, ge=0)


class Turn(FileModel):
    text: Any = None
    calls: list[CallTurn] = Field(default_factory=list)
    error: ErrorTurn | None = None
    usage: UsageTurn | None = None


Turns = Annotated[list[Turn], Field(min_length=1, max_length=10_000)]


class Case(FileModel):
    when: str = Field(min_length=1)
    turns: Turns


class Script(FileModel):
    turns: Turns | None = None
    cases: list[Case] = Field(default_factory=list, max_length=1_000)

    @model_validator(mode="after")
    def _says_something(self) -> Script:
        if self.turns is None and not self.cases:
            raise ValueError("has neither turns nor cases")
        return self

    def turns_for(self, message: str) -> list[Turn]:
        """What is said in a conversation that began with this message; empty where nothing is."""
        found = next((case.turns for case in self.cases if case.when in message), self.turns)
        return found or []


class ScriptedFailure(Exception):
    """What a script says that the provider answered. status_code: as HTTP has it, if any."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status_code = status


def read_script(path: Path) -> Script:
    """Raises `not_found` and `invalid_definition`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OmiumError("not_found", f"the script {path} cannot be read: {error.strerror}.") from error
    try:
        if len(data) > _MAX_BYTES:
            raise OmiumError(
                "invalid_definition", f"the script {path} has {len(data):,} bytes; at most {_MAX_BYTES:,} are read."
            )
        return Script.model_validate(json.loads(data))
    except ValidationError as error:
        why = "; and ".join(map(str, model_problems(error, Script)[:3]))
        raise OmiumError("invalid_definition", f"the script {path} is not valid: {why}.") from error
    except (ValueError, RecursionError) as error:
        raise OmiumError("invalid_definition", f"the script {path} is not valid JSON: {error}.") from error


@dataclass(frozen=True, slots=True)
class Said:
    """What a script has the model answer. calls: (id, name, arguments as JSON text)."""

    text: str | None
    calls: Sequence[tuple[str, str, str]]
    input_tokens: int
    output_tokens: int


def answer(script: Script, place: int, attempt: int, told: Sequence[str]) -> Said:
    """The answer after `place` others. told: what the model was told so far, oldest first. Raises ScriptedFailure."""
    turn = _turn(script.turns_for(told[0] if told else ""), place, attempt)
    text = None
    if turn.text is not None:
        plain = turn.text if isinstance(turn.text, str) else json.dumps(turn.text)
        text = _filled(plain, told, quoted=not isinstance(turn.text, str))
    calls = [
        (
            call.id or f"call_{place}_{index}",
            call.name,
            call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments),
        )
        for index, call in enumerate(turn.calls)
    ]
    usage = turn.usage or UsageTurn(input=sum(map(len, told)) // 4, output=len(text or "") // 4)
    return Said(text, calls, usage.input, usage.output)


def _turn(turns: Sequence[Turn], place: int, attempt: int) -> Turn:
    passed = 0
    for turn in turns:
        if turn.error is not None:
            if passed == place and attempt <= turn.error.attempts:
                raise ScriptedFailure(turn.error.message, turn.error.status)
        elif passed == place:
            return turn
        else:
            passed += 1
    raise ScriptedFailure(f"the script has {passed} turns, and another was asked for", 400)


def _filled(text: str, told: Sequence[str], *, quoted: bool) -> str:
    if "{{" not in text:
        return text
    first, last = (told[0], told[-1]) if told else ("", "")
    if quoted:  # inside JSON, what is put in must not end the text that it stands in
        first, last = json.dumps(first)[1:-1], json.dumps(last)[1:-1]
    return text.replace("{{message}}", first).replace("{{last}}", last)
