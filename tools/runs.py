"""Tools that start runs, look at them and steer them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.service.views import Caller, RunView
from omium.tools.desk import MAX_WAIT_S, PATIENCE_S, Ctx, committed, desk_of, the_run
from omium.tools.models import RunOut, RunsOut, RunState
from omium.tools.present import LIST_ROOM, VALUE_PAGE, fit, some
from omium.tools.show import listed_run, run_out, run_state, value_out

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core

RunArg = Annotated[str, Field(min_length=4, max_length=64)]  # a whole id or a unique part of one
Key = Annotated[str | None, Field(description="Makes a repeat harmless", min_length=1, max_length=200)]
Reason = Annotated[str | None, Field(description="For the log", max_length=2_000)]
Wait = Annotated[float, Field(description="Wait until it ends or asks", ge=0, le=MAX_WAIT_S)]
Status = Literal["draft", "planning", "executing", "paused", "waiting_approval", "completed", "failed", "cancelled"]

_PROGRESS_EVERY_S = 2.0
_MOVING = ("planning", "executing")


async def run_workflow(
    ctx: Ctx,
    workflow: Annotated[str, Field(description="A name from list_workflows", min_length=1, max_length=200)],
    inputs: Annotated[dict[str, Any] | None, Field(description="As the workflow's JSON Schema says")] = None,
    title: Annotated[str | None, Field(description="One line about this run", max_length=200)] = None,
    workspace: Annotated[str | None, Field(description="Name of a declared one", max_length=200)] = None,
    deadline_seconds: Annotated[float | None, Field(gt=0, le=31_536_000)] = None,
    wait_seconds: Wait = 0,
    idempotency_key: Key = None,
) -> RunState:
    """Start a run of a registered workflow and return its run_id at once. It survives disconnects and restarts, and may
    act on the outside world. Follow it with get_run."""
    core, caller = desk_of(ctx)
    run = await committed(
        core.run_workflow(
            caller,
            workflow,
            inputs,
            title=title or "",
            workspace=workspace,
            deadline_s=deadline_seconds,
            idempotency_key=idempotency_key,
        )
    )
    if wait_seconds:
        run = await waited(core, caller, ctx, run, wait_seconds, detail=False)
    return run_state(run)


async def get_run(
    ctx: Ctx,
    run_id: RunArg,
    wait_seconds: Wait = 0,
    detail: Annotated[bool, Field(description="With nodes and output")] = False,
    node: Annotated[str | None, Field(description="Give this node's output", max_length=500)] = None,
    offset: Annotated[int, Field(description="Continue a cut output here", ge=0, le=2**53)] = 0,
    after: Annotated[str | None, Field(description="Next page: nodes_after", max_length=500)] = None,
) -> RunOut:
    """Show a run: status, progress, what it waits for, what is allowed next. With wait_seconds, first wait until it
    ends, asks for a decision or pauses. Changes nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    detail = detail or after is not None
    run = await core.get_run(caller, found, detail=detail)
    if wait_seconds:
        run = await waited(core, caller, ctx, run, wait_seconds, detail=detail)
    if node is not None:
        output = value_out(await core.node_output(caller, found, node), offset=offset, limit=VALUE_PAGE)
        return run_out(run, output=output, node=node)
    if offset:
        return run_out(run, output=value_out(await core.run_output(caller, found), offset=offset, limit=VALUE_PAGE))
    return run_out(run, detail=detail, after=after)


async def list_runs(
    ctx: Ctx,
    statuses: Annotated[list[Status] | None, Field(max_length=8)] = None,
    workflow: Annotated[str | None, Field(max_length=200)] = None,
    text: Annotated[str | None, Field(description="In id, workflow or title", max_length=200)] = None,
    parent: Annotated[str | None, Field(description="Branches of this run", min_length=4, max_length=64)] = None,
    children: Annotated[bool, Field(description="Also what runs started")] = False,
    before: Annotated[str | None, Field(description="Next page", max_length=64)] = None,
    limit: Annotated[int, Field(ge=1, le=50)] = 20,
) -> RunsOut:
    """List runs, newest first. Changes nothing."""
    core, caller = desk_of(ctx)
    page = await core.list_runs(
        caller,
        statuses=statuses or (),
        workflow=workflow,
        text=text,
        parent=await core.find_run(caller, parent) if parent is not None else None,
        children=children,
        before=RunId(before) if before is not None else None,
        limit=limit,
    )
    shown = fit((listed_run(run) for run in page.runs), LIST_ROOM + 2_000)
    cut = len(shown) < len(page.runs)
    filtered = any(given is not None for given in (statuses, workflow, text, parent, before))
    empty = "no run matches" if filtered else "no runs yet: list_workflows(), then run_workflow(workflow, inputs)"
    empty = "only runs that other runs started: list_runs(children=true)" if page.hidden else empty
    return RunsOut(runs=shown, before=shown[-1].run_id if cut else page.next, next=None if shown else empty)


async def control_run(
    ctx: Ctx,
    run_id: RunArg,
    action: Annotated[
        Literal["pause", "resume", "cancel"],
        Field(description="pause starts no new node; cancel kills what runs"),
    ],
    reason: Reason = None,
    interrupt: Annotated[bool, Field(description="With pause: stop running nodes too")] = False,
    idempotency_key: Key = None,
) -> RunState:
    """Pause, resume or cancel a run. Cancel cannot be undone."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    if action == "pause":
        work = core.pause(caller, found, reason=reason, interrupt=interrupt, idempotency_key=idempotency_key)
    elif interrupt:
        raise OmiumError("invalid_argument", f"interrupt goes with pause, not with {action}.")
    elif action == "resume":
        work = core.resume(caller, found, reason=reason, idempotency_key=idempotency_key)
    else:
        work = core.cancel(caller, found, reason=reason, idempotency_key=idempotency_key)
    return run_state(await committed(work))


# --- waiting ---------------------------------------------------------------------------------------------------------


async def waited(core: Core, caller: Caller, ctx: Ctx, run: RunView, seconds: float, *, detail: bool) -> RunView:
    """The run after a bounded wait, its progress told on the way. Ending the request ends the wait and nothing else."""
    end = core.clock.monotonic() + min(seconds, PATIENCE_S.get())
    told = 0
    while run.status in _MOVING:
        if run.seq > told:
            # The position in the log is the progress: only it always grows, since plans add nodes and resets take
            # results back.
            told = run.seq
            await ctx.report_progress(run.seq, message=moment(run))
        left = end - core.clock.monotonic()
        if left <= 0:
            break
        run = await core.wait(caller, run.id, min(left, _PROGRESS_EVERY_S), detail=detail)
    return run


def moment(run: RunView) -> str:
    """Where a run is, in a few words."""
    nodes = sum(run.counts.values())
    ended = sum(run.counts.get(status, 0) for status in ("completed", "failed", "skipped", "cancelled"))
    running = f", running: {', '.join(some(run.current, 100))}" if run.current else ""
    return f"{run.status}: {ended} of {nodes} nodes ended{running}" if nodes else run.status
