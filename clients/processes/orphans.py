"""Programs whose supervisor has died: found by pid and start time, and ended or left to come to their end.

An orphan's output has no reader any more, and its exit code no collector, so what it did stays unknown to the run's
ledger; the node's `on_unknown` says what follows. Here is only seen to it that nothing runs on unwatched.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

import anyio

from omium.clients.processes.counters import counters
from omium.clients.processes.identity import ProcessIdentity, identity, is_alive, same_host, this_process
from omium.clients.processes.liveness import host_id
from omium.clients.processes.reconcile import Record, reconcile
from omium.clients.processes.register import Entry, Register

_log = logging.getLogger(__name__)

Orphans = Literal["kill", "adopt"]
Outcome = Literal["gone", "reused", "killed", "adopted", "waiting", "stuck"]
_POLITE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one entry. "gone": dead; "reused": dead, and its pid a stranger's by now, who is left alone;
    "killed"; "adopted": it runs on, watched; "waiting": it will be killed after the grace; "stuck": it survives."""

    token: str
    outcome: Outcome


class Reconciler:
    """Looks after the entries of a register whose owner is dead.

    orphans: what becomes of one that lives. grace_s: how long it may go on before it is killed. wall: seconds since the
    epoch, clock: monotonic ones.
    """

    def __init__(
        self,
        register: Register,
        *,
        orphans: Orphans = "kill",
        grace_s: float = 0.0,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._register = register
        self._orphans = orphans
        self._grace_s = grace_s
        self._wall = wall
        self._clock = clock
        self._own = this_process()
        self._seen: dict[str, float] = {}  # orphans that have a grace, and since when
        self._looking = anyio.Lock()
        self._every_s = math.inf
        self._changed = anyio.Event()

    def change(self, *, orphans: Orphans, grace_s: float, every_s: float) -> None:
        """From now on other settings hold, also for orphans that are known; `run` looks at them at once."""
        self._orphans, self._grace_s, self._every_s = orphans, grace_s, every_s
        self._changed.set()

    async def run(self, every_s: float) -> None:
        """Look again and again until cancelled. A failure is logged: the next round comes."""
        self._every_s = every_s
        while True:
            self._changed = anyio.Event()
            try:
                await self.look()
            except Exception:  # boundary: nothing about one process may end the watch over the others
                _log.exception("orphaned processes cannot be looked at now")
            soon = self._seen and self._grace_s
            with anyio.move_on_after(min(self._every_s, self._grace_s) if soon else self._every_s):
                await self._changed.wait()

    async def look(self) -> list[Settled]:
        """One round over every orphan."""
        async with self._looking:
            settled = []
            for entry in list(self._register.entries()):
                outcome = await self._settle(entry)
                if outcome is not None:
                    settled.append(Settled(entry.token, outcome))
            known = {one.token for one in settled}
            self._seen = {token: since for token, since in self._seen.items() if token in known}
            return settled

    async def end(self, run: str, node: str) -> None:
        """End every orphan of a node, whatever the policy: the node is about to be run again."""
        async with self._looking:
            for entry in list(self._register.entries()):
                if (entry.run, entry.node) == (run, node) and self._is_orphan(entry):
                    await self._end(entry)

    def spared(self) -> frozenset[str]:
        """The tokens of programs that are not to be killed together with their owner."""
        if self._orphans == "kill" and not self._grace_s:
            return frozenset()
        return frozenset(entry.token for entry in self._register.entries())

    def _is_orphan(self, entry: Entry) -> bool:
        if entry.owner == self._own:
            return entry.adopted
        if same_host(entry.owner):
            return not is_alive(entry.owner)
        # Of another boot of this very machine: everything of then is gone. Another container judges for itself.
        return entry.host == host_id() and _boot(entry.owner) != _boot(self._own)

    async def _settle(self, entry: Entry) -> Outcome | None:
        if not self._is_orphan(entry):
            return None
        if not is_alive(entry.leader):
            found = identity(entry.leader.pid) if same_host(entry.leader) else None
            await reconcile([Record(entry.token, entry.leader)], grace_s=_POLITE_S)  # its children may live on
            self._register.drop(entry.token)
            strange = found is not None and found.start_time != entry.leader.start_time
            return self._told(entry, "reused" if strange else "gone")
        if self._orphans == "adopt":
            return await self._adopted(entry)
        since = self._seen.setdefault(entry.token, self._clock())
        if self._clock() - since < self._grace_s:
            return "waiting"
        return await self._end(entry)

    async def _adopted(self, entry: Entry) -> Outcome:
        """It may come to its end, but not beyond the time that it was given when it started."""
        if entry.hard_timeout_s is not None and self._wall() >= entry.started_at + entry.hard_timeout_s:
            return await self._end(entry)
        if entry.owner != self._own:
            self._register.put(replace(entry, owner=self._own, adopted=True))
            return self._told(entry, "adopted")
        return "adopted"

    async def _end(self, entry: Entry) -> Outcome:
        (outcome,) = await reconcile([Record(entry.token, entry.leader)], grace_s=_POLITE_S)
        if outcome == "stuck":
            return self._told(entry, "stuck")
        self._register.drop(entry.token)
        return self._told(entry, "killed" if outcome == "killed" else "gone")

    def _told(self, entry: Entry, outcome: Outcome) -> Outcome:
        counters.orphans[outcome] += 1
        _log.warning(
            "the command %s of %s in run %s (pid %s) lost its supervisor: %s",
            *(entry.command, entry.node, entry.run, entry.leader.pid, outcome),
        )
        return outcome


def _boot(process: ProcessIdentity) -> str:
    """The boot of the machine, without the pid namespace."""
    return process.boot_id.partition("/")[0]
