"""Tools that recount a run: where it can go on, how often it went back, what failed and what mended that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from omium.orchestration.errors import OmiumError
from omium.orchestration.service.failing import FailureView
from omium.orchestration.service.recounting import ResumableView, RollbackView
from omium.tools.desk import Ctx, desk_of, the_run
from omium.tools.models import Answer, Line, Text
from omium.tools.present import fit, when
from omium.tools.runs import RunArg

After = Annotated[str | None, Field(description="Next page", max_length=500)]


class ResumableOut(Answer):
    """`obstacle`: not_started, upstream (something that it needs has no result) or integrity. `repeats`: calls that
    want a plan before they happen again."""

    node: Line
    status: str
    can_resume: bool
    obstacle: str | None = None
    checkpoint: int | None = None
    reruns: int
    repeats: int | None = None


class ResumablesOut(Answer):
    run_id: str
    nodes: list[ResumableOut]
    after: str | None = None
    next: Line


class RollbackOut(Answer):
    """`trigger`: manual, automatic or decided. `outcome`: done, failed (a compensation did), unfinished. `compensated`:
    calls by what became of undoing them."""

    seq: int
    at: str | None = None
    from_seq: int
    to: int
    label: Line | None = None
    by: Line
    trigger: str
    cause: Line | None = None
    category: str | None = None
    reason: Line | None = None
    outcome: str
    seconds: float
    compensated: dict[str, int] | None = None
    files_changed: int | None = None


class RollbacksOut(Answer):
    run_id: str
    rollbacks: list[RollbackOut]
    after: int | None = None
    next: Line


class MendedOut(Answer):
    position: str
    node: Line
    how: Line


class FailureOut(Answer):
    """`chance` estimates that trying once more helps, from `tried` attempts after such failures in recent runs."""

    node: Line
    category: str
    code: str | None = None
    message: Text
    evidence: Line | None = None
    hint: Line | None = None
    attempts: int
    seq: int
    at: str | None = None
    status: str
    first: bool | None = None
    resolution: Line | None = None
    chance: float | None = None
    tried: int | None = None
    similar: list[MendedOut] | None = None
    last_good: str | None = None


class RetriesOut(Answer):
    """Over the whole log, every generation."""

    retried: int
    attempts: int
    failed: int
    recovered: int
    exhausted: int
    categories: dict[str, int]


class FailuresOut(Answer):
    run_id: str
    failures: list[FailureOut]
    retries: RetriesOut
    after: int | None = None
    next: Line


async def list_resumable_nodes(ctx: Ctx, run_id: RunArg, after: After = None) -> ResumablesOut:
    """List a run's nodes with whether it can be played again from them, or why not, and what that would repeat. Changes
    nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    nodes = await core.resumable(caller, found)
    if after is not None:
        nodes = _behind(nodes, after)
    shown = fit(_resumable(one) for one in nodes)
    more = len(shown) < len(nodes)
    return ResumablesOut(
        run_id=found,
        nodes=shown,
        after=nodes[len(shown) - 1].node if more else None,
        next="list_resumable_nodes(run_id, after=...) for the rest"
        if more
        else "play_from_node(run_id, node, preview=true) shows what that would do",
    )


def _behind(nodes: Sequence[ResumableView], after: str) -> Sequence[ResumableView]:
    """Raises `not_found` for what is no node."""
    for place, one in enumerate(nodes):
        if one.node == after:
            return nodes[place + 1 :]
    raise OmiumError("not_found", f"the run has no node {after!r}.", "Begin without after.", what="node")


def _resumable(one: ResumableView) -> ResumableOut:
    return ResumableOut(
        node=one.node,
        status=one.status,
        can_resume=one.can_resume,
        obstacle=one.reason,
        checkpoint=one.checkpoint,
        reruns=one.reruns,
        repeats=one.repeats or None,
    )


async def list_rollbacks(
    ctx: Ctx,
    run_id: RunArg,
    after: Annotated[int, Field(description="Only those behind this seq", ge=0, le=2**53)] = 0,
) -> RollbacksOut:
    """List how often a run went back, oldest first: by whom, why, from where to where, and whether all of it was done.
    Changes nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    every = [one for one in await core.rollbacks(caller, found) if one.seq > after]
    shown = fit(_rollback(one) for one in every)
    more = len(shown) < len(every)
    return RollbacksOut(
        run_id=found,
        rollbacks=shown,
        after=shown[-1].seq if more else None,
        next="list_rollbacks(run_id, after=...) for the rest"
        if more
        else "rollback(run_id, to=from_seq, preview=true) shows what rolling forward again would do",
    )


def _rollback(one: RollbackView) -> RollbackOut:
    return RollbackOut(
        seq=one.seq,
        at=when(one.began_at),
        from_seq=one.from_seq,
        to=one.to,
        label=one.label,
        by=one.by,
        trigger=one.trigger,
        cause=one.cause,
        category=one.category,
        reason=one.reason,
        outcome=one.outcome,
        seconds=round(one.ms / 1000, 3),
        compensated=dict(one.compensated) or None,
        files_changed=sum(one.files) if one.files is not None else None,
    )


async def list_failures(
    ctx: Ctx,
    run_id: RunArg,
    after: Annotated[int, Field(description="Only those behind this seq", ge=0, le=2**53)] = 0,
) -> FailuresOut:
    """List what failed in a run: category, evidence, whether it was mended and how, what mended such failures before,
    the chance of trying again, and what came first. Changes nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    stats = await core.retry_stats(caller, found)
    every = [one for one in await core.failures(caller, found) if one.seq > after]
    shown = fit(_failure(one) for one in every)
    more = len(shown) < len(every)
    return FailuresOut(
        run_id=found,
        failures=shown,
        retries=RetriesOut(
            retried=stats.retried,
            attempts=stats.attempts,
            failed=stats.failed,
            recovered=stats.recovered,
            exhausted=stats.exhausted,
            categories=dict(stats.categories),
        ),
        after=shown[-1].seq if more else None,
        next=_next(every) if not more else "list_failures(run_id, after=...) for the rest",
    )


def _next(failures: Sequence[FailureView]) -> str:
    """What to do about the first failure that is left; a failure's own text is never a part of it."""
    left = [one for one in failures if one.status == "open"]
    if not left:
        return "nothing is left to mend"
    cause = next((one for one in left if one.first), left[0])
    compared = "compare_runs(run_id, last_good's run) shows what is different; " if cause.last_good else ""
    return f"{compared}play_from_node(run_id, the first failing node, overrides, preview=true), or branch before it"


def _failure(one: FailureView) -> FailureOut:
    similar = [MendedOut(position=f"{like.run}@{like.seq}", node=like.node, how=like.how) for like in one.similar]
    return FailureOut(
        node=one.node,
        category=one.category,
        code=one.code,
        message=one.message,
        evidence=one.evidence or None,
        hint=one.hint or None,
        attempts=one.attempts,
        seq=one.seq,
        at=when(one.failed_at),
        status=one.status,
        first=one.first or None,
        resolution=one.resolution,
        chance=one.chance,
        tried=one.tried if one.chance is not None else None,
        similar=similar or None,
        last_good=one.last_good,
    )
