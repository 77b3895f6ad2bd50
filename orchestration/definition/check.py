"""Whether the expressions of a definition read what is there: names in scope, nodes upstream, fields that exist.

`nodes.x` means the node `x` beside the one that reads, which must then be upstream of it, or else the nearest node `x`
beside one of the groups around it, upstream of that group. What is checked here needs no check while a run executes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from omium.orchestration.definition.expressions import (
    Expression,
    compile_expression,
    template_expressions,
    template_texts,
)
from omium.orchestration.definition.graph import Graph, graph_problems
from omium.orchestration.definition.json_schema import MISSING, field_names, schema_at
from omium.orchestration.definition.model import USES_REGISTERED, NodeDef, WorkflowDef, walk
from omium.orchestration.definition.problems import Problem, invalid_definition
from omium.orchestration.definition.rules import may_have_schema, node_problems, rule_problems
from omium.orchestration.definition.selection import Selection
from omium.orchestration.errors import OmiumError

NODE_FIELDS = ("output", "state", "error")
"""What `nodes.<id>` has: the output (null unless it completed), the state's name, and null or {code, message}."""

_EVERYWHERE = frozenset({"inputs", "nodes", "run"})
_IN_EACH = frozenset({"item", "index", "key"})
_IN_LOOP = frozenset({"previous", "iteration"})


