"""Tools that show what can be run. Nothing that a client sends becomes a definition: workflows are run by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from omium.tools.desk import Ctx, desk_of
from omium.tools.models import SimulationOut, WorkflowsOut
from omium.tools.present import fit, line
from omium.tools.show import step_out, workflow_out


async def list_workflows(
    ctx: Ctx,
    name: Annotated[str | None, Field(description="Only this one, in detail", max_length=200)] = None,
    text: Annotated[str | None, Field(description="In name or description", max_length=200)] = None,
    detail: Annotated[bool, Field(description="With the JSON Schemas of inputs")] = False,
    after: Annotated[str | None, Field(description="Next page", max_length=200)] = None,
) -> WorkflowsOut:
    """List the registered workflows: no others can be run. Changes nothing."""
    core, caller = desk_of(ctx)
    if name is not None:
        view, _ = await core.get_workflow(caller, name)
        return WorkflowsOut(
            workflows=[workflow_out(view, detail=True)], next=f"run_workflow(workflow='{line(name)}', inputs)"
        )
    wanted = (text or "").casefold()
    views = [
        view for view in await core.list_workflows(caller) if wanted in f"{view.name}\n{view.description}".casefold()
    ]
    rest = [view for view in views if after is None or view.name > after]
    shown = fit(workflow_out(view, detail=detail) for view in rest)
    return WorkflowsOut(
        workflows=shown,
        after=shown[-1].name if len(shown) < len(rest) else None,
        next="run_workflow(workflow, inputs); list_workflows(name) shows its inputs" if shown else _NOTHING,
    )


_NOTHING = "none matches; the operator registers workflows as files named in omium.yaml"


async def simulate_workflow(
    ctx: Ctx,
    workflow: Annotated[str, Field(description="A name from list_workflows", min_length=1, max_length=200)],
    inputs: Annotated[dict[str, Any] | None, Field(description="Checked against its JSON Schema")] = None,
) -> SimulationOut:
    """Dry-run a workflow: order of nodes, approvals, estimates, warnings. Executes and stores nothing."""
    core, caller = desk_of(ctx)
    view = await core.simulate(caller, workflow, inputs)
    return SimulationOut(
        workflow=view.workflow,
        definition=view.definition,
        order=fit(step_out(step) for step in view.order),
        steps=len(view.order),
        approvals=view.approvals,
        estimate_seconds=None if view.estimate_ms is None else view.estimate_ms / 1000,
        estimate_cost_usd=view.estimate_cost_usd,
        warnings=[line(one) for one in view.warnings[:20]] or None,
    )
