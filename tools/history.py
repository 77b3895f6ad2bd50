"""Tools for checkpoints and for going back: rollback, branch, play-from-node, compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import PlanToken
from omium.orchestration.service.views import Caller
from omium.tools.desk import Ctx, committed, desk_of, the_run
from omium.tools.models import CheckpointOut, CheckpointsOut, ComparisonOut, HistoryOut
from omium.tools.present import fit
from omium.tools.runs import Key, Reason, RunArg
from omium.tools.show import checkpoint_out, comparison_out, history_out, plan_out

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core

_Place = Annotated[str, BeforeValidator(lambda given: str(given) if type(given) is int else given)]
Position = Annotated[
    _Place, Field(description="A seq, a label, 'start', or 'node:<id>' (right after that node)", max_length=500)
]
Preview = Annotated[bool, Field(description="Only plan")]
Plan = Annotated[str | None, Field(description="From a preview", max_length=200)]
NodeArg = Annotated[str, Field(min_length=1, max_length=500)]


class NodeOverride(BaseModel):
    model_config = ConfigDict(extra="forbid")

    with_: dict[str, Any] | None = Field(None, alias="with", description="Inputs of the node")
    output: Any = Field(None, description="Instead of running it")


class Overrides(BaseModel):  # no docstrings here: they would be published in the schemas
    model_config = ConfigDict(extra="forbid")

    inputs: dict[str, Any] | None = Field(None)
    nodes: dict[str, NodeOverride] | None = Field(None)


OverridesArg = Annotated[Overrides | None, Field(description="What is to be different")]


async def checkpoint(
    ctx: Ctx,
    run_id: RunArg,
    label: Annotated[str, Field(min_length=1, max_length=100)],
    at: Annotated[_Place | None, Field(description="A position; now, unless given", max_length=200)] = None,
    note: Annotated[str | None, Field(max_length=2_000)] = None,
    idempotency_key: Key = None,
) -> CheckpointOut:
    """Name a position of a run, to return to by its label. Each completed node is one anyway."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    work = core.checkpoint(caller, found, label, at=at, note=note, idempotency_key=idempotency_key)
    return checkpoint_out(await committed(work))


