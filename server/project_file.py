"""`omium.yaml`: its form, and the way from it to a `Project`. Everything that is wrong with it and with the workflows
that it names is reported at once, with file, line and what was expected."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from omium.clients.functions.code import Sources
from omium.clients.processes.environment import check_declared
from omium.orchestration.definition.document import Document, model_problems, read_file, validate
from omium.orchestration.definition.json_schema import schema_problems
from omium.orchestration.definition.load import workflow_of
from omium.orchestration.definition.problems import Problem, located
from omium.orchestration.definition.schema import Duration, FileModel, JsonObject, NameText, Prose, WorkflowFile
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import WorkspaceSpec, check_source
from omium.orchestration.service.catalog import FunctionSpec, Host, is_function_ref, refusal
from omium.server.declared.agents import AgentFile, agent_problems, register_agents
from omium.server.declared.budgets import BudgetFile, budget_rules
from omium.server.declared.coding import CodingFile, register_coding
from omium.server.declared.external import ServersFile, declared_servers
from omium.server.declared.notify import EndpointFile, names_differ
from omium.server.declared.policy import PolicyKey, declared_policy, policy_key_problems
from omium.server.declared.supervision import Limit, SupervisionFile, problems_of, stated
from omium.server.declared.telemetry import TelemetryFile
from omium.server.identity.settings import RequestsFile, ServerFile
from omium.server.project import Project

FILE_NAME: Final = "omium.yaml"
WORKFLOWS_FOLDER: Final = "workflows"
_WORKFLOW_SUFFIXES: Final = (".yaml", ".yml", ".json")
_SIZE: Final = re.compile(r"\A([0-9]{1,15}) ?([KMGT]i?B|B)?\Z")
_POWERS: Final = {"K": 1, "M": 2, "G": 3, "T": 4}
_REMOTE: Final = re.compile(r"\A(?:[A-Za-z][A-Za-z0-9+.-]*://|[^/\s:]+:(?!/{0}\Z))")  # a URL, or host:path
T = TypeVar("T")


def size_bytes(value: Any) -> int:
    """Bytes from a number of them or from text such as `512MB` or `2GiB`; ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _SIZE.match(value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise ValueError(f"{value!r:.60} is not a size; expected bytes, or text such as 512MB or 2GiB")
    unit = match[2] or "B"
    base = 1024 if "i" in unit else 1000
    return int(match[1]) * int(base ** _POWERS.get(unit[0], 0))


def _ref(text: str) -> str:
    if not is_function_ref(text):
        raise ValueError(f"{text[:80]!r} names no function; expected package.module:function")
    return text


def _variables(names: Any) -> Any:
    try:
        check_declared(names)
    except OmiumError as error:
        raise ValueError(f"{error.message.rstrip('.')}; expected {error.hint or 'another name'}") from None
    return names


def _function(value: Any) -> Any:
    return {"ref": value} if isinstance(value, str) else value


Size = Annotated[int, BeforeValidator(size_bytes, json_schema_input_type=int | str)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Constants = Annotated[dict[str, str], AfterValidator(_variables)]
VariableNames = Annotated[list[str], AfterValidator(_variables)]
Repeat = Literal["rerun", "ask", "fail"]


class FunctionFile(FileModel):
    ref: Annotated[str, AfterValidator(_ref)]
    host: Host = "process"
    on_unknown: Repeat | None = None
    timeout: Limit | None = None
    input: JsonObject | None = None
    output: JsonObject | None = None
    description: Prose = ""


class CommandFile(FileModel):
    argv: Annotated[list[str], Field(min_length=1)]
    stdin: Literal["none", "json", "text"] = "json"
    output: Literal["json", "text", "lines"] = "json"
    cwd: str = "workspace"
    env: Constants = Field(default_factory=dict)
    pass_env: VariableNames = Field(default_factory=list)
    timeout: Limit | None = 1800.0
    idle_timeout: Limit | None = 300.0
    grace: Duration = 5.0
    memory_limit: Size | None = None
    output_limit: Size = 32 * 1024 * 1024
    success_codes: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=1)] = Field(
        default_factory=lambda: [0]
    )
    on_unknown: Repeat | None = None
    description: Prose = ""


class WorkspaceFile(FileModel):
    kind: Literal["directory", "git"] = "directory"
    source: str | None = None
    ref: str | None = None
    exclude: list[str] = Field(default_factory=list)


class LimitsFile(FileModel):
    slots: Count | None = None
    runs: Count | None = None
    processes: Annotated[int, Field(ge=1, le=1024)] | None = None
    resources: dict[NameText, Count] = Field(default_factory=dict)
    requests: RequestsFile = Field(default_factory=RequestsFile)
    run_time: Annotated[Duration, Field(gt=0)] | None = None
    memory: Size | None = None


class UpkeepFile(FileModel):
    enabled: bool = True
    every: Annotated[Duration, Field(ge=3600)] = 86_400.0


