"""Going back: state and files as of an older position, everything behind it undone where that is possible."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from omium.orchestration.definition.graph import Structure
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.behind import deeds_behind, undone_for
from omium.orchestration.history.compensating import undo
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.ledger import Deed
from omium.orchestration.history.plans import Draft
from omium.orchestration.history.recorded import cost_of, has_run
from omium.orchestration.ids import NodeId, Principal, RunId, Seq
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.fold import stands
from omium.orchestration.log.state import NodeState, RunState, RunStatus

_PAGE = 2_000
_NAMED = 5
_AT_WORK = frozenset({RunStatus.PLANNING, RunStatus.EXECUTING})


@dataclass(frozen=True, slots=True)
class Back:
    """A rollback, worked out. `tree`: what the workspace returns to; None when the run never had one."""

    draft: Draft
    now: RunState
    base: RunState
    structure: Structure  # of the run as it is now
    reset: tuple[NodeId, ...]
    tree: str | None
    forward: tuple[str, ...]  # what is to be known of results that stand again

    @property
    def bare(self) -> bool:
        """Whether the run has no files yet."""
        return self.now.tree is None and self.now.restoring is None


async def plan_rollback(ground: Ground, run_id: RunId, to: Seq, *, preview: bool) -> Back:
    """What going back to a position that exists would do. Raises `integrity` when it cannot be gone on from, and
    `workspace` when its files are gone."""
    now, base = await ground.state(run_id), await ground.state(run_id, to)
    await ground.check_loadable(base)
    structure = await ground.structure(now)
    tree = await tree_at(ground, now, base)
    await ground.check_files(tree)
    deeds = await deeds_behind(ground, now, base, structure)
    reset = went_back(now, base)
    forward = _forward(await undone_for(ground, now, base, structure))
    draft = Draft(
        operation="rollback",
        run_id=run_id,
        at=to,
        arguments={"to": to},
        definition=now.definition,
        generation=now.generation,
        reruns=reset,
        asked_again=asked(now, reset),
        repeats=[deed for deed in deeds if not _gone(deed)],
        behind=deeds,
        files=await ground.changed_files(now.tree, tree) if preview else (),
        cost=cost_of(now, reset),
        notes=_notes(deeds) + forward,
    )
    return Back(draft, now, base, structure, reset, tree, forward)


def went_back(now: RunState, base: RunState) -> tuple[NodeId, ...]:
    """The nodes of which the present results are left behind."""
    kept = {node_id for node_id, node in base.nodes.items() if stands(node) and now.nodes.get(node_id) == node}
    return tuple(sorted(one for one in now.nodes if one not in kept and has_run(now, one)))


def asked(state: RunState, nodes: Iterable[NodeId]) -> tuple[NodeId, ...]:
    """Those of the nodes that a human was asked about."""
    return tuple(node_id for node_id in nodes if state.node(node_id).approval is not None)


def _gone(deed: Deed) -> bool:
    return deed.compensated == "done" or deed.can_be_undone


def _notes(deeds: list[Deed]) -> tuple[str, ...]:
    left = [deed for deed in deeds if not _gone(deed)]
    if not left:
        return ()
    why = "nothing is declared that undoes them, or it is unknown whether they happened"
    return (f"{len(left)} effect(s) stay as they are: {why}.",)


def _forward(undone: list[Deed]) -> tuple[str, ...]:
    if not undone:
        return ()
    names = ", ".join(f"{deed.node} ({deed.what})" if deed.what else deed.node for deed in undone[:_NAMED])
    more = f" and {len(undone) - _NAMED} more" if len(undone) > _NAMED else ""
    return (f"{len(undone)} effect(s) were undone although their results stand again: {names}{more}.",)


async def tree_at(ground: Ground, now: RunState, base: RunState) -> str | None:
    """The files that belong to a position: the last capture at or before it; where there is none yet, the first one
    after it, which was made before anything was written."""
    if now.tree is None and now.restoring is None:
        return None
    if base.restoring is not None or base.tree is not None:
        return base.restoring or base.tree
    after = base.seq
    while page := await ground.store.events(now.run_id, after, _PAGE):
        for event in page:
            if event.type is EventType.WORKSPACE_CAPTURED:
                return str(event.data["tree"])
        after = page[-1].seq
    return None


# --- doing it -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def undone_ahead(ground: Ground, planned: Back, actor: Principal) -> AsyncIterator[list[Deed]]:
    """Undo effects before the block has the log go back, so that after a crash in between a repeat still finds what is
    left to be undone; gives those that were tried. That is only done for a run in which nothing is under way: any other
    one is stopped by the rollback itself, and `land` undoes what it did."""
    now = planned.now
    deeds = [deed for deed in planned.draft.behind if deed.can_be_undone]
    if not deeds or now.status in _AT_WORK or any(map(_under_way, now.nodes.values())):
        yield []
        return
    async with ground.held(now.run_id) as ours:
        if not ours or (await ground.state(now.run_id)).seq != now.seq:
            yield []
            return
        await undo(ground, await ground.recorded(now), deeds, actor)
        yield deeds


def _under_way(node: NodeState) -> bool:
    return node.in_flight or (node.wait is not None and node.wait["kind"] == "child")


# --- once it is in the log ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Landed:
    """What became of a rollback. files: (changed, removed, added)."""

    reset: tuple[NodeId, ...]
    deeds: list[Deed]
    files: tuple[int, int, int]
    notes: tuple[str, ...]


async def land(
    ground: Ground,
    run_id: RunId,
    event: Event,
    actor: Principal,
    planned: Back | None,
    stop: Callable[[Collection[NodeId]], Awaitable[None]],
    tried: Iterable[Deed] = (),
) -> Landed:
    """Finish a rollback that is in the log, or as much of it as is left after a crash: wait until its owner has stopped
    what was in flight, undo effects, and put the files back. `planned`: what was worked out for it, if it just was;
    `stop` ends the runs that these nodes started; `tried`: what was undone, or could not be, just before."""
    if planned is not None and planned.now.seq == event.seq - 1:
        now, base, structure = planned.now, planned.base, planned.structure
        deeds, forward = list(planned.draft.behind), planned.forward
    else:
        now, base = await ground.state(run_id, Seq(event.seq - 1)), await ground.state(run_id, Seq(event.data["to"]))
        structure = await ground.structure(now)
        deeds = await deeds_behind(ground, now, base, structure)
        forward = _forward(await undone_for(ground, now, base, structure))
    reset = went_back(now, base)
    await stop(reset)
    notes = [*forward]
    past = {deed.id for deed in tried}
    to_undo = [deed for deed in deeds if deed.can_be_undone and deed.id not in past]
    if "restore" in event.data or to_undo:
        async with ground.held(run_id) as ours:
            if ours and await _still_there(ground, run_id, event):
                # What was in flight has stopped by now, and its last effects are in the ledger.
                deeds = await deeds_behind(ground, now, base, structure)
                await undo(ground, await ground.recorded(now), [one for one in deeds if one.id not in past], actor)
                notes += await _restore(ground, run_id)
            elif not ours:
                notes.append(_waiting(bool(to_undo)))
    return Landed(reset, deeds, await _restored(ground, run_id, event.seq), tuple(notes))


async def _still_there(ground: Ground, run_id: RunId, event: Event) -> bool:
    """Nobody has resumed the run or taken it elsewhere since."""
    state = await ground.state(run_id)
    return state.generation == event.data["generation"] and state.status is RunStatus.PAUSED


async def _restore(ground: Ground, run_id: RunId) -> list[str]:
    state = await ground.state(run_id)
    if state.restoring is None:
        return []
    assert ground.files is not None, "the claim was had, so there is an engine"
    try:
        await ground.files.finish_restore(run_id, state.restoring)
    except OmiumError as error:
        if error.code == "storage_unavailable":
            raise
        return [f"The files could not be put back ({error}); it is tried again before the run goes on."]
    return []


def _waiting(effects: bool) -> str:
    what = "The files are put back before it goes on"
    if effects:
        what += "; roll back to the same position again to have its effects undone"
    return f"The run is still held by another worker, or nothing is executed here. {what}."


async def _restored(ground: Ground, run_id: RunId, after: Seq) -> tuple[int, int, int]:
    """How many files the restore after a position changed, removed and added."""
    for event in await ground.store.events(run_id, after, _PAGE):
        if event.type is EventType.WORKSPACE_RESTORED:
            data: Mapping[str, int] = event.data
            return data.get("changed", 0), data.get("removed", 0), data.get("added", 0)
        if event.type in (EventType.RUN_ROLLED_BACK, EventType.RUN_PLAYED_FROM):
            break
    return 0, 0, 0
