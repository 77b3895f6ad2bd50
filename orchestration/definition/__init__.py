"""Workflow definitions: load, validate, hash, graph, addresses and expressions.

What is here in one place is imported when it is first used: the parsers, pydantic, CEL and JSON Schema are slow to
load, and a process that only reads a run's state needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omium.orchestration.definition.address import (
        Segment,
        child,
        container_of,
        indexed,
        is_node_id,
        key_text,
        parse_instance,
    )
    from omium.orchestration.definition.build import Ref, workflow
    from omium.orchestration.definition.check import (
        check_names,
        check_recursion,
        check_registered,
        check_workflow,
        lint,
    )
    from omium.orchestration.definition.document import Document, read_document, read_file, validate
    from omium.orchestration.definition.expressions import (
        Expression,
        compile_expression,
        evaluate,
        holds,
        references,
        render,
    )
    from omium.orchestration.definition.graph import Graph, Structure
    from omium.orchestration.definition.hashing import definition_hash, node_hash
    from omium.orchestration.definition.json_schema import validate_inputs, value_problems
    from omium.orchestration.definition.load import load_file, load_workflow, workflow_of
    from omium.orchestration.definition.model import (
        ApprovalSpec,
        ConsensusSpec,
        ForEach,
        Need,
        NodeDef,
        NodeKind,
        Repeat,
        Retry,
        WaitSpec,
        WorkflowDef,
    )
    from omium.orchestration.definition.plan import parse_plan
    from omium.orchestration.definition.problems import Problem, invalid_definition
    from omium.orchestration.definition.schema import document_schema, to_document

_HOMES = {
    "address": ("Segment", "child", "container_of", "indexed", "is_node_id", "key_text", "parse_instance"),
    "build": ("Ref", "workflow"),
    "check": ("check_names", "check_recursion", "check_registered", "check_workflow", "lint"),
    "document": ("Document", "read_document", "read_file", "validate"),
    "expressions": ("Expression", "compile_expression", "evaluate", "holds", "references", "render"),
    "graph": ("Graph", "Structure"),
    "hashing": ("definition_hash", "node_hash"),
    "json_schema": ("validate_inputs", "value_problems"),
    "load": ("load_file", "load_workflow", "workflow_of"),
    "model": (
        "ApprovalSpec",
        "ConsensusSpec",
        "ForEach",
        "Need",
        "NodeDef",
        "NodeKind",
        "Repeat",
        "Retry",
        "WaitSpec",
        "WorkflowDef",
    ),
    "plan": ("parse_plan",),
    "problems": ("Problem", "invalid_definition"),
    "schema": ("document_schema", "to_document"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ApprovalSpec",
    "ConsensusSpec",
    "Document",
    "Expression",
    "ForEach",
    "Graph",
    "Need",
    "NodeDef",
    "NodeKind",
    "Problem",
    "Ref",
    "Repeat",
    "Retry",
    "Segment",
    "Structure",
    "WaitSpec",
    "WorkflowDef",
    "check_names",
    "check_recursion",
    "check_registered",
    "check_workflow",
    "child",
    "compile_expression",
    "container_of",
    "definition_hash",
    "document_schema",
    "evaluate",
    "holds",
    "indexed",
    "invalid_definition",
    "is_node_id",
    "key_text",
    "lint",
    "load_file",
    "load_workflow",
    "node_hash",
    "parse_instance",
    "parse_plan",
    "read_document",
    "read_file",
    "references",
    "render",
    "to_document",
    "validate",
    "validate_inputs",
    "value_problems",
    "workflow",
    "workflow_of",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value
