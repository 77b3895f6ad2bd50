"""Checkpoints: positions with names, and the list of what can be gone back to."""

from __future__ import annotations

from collections.abc import Sequence

from omium.orchestration.definition.expressions import holds
from omium.orchestration.definition.names import prose_problem
from omium.orchestration.engine import scopes
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.positions import is_left, label_refusal, newest
from omium.orchestration.history.recorded import Recorded
from omium.orchestration.ids import RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.state import RunState, RunStatus
from omium.orchestration.ports import IdempotencyKey, RunRow, Write
from omium.orchestration.service.views import Caller, CheckpointPage, CheckpointView

_NODE_ENDS = frozenset({E.NODE_COMPLETED, E.NODE_REUSED, E.NODE_SKIPPED, E.NODE_FAILED})
_MAX_NOTE = 4_000


async def create(
    ground: Ground,
    caller: Caller,
    row: RunRow,
    label: str,
    at: Seq,
    note: str | None,
    requires: Sequence[str],
    expects: Sequence[str],
    key: IdempotencyKey | None,
) -> None:
    """Check first, then record, then check what was recorded. See `HistoryService.checkpoint`."""
    refusal = label_refusal(label)
    if refusal:
        raise OmiumError("invalid_argument", f"{refusal}.", "Use a short text that is no number.")
    if note is not None and (len(note) > _MAX_NOTE or prose_problem(note)):
        raise OmiumError(
            "invalid_argument", f"the note is no text of at most {_MAX_NOTE} characters that can be shown."
        )
    await _check_free(ground, row, label, at)
    state = await ground.state(row.id, at)
    recorded = await ground.check_loadable(state)
    for condition in requires:
        if not await _holds(recorded, condition):
            raise OmiumError("precondition_failed", f"{condition!r} does not hold at position {at} of run {row.id}.")
    broken = [condition for condition in expects if not await _holds(recorded, condition)]
    command = c.Label(at, label, note, not broken, state.restoring or state.tree)
    await ground.store.write(Write(row.id, [command], caller.principal, idempotency=key))
    if broken:
        raise OmiumError(
            "precondition_failed",
            f"the checkpoint {label!r} is not valid: {broken[0]!r} does not hold at position {at} of run {row.id}.",
            "It is in the list, and cannot be gone back to.",
            at=at,
        )


async def _check_free(ground: Ground, row: RunRow, label: str, at: Seq) -> None:
    named = [one for one in await ground.store.labels(row.id) if one.label == label]
    if not named:
        return
    state = await ground.state(row.id)
    standing = [one for one in named if not is_left(state, one.seq)]
    if standing:
        raise OmiumError(
            "conflict",
            f"run {row.id} has a checkpoint {label!r} already, at position {standing[-1].at}.",
            "Choose another label.",
            at=standing[-1].at,
        )


async def _holds(recorded: Recorded, condition: str) -> bool:
    names, every = recorded.program.names("${{ " + condition + " }}")
    scope, _ = await scopes.build(recorded.execution, None, names, every)
    return holds(condition, scope)


async def named(ground: Ground, row: RunRow, label: str) -> CheckpointView:
    """The newest checkpoint of this name. Raises `precondition_failed` when it is not valid."""
    found = await newest([one for one in await ground.store.labels(row.id) if one.label == label], row.id, ground.state)
    event = (await ground.store.events(row.id, Seq(found.seq - 1), 1))[0]
    view = _view(event, False)
    if not view.valid:
        raise OmiumError("precondition_failed", f"the checkpoint {label!r} of run {row.id} is not valid.", at=view.seq)
    return view


async def page(ground: Ground, run_id: RunId, before: Seq | None, limit: int) -> CheckpointPage:
    """Newest first, with what later operations left behind marked."""
    events = await ground.store.checkpoints(run_id, before, limit + 1)
    state = await ground.state(run_id)
    views = [_view(event, superseded(state, event)) for event in events[:limit]]
    return CheckpointPage(views, events[limit - 1].seq if len(events) > limit else None)


def _view(event: Event, left: bool) -> CheckpointView:
    data = event.data
    labelled = event.type is E.CHECKPOINT_CREATED
    return CheckpointView(
        run_id=event.run_id,
        seq=Seq(data["at"]) if labelled else event.seq,
        at=event.at,
        kind=event.type.value,
        node=data.get("node"),
        label=data.get("label"),
        note=data.get("note"),
        superseded=left,
        valid=bool(data.get("valid", True)),
    )


def superseded(state: RunState, event: Event) -> bool:
    """Whether the run, as it stands, no longer builds on this event: a rollback went back behind it, or what it tells
    of was reset."""
    data = event.data
    if is_left(state, event.seq):
        return True
    if event.type in _NODE_ENDS:
        node = state.nodes.get(data["node"])
        return node is None or node.seq != event.seq
    if event.type is E.CHECKPOINT_CREATED:
        return is_left(state, data["at"])
    if event.type is E.APPROVAL_DECIDED:
        approval = state.approvals.get(data["approval"])
        return (
            approval is not None
            and approval.node is not None
            and state.node(approval.node).generation != approval.generation
        )
    return event.type is E.RUN_COMPLETED and state.status is not RunStatus.COMPLETED
