"""`agents:` of `omium.yaml`, and the manifests `agents/<name>/agent.yaml` beside it, which have the same keys.

agents:
- name: researcher
  api_version: omium.dev/agent/v1   # the form of these keys: the only one so far, and what holds when nothing is said
  version: "2"                      # 1 unless given; workflows say researcher, or researcher@2 for just this one
  model: {provider: openai, name: gpt-5-mini, api_key_env: OPENAI_API_KEY}
  prompt: You look things up about ${{ input.topic }}.
  tools: [search, wiki/*]           # functions by name, external tools as server/tool or a pattern
  handoffs: [writer]
  human_input: true
  limits: {turns: 20, usd: 0.50, seconds: 10m}
  input: {type: object, properties: {topic: {type: string}}, required: [topic]}
  capabilities: [research]
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from omium.clients.agents.spec import SCRIPTED, AgentDef, AgentLimits, ModelSpec, Price, WorkerSpec
from omium.orchestration.definition.document import VARIABLE, read_file, validate
from omium.orchestration.definition.problems import Problem, located
from omium.orchestration.definition.schema import Duration, FileModel, JsonObject, NameText, Prose
from omium.orchestration.errors import OmiumError
from omium.server.project import Project

AGENTS_FOLDER: Final = "agents"
MANIFEST: Final = "agent.yaml"
API_VERSION: Final = "omium.dev/agent/v1"
"""The form of manifests that is written now. One of another form is refused rather than half understood."""

Variable = Annotated[str, Field(pattern=VARIABLE)]
Url = Annotated[str, Field(min_length=8, max_length=2_048, pattern=r"^https?://[!-~]+$")]
Word = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]
Version = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
ToolName = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z0-9_*][A-Za-z0-9_.:@/*?-]*$")]


class PriceFile(FileModel):
    input_per_million: Annotated[float, Field(ge=0)]
    output_per_million: Annotated[float, Field(ge=0)]


class ModelFile(FileModel):
    provider: Word
    name: Annotated[str, Field(max_length=200)] = ""
    base_url: Url | None = None
    api_key_env: Variable | None = None
    script: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    timeout: Annotated[Duration, Field(ge=0.1, le=3600)] = 120.0
    stream: bool = False
    price: PriceFile | None = None
    structured: Literal["native", "prompt"] = "native"
    options: JsonObject = Field(default_factory=dict)

    def model_spec(self, directory: Path) -> ModelSpec:
        script = None if self.script is None else (directory / Path(self.script).expanduser()).resolve()
        price = None if self.price is None else Price(self.price.input_per_million, self.price.output_per_million)
        return ModelSpec(
            self.provider,
            self.name,
            self.base_url,
            self.api_key_env,
            script,
            self.max_tokens,
            float(self.timeout),
            self.stream,
            price,
            self.structured,
            dict(self.options),
        )


class AgentLimitsFile(FileModel):
    turns: Annotated[int, Field(ge=1, le=10_000)] = 25
    tokens: Annotated[int, Field(ge=1)] | None = None
    usd: Annotated[float, Field(gt=0)] | None = None
    seconds: Annotated[Duration, Field(ge=0.1)] | None = None
    handoffs: Annotated[int, Field(ge=0, le=100)] = 8
    output_chars: Annotated[int, Field(ge=100, le=10_000_000)] = 50_000

    def limits(self) -> AgentLimits:
        return AgentLimits(
            self.turns,
            self.tokens,
            self.usd,
            None if self.seconds is None else float(self.seconds),
            self.handoffs,
            self.output_chars,
        )


class WorkerFile(FileModel):
    """python: the interpreter of a virtual environment; script: the program; both relative to the file."""

    python: Annotated[str, Field(min_length=1, max_length=4_096)]
    script: Annotated[str, Field(min_length=1, max_length=4_096)]
    pass_env: Annotated[list[Variable], Field(max_length=50)] = Field(default_factory=list)

    def worker(self, directory: Path) -> WorkerSpec:
        # Not resolved: what a virtual environment calls its interpreter is a link to another, which is outside of it.
        python = (directory / Path(self.python).expanduser()).absolute()
        script = (directory / Path(self.script).expanduser()).resolve()
        return WorkerSpec(python, script, directory.resolve(), tuple(self.pass_env))


class AgentFile(FileModel):
    name: NameText
    api_version: Literal["omium.dev/agent/v1"] = API_VERSION
    version: Version = "1"
    default: bool = False
    framework: Word = "ag2"
    model: ModelFile | None = None
    prompt: Annotated[str, Field(max_length=200_000)] = ""
    prompt_file: str | None = None
    message: Annotated[str, Field(max_length=200_000)] | None = None
    tools: Annotated[list[ToolName], Field(max_length=200)] = Field(default_factory=list)
    handoffs: Annotated[list[NameText], Field(max_length=50)] = Field(default_factory=list)
    human_input: bool = False
    limits: AgentLimitsFile = Field(default_factory=AgentLimitsFile)
    input: JsonObject | None = None
    output: JsonObject | None = None
    on_retry: Literal["continue", "restart"] = "continue"
    factory: Annotated[str, Field(max_length=400)] | None = None
    worker: WorkerFile | None = None
    description: Prose = ""
    capabilities: Annotated[list[Word], Field(max_length=50)] = Field(default_factory=list)
    tags: Annotated[list[Word], Field(max_length=50)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if self.prompt and self.prompt_file is not None:
            raise ValueError("expected prompt or prompt_file, not both")
        if self.model is not None and self.model.script is not None and self.model.provider != SCRIPTED:
            raise ValueError("model.script goes with the provider scripted")
        return self

    def beside(self, directory: Path) -> list[Path]:
        """The files that its definition is made of, besides its own."""
        return [] if self.prompt_file is None else [directory / self.prompt_file]

    def agent(self, directory: Path, source: str | None) -> AgentDef:
        """directory: what relative paths mean. Raises `not_found` for a prompt's file that cannot be read."""
        return AgentDef(
            name=self.name,
            version=self.version,
            framework=self.framework,
            model=None if self.model is None else self.model.model_spec(directory),
            prompt=self.prompt if self.prompt_file is None else _text(directory / self.prompt_file),
            message=self.message,
            tools=tuple(self.tools),
            handoffs=tuple(self.handoffs),
            human_input=self.human_input,
            limits=self.limits.limits(),
            input_schema=self.input,
            output_schema=self.output,
            on_retry=self.on_retry,
            description=self.description,
            capabilities=tuple(self.capabilities),
            tags=tuple(self.tags),
            factory=self.factory,
            worker=None if self.worker is None else self.worker.worker(directory),
            source=source,
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OmiumError("not_found", f"the prompt {path} cannot be read: {error}.") from error


def register_agents(project: Project, files: list[AgentFile], source: str) -> list[Problem]:
    """Register what `omium.yaml` declares and the manifests beside it; what is wrong, with file and path. Problems of
    the file itself have no file yet: their paths are those of its document."""
    found: list[Problem] = []
    for index, one in enumerate(files):
        found += _take(project, one, project.directory, source, f"agents[{index}]")
    for path in manifests(project.directory):
        try:
            document = read_file(path)
            manifest = validate(document, AgentFile)
        except OmiumError as error:
            found += _told(error, path)
            continue
        problems = _take(project, manifest, path.parent, str(path), "")
        found += located(problems, document.source, document.line_of)
    return found


def manifests(directory: Path) -> list[Path]:
    """`agents/*.yaml` and `agents/*/agent.yaml` below a project's directory."""
    folder = directory / AGENTS_FOLDER
    if not folder.is_dir():
        return []
    alone: Iterable[Path] = folder.glob("*.yaml")
    return sorted(path.resolve() for path in (*alone, *folder.glob(f"*/{MANIFEST}")) if path.is_file())


def _take(project: Project, one: AgentFile, directory: Path, source: str, here: str) -> list[Problem]:
    try:
        project.agents_beside += one.beside(directory)
        project.agents.add(one.agent(directory, source), default=one.default)
    except OmiumError as error:
        return [Problem(here or "name", error.message.rstrip("."), error.hint.rstrip("."))]
    return []


def _told(error: OmiumError, path: Path) -> list[Problem]:
    reported: list[dict[str, Any]] = error.data.get("problems") or []
    if not reported:
        return [Problem("", error.message.rstrip("."), error.hint.rstrip("."), str(path))]
    return [Problem(one["path"], one["message"], one["expected"], one["file"], one["line"]) for one in reported]


def agent_problems(
    project: Project, files: list[AgentFile], source: str, servers: set[str] | None = None
) -> list[Problem]:
    """What is wrong with the agents together, once everything is registered."""
    from omium.server.wiring.agents import adapters

    places = {(one.name, one.version): f"agents[{index}]" for index, one in enumerate(files)}
    found: list[Problem] = []
    for agent, problem in project.agents.problems(project.functions, adapters(), servers):
        place = places.get((agent.name, agent.version)) if agent.source == source else None
        if place is not None:
            found.append(Problem(f"{place}.{problem.path}", problem.message, problem.expected))
        else:
            where = agent.source or f"agent {agent.name}"
            found.append(Problem(problem.path, problem.message, problem.expected, where))
    return found
