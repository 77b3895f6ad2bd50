"""Effects, as a history operation sees them: what it goes back behind, and what it would repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from omium.orchestration.definition.graph import Structure
from omium.orchestration.engine.attempt import effect_id
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, EffectId, NodeId, RunId, Seq
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.state import NodeStatus, Reusable, RunState, called, is_unsafe
from omium.orchestration.ports import EffectRow, RunQuery, RunRow, Store
from omium.orchestration.service.views import EffectView

_LATER = frozenset({E.EFFECT_SETTLED, E.EFFECT_COMPENSATED})  # what becomes of a deed, whenever that is
_RESULTS = frozenset({E.NODE_COMPLETED, E.NODE_REUSED})
_PAGE = 2_000
_MANY = 100_000
MAX_DEPTH = 16  # runs that start runs, as deep as they may go


@dataclass(slots=True)
class Deed:
    """Something that was done to the world, or may have been. `compensated`: None while nothing was tried, then
    `started`, `done` or `failed`; one that was started and never ended is unknown."""

    id: EffectId
    node: NodeId
    generation: int
    call: str
    kind: str
    on_unknown: str
    outcome: str | None = None
    result: Digest | None = None
    compensate: str | None = None
    detail: Mapping[str, Any] | None = None
    compensated: str | None = None
    error: Mapping[str, Any] | None = None
    what: str = ""  # as a person knows it
    at: int = 0  # when it began; 0 when that was before the position that is looked at
    below: tuple[RunId, NodeId, str] | None = None  # of a sub-run: the run, and node and call as they are named there

    def __post_init__(self) -> None:
        self.what = self.what or called(self.call, self.detail)

    @property
    def happened(self) -> bool:
        """It is known, or cannot be ruled out, that it happened."""
        return self.outcome in (None, "done", "unknown")

    @property
    def unsafe(self) -> bool:
        """It may not happen again without having been looked at."""
        return is_unsafe(self.kind, self.on_unknown)

    @property
    def can_be_undone(self) -> bool:
        """It is known to have happened, a function is declared for undoing it, and that has not been done, or only
        failed."""
        return self.outcome == "done" and self.compensate is not None and self.compensated in (None, "failed")

    def view(self) -> EffectView:
        told = "unknown" if self.compensated == "started" else self.compensated
        outcome = self.outcome or "unknown"
        return EffectView(self.node, self.call, self.what, self.kind, outcome, self.compensate, told, self.error)


async def deeds_after(store: Store, base: RunState, structure: Structure, until: Seq) -> list[Deed]:
    """What began behind a position and before `until`, in that order, as is known of it by now: `base` is the state
    there.

    That is every effect of which the intent lies behind it, those of nodes that were under way there, and the
    completions of nodes that declare a compensation and wrote nothing into the ledger."""
    found: dict[str, Deed] = {}
    for effect_id_, effect in base.effects.items():
        if effect.node in base.nodes and not _ended(base, effect.node):
            found[effect_id_] = Deed(
                effect_id_, effect.node, effect.generation, effect.call, effect.kind, effect.on_unknown, effect.outcome,
                effect.result, effect.compensate, effect.detail,
            )  # fmt: skip
    if found:  # what has become of them may lie before that position
        for event in await store.events_among([base.run_id], [E.EFFECT_COMPENSATED], _MANY):
            _note(found, event, base.run_id, structure)
    async for event in _events(store, base.run_id, base.seq):
        if event.seq < until or event.type in _LATER:
            _note(found, event, base.run_id, structure)
    return [deed for deed in found.values() if deed.happened]


def _ended(state: RunState, node_id: NodeId) -> bool:
    return state.node(node_id).ended_at is not None


async def _events(store: Store, run_id: RunId, after: Seq) -> AsyncIterator[Event]:
    while page := await store.events(run_id, after, _PAGE):
        for event in page:
            yield event
        after = page[-1].seq


def _note(found: dict[str, Deed], event: Event, run_id: RunId, structure: Structure) -> None:
    data = event.data
    if event.type is E.EFFECT_INTENDED:
        found[data["effect"]] = Deed(
            data["effect"], data["node"], data["generation"], data["call"], data["kind"], data["on_unknown"],
            compensate=data.get("compensate"), detail=data.get("detail"), at=event.at,
        )  # fmt: skip
    elif event.type is E.EFFECT_SETTLED and data["effect"] in found:
        deed = found[data["effect"]]
        deed.outcome, deed.result = data["outcome"], data.get("result")
    elif event.type is E.EFFECT_COMPENSATED and data["effect"] in found:
        deed = found[data["effect"]]
        deed.compensated, deed.error = data["outcome"], data.get("error")
    elif event.type is E.NODE_COMPLETED:
        _note_completion(found, event, run_id, structure)


def _note_completion(found: dict[str, Deed], event: Event, run_id: RunId, structure: Structure) -> None:
    """A node with a compensation is undone as a whole when it has no effects that are undone one by one."""
    data = event.data
    node_id, generation = data["node"], data["generation"]
    try:
        node = structure.node_def(node_id)
    except OmiumError:
        return  # of a plan that is no longer the run's
    if node.compensate is None or ((node.for_each or node.repeat) and not node_id.endswith("]")):
        return
    if any(deed.node == node_id and deed.generation == generation and deed.happened for deed in found.values()):
        return
    identity = effect_id(run_id, node_id, generation, "")
    found[identity] = Deed(
        identity, node_id, generation, "", node.kind, "rerun", "done", data["output"], node.compensate, at=event.at
    )


# --- what would happen again --------------------------------------------------------------------------------------


async def deeds_of(store: Store, state: RunState, wanted: Callable[[NodeId], bool]) -> list[Deed]:
    """What the nodes that are `wanted` did for the results that they have now, or are to be given again: in this run,
    in the runs that it is a branch of, and in the runs that those nodes started."""
    runs = await lineage(store, state)
    reused = await made_for(store, runs, state, wanted)
    found = []
    for run_id in runs:
        for deed in map(_deed, await store.effects(run_id)):
            if wanted(deed.node) and deed.generation == state.node(deed.node).generation:
                found.append(deed)
            elif (deed_of := reused.get((run_id, deed.node, deed.generation))) is not None:
                deed.node = deed_of
                found.append(deed)
    found += await _deeds_of_children(store, state.run_id, wanted)
    for ancestor in runs[1:]:
        found += await _deeds_of_children(store, ancestor, wanted, state)
    return [deed for deed in found if deed.happened]


def to_be_reused(state: RunState) -> dict[NodeId, Reusable]:
    """The results that nodes may be given again which were reset with `reuse` and have not begun since."""
    if state.reuse == "none":
        return {}
    found = (one for results in state.reusable.values() for one in results.values())
    latest = {one.node: one for one in sorted(found, key=attrgetter("generation"))}
    waiting = (one for one in latest if state.node(one).status is NodeStatus.PENDING and not state.node(one).began)
    return {node_id: latest[node_id] for node_id in waiting}


async def made_for(
    store: Store, runs: Collection[RunId], state: RunState, wanted: Callable[[NodeId], bool]
) -> dict[tuple[RunId, NodeId, int], NodeId]:
    """Where the results that nodes took over, or may be about to, were made, as run, node and generation, each with who
    has it now: what was done for it is in the ledger there, and nothing of it here."""
    made: dict[tuple[RunId, NodeId, int], NodeId] = {}
    found = [(node_id, node.reused_from, node.output) for node_id, node in state.nodes.items()]
    found += [(node_id, f"{one.node}@{one.seq}", one.output) for node_id, one in to_be_reused(state).items()]
    for node_id, reused_from, output in found:
        source = reused_from if wanted(node_id) else None
        followed: set[str] = set()
        while source is not None and source not in followed:
            followed.add(source)
            of, _, seq = source.rpartition("@")
            source = None
            for run_id in runs:  # the position does not say whose it is; the output does
                for event in await store.events(run_id, Seq(int(seq) - 1), 1):
                    data = event.data
                    if event.type in _RESULTS and (data["node"], data["output"]) == (of, output):
                        made[run_id, NodeId(of), data["generation"]] = node_id
                        source = data.get("source", source)
    return made


async def _deeds_of_children(
    store: Store, run_id: RunId, wanted: Callable[[NodeId], bool], heir: RunState | None = None
) -> list[Deed]:
    """`heir`: the state of a branch, for which only that counts of which it has the results."""
    found: list[Deed] = []
    for child in await store.runs(RunQuery(caller=run_id, limit=100_000)):
        if child.caller_node is None or not wanted(child.caller_node):
            continue
        if heir is not None:
            known, created = heir.node(child.caller_node), (await store.events(child.id, limit=1))[0]
            if known.ended_at is None or known.generation != created.data["caller"]["generation"]:
                continue
        found += await _deeds_below(store, child, child.caller_node, 1)
    return found


async def _deeds_below(store: Store, run: RunRow, node_id: NodeId, depth: int) -> list[Deed]:
    """All that a run did that a node started, as deeds of that node."""
    found = [_deed(row) for row in await store.effects(run.id)]
    for deed in found:
        deed.call, deed.what = (f"{run.id}/{deed.node}/{one}" for one in (deed.call, deed.what))
        deed.node = node_id
    if depth < MAX_DEPTH:
        for child in await store.runs(RunQuery(caller=run.id, limit=100_000)):
            found += await _deeds_below(store, child, node_id, depth + 1)
    return found


def _deed(row: EffectRow) -> Deed:
    return Deed(
        EffectId(row.id), row.node, row.generation, row.call, row.kind, row.on_unknown, row.outcome, row.result,
        row.compensate, row.detail,
    )  # fmt: skip


async def lineage(store: Store, state: RunState) -> list[RunId]:
    """The run, the run that it is a branch of, and so on."""
    runs, parent = [state.run_id], state.parent
    while parent is not None:
        run_id = RunId(parent["run"])
        runs.append(run_id)
        parent = (await store.events(run_id, limit=1))[0].data.get("parent")
    return runs