@dataclass(slots=True)
class _Scope:
    """Sibling nodes and what they may read. container: the group around them; outer: further nodes that exist around
    the whole and may be read (for the steps of a plan)."""

    nodes: Mapping[str, NodeDef]
    parent: _Scope | None = None
    container: str = ""
    outer: Collection[str] = ()
    readers: list[tuple[str, str, str]] = field(default_factory=list)  # (node, what it reads, path), to be upstream


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an expression stands: its scope, the node that reads (None: after all nodes of the scope), and the names
    that have a value there."""

    scope: _Scope
    reader: str | None
    names: frozenset[str]


class _Checker:
    """Collects problems and warnings over one definition."""

    def __init__(self, inputs: Mapping[str, Any] | None) -> None:
        self.inputs = inputs
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []

    def nodes(self, nodes: Sequence[NodeDef], path: str, scope: _Scope, names: frozenset[str]) -> None:
        """Check sibling nodes, and those inside them; `names` have a value around them."""
        broken = graph_problems(nodes, path)
        self.problems += broken
        for index, node in enumerate(nodes):
            self.node(node, f"{path}[{index}]", scope, names)
        if scope.readers and not broken:
            graph = Graph(nodes, path)
            missing = graph.unreached((reader, read) for reader, read, _ in scope.readers)
            for reader, read, where in scope.readers:
                if (reader, read) in missing:
                    self.problems.append(
                        Problem(where, f"{reader!r} reads {read!r}, which is not upstream of it", f"needs: {read}")
                    )

    def node(self, node: NodeDef, here: str, scope: _Scope, names: frozenset[str]) -> None:
        around = _Place(scope, node.id, names)
        own = names | (_IN_EACH if node.for_each else frozenset()) | (_IN_LOOP if node.repeat else frozenset())
        inside = _Place(scope, node.id, own)
        if node.when is not None:
            self.condition(node.when, f"{here}.when", around)
        for index, need in enumerate(node.needs):
            if need.when is not None:
                self.condition(need.when, f"{here}.needs[{index}].when", around)
        if node.for_each is not None:
            self.template(node.for_each.items, f"{here}.for_each.items", around)
            if node.for_each.key is not None:
                key_names = _Place(scope, node.id, names | {"item", "index"})
                self.expression(node.for_each.key, f"{here}.for_each.key", key_names)
        if node.repeat is not None:
            until = _Place(scope, node.id, own | {"output"})
            self.condition(node.repeat.until, f"{here}.repeat.until", until)
        self.template(node.input, f"{here}.with", inside)
        if node.wait is not None:
            self.template(node.wait.seconds, f"{here}.wait.for", inside)
            self.template(node.wait.until, f"{here}.wait.until", inside)
        if node.approval is not None:
            self.template(node.approval.prompt, f"{here}.approval.prompt", inside)
            self.template(node.approval.show, f"{here}.approval.show", inside)
        if node.consensus is not None and node.consensus.choice is not None:
            choice = _Place(scope, node.id, own | {"output"})
            self.expression(node.consensus.choice, f"{here}.consensus.choice", choice)
        for key, conditions, more in (
            ("requires", node.requires, {"input"}),
            ("expects", node.expects, {"input", "output"}),
        ):
            for index, source in enumerate(conditions):
                self.condition(source, f"{here}.{key}[{index}]", _Place(scope, node.id, own | more))
        if node.body:
            body = _Scope({inner.id: inner for inner in node.body}, scope, node.id)
            self.nodes(node.body, f"{here}.nodes", body, own)
            self.template(node.output, f"{here}.output", _Place(body, None, own))

    def condition(self, source: str, where: str, place: _Place) -> None:
        expression = self.expression(source, where, place)
        if expression is not None and expression.returns not in ("bool", "dyn"):
            self.problems.append(Problem(where, f"gives {expression.returns}", "a condition, true or false"))

    def expression(self, source: str, where: str, place: _Place) -> Expression | None:
        try:
            expression = compile_expression(source)
        except OmiumError as error:
            self.problems.append(Problem(where, error.message.rstrip("."), "a CEL expression"))
            return None
        self.reads(expression, where, place)
        return expression

    def template(self, template: Any, where: str, place: _Place) -> None:
        for path, text in template_texts(template, where):
            try:
                found = list(template_expressions(text, path))
            except OmiumError as error:
                self.problems.append(Problem(path, error.message.rstrip("."), "a CEL expression"))
                continue
            for _, expression in found:
                self.reads(expression, path, place)

    def reads(self, expression: Expression, where: str, place: _Place) -> None:
        for selection in expression.selections:
            if selection.root not in place.names:
                self.problems.append(
                    Problem(where, f"{selection.root!r} has no value here", f"one of {', '.join(sorted(place.names))}")
                )
            elif selection.root == "nodes":
                self.reads_node(selection, where, place)
            elif selection.root == "inputs":
                self.reads_schema(self.inputs, selection, selection.steps, where, "inputs")

    def reads_node(self, selection: Selection, where: str, place: _Place) -> None:
        steps = selection.steps
        if not steps or not isinstance(steps[0], str):
            self.problems.append(Problem(where, f"{selection} does not say which node", "nodes.<id>"))
            return
        name = steps[0]
        target = self.resolve(name, selection, where, place)
        if target is None:
            return
        if len(steps) > 1 and steps[1] not in NODE_FIELDS:
            fields = ", ".join(NODE_FIELDS)
            self.problems.append(Problem(where, f"{selection}: a node has no {steps[1]!r}", f"one of {fields}"))
        elif len(steps) > 2 and steps[1] == "output" and may_have_schema(target):
            self.reads_schema(_output_schema(target), selection, steps[2:], where, f"nodes.{name}.output")

    def resolve(self, name: str, selection: Selection, where: str, place: _Place) -> NodeDef | None:
        """The node that `nodes.<name>` means; None, and a problem, if it may not be read."""
        scope: _Scope | None = place.scope
        reader = place.reader
        while scope is not None:
            target = scope.nodes.get(name)
            if target is not None:
                if name == reader:
                    around = "is around what reads it" if reader != place.reader else "reads itself"
                    self.problems.append(Problem(where, f"{selection}: {name!r} {around}", "a node upstream"))
                    return None
                if reader is not None and not any(need.node == name for need in scope.nodes[reader].needs):
                    scope.readers.append((reader, name, where))
                return target
            if name in scope.outer:
                return None  # known to be upstream; its definition is not at hand
            reader, scope = scope.container, scope.parent
        near = difflib.get_close_matches(name, list(place.scope.nodes)[:1000], n=1)
        expected = f"an upstream node, such as nodes.{near[0]}" if near else "the id of an upstream node"
        self.problems.append(Problem(where, f"{selection}: there is no node {name!r}", expected))
        return None

    def reads_schema(
        self, schema: Any, selection: Selection, steps: tuple[str | int, ...], where: str, what: str
    ) -> None:
        if schema is None:
            if steps:
                self.warnings.append(Problem(where, f"{selection} is not checked: {what} has no schema", "a schema"))
            return
        at, taken = schema_at(schema, steps)
        if at is MISSING:
            known = field_names(schema, steps[:taken])
            near = difflib.get_close_matches(str(steps[taken]), known, n=1) or known[:8]
            expected = f"one of {', '.join(near)}" if near else "a field of its schema"
            self.problems.append(
                Problem(where, f"{selection}: the schema of {what} has no {steps[taken]!r} there", expected)
            )
        elif at is None and taken < len(steps):
            self.warnings.append(
                Problem(where, f"{selection} is not checked: the schema of {what} is open", "a closed schema")
            )


def _output_schema(node: NodeDef) -> Any:
    """The schema of `nodes.<id>.output`."""
    if node.output_schema is not None and node.for_each is not None:
        return {"type": "array", "items": node.output_schema} | (
            {"$defs": node.output_schema["$defs"]} if "$defs" in node.output_schema else {}
        )
    return node.output_schema


def workflow_problems(workflow: WorkflowDef) -> list[Problem]:
    """Everything that is wrong with a workflow; empty if nothing is."""
    return rule_problems(workflow) + _checked(workflow).problems


def lint(workflow: WorkflowDef) -> list[Problem]:
    """What cannot be checked before it runs: fields of values that have no schema, or an open one."""
    return _checked(workflow).warnings


def check_workflow(workflow: WorkflowDef) -> None:
    """OmiumError("invalid_definition") with everything that is wrong with a workflow."""
    problems = workflow_problems(workflow)
    if problems:
        raise invalid_definition(problems)


def plan_problems(
    nodes: Sequence[NodeDef], inputs: Mapping[str, Any] | None, readable: Collection[str], path: str = "steps"
) -> list[Problem]:
    """The same for the steps of a plan. inputs: the schema of the workflow's; readable: the ids of the nodes around the
    plan that its steps may read."""
    checker = _Checker(inputs)
    scope = _Scope({node.id: node for node in nodes}, outer=readable)
    checker.nodes(nodes, path, scope, _EVERYWHERE)
    return node_problems(tuple(nodes), path) + checker.problems


def _checked(workflow: WorkflowDef) -> _Checker:
    checker = _Checker(workflow.inputs)
    scope = _Scope({node.id: node for node in workflow.nodes})
    checker.nodes(workflow.nodes, "nodes", scope, _EVERYWHERE)
    after = _Place(scope, None, _EVERYWHERE)
    checker.template(workflow.outputs, "outputs", after)
    for index, source in enumerate(workflow.approval_conditions):
        checker.condition(source, f"approvals.when[{index}]", _Place(scope, None, _EVERYWHERE | {"node"}))
    return checker


def check_registered(workflow: WorkflowDef, registered: Mapping[str, AbstractSet[str]]) -> None:
    """Refuse a workflow that names what the operator has not registered.

    registered: the names by registry: function, agent, tool, command, workflow, resource. There is no other way for a
    definition to say what runs: no import path, no argument vector, no environment, no server.
    OmiumError("not_registered"); `data["missing"]` lists {path, node, registry, name}.
    """
    check_names(workflow.nodes, registered)


def check_names(nodes: tuple[NodeDef, ...], registered: Mapping[str, AbstractSet[str]], path: str = "nodes") -> None:
    """The same for nodes alone: for the steps of a plan."""
    missing = [
        {
            "path": f"{here}.resources" if registry == "resource" else here,
            "node": node.id,
            "registry": registry,
            "name": name,
        }
        for here, node in walk(nodes, path)
        for registry, name in registered_names(node)
        if name not in registered.get(registry, frozenset())
    ]
    if not missing:
        return
    first = missing[0]
    known = sorted(registered.get(first["registry"], frozenset()))
    near = difflib.get_close_matches(first["name"], known, n=1)
    raise OmiumError(
        "not_registered",
        f"{first['path']}: the node {first['node']!r} names the {first['registry']} {first['name']!r}, which is not "
        f"registered{f' (and {len(missing) - 1} more like it)' if len(missing) > 1 else ''}.",
        f"Did you mean {near[0]!r}?" if near else _register(first["registry"], known),
        missing=missing[:100],
    )


def _register(registry: str, known: Sequence[str]) -> str:
    where = "under limits.resources of omium.yaml" if registry == "resource" else "in omium.yaml"
    others = ", or use one of: " + ", ".join(known[:10]) if known else ""
    return f"Register it {where}{others}."


def registered_names(node: NodeDef) -> Iterable[tuple[str, str]]:
    """(registry, name) of everything registered that a node names itself; not the nodes inside it."""
    registry = USES_REGISTERED.get(node.kind)
    if registry is not None and node.use is not None:
        yield registry, node.use
    if node.compensate is not None:
        yield "function", node.compensate
    if node.consensus is not None:
        for voter in node.consensus.voters:
            yield "agent", voter
    for resource in node.resources:
        yield "resource", resource


def check_recursion(name: str, lookup: Callable[[str], WorkflowDef | None]) -> None:
    """Refuse a workflow that runs itself, directly or through others.

    lookup: the registered workflow of a name, or None. OmiumError("invalid_definition") names the cycle.
    """
    trail = [name]
    done: set[str] = set()
    stack = [iter(_sub_workflows(lookup(name)))]
    while stack:
        below = next(stack[-1], None)
        if below is None:
            done.add(trail.pop())
            stack.pop()
        elif below in trail:
            cycle = " -> ".join([*trail[trail.index(below) :], below])
            raise invalid_definition([Problem("", f"the workflow {name!r} runs itself: {cycle}", "no recursion")])
        elif below not in done:
            trail.append(below)
            stack.append(iter(_sub_workflows(lookup(below))))


def _sub_workflows(workflow: WorkflowDef | None) -> list[str]:
    if workflow is None:
        return []
    found = [node.use for _, node in walk(workflow.nodes) if node.kind == "workflow" and node.use is not None]
    return list(dict.fromkeys(found))
