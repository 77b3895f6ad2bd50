"""What a branch or a replay may change: inputs of the run, inputs and outputs of nodes. Checked before anything is
done."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from omium.orchestration.definition.expressions import references
from omium.orchestration.definition.graph import Structure
from omium.orchestration.definition.json_schema import validate_inputs, value_problems
from omium.orchestration.definition.model import NodeDef, WorkflowDef, walk
from omium.orchestration.engine.programs import sources
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.reset import check_exists
from omium.orchestration.ids import NodeId
from omium.orchestration.log.state import RunState
from omium.orchestration.values import encode

MAX_BYTES = 64 * 1024
"""Overrides are part of the log itself; what is larger belongs into a value that an input names."""

_FORM = 'Write {"inputs": {name: value}, "nodes": {node: {"with": {...}} or {"output": value}}}.'
_TAKES_WITH = frozenset({"function", "agent", "tool", "cli", "workflow", "consensus"})


def check_form(overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """The overrides as plain JSON, empty parts left out. Raises `invalid_argument`."""
    given: Any = overrides or {}
    if not isinstance(given, Mapping) or set(given) - {"inputs", "nodes"}:
        raise OmiumError("invalid_argument", "the overrides have a key that is neither inputs nor nodes.", _FORM)
    found: dict[str, Any] = {}
    for part in ("inputs", "nodes"):
        content = given.get(part)
        if content is None:
            continue
        if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
            raise OmiumError("invalid_argument", f"overrides.{part} is no object.", _FORM)
        if content:
            found[part] = dict(content)
    for node_id, change in found.get("nodes", {}).items():
        _check_change(node_id, change)
    return _plain(found)


def _check_change(node_id: str, change: Any) -> None:
    if not isinstance(change, Mapping) or set(change) - {"with", "output"} or len(change) > 1:
        raise OmiumError("invalid_argument", f"overrides.nodes.{node_id} must say either with or output.", _FORM)
    if "with" in change and not isinstance(change["with"], Mapping):
        raise OmiumError("invalid_argument", f"overrides.nodes.{node_id}.with is no object.", _FORM)


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """The same in JSON types alone, as an event holds it."""
    encoded = encode(found)
    plain: dict[str, Any] = orjson.loads(encoded.data[1:])
    if plain != found:
        raise OmiumError("invalid_argument", "overrides hold JSON values only: no bytes, times or decimals.")
    if encoded.size > MAX_BYTES:
        raise OmiumError(
            "invalid_argument", f"the overrides take {encoded.size} bytes; at most {MAX_BYTES} are allowed."
        )
    return plain


def check_nodes(
    overrides: Mapping[str, Any], structure: Structure, state: RunState, runs_again: Callable[[NodeId], bool]
) -> None:
    """Whether every node that is changed exists, takes the change, and will run: else nothing would come of it.

    Raises `not_found`, `invalid_argument`, and `forbidden` for the outcome of a human's decision."""
    for node_id, change in overrides.get("nodes", {}).items():
        check_exists(structure, state, node_id)
        node = structure.node_def(node_id)
        if not runs_again(NodeId(node_id)):
            raise OmiumError(
                "invalid_argument",
                f"node {node_id!r} does not run again, so that changing it would do nothing.",
                f"Go back further: play from {node_id}, or branch at before:{node_id}.",
            )
        if "output" in change:
            _check_output(node_id, node, change["output"])
        elif "with" in change:
            _check_with(node_id, node, change["with"])


def _check_output(node_id: str, node: NodeDef, value: Any) -> None:
    if node.kind == "approval":
        raise OmiumError(
            "forbidden", f"{node_id} is a human's decision, which cannot be written for them.", "Decide it."
        )
    if node.expands:
        raise OmiumError("invalid_argument", f"the output of {node_id} is a plan, which only the node itself can give.")
    schema = node.output_schema
    problems = value_problems(schema, value, "output") if schema is not None and not _expands(node, node_id) else []
    if problems:
        raise OmiumError("invalid_argument", f"the output for {node_id} does not fit its schema: {problems[0]}.")


def _check_with(node_id: str, node: NodeDef, changed: Mapping[str, Any]) -> None:
    if node.kind not in _TAKES_WITH:
        raise OmiumError("invalid_argument", f"{node_id} is a node of kind {node.kind}, which is given nothing.")
    if _expands(node, node_id):
        raise OmiumError(
            "invalid_argument", f"{node_id} expands into instances.", f"Name the instance, such as {node_id}[0]."
        )
    if not isinstance(node.input, Mapping):
        raise OmiumError(
            "invalid_argument", f"the input of {node_id} is one template and no object: it cannot be changed in parts."
        )
    schema: Mapping[str, Any] = node.input_schema or {}
    properties: Mapping[str, Any] = schema.get("properties", {})
    open_ = node.input_schema is not None and schema.get("additionalProperties", True) is not False
    unknown = sorted(set(changed) - set(node.input) - set(properties)) if not open_ else []
    if unknown:
        known = ", ".join(sorted({*node.input, *properties})) or "nothing"
        raise OmiumError(
            "invalid_argument", f"node {node_id!r} takes no {unknown[0]!r}.", f"It takes {known}.", unknown=unknown
        )
    for name, value in changed.items():
        if isinstance(properties.get(name), Mapping):
            part = {**properties[name], **{key: schema[key] for key in ("$defs", "definitions") if key in schema}}
            problems = value_problems(part, value, f"{node_id}.with.{name}")
            if problems:
                raise OmiumError("invalid_argument", f"the input for {node_id} does not fit its schema: {problems[0]}.")


def _expands(node: NodeDef, node_id: str) -> bool:
    return (node.for_each is not None or node.repeat is not None) and not node_id.endswith("]")


def merged_inputs(structure: Structure, present: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The run's inputs with the changed ones. Raises `invalid_argument` where they do not fit the workflow, or change
    an input that it does not have: nothing would come of that."""
    changed = overrides.get("inputs", {})
    unknown = [name for name in changed if name not in present]
    if unknown:
        _check_known(structure.workflow, unknown)
    return validate_inputs(structure.workflow, {**present, **changed})


def _check_known(workflow: WorkflowDef, names: Sequence[str]) -> None:
    schema = workflow.inputs or {}
    if schema.get("additionalProperties") or "patternProperties" in schema:
        return  # the schema says which others there may be
    known = set(schema.get("properties") or ()) or _read_inputs(workflow)
    unknown = sorted(set(names) - known) if known is not None else []
    if unknown:
        near = difflib.get_close_matches(unknown[0], known or (), n=3)
        others = f"It has {', '.join(sorted(known or ()))}." if known else "It has none."
        raise OmiumError(
            "invalid_argument",
            f"the workflow {workflow.name!r} has no input {unknown[0]!r}.",
            f"Did you mean {' or '.join(near)}?" if near else others,
            unknown=unknown,
        )


def _read_inputs(workflow: WorkflowDef) -> set[str] | None:
    """The inputs that a workflow without a schema for them reads; None when it may read any."""
    nodes = [node for _, node in walk(workflow.nodes)]
    if any(node.expands for node in nodes):
        return None
    templates = [workflow.outputs, *(template for node in nodes for template in sources(node))]
    templates += ["${{ " + condition + " }}" for condition in workflow.approval_conditions]
    mentioned = {name for template in templates if template is not None for name in references(template)}
    return None if "inputs" in mentioned else {one[7:] for one in mentioned if one.startswith("inputs.")}
