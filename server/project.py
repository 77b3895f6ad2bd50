"""What an operator registers: functions, commands, workflows and workspaces, in Python or from `omium.yaml`.

    project = Project("reports")

    @project.function
    async def fetch(url: str) -> dict: ...

    project.command("test", ["pytest", "-q"], stdin="none", output="text")
    project.workflow(Path("report.yaml"))

`catalog()` is what the core gets of it, checked as a whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, TypeVar, overload

from omium.clients.agents.registry import Registry
from omium.clients.agents.spec import AgentDef, AgentLimits, ModelSpec
from omium.clients.coding.spec import OUTPUT, CodingSpec
from omium.clients.commands import CommandSpec
from omium.clients.external.spec import Servers
from omium.orchestration.definition.model import OnUnknown, WorkflowDef
from omium.orchestration.definition.names import name_problem
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.ids import ProjectId
from omium.orchestration.ports_workspace import WorkspaceSpec
from omium.orchestration.service.catalog import Catalog, CommandEntry, FunctionSpec, Host, is_function_ref
from omium.server.declared.policy import DeclaredPolicy
from omium.server.plugins import (
    AGENTS_GROUP,
    FUNCTIONS_GROUP,
    WORKFLOWS_GROUP,
    left_out,
    made,
    offered_agent,
    points,
    unusable,
)

F = TypeVar("F", bound=Callable[..., Any])


class Project:
    """Everything that one operator registered under one name. Runs belong to the project of that name.

    directory: what relative paths of it mean, and where its functions' processes start; path: directories from which
    functions are imported, besides what is installed; env and pass_env: what worker processes of functions have in
    their environment beyond the allow-list: constants, and names that are handed on.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        directory: Path | None = None,
        path: Sequence[Path] | None = None,
        env: Mapping[str, str] | None = None,
        pass_env: Sequence[str] = (),
    ) -> None:
        _check_name("project", name)
        self.id = ProjectId(name)
        self.directory = (directory or Path.cwd()).resolve()
        self.path = tuple(entry.resolve() for entry in ([self.directory] if path is None else path))
        self.env = dict(env or {})
        self.pass_env = tuple(pass_env)
        self.functions: dict[str, FunctionSpec] = {}
        self.callables: dict[str, Callable[..., Any]] = {}
        self.commands: dict[str, CommandSpec] = {}
        self.command_texts: dict[str, str] = {}
        self.commands_on_unknown: dict[str, OnUnknown] = {}
        self.stated: dict[str, frozenset[str]] = {}  # the fields of commands that hold whatever supervision says
        self.coding: dict[str, CodingSpec] = {}
        self.workflows: dict[str, WorkflowDef] = {}
        self.sources: dict[str, str] = {}
        self.workspaces: dict[str, WorkspaceSpec] = {}
        self.agents = Registry()
        self.agents_beside: list[Path] = []  # files that manifests are made of besides themselves
        self.offered_agents: dict[str, AgentDef] = {}  # those of installed packages, by entry point
        self.left_out: dict[EntryPoint, str] = {}  # what installed packages offer and cannot be used, and why
        self.servers = Servers()
        self.policy = DeclaredPolicy()
        self.budgets: tuple[BudgetRule, ...] = ()

    # --- functions ------------------------------------------------------------------------------------------------

    @overload
    def function(self, function: F, /) -> F: ...

    @overload
    def function(
        self,
        *,
        name: str | None = None,
        host: Host | None = None,
        on_unknown: OnUnknown | None = None,
        timeout_s: float | None = None,
        input_schema: dict[str, Any] | None = None,
        output_schema: dict[str, Any] | None = None,
    ) -> Callable[[F], F]: ...

    def function(
        self,
        function: Any = None,
        *,
        name: str | None = None,
        host: Host | None = None,
        on_unknown: OnUnknown | None = None,
        timeout_s: float | None = None,
        input_schema: dict[str, Any] | None = None,
        output_schema: dict[str, Any] | None = None,
    ) -> Any:
        """Register a Python function, under its own name unless another is given. A decorator, with or without
        arguments. host: `async` for async functions and `process` for others, unless given; what a worker process
        cannot import (a lambda, a function inside another, of `__main__`) needs `host="thread"`."""

        def register(given: F) -> F:
            chosen: Host = host or ("async" if inspect.iscoroutinefunction(given) else "process")
            ref = f"{given.__module__}:{given.__qualname__}"
            called = name or given.__name__
            if chosen == "process" and (not is_function_ref(ref) or given.__module__ == "__main__"):
                raise OmiumError(
                    "invalid_definition",
                    f"the function {called!r} ({ref}) cannot be imported by a worker process.",
                    'Move it to the top level of a module, or register it with host="thread".',
                )
            text = (inspect.getdoc(given) or "").partition("\n")[0]
            schemas = (input_schema, output_schema)
            self.add_function(FunctionSpec(called, ref, chosen, on_unknown, timeout_s, *schemas, text))
            if chosen != "process":
                self.callables[called] = given
            return given

        return register if function is None else register(function)

    def add_function(self, spec: FunctionSpec) -> None:
        """Register a function by reference."""
        _check_name("function", spec.name)
        self._free("function", spec.name, self.functions)
        self.functions[spec.name] = spec

    # --- agents ---------------------------------------------------------------------------------------------------

    def agent(
        self,
        name: str,
        *,
        model: ModelSpec | None = None,
        prompt: str = "",
        tools: Sequence[str | Callable[..., Any]] = (),
        limits: AgentLimits | None = None,
        default: bool = False,
        **options: Any,
    ) -> AgentDef:
        """Register an agent; `options` are the further fields of `clients.agents.spec.AgentDef`. tools: names, and
        functions, which are registered if they are not yet. default: the plain name means this version from now on."""
        named = tuple(one if isinstance(one, str) else self._function_named(one) for one in tools)
        agent = AgentDef(name, model=model, prompt=prompt, tools=named, limits=limits or AgentLimits(), **options)
        return self.agents.add(agent, default=default)

    def _function_named(self, function: Callable[..., Any]) -> str:
        name = getattr(function, "__name__", "")
        spec = self.functions.get(name)
        if spec is None or spec.ref != f"{function.__module__}:{function.__qualname__}":
            self.function(function)
        return name

    # --- commands, workflows, workspaces --------------------------------------------------------------------------

    def command(
        self,
        name: str,
        argv: Sequence[str],
        *,
        on_unknown: OnUnknown | None = None,
        description: str = "",
        **options: Any,
    ) -> CommandSpec:
        """Register a command; `options` are the further fields of `clients.commands.CommandSpec`. on_unknown: what
        becomes of it when a crash left its outcome unknown (`ask`, unless given)."""
        _check_name("command", name)
        self._free("command", name, {**self.commands, **self.coding})
        spec = CommandSpec(name, tuple(argv), **options)
        self.commands[name] = spec
        self.command_texts[name] = description
        if on_unknown is not None:
            self.commands_on_unknown[name] = on_unknown
        return spec

    def add_coding(self, spec: CodingSpec) -> None:
        """Register a coding CLI. Nodes of kind `cli` name it as they name commands, so no command may have its name."""
        _check_name("coding CLI", spec.name)
        self._free("command", spec.name, {**self.commands, **self.coding})
        self.coding[spec.name] = spec

    def workflow(self, workflow: WorkflowDef | Path | str) -> WorkflowDef:
        """Register a workflow: a definition, or the path of its file."""
        source = None
        if not isinstance(workflow, WorkflowDef):
            from omium.orchestration.definition.load import load_file

            source = str(self.directory / workflow)
            workflow = load_file(source)
        self._free("workflow", workflow.name, self.workflows)
        self.workflows[workflow.name] = workflow
        if source is not None:
            self.sources[workflow.name] = source
        return workflow

    def workspace(self, name: str, spec: WorkspaceSpec) -> None:
        """Declare how workspaces of this name start."""
        _check_name("workspace", name)
        self._free("workspace", name, self.workspaces)
        self.workspaces[name] = spec

    def use_entry_points(self) -> None:
        """Register what installed packages offer: functions under `omium.functions` (`package.module:function`, run in
        worker processes), agents under `omium.agents` (an AgentDef, or a function that gives one), workflows under
        `omium.workflows` (a WorkflowDef, or a function that gives one).
        A name that the project has itself stays its own; one that two packages offer is refused. What cannot be used
        is left out: see `plugins`."""
        own = set(self.functions)
        for point in points(FUNCTIONS_GROUP):
            if point.name in own:
                continue
            if not is_function_ref(point.value):
                self._leave_out(point, unusable(point, f"{point.value!r} is not package.module:function"))
                continue
            self.add_function(FunctionSpec(point.name, point.value))
        for point in points(AGENTS_GROUP):
            try:
                self.offered_agents[point.name] = offered_agent(point)
            except OmiumError as error:
                self._leave_out(point, error)
        self.take_offered(self.offered_agents)
        own = set(self.workflows)
        for point in points(WORKFLOWS_GROUP):
            if point.name in own:
                continue
            try:
                definition = made(point, WorkflowDef)
                if definition.name != point.name:
                    raise unusable(point, f"its workflow is called {definition.name!r}")
            except OmiumError as error:
                self._leave_out(point, error)
                continue
            self.workflow(definition)

    def _leave_out(self, point: EntryPoint, error: OmiumError) -> None:
        self.left_out[point] = error.message
        left_out(error)

    def take_offered(self, agents: Mapping[str, AgentDef]) -> None:
        """Register agents that packages offer, by entry point; a name that the project has itself stays its own."""
        own = set(self.agents.names())
        for agent in agents.values():
            if agent.name not in own:
                self.agents.add(agent)

    def catalog(self, resources: Collection[str] = ()) -> Catalog:
        """What the core gets; `resources` are the names of the limits that nodes may count against. Raises
        `invalid_definition` or `not_registered` with every problem of every workflow."""
        catalog = self.unchecked_catalog(resources)
        catalog.check()
        return catalog

    def unchecked_catalog(self, resources: Collection[str] = ()) -> Catalog:
        """The same before its workflows are checked; for whoever reports their problems in its own way."""
        commands = {
            name: CommandEntry(name, spec.argv, self.command_texts.get(name, ""))
            for name, spec in self.commands.items()
        }
        for name, cli in self.coding.items():
            commands[name] = CommandEntry(name, (cli.program,), cli.description, OUTPUT)
        return Catalog(
            dict(self.functions),
            commands,
            dict(self.workflows),
            dict(self.workspaces),
            dict(self.sources),
            frozenset(resources),
            self.agents.specs(),
            frozenset(f"{name}/*" for name in self.servers.entries),
            dict(self.servers.entries),
        )

    def _free(self, kind: str, name: str, taken: Mapping[str, Any]) -> None:
        if name in taken:
            raise OmiumError("invalid_definition", f"the {kind} {name!r} is registered twice.", "Choose another name.")


def _check_name(kind: str, name: str) -> None:
    problem = name_problem(name)
    if problem:
        raise OmiumError("invalid_definition", f"the name of a {kind}: {problem}.")
