"""Cleaning up after an owner that died: its processes are found again by pid and start time, and by marker."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import anyio

from omium.clients.processes.identity import ProcessIdentity, is_alive, same_host
from omium.clients.processes.tree import find_members, kill_members, send_signal

_KILL_S: Final = 10.0

Outcome = Literal["gone", "killed", "elsewhere", "stuck"]


@dataclass(frozen=True, slots=True)
class Record:
    """What an owner wrote down about a process: its token, and its identity if it came to that."""

    token: str
    identity: ProcessIdentity | None = None


async def reconcile(records: Sequence[Record], *, grace_s: float = 2.0) -> tuple[Outcome, ...]:
    """Ends what is left of these processes and of everything below them; one outcome for each record.

    "gone": nothing of it lives (also when its pid belongs to a stranger by now, who is left alone); "killed": something
    did and was ended; "elsewhere": it ran on another machine or in another container, where only that one can judge;
    "stuck": it survives SIGKILL. SIGTERM first, SIGKILL after `grace_s` seconds.
    """
    alive: list[list[ProcessIdentity]] = [await _living(record) for record in records]
    everybody = [process for members in alive for process in members]
    if everybody:
        send_signal(everybody, signal.SIGTERM)
        with anyio.move_on_after(grace_s):
            while any(is_alive(process) for process in everybody):
                await anyio.sleep(0.02)
    outcomes: list[Outcome] = []
    for record, members in zip(records, alive, strict=True):
        if record.identity is not None and not same_host(record.identity):
            outcomes.append("elsewhere")
        elif not await _kill(record):
            outcomes.append("stuck")
        else:
            outcomes.append("killed" if members else "gone")
    return tuple(outcomes)


async def kill_marked(token: str, *, grace_s: float = 2.0) -> bool:
    """Ends whatever carries this marker; whether there was anything. See `reconcile`."""
    (outcome,) = await reconcile([Record(token)], grace_s=grace_s)
    return outcome != "gone"


async def _kill(record: Record) -> bool:
    deadline = time.monotonic() + _KILL_S
    while await _living(record, kill_members):
        if time.monotonic() > deadline:
            return False
        await anyio.sleep(0.01)
    return True


async def _living(
    record: Record,
    work: Callable[[str, ProcessIdentity | None], list[ProcessIdentity]] = find_members,
) -> list[ProcessIdentity]:
    if record.identity is not None and not same_host(record.identity):
        return []
    # A leader that is dead, or whose pid is a stranger's by now, must not lead the search.
    leader = record.identity if record.identity is not None and is_alive(record.identity) else None
    return await anyio.to_thread.run_sync(work, record.token, leader)
