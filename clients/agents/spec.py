"""What an agent is, as its operator declared it. Plain data: no framework reads a file, and no file names a class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

OnRetry = Literal["continue", "restart"]
StructuredOutput = Literal["native", "prompt"]

SCRIPTED: Final = "scripted"
"""The provider that answers from a file instead of a model."""


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens, as the operator knows them."""

    input_per_million: float
    output_per_million: float


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model answers. api_key_env: the name of the environment variable that holds its key; a key itself stands
    nowhere. script: the answers of the provider `scripted`. price: what it costs, where the price list does not know or
    must not be asked. structured: how a schema of the answer is asked for, by the provider's own means or in words.
    options: further fields of the framework's configuration (temperature, top_p, ...)."""

    provider: str
    name: str = ""
    base_url: str | None = None
    api_key_env: str | None = None
    script: Path | None = None
    max_tokens: int | None = None
    timeout_s: float = 120.0
    stream: bool = False
    price: Price | None = None
    structured: StructuredOutput = "native"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AgentLimits:
    """What one node may use of an agent, handoffs and earlier attempts of its generation included. turns: calls of a
    model; usd: money, which an unknown price makes impossible to hold and is therefore refused; seconds: of one
    attempt; handoffs: how often the work may be passed on; output_chars: how much of a tool's result the model sees."""

    turns: int = 25
    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    handoffs: int = 8
    output_chars: int = 50_000


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A process with an environment of its own. python: the interpreter of a virtual environment; script: the program;
    pass_env: names of variables that it is given; cwd: where it starts."""

    python: Path
    script: Path
    cwd: Path
    pass_env: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentDef:
    """One version of an agent.

    prompt, message: templates over `input` and `run` {id, node, attempt, failures, feedback}; the message defaults to
    the input itself. tools: registered functions by name, tools of external servers as `server/tool` or a pattern of
    them. handoffs: agents that it may pass its work to. on_retry: whether an attempt after a failed one goes on with
    the conversation, so that no call is made twice, or begins anew. factory: `package.module:function` of the
    operator's that makes what the framework runs (a graph); worker: the process that it runs in. source: its file.
    """

    name: str
    version: str = "1"
    framework: str = "ag2"
    model: ModelSpec | None = None
    prompt: str = ""
    message: str | None = None
    tools: tuple[str, ...] = ()
    handoffs: tuple[str, ...] = ()
    human_input: bool = False
    limits: AgentLimits = AgentLimits()
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    on_retry: OnRetry = "continue"
    description: str = ""
    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    factory: str | None = None
    worker: WorkerSpec | None = None
    source: str | None = None

    def digest(self) -> str:
        """Changes when anything does that could change what the agent answers; not where it was read from."""
        told = asdict(self)
        told.pop("source")
        script = self.model.script if self.model is not None else None
        if script is not None:
            told["model"]["script"] = hashlib.sha256(script.read_bytes()).hexdigest() if script.is_file() else None
        if self.worker is not None and self.worker.script.is_file():
            told["worker"]["script"] = hashlib.sha256(self.worker.script.read_bytes()).hexdigest()
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def versioned(name: str, version: str) -> str:
    """How one version of an agent is named in a workflow."""
    return f"{name}@{version}"
