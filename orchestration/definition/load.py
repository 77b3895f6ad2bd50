"""From a file or a text to a workflow that is valid in every respect that can be seen before it runs."""

from __future__ import annotations

from pathlib import Path

from omium.orchestration.definition.document import Document, Format, read_document, read_file, validate
from omium.orchestration.definition.model import WorkflowDef


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

    workflow = to_workflow(validate(document, WorkflowFile))
    problems = workflow_problems(workflow)
    if problems:
        raise document.error(problems)
    return workflow
