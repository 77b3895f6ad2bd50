"""Tools for whoever looks after runs: signals, the log, and what becomes of branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from omium.orchestration.errors import OmiumError
from omium.orchestration.log.events import EventType
from omium.orchestration.service.views import BranchView
from omium.tools.desk import Ctx, committed, desk_of, the_run
from omium.tools.models import Answer, Detail, Line, RunState
from omium.tools.present import LIST_ROOM, fit, harmless, some, when
from omium.tools.runs import Key, Reason, RunArg
from omium.tools.show import run_state

_READ = 200  # events that are read for one page
_DATA = 1_500  # characters of one event's data


class EventOut(Answer):
    """`data` holds digests in the place of contents."""

    seq: int
    type: str
    at: str | None = None
    actor: Line
    data: Detail | None = None


class EventsOut(Answer):
    """`after` is the cursor: the last position that was looked at, also when nothing of it is shown."""

    run_id: str
    events: list[EventOut]
    after: int
    more: bool
    next: Line


class ClosedOut(RunState):
    """A branch that was closed. `files`: what adopting it changed in its parent's workspace; `back_to`: the parent's
    checkpoint with the files as they were before."""

    files: list[Line] | None = None
    back_to: Line | None = None
    notes: list[Line] | None = None


class BranchOut(Answer):
    run_id: str
    depth: int
    parent: str | None = None
    status: str
    branch: Line | None = None
    hypothesis: Line | None = None
    closed: str | None = None
    cost_usd: float | None = None
    updated_at: str | None = None


class BranchesOut(Answer):
    """A tree of branches, each behind its parent."""

    branches: list[BranchOut]
    count: int
    after: str | None = None
    next: Line


async def send_signal(
    ctx: Ctx,
    run_id: RunArg,
    name: Annotated[str, Field(description="As the waiting node names it", min_length=1, max_length=200)],
    payload: Annotated[Any, Field(description="The node's output")] = None,
    idempotency_key: Key = None,
) -> RunState:
    """Send a signal to a run: a node that waits, or will wait, for this name goes on with the payload as its output.
    One signal wakes one node."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    return run_state(await committed(core.signal(caller, found, name, payload, idempotency_key=idempotency_key)))


async def list_events(
    ctx: Ctx,
    run_id: RunArg,
    after: Annotated[int, Field(description="The cursor: events behind this seq", ge=0, le=2**53)] = 0,
    types: Annotated[list[str] | None, Field(description="Only these, or `node.*`", max_length=20)] = None,
    limit: Annotated[int, Field(ge=1, le=50)] = 20,
) -> EventsOut:
    """List a run's log in order, from a cursor: what happened, when, by whom. Changes nothing."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    wanted = _wanted(types) if types else None
    read = await core.events(caller, found, after=after, limit=_READ)
    matching = [one for one in read if wanted is None or one.type in wanted]
    shown = fit(
        (
            EventOut(seq=one.seq, type=one.type, at=when(one.at), actor=one.actor, data=_data(one.data))
            for one in matching[:limit]
        ),
        LIST_ROOM + 2_000,
    )
    whole = len(shown) == len(matching)
    cursor = (read[-1].seq if read else after) if whole else shown[-1].seq
    more = not whole or len(read) == _READ
    return EventsOut(
        run_id=found,
        events=shown,
        after=cursor,
        more=more,
        next=f"list_events(run_id, after={cursor}) for the rest"
        if more
        else f"that is all; get_run(run_id, wait_seconds=45), then list_events(run_id, after={cursor})",
    )


def _wanted(types: list[str]) -> set[str]:
    """The event types that are meant. Raises `invalid_argument` for one that there is not."""
    known = [one.value for one in EventType]
    wanted: set[str] = set()
    for text in types:
        found = {one for one in known if one == text or (text.endswith(".*") and one.startswith(text[:-1]))}
        if not found:
            raise OmiumError("invalid_argument", f"{text!r} is no type of event.", f"Types: {', '.join(known)}.")
        wanted |= found
    return wanted


def _data(data: Any) -> dict[str, Any] | None:
    shown: dict[str, Any] = harmless(dict(data))
    left: dict[str, Any] = {}
    room = _DATA
    for key, item in shown.items():
        room -= len(key) + len(str(item)) + 6
        if room < 0:
            return {**left, "cut": "what was longer is left out"}
        left[key] = item
    return left or None


async def close_branch(
    ctx: Ctx,
    run_id: RunArg,
    outcome: Annotated[Literal["adopted", "abandoned"], Field(description="adopted: it was right, and has completed")],
    reason: Reason = None,
    idempotency_key: Key = None,
) -> ClosedOut:
    """Say what became of a branch: adopted as the one that was right, or abandoned, which cancels it if
    it goes on. It stays, closed. Adopting writes its outputs into its parent's log and its files into the parent's
    workspace, whose own files keep a checkpoint."""
    core, caller = desk_of(ctx)
    found = await the_run(core, caller, run_id)
    work = core.close_branch(caller, found, outcome, reason, idempotency_key=idempotency_key)
    closed = await committed(work)
    changes = [f"{one['status']} {one['path']}" for one in closed.files]
    return ClosedOut(
        **dict(run_state(closed.run)),
        files=some(changes, 4_000) or None,
        back_to=closed.back_to,
        notes=list(closed.notes) or None,
    )


async def branch_tree(
    ctx: Ctx,
    run_id: RunArg,
    after: Annotated[str | None, Field(description="Next page", max_length=64)] = None,
) -> BranchesOut:
    """Show the tree of branches that a run belongs to: where each starts, why, and what became of it. Changes
    nothing."""
    core, caller = desk_of(ctx)
    everything = list(_flat(await core.branch_tree(caller, await the_run(core, caller, run_id))))
    ids = [one.run_id for one in everything]
    rest = (ids.index(after) + 1 if after in ids else len(ids)) if after is not None else 0
    shown = fit(everything[rest:])
    left = rest + len(shown)
    return BranchesOut(
        branches=shown,
        count=len(everything),
        after=ids[left - 1] if shown and left < len(ids) else None,
        next="compare_runs(a, b) shows what two of them did differently",
    )


def _flat(tree: BranchView) -> Iterator[BranchOut]:
    run = tree.run
    yield BranchOut(
        run_id=run.id,
        depth=tree.depth,
        parent=f"{run.parent_run}@{run.parent_seq}" if run.parent_run is not None else None,
        status=run.status,
        branch=run.branch,
        hypothesis=run.hypothesis,
        closed=run.closed,
        cost_usd=round(run.cost_usd, 6) or None,
        updated_at=when(run.updated_at),
    )
    for child in tree.children:
        yield from _flat(child)
