"""The provider `scripted` for AG2: its configuration of a model whose answers stand in a file (see `agents.script`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ag2.config import LLMClient, ModelConfig, ModelProvider
from ag2.events import (
    ModelMessage,
    ModelMessageChunk,
    ModelRequest,
    ModelResponse,
    TextInput,
    ToolCallEvent,
    ToolCallsEvent,
    ToolResultsEvent,
    Usage,
)

from omium.clients.agents.script import Script, answer
from omium.orchestration.errors import OmiumError

ATTEMPT: Final = "omium:attempt"


@dataclass(frozen=True, slots=True)
class ScriptedConfig(ModelConfig):
    """AG2's configuration of a scripted model."""

    script: Script
    name: str = "scripted"
    stream: bool = False

    @property
    def provider(self) -> ModelProvider:
        raise NotImplementedError("a script has no provider")

    @property
    def model(self) -> str:
        return self.name

    def copy(self) -> ScriptedConfig:
        return self

    def create(self) -> LLMClient:
        return _ScriptedClient(self)

    def create_files_client(self) -> Any:
        raise OmiumError("unsupported", "a scripted model has no files.")


class _ScriptedClient(LLMClient):
    def __init__(self, config: ScriptedConfig) -> None:
        self._config = config

    async def __call__(self, messages: Sequence[Any], context: Any, **_: Any) -> ModelResponse:
        place = sum(isinstance(event, ModelResponse) for event in messages)
        said = answer(self._config.script, place, int(context.variables.get(ATTEMPT, 1)), list(_texts(messages)))
        message = None
        if said.text is not None:
            if self._config.stream:
                for piece in _pieces(said.text):
                    await context.send(ModelMessageChunk(piece))
            message = ModelMessage(said.text)
            await context.send(message)
        return ModelResponse(
            message,
            tool_calls=ToolCallsEvent(
                [ToolCallEvent(id=one, name=name, arguments=made) for one, name, made in said.calls]
            ),
            usage=Usage(said.input_tokens, said.output_tokens, said.input_tokens + said.output_tokens),
            model=self._config.name,
            provider="scripted",
        )


def _texts(messages: Sequence[Any]) -> Iterator[str]:
    """What the model was told, oldest first: messages and results of tools."""
    for event in messages:
        if isinstance(event, ModelRequest):
            parts = event.parts
        elif isinstance(event, ToolResultsEvent):
            parts = [part for result in event.results for part in result.result.parts]
        else:
            continue
        yield from (part.content for part in parts if isinstance(part, TextInput))


def _pieces(text: str) -> Iterator[str]:
    words = text.split(" ")
    for index, word in enumerate(words):
        yield word if index == len(words) - 1 else f"{word} "
