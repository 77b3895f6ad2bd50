"""Going back: state and files as of an older position, everything behind it undone where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.definition.graph import Structure
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.behind import deeds_behind, is_called_below, settled_behind, stop_below, undone_for
from omium.orchestration.history.compensating import undo
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.known import known_below
from omium.orchestration.history.ledger import Deed
from omium.orchestration.history.plans import Draft
from omium.orchestration.history.recorded import cost_of, has_run
from omium.orchestration.ids import Digest, Fence, NodeId, Principal, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.below import Below
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.log.fold import stands
from omium.orchestration.log.state import NodeState, RunState, RunStatus
from omium.orchestration.ports import Write

_log = logging.getLogger(__name__)
_PAGE = 2_000
_NAMED = 5
_WAITING = (
    "The run is still held by another worker, or nothing is executed here. Before it goes on, what can be undone is"
    " undone and the files are put back."
)
_UNFINISHED = (
    "This is not finished: a sub-run has not ended its last call yet, or another worker has it. Before the run goes on,"
    " what can be undone is undone and the files are put back."
)
_ELSEWHERE = (
    "The run was taken elsewhere before all of this was undone: what was not, stays as it is where its results stand"
    " again."
)
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
    below: Below

    @property
    def under_way(self) -> bool:
        """Whether something of the run works, here or in a run that it started; one of those may still end a call
        although it is over itself, and nothing waits for it any more."""
        works = self.now.status in _AT_WORK or any(map(_under_way, self.now.nodes.values()))
        return works or any(map(is_called_below, self.draft.behind))

    @property
    def to_undo(self) -> list[Deed]:
        return [deed for deed in self.draft.behind if deed.can_be_undone]

    def command(self, reason: str | None, label: str | None, agents: Digest | None) -> c.RollBack:
        """What has the log go back. What is to be undone behind it is on record with it, before anything is undone, so
        that after a crash whoever owns the run next goes on with that (`finish_undoing`)."""
        undo = self.under_way or bool(self.to_undo)
        how: Any = {"agents": agents, "bare": self.bare, "seen": self.now.seq, "undo": undo}
        return c.RollBack(self.base.seq, reason, self.tree, label, **how)

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
    below = await known_below(ground.store, now)
    deeds = await deeds_behind(ground, now, base, structure)
    reset = went_back(now, base)
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
        notes=(*_notes(deeds), *await _forward(ground, now, base, structure)),
    )
    return Back(draft, now, base, structure, reset, tree, below)


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
    why = "nothing is declared that undoes them, or it is unknown whether they or their undoing happened"
    return (f"{len(left)} effect(s) stay as they are: {why}.",)


async def _forward(ground: Ground, now: RunState, base: RunState, structure: Structure) -> list[str]:
    """What is to be known of results that stand again."""
    found = await undone_for(ground, now, base, structure)
    undone = [deed for deed in found if deed.compensated == "done"]
    perhaps = [deed for deed in found if deed.compensated == "started"]
    told = [(undone, "were undone"), (perhaps, "are being undone, or may have been,")]
    return [_named(deeds, what) for deeds, what in told if deeds]


def _named(deeds: list[Deed], what: str) -> str:
    names = ", ".join(f"{deed.node} ({deed.what})" if deed.what else deed.node for deed in deeds[:_NAMED])
    more = f" and {len(deeds) - _NAMED} more" if len(deeds) > _NAMED else ""
    return f"{len(deeds)} effect(s) {what} although their results stand again: {names}{more}."


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


async def land(ground: Ground, run_id: RunId, event: Event, actor: Principal, planned: Back | None) -> Landed:
    """Finish a rollback that is in the log, or as much of it as is left after a crash: wait until its owner has stopped
    what was in flight, undo effects, and put the files back. `planned`: what was worked out for it, if it just was."""
    if planned is not None and planned.now.seq == event.seq - 1:
        now, base, structure, deeds = planned.now, planned.base, planned.structure, list(planned.draft.behind)
    else:
        now, base, structure = await _around(ground, event)
        deeds = await deeds_behind(ground, now, base, structure)
    reset, notes = went_back(now, base), list[str]()
    owed = (await ground.state(run_id)).owed
    undoing = any(seq < event.seq for seq in owed)
    if event.seq in owed:
        await stop_below(ground, run_id, reset, actor)
        deeds = await deeds_behind(ground, now, base, structure)
        over = not set(now.owed) <= set(owed)  # what another has still to undo, and may be at: it stops now
        undoing = undoing or over or any(deed.can_be_undone or deed.outcome is None for deed in deeds)
    if undoing or "restore" in event.data:
        async with ground.held(run_id) as fence:
            if fence is None:
                notes.append(_WAITING)
            elif not await finish_undoing(ground, run_id, fence):
                notes.append(_UNFINISHED)
            elif await _still_there(ground, run_id, event):
                notes += await _restore(ground, run_id)
    if undoing or "undo" in event.data:  # by now another worker may have undone it
        deeds = await deeds_behind(ground, now, base, structure)
        if await _is_elsewhere(ground, run_id, event) and any(deed.can_be_undone for deed in deeds):
            notes.append(_ELSEWHERE)
    notes = [*await _forward(ground, now, base, structure), *notes]
    return Landed(reset, deeds, await _restored(ground, run_id, event.seq), tuple(notes))


async def _around(ground: Ground, event: Event) -> tuple[RunState, RunState, Structure]:
    """The states before a rollback that is in the log and as of where it went, and where the nodes stood before it."""
    now = await ground.state(event.run_id, Seq(event.seq - 1))
    return now, await ground.state(event.run_id, Seq(event.data["to"])), await ground.structure(now)


async def finish_undoing(ground: Ground, run_id: RunId, fence: Fence) -> bool:
    """Undo what rollbacks that are in the log have left to be undone, and note that it is. For the run's owner, who has
    stopped what was in flight, so that its last effects are in the ledger; raises `fenced` for one that it is no more.
    What cannot be undone is no reason to try for ever: who rolls back again has it tried again. False when a sub-run
    could not be had yet, and the run's owner has to try again."""
    while (seq := (await ground.state(run_id)).undoing) is not None:
        # Where it is not owed any more, the run was taken elsewhere meanwhile, and there may be something left there.
        if not await _finish_undoing(ground, run_id, fence, seq) and seq in (await ground.state(run_id)).owed:
            return False
    return True


