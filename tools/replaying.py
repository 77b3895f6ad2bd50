"""Tools that look at what happened: a run as it stood, what changed in between, whether it would come out again, and
whether its log holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId
from omium.tools.desk import Ctx, desk_of, the_run
from omium.tools.history import NodeArg, Position
from omium.tools.models import Answer, ComparisonOut, Detail, Line, NodeOut, RunRef, ValueOut
from omium.tools.present import VALUE_PAGE, fit, harmless, some, when
from omium.tools.runs import RunArg
from omium.tools.show import comparison_out, node_page, run_ref, value_out


class ReplayOut(Answer):
    """`digest` is over the sequence of nodes, keys and outputs: equal replays have equal digests."""

    run_id: str
    identical: bool
    replayed: int
    digest: str
    divergence: Detail | None = None
    next: Line


class RunAtOut(RunRef):
    """A run as it stood at `seq`; nothing of it can be acted upon."""

    seq: int
    workflow: Line
    at: str | None = None
    progress: float
    counts: dict[str, int] | None = None
    current: list[str] | None = None
    cost_usd: float | None = None
    tokens: int | None = None
    output: ValueOut | None = None
    nodes: list[NodeOut] | None = None
    nodes_after: str | None = None
    next: Line


class DamageOut(Answer):
    kind: str
    subject: Line
    problem: Line


class VerifiedOut(Answer):
    run_id: str
    sound: bool
    events: int
    damages: list[DamageOut] | None = None
    count: int | None = None
    next: Line


async def replay_run(ctx: Ctx, run_id: RunArg) -> ReplayOut:
    """Feed a run's recorded results to its definition as it is registered now, and say where it would first part from
    what happened. Executes no node. Changes nothing."""
    core, caller = desk_of(ctx)
    view = await core.replay(caller, await the_run(core, caller, run_id))
    divergence = harmless(dict(view.divergence)) if view.divergence else None
    return ReplayOut(
        run_id=view.run_id,
        identical=view.identical,
        replayed=view.replayed,
        digest=view.digest,
        divergence=divergence,
        next="the definition gives the same"
        if divergence is None
        else "play_from_node(run_id, node, preview=true) shows what running it again from there would do",
    )


async def run_state_at(
    ctx: Ctx,
    run_id: RunArg,
    at: Position,
    node: Annotated[NodeArg | None, Field(description="Give this node's output as of then")] = None,
    offset: Annotated[int, Field(description="Continue a cut output here", ge=0, le=2**53)] = 0,
    after: Annotated[str | None, Field(description="Next page: nodes_after", max_length=500)] = None,
) -> RunAtOut:
    """Show a run as it stood at a position: status, nodes, and what a node had given by then. Changes nothing."""
    core, caller = desk_of(ctx)
    view, state = await core.run_at(caller, await the_run(core, caller, run_id), at)
    output = None
    if node is not None:
        digest = state.nodes[NodeId(node)].output if NodeId(node) in state.nodes else None
        if digest is None:
            raise OmiumError("not_found", f"node {node!r} had given nothing at {view.id}@{view.seq}.")
        output = value_out(await core.store.value(digest), offset=offset, limit=VALUE_PAGE)
    nodes, nodes_after = node_page(view.nodes, after) if node is None else (None, None)
    return RunAtOut(
        **dict(run_ref(view)),
        seq=view.seq,
        workflow=view.workflow,
        at=when(view.updated_at),
        progress=round(view.progress, 3),
        counts=dict(view.counts) or None,
        current=some(view.current) or None,
        cost_usd=round(view.cost_usd, 6) or None,
        tokens=view.tokens or None,
        output=output,
        nodes=nodes,
        nodes_after=nodes_after,
        next=f"get_run(run_id='{view.id}') for now; rollback or branch with at={view.seq} to go on from here",
    )


async def compare_positions(
    ctx: Ctx,
    run_id: RunArg,
    a: Position,
    b: Position,
    detail: Annotated[bool, Field(description="With diffs of outputs and files")] = False,
    after: Annotated[str | None, Field(description="Next page", max_length=500)] = None,
) -> ComparisonOut:
    """Compare two positions of one run: which nodes, outputs and files changed in between. Changes nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    sides = [f"{found}@{(await core.run_at(caller, found, one))[0].seq}" for one in (a, b)]
    return comparison_out(await core.compare(caller, *sides), detail=detail, after=after)


async def verify_run(ctx: Ctx, run_id: RunArg) -> VerifiedOut:
    """Recompute the hash chain of a run's log, its tables and the digests of its contents. Changes nothing."""
    core, caller = desk_of(ctx)
    verify = ctx.request_context.lifespan_context.verify
    row = await core.row(caller, await the_run(core, caller, run_id))
    if verify is None:
        raise OmiumError("unsupported", "this server's store cannot be verified from here.", "omium verify")
    damages = await verify(row.id)
    shown = fit(DamageOut(kind=one.kind, subject=one.subject, problem=one.problem) for one in damages)
    return VerifiedOut(
        run_id=row.id,
        sound=not damages,
        events=row.seq,
        damages=shown or None,
        count=len(damages) or None,
        next="a truncated log shows only beside exported heads: omium verify --anchor"
        if not damages
        else "tell the user; `omium verify` quarantines damaged content; list_checkpoints(run_id) for older positions",
    )
