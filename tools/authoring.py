"""Tools for those who write workflows. A text is checked and nothing else: only what an operator registers can run."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from omium.orchestration.definition.hashing import definition_hash
from omium.orchestration.definition.load import load_workflow
from omium.orchestration.definition.schema import to_document
from omium.orchestration.errors import OmiumError
from omium.tools.desk import Ctx, desk_of
from omium.tools.models import Answer, Line, ValueOut, WorkflowOut
from omium.tools.present import VALUE_PAGE, fit, line
from omium.tools.show import value_out, workflow_out

_ROOM = 4_500  # characters of JSON for the problems


class ProblemOut(Answer):
    line: int | None = None
    path: Line | None = None
    problem: Line
    expected: Line | None = None


class ValidationOut(Answer):
    """`problems` are what is wrong; `unregistered` names that the operator has not registered; `warnings` what cannot
    be checked before it runs."""

    valid: bool
    workflow: Line | None = None
    nodes: int | None = None
    definition: str | None = None
    problems: list[ProblemOut] | None = None
    count: int | None = None
    unregistered: list[ProblemOut] | None = None
    warnings: list[Line] | None = None
    next: Line


class DefinitionOut(WorkflowOut):
    """`document`: the definition, in pages of JSON text when it is long."""

    kinds: dict[str, int]
    document: ValueOut


async def validate_workflow(
    ctx: Ctx,
    definition: Annotated[str, Field(description="The whole text", min_length=1, max_length=400_000)],
    format: Literal["yaml", "json"] = "yaml",
) -> ValidationOut:
    """Check the text of a workflow definition and report every problem with its line: form, names, graph, expressions,
    and what is not registered. Changes nothing; the operator registers workflows."""
    core, _ = desk_of(ctx)
    try:
        found = load_workflow(definition, source="workflow", format=format)
    except OmiumError as error:
        if error.code != "invalid_definition":
            raise
        told = error.data.get("problems") or [{"message": error.message}]
        problems = [_problem(**one) for one in told]
        return ValidationOut(
            valid=False,
            problems=fit(problems, _ROOM),
            count=int(error.data.get("count", len(problems))),
            next="correct the text and call validate_workflow again",
        )
    # Under its own name beside the registered ones, so that runs of runs are seen as they would be.
    core.present_agents()  # those that a run of now would have
    catalog = replace(core.catalog, workflows={**core.catalog.workflows, found.name: found})
    wrong, missing = catalog.problems(found.name)
    return ValidationOut(
        valid=not wrong and not missing,
        workflow=found.name,
        nodes=len(found.nodes),
        definition=definition_hash(found),
        problems=fit((_problem(**one.as_dict()) for one in wrong), _ROOM) or None,
        count=len(wrong) or None,
        unregistered=fit((_problem(**one.as_dict()) for one in missing), 2_000) or None,
        warnings=[line(str(one)) for one in catalog.warnings(found)[:10]] or None,
        next="only what the operator registers in omium.yaml can be run"
        if not wrong and not missing
        else "correct the text, or have the operator register what is missing",
    )


def _problem(
    message: str, line: int | None = None, path: str | None = None, expected: str | None = None, file: str | None = None
) -> ProblemOut:
    return ProblemOut(line=line, path=path or None, problem=message, expected=expected or None)


async def get_workflow(
    ctx: Ctx,
    name: Annotated[str, Field(min_length=1, max_length=200)],
    offset: Annotated[int, Field(description="Continue a cut definition here", ge=0, le=2**53)] = 0,
) -> DefinitionOut:
    """Show the definition of a registered workflow: its nodes, gates, expressions and schemas. Changes nothing."""
    core, caller = desk_of(ctx)
    view, definition = await core.get_workflow(caller, name)
    kinds: dict[str, int] = {}
    for node in definition.nodes:
        kinds[node.kind] = kinds.get(node.kind, 0) + 1
    return DefinitionOut(
        **{**dict(workflow_out(view, detail=False)), "definition": view.definition},
        kinds=kinds,
        document=value_out(to_document(definition), offset=offset, limit=VALUE_PAGE),
    )