async def _finish_undoing(ground: Ground, run_id: RunId, fence: Fence, seq: int) -> bool:
    [event] = await ground.store.events(run_id, Seq(seq - 1), 1)
    crash_point("rollback.written")
    try:
        now, base, structure = await _around(ground, event)
        await stop_below(ground, run_id, went_back(now, base), event.actor)
        deeds = await settled_behind(ground, now, base, structure)
        if deeds is None:
            return False
        if not await undo(ground, await ground.recorded(now), deeds, event.actor, fence, event.seq):
            return False
    except OmiumError as error:
        if error.code in ("fenced", "storage_unavailable"):
            raise
        _log.error("what run %s went back behind at %s cannot be undone: %s", run_id, seq, error)
    await ground.store.write(Write(run_id, [c.EndUndoing(seq)], event.actor, fence))
    return True


async def _is_elsewhere(ground: Ground, run_id: RunId, event: Event) -> bool:
    """The run was taken elsewhere since, and what this rollback had to undo is not owed for it any more."""
    state = await ground.state(run_id)
    return state.generation != event.data["generation"] and event.seq not in state.owed


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


async def _restored(ground: Ground, run_id: RunId, after: Seq) -> tuple[int, int, int]:
    """How many files the restore after a position changed, removed and added."""
    for event in await ground.store.events(run_id, after, _PAGE):
        if event.type is EventType.WORKSPACE_RESTORED:
            data: Mapping[str, int] = event.data
            return data.get("changed", 0), data.get("removed", 0), data.get("added", 0)
        if event.type in (EventType.RUN_ROLLED_BACK, EventType.RUN_PLAYED_FROM):
            break
    return 0, 0, 0
