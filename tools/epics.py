"""Tools for epics: runs that take a goal through phases, looked at and rolled back by phase."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.epics import EPIC, PhaseView
from omium.tools.desk import Ctx, committed, desk_of, the_run
from omium.tools.history import Plan, Preview
from omium.tools.models import Answer, HistoryOut, Line, RunState, ValueOut
from omium.tools.present import fit, line, some, when
from omium.tools.runs import Key, Reason, RunArg, Wait, waited
from omium.tools.show import history_out, plan_out, run_state, value_out

_PHASES = 9_000  # characters of JSON


class PhaseErrorOut(Answer):
    category: Line | None = None
    message: Line | None = None


class PhaseOut(Answer):
    """`end`: where a rollback to its end goes, once it has completed. Costs are those of its present generation."""

    id: Line
    kind: str
    status: str
    generation: int
    nodes: int
    failed: list[str] | None = None
    error: PhaseErrorOut | None = None
    approval_id: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    seconds: float | None = None
    cost_usd: float | None = None
    tokens: int | None = None
    end: Line | None = None


class EpicOut(RunState):
    inputs: ValueOut
    phases: list[PhaseOut]
    tokens: int | None = None


async def start_epic(
    ctx: Ctx,
    goal: Annotated[str, Field(min_length=1, max_length=8_000)],
    acceptance: Annotated[list[str] | None, Field(description="What has to hold in the end", max_length=50)] = None,
    workflow: Annotated[str, Field(min_length=1, max_length=200)] = EPIC,
    inputs: Annotated[dict[str, Any] | None, Field(description="Its other inputs")] = None,
    workspace: Annotated[str | None, Field(description="The declared repository", max_length=200)] = None,
    phases: Annotated[
        list[str] | Literal["auto"] | None,
        Field(description="Only these phases and all that they need; auto: as far as the goal says. All, unless given"),
    ] = None,
    wait_seconds: Wait = 0,
    idempotency_key: Key = None,
) -> RunState:
    """Start an epic: a workflow that takes a goal through phases, with people at its gates. Returns its run_id at
    once."""
    core, caller = desk_of(ctx)
    run = await committed(
        core.start_epic(
            caller,
            goal,
            acceptance=acceptance or (),
            workflow=workflow,
            inputs=inputs,
            workspace=workspace,
            idempotency_key=idempotency_key,
            phases=phases,
        )
    )
    if wait_seconds:
        run = await waited(core, caller, ctx, run, wait_seconds, detail=False)
    return run_state(run)


async def get_epic(ctx: Ctx, run_id: RunArg, wait_seconds: Wait = 0) -> EpicOut:
    """Show a run by its phases: status, failures, cost and time of each, and where a rollback can go. Changes
    nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    if wait_seconds:
        await waited(core, caller, ctx, await core.get_run(caller, found), wait_seconds, detail=False)
    epic = await core.get_epic(caller, found)
    return EpicOut(
        **dict(run_state(epic.run)),
        inputs=value_out(dict(epic.inputs)),
        phases=fit((_phase_out(one) for one in epic.phases), _PHASES),
        tokens=epic.run.tokens or None,
    )


async def rollback_phase(
    ctx: Ctx,
    run_id: RunArg,
    phase: Annotated[str, Field(description="One that has completed", min_length=1, max_length=100)],
    reason: Reason = None,
    preview: Preview = False,
    plan_token: Plan = None,
    idempotency_key: Key = None,
) -> HistoryOut:
    """Take a run and its files back to the end of a phase and pause it there; what came after it can run again. Calls
    to undo or repeat need a plan_token."""
    core, caller = desk_of(ctx)
    if preview and plan_token is not None:
        raise OmiumError("invalid_argument", "preview makes a plan and plan_token carries one out: give one of them.")
    found = await the_run(core, caller, run_id)
    if preview:
        return plan_out(await committed(core.preview_rollback_phase(caller, found, phase)), "rollback_phase")
    work = core.rollback_phase(
        caller, found, phase, reason=reason, plan_token=plan_token, idempotency_key=idempotency_key
    )
    return history_out(await committed(work))


def _phase_out(phase: PhaseView) -> PhaseOut:
    error = phase.error
    return PhaseOut(
        id=line(phase.id),
        kind=phase.kind,
        status=phase.status,
        generation=phase.generation,
        nodes=phase.nodes,
        failed=some(phase.failed, 300) or None,
        error=_error_out(error) if error is not None else None,
        approval_id=phase.approval,
        started_at=when(phase.started_at),
        ended_at=when(phase.ended_at),
        seconds=round(phase.worked_ms / 1000, 3) or None,
        cost_usd=round(phase.cost_usd, 6) or None,
        tokens=phase.tokens or None,
        end=phase.position,
    )


def _error_out(error: Any) -> PhaseErrorOut:
    category, message = error.get("category"), error.get("message")
    return PhaseErrorOut(category=str(category) if category else None, message=str(message) if message else None)
