"""The agents of a project: versions of a name, what is wrong with them, and looking for one.

A name is registered in several versions; in workflows the plain name means its default, `name@version` one in
particular. What an agent names (functions, other agents, frameworks) is checked when all of them are there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from omium.clients.agents.adapter import Adapter
from omium.clients.agents.prompting import template_problem
from omium.clients.agents.script import read_script
from omium.clients.agents.spec import AgentDef, versioned
from omium.clients.agents.toolbox import is_external
from omium.orchestration.definition.json_schema import schema_problems
from omium.orchestration.definition.names import name_problem
from omium.orchestration.definition.problems import Problem
from omium.orchestration.errors import OmiumError
from omium.orchestration.service.catalog import AgentSpec


class Registry:
    """Agents by name and version."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str, AgentDef]] = {}
        self._defaults: dict[str, str] = {}
        self._chosen: set[str] = set()  # names that somebody has said the default of

    def __bool__(self) -> bool:
        return bool(self._versions)

    def add(self, agent: AgentDef, *, default: bool = False) -> AgentDef:
        """Register a version. The first of a name is its default until another is added as that. Raises
        `invalid_definition` for a bad name, for a version that is there already, and for a second default."""
        for what, text in (("agent", agent.name), ("version of an agent", agent.version)):
            problem = name_problem(text) or ("it holds @, which stands before a version" if "@" in text else "")
            if problem:
                raise OmiumError(
                    "invalid_definition", f"the name of an {what}: {problem}.".replace("an version", "a version")
                )
        versions = self._versions.setdefault(agent.name, {})
        if agent.version in versions:
            raise OmiumError(
                "invalid_definition",
                f"the agent {agent.name!r} is registered twice in the version {agent.version!r}.",
                "another version for one of them",
            )
        if default and agent.name in self._chosen:
            raise OmiumError(
                "invalid_definition",
                f"the agent {agent.name!r} has {self._defaults[agent.name]!r} as its default version already, "
                f"and {agent.version!r} would be another one.",
                "`default: true` in only one of them",
            )
        if default:
            self._chosen.add(agent.name)
        versions[agent.version] = agent
        if default or agent.name not in self._defaults:
            self._defaults[agent.name] = agent.version
        return agent

    def names(self) -> list[str]:
        return sorted(self._versions)

    def versions(self, name: str) -> list[AgentDef]:
        """All versions of a name, the default first."""
        default = self._defaults.get(name)
        return sorted(self._versions.get(name, {}).values(), key=lambda one: (one.version != default, one.version))

    def by_use(self) -> dict[str, AgentDef]:
        """Every agent by what a workflow may call it."""
        found: dict[str, AgentDef] = {}
        for name, versions in self._versions.items():
            found[name] = versions[self._defaults[name]]
            found.update({versioned(name, one.version): one for one in versions.values()})
        return found

    def specs(self) -> dict[str, AgentSpec]:
        """The same, as the core knows them."""
        return {use: _spec(agent, self._defaults[agent.name] == agent.version) for use, agent in self.by_use().items()}

    def problems(
        self, functions: Collection[str], adapters: Mapping[str, Adapter], servers: Collection[str] | None = None
    ) -> Iterator[tuple[AgentDef, Problem]]:
        """Everything that is wrong, each with its agent; paths are keys of the declaration. servers: the external
        servers that there are, or None if that is not known here."""
        known = self.by_use()
        for agent in {id(one): one for one in known.values()}.values():
            for path, what, expected in _problems(agent, known, functions, adapters, servers):
                yield agent, Problem(path, what, expected)


def _problems(
    agent: AgentDef,
    agents: Mapping[str, AgentDef],
    functions: Collection[str],
    adapters: Mapping[str, Adapter],
    servers: Collection[str] | None,
) -> Iterator[tuple[str, str, str]]:
    adapter = adapters.get(agent.framework)
    if adapter is None:
        yield "framework", f"is {agent.framework!r}", f"one of {', '.join(sorted(adapters))}"
    else:
        for key, problem in adapter.check(agent):
            yield key, problem, ""
    if agent.model is not None and agent.model.script is not None and agent.model.script.is_file():
        try:
            read_script(agent.model.script)
        except OmiumError as error:
            yield "model.script", error.message.rstrip("."), ""
    for key, text in (("prompt", agent.prompt), ("message", agent.message)):
        problem = template_problem(text or "")
        if problem:
            yield key, problem, ""
    for key, schema in (("input", agent.input_schema), ("output", agent.output_schema)):
        if schema is not None:
            yield from ((one.path, one.message, one.expected) for one in schema_problems(schema, key))
    for index, tool in enumerate(agent.tools):
        if is_external(tool):
            server = tool.partition("/")[0]
            if servers is not None and server not in servers and "*" not in server:
                yield f"tools[{index}]", f"names the server {server!r}, which is not declared", _listed(servers)
        elif tool not in functions:
            yield f"tools[{index}]", f"names the function {tool!r}, which is not registered", _listed(functions)
    for index, name in enumerate(agent.handoffs):
        if name not in agents:
            others = [one for one in agents if one != agent.name]
            yield f"handoffs[{index}]", f"names the agent {name!r}, which is not registered", _listed(others)
        elif agents[name].name == agent.name:
            yield f"handoffs[{index}]", "is the agent itself", "another agent"


def _listed(names: Collection[str]) -> str:
    return f"one of {', '.join(sorted(names)[:10])}" if names else "nothing; there is none"


def _spec(agent: AgentDef, default: bool) -> AgentSpec:
    model = agent.model
    return AgentSpec(
        name=agent.name,
        version=agent.version,
        framework=agent.framework,
        model="" if model is None else f"{model.provider}/{model.name}".rstrip("/"),
        description=agent.description,
        capabilities=agent.capabilities,
        tags=agent.tags,
        tools=(*agent.tools, *(["ask_human"] if agent.human_input else [])),
        handoffs=agent.handoffs,
        input_schema=None if agent.input_schema is None else dict(agent.input_schema),
        output_schema=None if agent.output_schema is None else dict(agent.output_schema),
        default=default,
        source=agent.source,
    )
