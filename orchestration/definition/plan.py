"""A node's output as a plan: steps that become nodes inside it, held to the same rules as any definition.

A plan reads `{"steps": [{"id": ..., "task": ..., "depends_on": [...]}, ...]}`. A step has the keys of a node, and:
`depends_on` for `needs`, in any order, forward too; `task`, which reaches the step as `with.task`; `approval: true` to
be asked about the step. A step that only has a task is for an agent, whose name `use` gives, or the caller where the
step does not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from omium.orchestration.definition.document import model_problems, plain_problems
from omium.orchestration.definition.model import NodeDef
from omium.orchestration.definition.problems import Problem, invalid_definition

MAX_STEPS = 1000


def parse_plan(
    value: Any,
    *,
    inputs: Mapping[str, Any] | None = None,
    readable: Collection[str] = (),
    agent: str | None = None,
) -> tuple[NodeDef, ...]:
    """The nodes of a plan.

    value: the output of the node that expands. inputs: the schema of the workflow's inputs. readable: ids of nodes
    around the plan that its steps may read (`Structure.readable`). agent: who takes the steps that name nobody.
    OmiumError("invalid_definition") lists every problem: missing dependencies with both ids, cycles with their path.
    Whether what the steps name is registered is for `check_names` to say.
    """
    from pydantic import TypeAdapter, ValidationError

    from omium.orchestration.definition.check import plan_problems
    from omium.orchestration.definition.schema import NodeFile, to_node

    steps = value.get("steps") if isinstance(value, Mapping) else None
    if not isinstance(steps, list) or not steps:
        raise invalid_definition([Problem("steps", "the plan has no steps", '{"steps": [{"id": ...}, ...]}')])
    if len(steps) > MAX_STEPS:
        raise invalid_definition([Problem("steps", f"the plan has {len(steps):,} steps", f"at most {MAX_STEPS:,}")])
    problems = plain_problems(steps, "steps")
    problems += [
        Problem(f"steps[{index}]", "says both depends_on and needs", "one of them")
        for index, step in enumerate(steps)
        if isinstance(step, dict) and "depends_on" in step and "needs" in step
    ]
    if problems:
        raise invalid_definition(problems)
    documents = [_node_document(step, agent) if isinstance(step, dict) else step for step in steps]
    try:
        files = TypeAdapter(list[NodeFile]).validate_python(documents)
    except ValidationError as error:
        raise invalid_definition(model_problems(error, NodeFile, "steps")) from None
    nodes = tuple(to_node(file) for file in files)
    problems = plan_problems(nodes, inputs, readable)
    if problems:
        raise invalid_definition(problems)
    return nodes


def _node_document(step: dict[str, Any], agent: str | None) -> dict[str, Any]:
    """The document of the node that a step stands for."""
    document = dict(step)
    if "depends_on" in document:
        document["needs"] = document.pop("depends_on")
    task = document.pop("task", None)
    if task is not None:
        given = document.get("with", {})
        document["with"] = {"task": task, **given} if isinstance(given, dict) else given
        document.setdefault("kind", "agent")
    if document.get("kind") == "agent" and agent is not None:
        document.setdefault("use", agent)
    approval = document.get("approval")
    if approval is True:
        # The prompt is a template, and the task may hold what looks like one: it is shown, not read twice.
        document["approval"] = {"prompt": f"Run the step {step.get('id')}?", "show": document.get("with", {})}
    elif approval is False:
        del document["approval"]
    return document