class RetentionFile(FileModel):
    after: Annotated[Duration, Field(ge=3600)]
    forget: Literal["contents", "runs"] = "contents"


class ProjectFile(FileModel):
    project: NameText
    database: Annotated[str, Field(min_length=1)] | None = None
    durability: Literal["full", "normal"] | None = None
    chain_key_file: str | None = None
    path: Annotated[list[str], Field(min_length=1)] | None = None
    env: Constants = Field(default_factory=dict)
    pass_env: VariableNames = Field(default_factory=list)
    functions: dict[NameText, Annotated[FunctionFile, BeforeValidator(_function)]] = Field(default_factory=dict)
    commands: dict[NameText, CommandFile] = Field(default_factory=dict)
    coding: dict[NameText, CodingFile] = Field(default_factory=dict)
    workflows: list[Any] = Field(default_factory=list)  # paths, or workflows as in files of their own
    workspaces: dict[NameText, WorkspaceFile] = Field(default_factory=dict)
    limits: LimitsFile = Field(default_factory=LimitsFile)
    server: ServerFile = Field(default_factory=ServerFile)
    upkeep: UpkeepFile = Field(default_factory=UpkeepFile)
    retention: RetentionFile | None = None
    supervision: SupervisionFile = Field(default_factory=SupervisionFile)
    policy: PolicyKey | None = None
    budgets: dict[NameText, BudgetFile] = Field(default_factory=dict)
    agents: Annotated[list[AgentFile], Field(max_length=1_000)] = Field(default_factory=list)
    mcp_servers: ServersFile = Field(default_factory=dict)
    telemetry: TelemetryFile | None = None
    notify: Annotated[list[EndpointFile], Field(max_length=32), AfterValidator(names_differ)] = Field(
        default_factory=list
    )


@dataclass(frozen=True, slots=True)
class Loaded:
    """A project and what its file says beside it."""

    project: Project
    file: ProjectFile


def load_project(path: Path) -> Loaded:
    """Read an `omium.yaml`. Raises `not_found`, `invalid_definition`, or `not_registered` when its workflows only name
    what is not registered; `data["problems"]` lists everything as {file, line, path, message, expected}."""
    path = path.resolve()
    document = read_file(path)
    file = validate(document, ProjectFile)
    directory = path.parent
    project = Project(
        file.project,
        directory=directory,
        path=None if file.path is None else [_under(directory, entry) for entry in file.path],
        env=file.env,
        pass_env=file.pass_env,
    )
    problems = [
        *_functions(project, file),
        *_commands(project, file),
        *_workspaces(project, file),
        *problems_of(file.supervision, file.commands),
        *register_coding(project, file.coding),
        *register_agents(project, file.agents, document.source),
        *declared_servers(file.mcp_servers, directory, project.servers),
    ]
    found = located(problems, document.source, document.line_of)
    found += policy_key_problems(file.policy, directory, document)
    documents, broken = _workflows(project, file, document)
    found += broken
    if found:
        raise refusal(found, False)
    project.policy = declared_policy(file.policy, directory)
    project.budgets = budget_rules(file.budgets)
    project.use_entry_points()
    unfit = agent_problems(project, file.agents, document.source, set(project.servers.entries))
    if unfit:
        raise refusal(located(unfit, document.source, document.line_of), False)
    _check(project, documents, file.limits.resources)
    return Loaded(project, file)


def _under(directory: Path, text: str) -> Path:
    return (directory / Path(text).expanduser()).resolve()


def _functions(project: Project, file: ProjectFile) -> Iterator[Problem]:
    sources = Sources(project.path)
    for name, one in file.functions.items():
        here = f"functions.{name}"
        module = one.ref.partition(":")[0]
        if sources.find(module) is None and module not in sys.builtin_module_names:
            places = ", ".join(map(str, project.path))
            yield Problem(f"{here}.ref", f"there is no module {module!r}", f"a module in {places}, or an installed one")
        for key, schema in (("input", one.input), ("output", one.output)):
            if schema is not None:
                yield from schema_problems(schema, f"{here}.{key}")
        spec = FunctionSpec(
            name, one.ref, one.host, one.on_unknown, one.timeout, one.input, one.output, one.description
        )
        project.add_function(spec)


def _commands(project: Project, file: ProjectFile) -> Iterator[Problem]:
    for name, one in file.commands.items():
        fixed = {"workspace": "workspace", "project": project.directory}
        try:
            project.command(
                name,
                [_placed(project, argument) for argument in one.argv],
                on_unknown=one.on_unknown,
                description=one.description,
                stdin=one.stdin,
                output=one.output,
                cwd=fixed[one.cwd] if one.cwd in fixed else _under(project.directory, one.cwd),
                env=one.env,
                pass_env=tuple(one.pass_env),
                hard_timeout_s=one.timeout,
                idle_timeout_s=one.idle_timeout,
                grace_s=one.grace,
                memory_limit_bytes=one.memory_limit,
                output_limit_bytes=one.output_limit,
                success_codes=tuple(one.success_codes),
            )
            project.stated[name] = stated(one.model_fields_set)
        except OmiumError as error:
            yield Problem(f"commands.{name}", error.message.rstrip("."), error.hint.rstrip("."))


