"""What a rollback goes back behind: effects of the run itself, and of the runs that its nodes started."""

from __future__ import annotations

from collections.abc import Callable, Collection
from heapq import merge
from typing import Final

from omium.orchestration.definition.graph import Structure
from omium.orchestration.engine.children import cancel_with_children
from omium.orchestration.engine.stopping import HELD
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.ledger import MAX_DEPTH, Deed, deeds_after, made_for
from omium.orchestration.ids import Fence, NodeId, Principal, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.fold import stands
from omium.orchestration.log.state import RunState
from omium.orchestration.ports import RunQuery, RunRow, Write

_MANY = 100_000
_ENGINE: Final = Principal("engine")


async def deeds_behind(ground: Ground, now: RunState, base: RunState, structure: Structure) -> list[Deed]:
    """What began between a position and another, in the order of time: `base` and `now` are the states there.

    What a sub-run did counts as deeds of its node, unless that node is undone as a whole."""
    own = await deeds_after(ground.store, base, structure, Seq(now.seq + 1))
    whole = {(deed.node, deed.generation) for deed in own if not deed.call}

    def counts(node_id: NodeId, generation: int) -> bool:
        known = base.node(node_id)
        since = known.generation if known.ended_at is None else known.generation + 1
        return since <= generation <= now.generation and (node_id, generation) not in whole

    below = await _below(ground, now.run_id, counts)
    return list(merge(own, sorted(below, key=_when), key=_when))


async def settled_behind(ground: Ground, now: RunState, base: RunState, structure: Structure) -> list[Deed] | None:
    """`deeds_behind`, once the runs below have ended the calls that they were making when they were stopped; None when
    one of them takes too long for that, and what it does is not known yet."""
    deeds = await deeds_behind(ground, now, base, structure)
    calling = {deed.below[0] for deed in deeds if deed.below is not None and is_called_below(deed)}
    for run_id in calling:
        async with ground.held(run_id) as fence:
            if fence is None:  # its owner has not let it go
                return None
    return await deeds_behind(ground, now, base, structure) if calling else deeds


def is_called_below(deed: Deed) -> bool:
    """A sub-run may still be making the call, of which the outcome is known once that is stopped."""
    return deed.below is not None and deed.outcome is None


async def stop_below(ground: Ground, run_id: RunId, nodes: Collection[NodeId], actor: Principal) -> None:
    """Cancel what nodes started that are reset: it goes on for nobody."""
    for child in await ground.store.runs(RunQuery(caller=run_id, limit=_MANY)):
        if child.ended_at is None and child.caller_node in nodes:
            told = f"the node {child.caller_node} of {run_id} was reset"
            await cancel_with_children(ground.store, child.id, actor, told)


async def hold_below(ground: Ground, run_id: RunId, nodes: Collection[NodeId], actor: Principal, fence: Fence) -> bool:
    """Pause what nodes started that may be reset, and all below it, and wait until it has stopped; whether there is
    any, also from a try before this one. It ends when they are cancelled, or the run's owner finds that it is not to be
    taken back (`Children.settle`). Raises `fenced` for one that does not own the run any more."""
    going = [one for one in await _going(ground, run_id) if one.caller_node in nodes]
    if not going:
        return False
    await check_owner(ground, run_id, fence)
    while going:
        for child in going:
            try:
                await ground.store.write(Write(child.id, [c.PauseRun(HELD, True)], actor))
            except OmiumError as error:
                if error.code != "not_allowed":  # it has ended, or is paused
                    raise
        for child in going:
            async with ground.held(child.id):
                pass  # its owner has let it go, and starts nothing below it any more, nor lets go on what is held there
        going = [below for child in going for below in await _going(ground, child.id)]
    return True


async def _going(ground: Ground, run_id: RunId) -> list[RunRow]:
    return [one for one in await ground.store.runs(RunQuery(caller=run_id, limit=_MANY)) if one.ended_at is None]


async def check_owner(ground: Ground, run_id: RunId, fence: Fence) -> None:
    """Raises `fenced` for one that does not own the run any more."""
    await ground.store.write(Write(run_id, [c.EndUndoing(0)], _ENGINE, fence))  # which writes nothing


async def undone_for(ground: Ground, now: RunState, base: RunState, structure: Structure) -> list[Deed]:
    """What was undone, or may have been, of what was done for the results that going to `base` makes stand again."""
    again = {one for one, node in base.nodes.items() if stands(node) and now.nodes.get(one) != node}
    if not again:
        return []
    made = {(one, base.node(one).generation) for one in again}
    made |= {at[1:] for at in await made_for(ground.store, [base.run_id], base, again.__contains__)}
    own = await deeds_after(ground.store, RunState(base.run_id), structure, Seq(base.seq + 1))
    below = await _below(ground, base.run_id, lambda node_id, generation: (node_id, generation) in made)
    found = (deed for deed in (*own, *below) if (deed.node, deed.generation) in made)
    return [deed for deed in found if deed.compensated in ("started", "done")]


def _when(deed: Deed) -> int:
    return deed.at


async def _below(ground: Ground, run_id: RunId, counts: Callable[[NodeId, int], bool]) -> list[Deed]:
    """All that the runs did that nodes started in the generations that count."""
    found: list[Deed] = []
    for child in await ground.store.runs(RunQuery(caller=run_id, limit=_MANY)):
        caller = (await ground.store.events(child.id, limit=1))[0].data["caller"]
        node_id, generation = NodeId(caller["node"]), int(caller["generation"])
        if counts(node_id, generation):
            found += await _all_of(ground, child.id, node_id, generation, 1)
    return found


async def _all_of(ground: Ground, run_id: RunId, node_id: NodeId, generation: int, depth: int) -> list[Deed]:
    """All that a run did that a node started, and the runs below it, as deeds of that node."""
    state = await ground.state(run_id)
    found = await deeds_after(ground.store, RunState(run_id), await ground.structure(state), Seq(state.seq + 1))
    whole = {deed.node for deed in found if not deed.call}
    for deed in found:
        deed.below = run_id, deed.node, deed.call
        deed.call, deed.what = (f"{run_id}/{deed.node}/{one}" for one in (deed.call, deed.what))
        deed.node, deed.generation = node_id, generation
    if depth < MAX_DEPTH:
        for child in await ground.store.runs(RunQuery(caller=run_id, limit=_MANY)):
            if child.caller_node not in whole:
                found += await _all_of(ground, child.id, node_id, generation, depth + 1)
    return found
