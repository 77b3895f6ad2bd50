"""Positions as people write them: `412`, a label, `start`, `node:draft`, `before:draft`, `<run>@412`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from omium.orchestration.definition.names import place_problem
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId, Seq, is_id
from omium.orchestration.log.events import EventType
from omium.orchestration.log.state import NodeStatus, RunState
from omium.orchestration.ports import LabelRow, RunRow, Store

_DIGITS = re.compile(r"\A[0-9]{1,18}\Z")
_FORMS = 'Write a position number, a label, "start", "node:<id>" or "<run>@<number>".'

LoadState = Callable[[RunId], Awaitable[RunState]]


@dataclass(frozen=True, slots=True)
class Place:
    """A position before it is looked up. seq: for kind `seq`; name: the label, or the node of `after` and `before`."""

    kind: Literal["seq", "start", "label", "after", "before"]
    seq: Seq = Seq(0)
    name: str = ""


def parse(text: str | int, run_id: RunId, *, before: bool = False) -> Place:
    """What a position of the run means. `before` allows `before:<node>`, which only a branch can start from.

    Raises `invalid_argument` for what is no position, `not_allowed` for a position of another run."""
    if isinstance(text, int) and not isinstance(text, bool):
        return Place("seq", Seq(text))
    if not isinstance(text, str):
        raise _unreadable(text)
    written = text.strip()
    run, mark, rest = written.rpartition("@")
    if mark:
        if not is_id(run, "run") or not _DIGITS.match(rest):
            raise _unreadable(text)
        if run != run_id:
            raise OmiumError(
                "not_allowed",
                f"{text!r} is a position of another run than {run_id}.",
                f"A run goes back in its own log only. To continue from there, branch from {run}.",
            )
        return Place("seq", Seq(int(rest)))
    if _DIGITS.match(written):
        return Place("seq", Seq(int(written)))
    if written == "start":
        return Place("start")
    if written.startswith("node:"):
        return Place("after", name=written[5:])
    if written.startswith("before:"):
        if not before:
            raise OmiumError(
                "invalid_argument", f"{text!r} is where a branch can start; a run cannot go back to it.", _FORMS
            )
        return Place("before", name=written[7:])
    if label_refusal(written):
        raise _unreadable(text)
    return Place("label", name=written)


def parse_run(text: str) -> tuple[RunId, Seq | None]:
    """A run, or a position of one: `<run>` or `<run>@<number>`."""
    run, mark, rest = text.strip().partition("@")
    if not is_id(run, "run") or (mark and not _DIGITS.match(rest)):
        raise OmiumError(
            "invalid_argument", f"{text!r} is neither a run nor a position of one.", "Write <run> or <run>@412."
        )
    return RunId(run), Seq(int(rest)) if mark else None


def label_refusal(label: str) -> str:
    """Why a text cannot be a label; empty if it can: it must not look like another form of position."""
    return place_problem(label)


def _unreadable(text: object) -> OmiumError:
    return OmiumError("invalid_argument", f"{text!r} is no position.", _FORMS)


async def find(store: Store, row: RunRow, place: Place, load: LoadState) -> Seq:
    """The position in the run's log. `load` gives the state at the head.

    Raises `not_found` for what is beyond the head, a label or a completed node that there is not, and
    `precondition_failed` for a checkpoint that did not hold what it promised."""
    if place.kind == "seq":
        if not 1 <= place.seq <= row.seq:
            raise OmiumError(
                "not_found",
                f"run {row.id} has no position {place.seq}; its log goes from 1 to {row.seq}.",
                "List the checkpoints to see where it can go.",
                head=row.seq,
            )
        return place.seq
    if place.kind == "start":
        return await start_of(store, row.id)
    if place.kind == "label":
        return await _labelled(store, row, place.name, load)
    return await _completion(store, row, NodeId(place.name), load)


async def start_of(store: Store, run_id: RunId) -> Seq:
    """Where a run had started and none of its nodes had."""
    for event in await store.events(run_id, limit=100):
        if event.type is EventType.RUN_STARTED:
            return event.seq
    return Seq(1)


async def _labelled(store: Store, row: RunRow, label: str, load: LoadState) -> Seq:
    rows = await store.labels(row.id)
    named = [one for one in rows if one.label == label]
    if not named:
        near = difflib.get_close_matches(label, [one.label for one in rows], n=3)
        hint = f"Did you mean {', '.join(near)}?" if near else _FORMS
        raise OmiumError("not_found", f"run {row.id} has no checkpoint {label!r}.", hint)
    found = named[-1] if len(named) == 1 else await newest(named, row.id, load)
    events = await store.events(row.id, Seq(found.seq - 1), 1)
    if not events[0].data.get("valid", True):
        raise OmiumError(
            "precondition_failed",
            f"the checkpoint {label!r} of run {row.id} is not valid: what it was to promise did not hold.",
            "Choose another one from the list of checkpoints.",
            at=found.at,
        )
    return found.at


async def newest(named: list[LabelRow], run_id: RunId, load: LoadState) -> LabelRow:
    """Of several labels of one name, the newest that no rollback has left behind; else the newest."""
    state = await load(run_id)
    standing = [one for one in named if not is_left(state, one.seq)]
    return (standing or named)[-1]


def is_left(state: RunState, seq: int) -> bool:
    """Whether a rollback has left this position behind."""
    return any(first <= seq <= last for first, last in state.left)


async def _completion(store: Store, row: RunRow, node_id: NodeId, load: LoadState) -> Seq:
    state = await load(row.id)
    node = state.nodes.get(node_id)
    if node is None or node.status is not NodeStatus.COMPLETED:
        what = "there is none" if node is None else f"it is {node.status}"
        raise OmiumError(
            "not_found", f"node {node_id!r} of run {row.id} has not completed: {what}.", "List the checkpoints."
        )
    events = await store.events(row.id, Seq(node.seq - 1), 1)
    if not events or events[0].data.get("node") != node_id or "output" not in events[0].data:
        raise OmiumError(
            "not_found",
            f"node {node_id!r} had completed when the branch {row.id} began: its completion is not in this log.",
            'The beginning of the branch is "start".',
        )
    return Seq(node.seq)
