"""Runs below a run have logs of their own. What goes behind their calls looks at them, and ends them, in one commit."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omium.orchestration.ids import NodeId, RunId, Seq
from omium.orchestration.log import commands as c
from omium.orchestration.log.again import Again
from omium.orchestration.log.courses import overtaken
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.log.load import Need, NeedEvents, NeedHeads
from omium.orchestration.log.state import RunState, is_unsafe


@dataclass(frozen=True, slots=True)
class Below:
    """What the plan of a write knows of the run and of those below it, which may have gone on since.

    known: the positions up to which their calls are; 0 of one that a node waits for and that is not created yet.
    ends: those that are cancelled with the write, and why, if they go on until then; what was started since is as well.
    None: none is."""

    known: Mapping[RunId, Seq]
    ends: Mapping[RunId, str] | None = None


Pending = Callable[[RunId], tuple[Seq, Sequence[Event]] | None]


def look_below(
    state: RunState, below: Below, command: c.Command, pending: Pending
) -> Generator[Need, Any, dict[RunId, str]]:
    """The runs that end with a command, and why. Raises `conflict` (`courses.overtaken`) when a run below has made a
    call since then that may not be repeated unseen, nor undone by a rollback. Calls of the run itself are looked at by
    the transition table.

    pending: of a run in the same batch, where its log ended before, and its events that are not stored yet."""
    undoes = type(command) is c.RollBack
    again = Again(command.affected, state) if type(command) is c.PlayFrom else None
    seen, ends, looked_at = dict(below.known), dict(below.ends or {}), list(below.known)
    while looked_at:
        batched = {one: found for one in looked_at if (found := pending(one)) is not None}
        others = [one for one in looked_at if one not in batched]
        heads: dict[RunId, Seq] = (yield NeedHeads(others)) if others else {}
        started: list[RunId] = []
        for one in looked_at:
            head, events = batched.get(one, (heads.get(one, Seq(0)), ()))
            if head > seen[one]:
                events = [*(yield NeedEvents(one, seen[one], head)), *events]
            for event in events:
                own = one == state.run_id
                if event.seq <= seen[one]:
                    continue
                if not own and _is_call(event, undoes):
                    raise overtaken(state)
                child = event.data.get("child") if event.type is E.NODE_WAITING else None
                if (
                    child is None
                    or child in seen
                    or (own and again is not None and not again.resets(event.data["node"]))
                ):
                    continue
                started.append(child)
                seen[child], ends[child] = Seq(0), why_ended(one, event.data["node"], own)
        looked_at = started
    return ends if below.ends is not None else {}


def why_ended(parent: RunId, node_id: NodeId, is_reset: bool) -> str:
    return f"the node {node_id} of {parent} was reset" if is_reset else f"its parent {parent} was cancelled"


def _is_call(event: Event, undoes: bool) -> bool:
    if event.type is not E.EFFECT_INTENDED:
        return False
    return is_unsafe(event.data["kind"], event.data["on_unknown"]) or (undoes and "compensate" in event.data)
