"""Going back because the workflow says so: what `rollback` does for a person, with nobody there to look at the plan.

So nothing may happen that a person would have been asked about: where calls would be repeated that nothing undoes, or
an undoing fails, the answer is a question. Effects are undone before the log goes back, so that a question can still be
asked about what could not be; a crash in between finds them marked, and one in the middle of a call is such a question.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from omium.orchestration.definition.model import FailureRule
from omium.orchestration.engine.setbacks import Back
from omium.orchestration.errors import OmiumError
from omium.orchestration.history.behind import hold_below, is_called_below
from omium.orchestration.history.compensating import undo
from omium.orchestration.history.ground import Ground
from omium.orchestration.history.ledger import Deed
from omium.orchestration.history.positions import find, is_left, parse, start_of
from omium.orchestration.history.rollback import Back as Planned
from omium.orchestration.history.rollback import plan_rollback
from omium.orchestration.ids import EffectId, Fence, NodeId, Principal, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.state import RunState

ENGINE: Final = Principal("engine")
_TRIES = 20  # checkpoints that are looked at for one that is whole
_PAGE = 50
_SHOWN = 200  # effects that a question lists in its details, and in its text
_NAMED = 5
_GONE_ON = frozenset({"integrity", "not_found"})  # an older checkpoint may still be good


async def take_back(
    ground: Ground,
    state: RunState,
    fence: Fence,
    node_id: NodeId,
    rule: FailureRule,
    setback: Mapping[str, Any],
    agreed: frozenset[EffectId],
) -> Back | None:
    """See `engine.setbacks.TakeBack`. Raises `storage_unavailable`, and `fenced` when the run has another owner now."""
    try:
        planned, label = await _plan(ground, state, node_id, rule)
        against = any(
            _stands_against(deed) and not is_called_below(deed) and deed.id not in agreed
            for deed in planned.draft.behind
        )
        if not against and await hold_below(ground, state.run_id, planned.reset, ENGINE, fence):
            # with what they had done by the time that they stood still
            planned, label = await _plan(ground, state, node_id, rule)
        if ground.is_stopping:  # what was to stand still may not have been waited for
            return None
    except OmiumError as error:
        if error.code in ("storage_unavailable", "fenced"):
            raise
        return Back(None, f"The run cannot be taken back: {error.message}", possible=False)
    return await _undone(ground, state, fence, node_id, rule, setback, agreed, planned, label)


async def _undone(
    ground: Ground,
    state: RunState,
    fence: Fence,
    node_id: NodeId,
    rule: FailureRule,
    setback: Mapping[str, Any],
    agreed: frozenset[EffectId],
    planned: Planned,
    label: str | None,
) -> Back | None:
    """The planned way back, with its effects undone, or the question about what stands against it; None when this
    worker stops before all is undone."""
    deeds = list(planned.draft.behind)
    standing = [deed for deed in deeds if _stands_against(deed)]
    # By a try before this one: what an earlier rollback undid belongs to an older generation of its node.
    undone = any(one.compensated == "done" and one.generation == state.node(one.node).generation for one in deeds)
    if any(deed.id not in agreed for deed in standing):
        return _asking("Taking the run back would repeat what nothing undoes", standing, undone)
    to_undo = [deed for deed in deeds if deed.can_be_undone]
    if to_undo:
        await undo(ground, await ground.recorded(planned.now), deeds, ENGINE, fence)
        if ground.is_stopping:
            return None
        left = [deed for deed in to_undo if deed.compensated != "done"]
        if any(deed.id not in agreed for deed in left):
            undone = undone or len(left) < len(to_undo)
            return _asking("What was done could not be undone", [*standing, *left], undone)
    times = state.rollbacks.get(str(setback["rule"]), 0)
    approval = setback.get("approval")
    how = f"automatic rollback {times + 1} of {rule.max}" if approval is None else "a person had it rolled back"
    command = c.RollBack(
        planned.base.seq,
        f"{node_id} failed ({setback['category']}): {how}",
        planned.tree,
        label,
        "automatic" if approval is None else "decided",
        int(setback["rule"]),
        node_id,
        str(setback["category"]),
        approval,
        undo=any(map(is_called_below, deeds)),  # the sub-run does not end it in time: it is undone once it has
    )
    return Back(command)


def _asking(why: str, deeds: Sequence[Deed], undone: bool) -> Back:
    """The question, with everything that consenting to it means: also what a person had agreed to before."""
    names = [f"{deed.node} ({deed.what[:100]})" if deed.what else deed.node for deed in deeds[:_NAMED]]
    more = f" and {len(deeds) - _NAMED} more" if len(deeds) > _NAMED else ""
    told = f"{why}: {', '.join(names)}{more}."
    if len(deeds) > _SHOWN:  # nobody can consent to what is not shown
        return Back(None, f"{told} Look at a preview of the rollback.", _told(deeds), possible=False, undone=undone)
    return Back(None, told, _told(deeds), undone=undone)


def _stands_against(deed: Deed) -> bool:
    """Nothing has undone it or will, and it may not happen again unseen; or its undoing was cut off in the middle."""
    gone = deed.compensated == "done" or deed.can_be_undone
    return not gone and (deed.unsafe or deed.compensated == "started")


def _told(deeds: Sequence[Deed]) -> list[dict[str, Any]]:
    return [
        {
            "id": deed.id,
            "node": deed.node,
            "call": deed.call,
            "kind": deed.kind,
            "outcome": deed.outcome or "unknown",
            "undone": {None: "no", "started": "unknown"}.get(deed.compensated, deed.compensated),
        }
        for deed in deeds[:_SHOWN]
    ]


async def _plan(ground: Ground, state: RunState, node_id: NodeId, rule: FailureRule) -> tuple[Planned, str | None]:
    """The rollback that the rule means, and the label that it names."""
    if rule.to != "previous":
        row = await ground.store.run(state.run_id)
        assert row is not None
        place = parse(rule.to, state.run_id)
        seq = await find(ground.store, row, place, ground.state)
        label = place.name if place.kind == "label" else None
        return await plan_rollback(ground, state.run_id, seq, preview=False), label
    first: OmiumError | None = None
    tries = 0
    async for seq in _before(ground, state, node_id):
        try:
            return await plan_rollback(ground, state.run_id, seq, preview=False), None
        except OmiumError as error:
            first = first or error
            tries += 1
            if error.code not in _GONE_ON or tries >= _TRIES:
                break
    assert first is not None, "there is always the start"
    raise first


async def _before(ground: Ground, state: RunState, node_id: NodeId) -> AsyncIterator[Seq]:
    """The valid checkpoints before the node began, as it is now, the newest first, and the start of the run last."""
    store, began = ground.store, Seq(state.node(node_id).began)
    start = await start_of(store, state.run_id)
    before = began
    while page := await store.checkpoints(state.run_id, before, _PAGE):
        for event in page:
            seq = Seq(event.data["at"]) if event.type is E.CHECKPOINT_CREATED else event.seq
            valid = bool(event.data.get("valid", True)) and not is_left(state, event.seq) and not is_left(state, seq)
            if valid and start < seq < began:
                yield seq
        before = page[-1].seq
    yield start
