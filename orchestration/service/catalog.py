"""What the operator registered: the only names that a definition may use.

Plain data: how a function is called and a command started is the executors' business, which get the same entries.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from omium.orchestration.definition.model import NodeDef, OnUnknown, WorkflowDef, walk
from omium.orchestration.definition.problems import Problem, invalid_definition
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import WorkspaceSpec

Host = Literal["async", "thread", "process"]

_REF = re.compile(r"\A[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\Z", re.ASCII)


def is_function_ref(text: str) -> bool:
    """Whether `text` has the form `package.module:function`."""
    return _REF.match(text) is not None


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A registered Python function.

    ref: `package.module:function`. host: `process` is a worker process, where a time-out really stops it; `async` an
    async function on the loop of the process that executes the run; `thread` a sync function there, which can only be
    abandoned. on_unknown: with `ask` and `fail` every call is recorded in the ledger, and that is what becomes of one
    whose result a crash took, whatever the node says; `rerun` and None leave it to the node. timeout_s: of one call,
    besides the node's own. The schemas are checked around every call; node definitions are held against them.
    """

    name: str
    ref: str
    host: Host = "process"
    on_unknown: OnUnknown | None = None
    timeout_s: float | None = None
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """A registered command, as far as the core knows it. argv: the program, fixed arguments and places for values.
    output_schema: of what it gives, where that is known beforehand."""

    name: str
    argv: tuple[str, ...]
    description: str = ""
    output_schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One version of a registered agent, as far as the core knows it. default: it is the version that its plain name
    means. model: `provider/name`, to be shown. The schemas are what it takes and gives."""

    name: str
    version: str
    framework: str
    model: str = ""
    description: str = ""
    capabilities: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    handoffs: tuple[str, ...] = ()
    input_schema: dict[str, Any] | None = None
    output_schema: dict[str, Any] | None = None
    default: bool = True
    source: str | None = None


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """A declared server of external tools, as far as the core knows it. transport: stdio, http or sse; enabled: whether
    the operator wants it; reason: why it is not used all the same, empty if it is."""

    name: str
    transport: str
    description: str = ""
    enabled: bool = True
    reason: str = ""


class _Names(set[str]):
    """Names, and patterns `server/*` that stand for every tool of a server."""

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        return isinstance(name, str) and "/" in name and super().__contains__(f"{name.partition('/')[0]}/*")


def _not_here_yet(definition: WorkflowDef) -> Iterator[Problem]:
    """What a definition may say and this version does not do. Better refused than silently left out: a gate that is not
    there, a budget that stops nothing."""
    yield from _steps_not_here_yet(definition.nodes, "nodes")


def _steps_not_here_yet(nodes: tuple[NodeDef, ...], under: str) -> Iterator[Problem]:
    for path, node in walk(nodes, under):
        if node.approval is not None and node.approval.min_assurance == "signed":
            what = f"nobody can decide with the assurance {node.approval.min_assurance} yet"
            yield Problem(f"{path}.approval.min_assurance", what, "out_of_band, or less")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything registered, by name. `sources`: where a workflow was read from, for messages; `resources`: the named
    limits of the project, which nodes may count against. `agents`: by name, and each version by `name@version` too;
    `tools`: external tools as `server/tool`, or `server/*` for all of a server; `servers`: whose they are."""

    functions: Mapping[str, FunctionSpec] = field(default_factory=dict)
    commands: Mapping[str, CommandEntry] = field(default_factory=dict)
    workflows: Mapping[str, WorkflowDef] = field(default_factory=dict)
    workspaces: Mapping[str, WorkspaceSpec] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    resources: Collection[str] = ()
    agents: Mapping[str, AgentSpec] = field(default_factory=dict)
    tools: Collection[str] = ()
    servers: Mapping[str, ServerEntry] = field(default_factory=dict)

    def registered(self) -> dict[str, set[str]]:
        """The names by registry, as `check_registered` takes them."""
        return {
            "function": set(self.functions),
            "command": set(self.commands),
            "workflow": set(self.workflows),
            "resource": set(self.resources),
            "agent": set(self.agents),
            "tool": _Names(self.tools),
        }

    def check_steps(self, nodes: tuple[NodeDef, ...]) -> None:
        """Refuse the steps of a plan for what a registered workflow would be refused for: `not_registered` for names,
        `invalid_definition` for what this version does not do."""
        from omium.orchestration.definition.check import check_names

        check_names(nodes, self.registered(), "steps")
        problems = list(_steps_not_here_yet(nodes, "steps"))
        if problems:
            raise invalid_definition(problems)

    def source_of(self, workflow: str) -> str | None:
        """The file that defines a workflow; None when it was built in Python."""
        return self.sources.get(workflow)

    def problems(self, workflow: str) -> tuple[list[Problem], list[Problem]]:
        """What is wrong with a registered workflow, by path in its document: (as a definition, names that are not
        registered)."""
        from omium.orchestration.definition.check import check_recursion, workflow_problems

        definition = self.workflows[workflow]
        problems = [*workflow_problems(self._with_contracts(definition)), *_not_here_yet(definition)]
        missing = list(self._missing(definition))
        if not problems:
            try:
                check_recursion(workflow, self.workflows.get)
            except OmiumError as error:
                problems = [Problem("", told["message"], told["expected"]) for told in error.data["problems"]]
        return problems, missing

    def check(self) -> None:
        """Refuse a catalog whose workflows are not all valid: `not_registered` when they only name what is not there,
        `invalid_definition` otherwise; `data["problems"]` lists everything."""
        found: list[Problem] = []
        only_missing = True
        for name in self.workflows:
            problems, missing = self.problems(name)
            only_missing = only_missing and not problems
            source = self.sources.get(name) or f"workflow {name}"
            found += [replace(problem, file=problem.file or source) for problem in (*problems, *missing)]
        if found:
            raise refusal(found, only_missing)

    def warnings(self, definition: WorkflowDef) -> list[Problem]:
        """What is hardly meant, or cannot be checked, in a workflow whose nodes call what is registered here."""
        from omium.orchestration.definition.check import lint

        return lint(self._with_contracts(definition))

    def _missing(self, definition: WorkflowDef) -> Iterator[Problem]:
        from omium.orchestration.definition.check import check_registered

        try:
            check_registered(definition, self.registered())
        except OmiumError as error:
            for one in error.data["missing"]:
                what = f"the node {one['node']!r} names the {one['registry']} {one['name']!r}, which is not registered"
                yield Problem(one["path"], what, self._expected(one["registry"], one["name"]))

    def _expected(self, registry: str, name: str) -> str:
        known = self.registered().get(registry, set())
        near = difflib.get_close_matches(name, known, n=3)
        if near:
            return " or ".join(near)
        if registry == "resource" and not known:
            return "a name under limits.resources; there is none"
        return _known(known, registry)

    def _with_contracts(self, definition: WorkflowDef) -> WorkflowDef:
        """The definition as its expressions are checked: nodes without schemas have those of what they call."""
        registered: tuple[FunctionSpec | AgentSpec, ...] = (*self.functions.values(), *self.agents.values())
        if not any(one.input_schema or one.output_schema for one in registered) and not any(
            one.output_schema for one in self.commands.values()
        ):
            return definition
        return replace(definition, nodes=tuple(self._node_with_contract(node) for node in definition.nodes))

    def _node_with_contract(self, node: NodeDef) -> NodeDef:
        if node.body:
            return replace(node, body=tuple(self._node_with_contract(inner) for inner in node.body))
        if node.kind == "cli" and node.output_schema is None and not node.expands:
            command = self.commands.get(node.use or "")
            return node if command is None else replace(node, output_schema=command.output_schema)
        spec: FunctionSpec | AgentSpec | None = None
        if node.kind in ("function", "agent"):
            spec = (self.functions if node.kind == "function" else self.agents).get(node.use or "")
        if spec is None:
            return node
        promised = None if node.expands else spec.output_schema  # of a plan, the output is that of its steps
        return replace(
            node,
            input_schema=node.input_schema if node.input_schema is not None else spec.input_schema,
            output_schema=node.output_schema if node.output_schema is not None else promised,
        )


def refusal(problems: list[Problem], only_missing: bool) -> OmiumError:
    """The error for a catalog with these problems."""
    error = invalid_definition(problems)
    if not only_missing:
        return error
    return OmiumError("not_registered", error.message, "Register it in omium.yaml.", **error.data)


def _known(names: set[str], registry: str) -> str:
    listed = sorted(names)
    return f"one of {', '.join(listed[:10])}" if listed else f"a registered {registry}; there is none"
