"""What each kind of node must and must not have. Pure checks over the inside form; paths are those of the document."""

from __future__ import annotations

from collections.abc import Iterator

from omium.orchestration.definition.failing import failure_problems, no_category
from omium.orchestration.definition.json_schema import schema_problems
from omium.orchestration.definition.model import FAILURE_CATEGORIES, USES_REGISTERED, NodeDef, WorkflowDef, walk
from omium.orchestration.definition.names import tool_problem
from omium.orchestration.definition.problems import Problem

# Nodes that are executed in attempts: only these have conditions and schemas around an attempt.
_ATTEMPTED = frozenset({"function", "agent", "tool", "cli", "consensus"})
# Nodes that may give a plan: those whose output is made outside of the definition.
_PLANNERS = frozenset({"function", "agent", "tool", "cli"})
_RETRIED = _ATTEMPTED | {"workflow"}  # a child run is tried again as a new one
_TIMED = _ATTEMPTED | {"workflow", "wait"}


def rule_problems(workflow: WorkflowDef) -> list[Problem]:
    """Everything in a workflow that no valid node or schema has, whatever its graph."""
    problems: list[Problem] = []
    if workflow.inputs is not None:
        problems += schema_problems(workflow.inputs, "inputs")
        if workflow.inputs.get("type") != "object":
            problems.append(Problem("inputs", "is the JSON Schema of something else than an object", "type: object"))
    return problems + node_problems(workflow.nodes) + failure_problems(workflow)


def node_problems(nodes: tuple[NodeDef, ...], path: str = "nodes") -> list[Problem]:
    """The same for nodes and all that are inside them."""
    problems: list[Problem] = []
    for here, node in walk(nodes, path):
        problems += _kind(node, here)
        problems += _expansion(node, here)
        problems += _categories(node, here)
        for key, schema in (("input_schema", node.input_schema), ("output_schema", node.output_schema)):
            if schema is not None:
                problems += schema_problems(schema, f"{here}.{key}")
    return problems


def may_have_schema(node: NodeDef) -> bool:
    """Whether a definition can say what the node's output is like; that of a group, say, is of what is inside it."""
    return node.kind in _ATTEMPTED


def _kind(node: NodeDef, here: str) -> Iterator[Problem]:
    registry = USES_REGISTERED.get(node.kind)
    if registry and node.use is None:
        yield Problem(here, f"the {node.kind} node {node.id!r} names no {registry}", f"use: the {registry}'s name")
    if not registry and node.use is not None:
        yield Problem(f"{here}.use", f"{node.use!r} means nothing to a node of kind {node.kind}", "no use")
    if node.kind == "tool" and node.use is not None:
        message, _, expected = tool_problem(node.use).partition("; expected ")
        if message:
            yield Problem(f"{here}.use", message, expected)
    for key, value, kind in (("wait", node.wait, "wait"), ("consensus", node.consensus, "consensus")):
        if node.kind == kind and value is None:
            yield Problem(here, f"the {kind} node {node.id!r} does not say what for", f"{key}: ...")
        if node.kind != kind and value is not None:
            yield Problem(f"{here}.{key}", f"means nothing to a node of kind {node.kind}", f"kind: {kind}")
    if node.kind == "group" and not node.body:
        yield Problem(here, f"the group {node.id!r} has no nodes", "nodes: a list of nodes")
    if node.kind != "group" and node.body:
        yield Problem(f"{here}.nodes", f"means nothing to a node of kind {node.kind}", "kind: group")
    if node.kind != "group" and node.output is not None:
        yield Problem(f"{here}.output", f"means nothing to a node of kind {node.kind}", "kind: group")
    if node.kind == "approval" and node.approval is None:
        yield Problem(here, f"the approval node {node.id!r} asks nothing", "approval: {prompt: ...}")
    if node.input != {} and node.kind in ("group", "approval", "wait"):
        yield Problem(f"{here}.with", f"means nothing to a node of kind {node.kind}", "no with")
    if node.consensus is not None:
        if node.consensus.quorum > len(node.consensus.voters):
            count = len(node.consensus.voters)
            yield Problem(f"{here}.consensus.quorum", f"is {node.consensus.quorum} of {count}", f"at most {count}")
        if len(set(node.consensus.voters)) != len(node.consensus.voters):
            yield Problem(f"{here}.consensus.voters", "names an agent twice", "agents that differ")


def _categories(node: NodeDef, here: str) -> Iterator[Problem]:
    for index, category in enumerate(node.retry.on or ()):
        if category not in FAILURE_CATEGORIES:
            yield no_category(category, f"{here}.retry.on[{index}]")


def _expansion(node: NodeDef, here: str) -> Iterator[Problem]:
    if node.for_each is not None and node.repeat is not None:
        yield Problem(here, f"{node.id!r} has both for_each and repeat", "one, with the other in a group around it")
    if node.expands and node.kind not in _PLANNERS:
        yield Problem(f"{here}.expands", f"a node of kind {node.kind} gives no plan", f"one of {sorted(_PLANNERS)}")
    if node.retry.max_attempts > 1 and node.kind not in _RETRIED:
        yield Problem(f"{here}.retry", f"a node of kind {node.kind} is not retried", f"one of {sorted(_RETRIED)}")
    if node.timeout_s is not None and node.kind not in _TIMED:
        yield Problem(f"{here}.timeout", f"a node of kind {node.kind} has none", f"one of {sorted(_TIMED)}")
    for key in ("requires", "expects", "input_schema", "output_schema"):
        if getattr(node, key) and node.kind not in _ATTEMPTED:
            yield Problem(f"{here}.{key}", f"means nothing to a node of kind {node.kind}", f"no {key}")
    if node.workspace != "none" and node.kind in ("approval", "wait", "group"):
        yield Problem(f"{here}.workspace", f"a node of kind {node.kind} touches no files", "workspace: none")
    if node.compensate is not None and node.kind in ("approval", "wait", "group"):
        yield Problem(f"{here}.compensate", f"a node of kind {node.kind} has nothing to undo", "no compensate")