async def list_checkpoints(
    ctx: Ctx,
    run_id: RunArg,
    before: Annotated[int | None, Field(description="Next page", ge=1, le=2**53)] = None,
    limit: Annotated[int, Field(ge=1, le=50)] = 20,
) -> CheckpointsOut:
    """List positions that a run can go back to, newest first. Changes nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    page = await core.list_checkpoints(caller, found, before=before, limit=limit)
    shown = fit(checkpoint_out(one) for one in page.checkpoints)
    if len(shown) < len(page.checkpoints):  # only the core knows where the next page of so many begins
        page = await core.list_checkpoints(caller, found, before=before, limit=len(shown))
        shown = [checkpoint_out(one) for one in page.checkpoints]
    return CheckpointsOut(checkpoints=shown, before=page.next)


async def rollback(
    ctx: Ctx,
    run_id: RunArg,
    to: Position,
    reason: Reason = None,
    preview: Preview = False,
    plan_token: Plan = None,
    idempotency_key: Key = None,
) -> HistoryOut:
    """Take a run and its files back to a position and pause it there. Stops what runs, compensates what can be undone,
    lists what cannot. A later position rolls forward. Calls to undo or repeat need a plan_token."""
    core, caller = desk_of(ctx)
    _either(preview, plan_token)
    found = await the_run(core, caller, run_id)
    if preview:
        return plan_out(await committed(core.preview_rollback(caller, found, to)), "rollback")
    work = core.rollback(
        caller, found, to, reason=reason, plan_token=_token(plan_token), idempotency_key=idempotency_key
    )
    return history_out(await committed(work))


async def branch(
    ctx: Ctx,
    run_id: RunArg,
    at: Annotated[
        _Place | None,
        Field(
            description="Position, or 'before:<node>' to run it and all after it again; default: now",
            max_length=500,
        ),
    ] = None,
    name: Annotated[str | None, Field(description="Of the branch", min_length=1, max_length=100)] = None,
    hypothesis: Annotated[str | None, Field(description="What the branch is to find out", max_length=2_000)] = None,
    overrides: OverridesArg = None,
    start: Annotated[bool, Field(description="Run it at once")] = True,
    preview: Preview = False,
    plan_token: Plan = None,
    idempotency_key: Key = None,
) -> HistoryOut:
    """Create a new run from a position of a run, with other inputs or prompts, in its own copy of the files. The
    original stays as it is. Calls to repeat need a plan_token. Name it unless previewing."""
    core, caller = desk_of(ctx)
    _either(preview, plan_token)
    found = await the_run(core, caller, run_id)
    changed = _overrides(overrides)
    if preview:
        return plan_out(await committed(core.preview_branch(caller, found, at, changed)), "branch")
    if name is None:
        raise OmiumError("invalid_argument", "a branch needs a name.", "A short one that says what is different.")
    work = core.branch(
        caller,
        found,
        at,
        name=name,
        hypothesis=hypothesis,
        overrides=changed,
        start=start,
        plan_token=_token(plan_token),
        idempotency_key=idempotency_key,
    )
    return history_out(await committed(work))


async def play_from_node(
    ctx: Ctx,
    run_id: RunArg,
    node: NodeArg,
    overrides: OverridesArg = None,
    reuse: Annotated[
        Literal["none", "unchanged"], Field(description="unchanged: keep results whose inputs are the same")
    ] = "none",
    reason: Reason = None,
    preview: Preview = False,
    plan_token: Plan = None,
    idempotency_key: Key = None,
) -> HistoryOut:
    """Run a node and everything after it again, optionally with other inputs; the rest is kept. Calls to repeat
    need a plan_token. In place, or in a new run if it has completed or was cancelled."""
    core, caller = desk_of(ctx)
    _either(preview, plan_token)
    found = await the_run(core, caller, run_id)
    changed = _overrides(overrides)
    if preview:
        plan = await committed(core.preview_play_from(caller, found, node, changed, reuse))
        return plan_out(plan, "play_from_node")
    work = core.play_from_node(
        caller,
        found,
        node,
        overrides=changed,
        reuse=reuse,
        reason=reason,
        plan_token=_token(plan_token),
        idempotency_key=idempotency_key,
    )
    return history_out(await committed(work))


async def compare_runs(
    ctx: Ctx,
    a: Annotated[str, Field(description="A run, or a checkpoint's position", min_length=4, max_length=64)],
    b: RunArg,
    detail: Annotated[bool, Field(description="With diffs of outputs and files")] = False,
    after: Annotated[str | None, Field(description="Next page", max_length=500)] = None,
) -> ComparisonOut:
    """Compare two runs: where they first differ, outputs, files, cost, time. Changes nothing."""
    core, caller = desk_of(ctx)
    first, second = await _side(core, caller, a), await _side(core, caller, b)
    return comparison_out(await core.compare(caller, first, second), detail=detail, after=after)


async def _side(core: Core, caller: Caller, text: str) -> str:
    """A run, or a position of one such as a checkpoint's `<run>@<seq>`, by its whole id."""
    run, mark, seq = text.partition("@")
    return f"{await the_run(core, caller, run)}{mark}{seq}"


def _either(preview: bool, plan_token: str | None) -> None:
    if preview and plan_token is not None:
        raise OmiumError(
            "invalid_argument",
            "preview makes a plan and plan_token carries one out: give one of them.",
            "For the operation itself leave preview out.",
        )


def _token(text: str | None) -> PlanToken | None:
    return PlanToken(text) if text is not None else None


def _overrides(given: Overrides | None) -> dict[str, Any] | None:
    """The core's form: only what was given, since an output that is null is something else than none."""
    return given.model_dump(by_alias=True, exclude_unset=True) if given is not None else None
