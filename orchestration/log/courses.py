"""Transitions of runs that change their course: played from a node, branched, adopted. See `transitions`."""

from __future__ import annotations

from typing import Final

from omium.orchestration.definition.address import vertex_of
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.again import Again
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.records import Draft, present
from omium.orchestration.log.state import AT_REST, RunState

_STEADILY: Final = "Ask for it again. Where the run goes on steadily, pause it first."


def overtaken(state: RunState) -> OmiumError:
    """The refusal of an operation that was planned before something came that its plan would have to know."""
    told = f"run {state.run_id} has gone on since this was planned."
    return OmiumError("conflict", told, _STEADILY, overtaken=True)


def is_overtaken(error: OmiumError) -> bool:
    return error.code == "conflict" and "overtaken" in error.data


def play_from(state: RunState, m: c.PlayFrom, at: int) -> list[Draft]:
    if m.planned is not None and (m.planned != state.generation or (m.restore is None and _writes(state, m))):
        raise overtaken(state)
    if has_called(state, m.seen) and _have_called(state, m):
        raise overtaken(state)
    data = present(
        node=m.node,
        nodes=m.nodes,
        count=len(m.affected),
        generation=state.generation + 1,
        overrides=dict(m.overrides) if m.overrides else None,
        reuse=m.reuse if m.reuse != "none" else None,
        reason=m.reason,
        restore=m.restore,
        agents=m.agents,
    )
    return [(E.RUN_PLAYED_FROM, data)]


def has_called(state: RunState, seen: Seq | None) -> bool:
    """Whether the run has made calls since that may not be repeated unseen."""
    return seen is not None and state.called > seen


def _have_called(state: RunState, m: c.PlayFrom) -> bool:
    """Whether nodes that are reset have."""
    again = Again(m.affected, state)
    return any(node.called > (m.seen or 0) and again.resets(one) for one, node in state.nodes.items())


def _writes(state: RunState, m: c.PlayFrom) -> bool:
    """Whether a node that is reset may have written files."""
    again = Again(m.affected, state)
    started = (one for one, node in state.nodes.items() if node.tree_start is not None)
    return any(again.resets(one) and vertex_of(one) not in m.readers for one in started)


def name_taken(run_id: RunId, name: str, by: str | None) -> OmiumError:
    told = f"run {run_id} has a branch {name!r} already: {by}."
    return OmiumError("conflict", told, "Give the branch another name.", run=by)


def note_branch(state: RunState, m: c.NoteBranch, at: int) -> list[Draft]:
    if m.name is not None and state.branches.get(m.name) != m.replaces:
        raise name_taken(state.run_id, m.name, state.branches.get(m.name))
    if has_called(state, m.seen) or (m.seen is not None and state.erased > m.seen):
        raise overtaken(state)
    if not 1 <= m.at <= state.seq:
        raise OmiumError(
            "invalid_argument", f"position {m.at} is not in the log of run {state.run_id}, which ends at {state.seq}."
        )
    return [(E.RUN_BRANCHED, present(child=m.child, at=m.at, name=m.name, hypothesis=m.hypothesis))]


def erase(state: RunState, m: c.Erase, at: int) -> list[Draft]:
    if m.seen is not None and state.branched > m.seen:
        raise overtaken(state)
    return [(E.ERASED, {"digests": list(m.digests), "reason": m.reason})]


def close_branch(state: RunState, m: c.CloseBranch, at: int) -> list[Draft]:
    if state.parent is None:
        raise OmiumError("not_allowed", f"run {state.run_id} is not a branch.")
    if state.closed is not None:
        raise OmiumError("not_allowed", f"branch {state.run_id} is {state.closed}.")
    return [(E.RUN_CLOSED, present(status=m.status, reason=m.reason, adopted_into=m.adopted_into))]


def adopt(state: RunState, m: c.Adopt, at: int) -> list[Draft]:
    if state.adopted is not None:
        raise OmiumError(
            "conflict",
            f"of run {state.run_id} the branch {state.adopted['name']!r} was adopted already.",
            run=state.adopted["run"],
        )
    if m.tree is not None and state.status not in AT_REST:
        raise OmiumError(
            "not_allowed",
            f"run {state.run_id} is {state.status}: its files cannot be exchanged while it works.",
            "Pause it, then adopt the branch.",
            state=str(state.status),
        )
    drafts: list[Draft] = []
    if m.tree is not None and m.before is not None:
        label = f"before-adopted/{m.name}"
        drafts.append((E.WORKSPACE_CAPTURED, {"tree": m.before, "reason": "before adoption"}))
        told = {"at": state.seq + 1, "label": label, "note": f"the files before {m.child} was adopted", "valid": True}
        drafts.append((E.CHECKPOINT_CREATED, {**told, "tree": m.before}))
    data = present(
        child=m.child,
        at=m.at,
        name=m.name,
        output=m.output,
        outputs=m.outputs,
        restore=m.tree,
        before=m.before,
        reason=m.reason,
    )
    return [*drafts, (E.RUN_ADOPTED, data)]