def _placed(project: Project, argument: str) -> str:
    """An argument with what stands for places of this machine filled in: `{python}`, `{project}/...`."""
    if argument == "{python}":
        return sys.executable
    if argument == "{project}" or argument.startswith("{project}/"):
        return str(project.directory) + argument.removeprefix("{project}")
    return argument


def _workspaces(project: Project, file: ProjectFile) -> Iterator[Problem]:
    for name, one in file.workspaces.items():
        here = f"workspaces.{name}"
        if one.kind == "git" and one.source is None:
            yield Problem(here, "the key 'source' is missing", "source: a repository's path or URL")
            continue
        if one.kind == "directory" and one.ref is not None:
            yield Problem(f"{here}.ref", "means nothing to a workspace of kind directory", "no ref")
        source = one.source
        if source is not None and not (one.kind == "git" and _REMOTE.match(source)):
            source = str(_under(project.directory, source))
        spec = WorkspaceSpec(one.kind, source, one.ref, tuple(one.exclude))
        try:
            check_source(name, spec)
        except OmiumError as error:
            yield Problem(f"{here}.source", error.message.rstrip("."), "a directory that is there")
        project.workspace(name, spec)


# --- workflows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a workflow was read: its document, and its place in it (empty for a file of its own)."""

    document: Document
    under: str = ""

    def located(self, problems: list[Problem]) -> list[Problem]:
        placed = [replace(one, path=_joined(self.under, one.path)) for one in problems]
        return located(placed, self.document.source, self.document.line_of)


def _joined(under: str, path: str) -> str:
    return f"{under}.{path}" if under and path else under or path


def _workflows(project: Project, file: ProjectFile, document: Document) -> tuple[dict[str, _Origin], list[Problem]]:
    """Register the workflows that the file lists, and those in the folder beside it."""
    from omium.orchestration.definition.check import workflow_problems
    from omium.orchestration.definition.schema import to_workflow

    origins: dict[str, _Origin] = {}
    found: list[Problem] = []
    read: set[Path] = set()

    def take(origin: _Origin, listed: str | None) -> None:
        try:
            if listed is not None:
                form = WorkflowFile.model_validate(file.workflows[int(listed)])
                workflow = to_workflow(form)
                problems = workflow_problems(workflow)
            else:
                workflow, problems = workflow_of(origin.document), []
        except ValidationError as error:
            found.extend(origin.located(model_problems(error, WorkflowFile)))
            return
        except OmiumError as error:
            found.extend(_told(error))
            return
        if workflow.name in origins:
            problems = [*problems, Problem("name", f"the workflow {workflow.name!r} is defined twice", "another name")]
        if problems:
            found.extend(origin.located(problems))
            return
        origins[workflow.name] = origin
        project.workflow(workflow)
        project.sources[workflow.name] = origin.document.source

    def read_from(path: Path) -> None:
        if path in read:
            return
        read.add(path)
        try:
            origin = _Origin(read_file(path))
        except OmiumError as error:
            found.extend(_told(error))
            return
        take(origin, None)

    for index, entry in enumerate(file.workflows):
        here = f"workflows[{index}]"
        if isinstance(entry, dict):
            take(_Origin(document, here), str(index))
        elif isinstance(entry, str):
            path = _under(project.directory, entry)
            if path.is_file():
                read_from(path)
            else:
                problem = Problem(here, f"there is no file {entry!r}", f"a path below {project.directory}")
                found.extend(located([problem], document.source, document.line_of))
        else:
            problem = Problem(here, f"is {type(entry).__name__}", "the path of a workflow, or a workflow")
            found.extend(located([problem], document.source, document.line_of))
    folder = project.directory / WORKFLOWS_FOLDER
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in _WORKFLOW_SUFFIXES and path.is_file():
                read_from(path.resolve())
    return origins, found


def _told(error: OmiumError) -> list[Problem]:
    """The problems that an error reports, or the error itself as one."""
    reported = error.data.get("problems")
    if not reported:
        return [Problem("", error.message.rstrip("."), error.hint.rstrip("."))]
    return [Problem(one["path"], one["message"], one["expected"], one["file"], one["line"]) for one in reported]


def _check(project: Project, origins: dict[str, _Origin], resources: Collection[str]) -> None:
    """Hold the workflows against each other and against what is registered."""
    catalog = project.unchecked_catalog(resources)
    found: list[Problem] = []
    only_missing = True
    for name in catalog.workflows:
        problems, missing = catalog.problems(name)
        only_missing = only_missing and not problems
        origin = origins.get(name)
        told = [*problems, *missing]
        found += origin.located(told) if origin is not None else told
    if found:
        raise refusal(found, only_missing)
