"""From a file or a text to a workflow that is valid in every respect that can be seen before it runs."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from omium.orchestration.definition.document import Document, Format, read_document, read_file, validate
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.definition.problems import Problem
from omium.orchestration.errors import OmiumError

_NODE = re.compile(r"\Anodes\[(\d+)\]")


def load_workflow(text: str, *, source: str = "workflow", format: Format = "yaml") -> WorkflowDef:
    """The workflow that a text defines; `source` names the text in messages.

    OmiumError("invalid_definition"): `data["problems"]` lists every problem as {file, line, path, message, expected}.
    """
    return workflow_of(read_document(text, source, format))


def load_file(path: Path | str) -> WorkflowDef:
    """The workflow that a file defines: `.json` is read as JSON, anything else as YAML."""
    return workflow_of(read_file(path))


def workflow_of(document: Document) -> WorkflowDef:
    """The workflow that a document defines."""
    from omium.orchestration.definition.check import workflow_problems
    from omium.orchestration.definition.schema import WorkflowFile, to_workflow

    try:
        workflow = to_workflow(validate(document, WorkflowFile))
    except OmiumError as error:
        raise document.error([*_as_problems(error), *_of_the_rest(document, error)]) from None
    problems = workflow_problems(workflow)
    if problems:
        raise document.error(problems)
    return workflow


def _as_problems(error: OmiumError) -> list[Problem]:
    return [Problem(**one) for one in error.data["problems"]]


def _of_the_rest(document: Document, error: OmiumError) -> list[Problem]:
    """What is wrong with the graph and the expressions of the nodes that have the right form, so that a file with
    several mistakes need not be repaired one by one. Nothing where more than single nodes are misshapen."""
    from omium.orchestration.definition.check import workflow_problems
    from omium.orchestration.definition.schema import WorkflowFile, to_workflow

    nodes = document.value.get("nodes") if isinstance(document.value, dict) else None
    places = [_NODE.match(str(one["path"])) for one in error.data["problems"]]
    bad = {int(place[1]) for place in places if place is not None}
    if not isinstance(nodes, list) or None in places or len(bad) >= len(nodes):
        return []
    kept = [index for index in range(len(nodes)) if index not in bad]
    rest = {**document.value, "nodes": [nodes[index] for index in kept]}
    try:
        found = workflow_problems(to_workflow(validate(Document(rest, document.source, None), WorkflowFile)))
    except OmiumError:
        return []
    absent = [repr(nodes[index]["id"]) for index in bad if isinstance(nodes[index], dict) and "id" in nodes[index]]
    named = tuple(name for one in absent for name in (one, f"nodes.{one[1:-1]}"))
    return [
        replace(one, path=_NODE.sub(lambda place: f"nodes[{kept[int(place[1])]}]", one.path))
        for one in found
        if not any(name in one.message for name in named) and one.path.startswith("nodes[")
    ]
