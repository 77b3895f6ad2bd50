"""Stopping what must not go on, and saying of what was stopped, here or by a crash, what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

from omium.orchestration.engine import steps
from omium.orchestration.engine.attempt import NodeAttempt
from omium.orchestration.log import commands as c
from omium.orchestration.log.state import RUN_TERMINAL, RunStatus
from omium.orchestration.ports import NewBlob

if TYPE_CHECKING:
    from omium.orchestration.engine.execution import Execution

HELD: Final = "its parent may be taken back"
"""The reason of a pause for which everything stops, as in the parent itself. The parent's owner ends it, once that is
not to be taken back (`Children.settle`)."""

Unsaid: TypeAlias = tuple[list[c.Command], list[NewBlob]]
"""What stopped attempts had still to say, with the contents that it names."""


async def stop_what_is_not_wanted(run: Execution) -> Unsaid:
    """Cancel attempts that the log no longer knows, or that a pause interrupts, and wait until they are gone. Gives
    what the stopped ones had still to say."""
    for node_id in [n for n in run.tickets if n not in run.attempts]:
        run.drop_attempt(node_id)
    stopped: list[tuple[NodeAttempt, bool]] = []
    for attempt in list(run.attempts.values()):
        current = _is_current(run, attempt)
        if current and (not _is_to_stop(run, attempt) or attempt.is_over):
            continue  # it goes on, or it has just ended and only waits for its turn to say so
        attempt.cancel()
        stopped.append((attempt, current))
    commands: list[c.Command] = []
    blobs: list[NewBlob] = []
    for attempt, current in stopped:
        await attempt.wait_until_over()
        if current and attempt.succeeded and _is_current(run, attempt):
            continue  # it came to its end before it could be stopped
        if current:
            pending, named = attempt.take_pending()
            commands += pending
            blobs += named
        run.drop_attempt(attempt.node_id)
    return commands, blobs


def _is_current(run: Execution, attempt: NodeAttempt) -> bool:
    node = run.folded.node(attempt.node_id)
    return node.in_flight and (node.generation, node.attempt) == (attempt.generation, attempt.attempt)


def _is_to_stop(run: Execution, attempt: NodeAttempt) -> bool:
    at_once = attempt.node.on_pause == "interrupt" or run.folded.reason == HELD
    if run.folded.status is RunStatus.PAUSED and run.folded.interrupt and at_once:
        return True
    if run.folded.setbacks and run.folded.status is not RunStatus.PAUSED:
        return True  # the run is about to be taken back
    return run.stopping is not None or run.folded.status in RUN_TERMINAL


def settle_in_flight(run: Execution, unsaid: Sequence[c.Command], crashed: bool) -> tuple[list[c.Command], int | None]:
    """What becomes of every node that is in flight in the log, and not here; and when a question about it expires.
    `crashed`: another owner left them."""
    left = [node_id for node_id, node in run.folded.nodes.items() if node.in_flight and node_id not in run.attempts]
    if not left:
        return [], None
    why = run.stopping or ("rollback" if run.folded.setbacks else "handover")
    reason = "paused" if run.folded.status is RunStatus.PAUSED else why
    commands, due = steps.settle(run, left, "owner_lost" if crashed else reason)
    return [*unsaid, *commands], due
