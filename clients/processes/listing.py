"""The supervised programs of this machine as they are now, from the register and from the kernel."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from omium.clients.processes.activity import resident, usage
from omium.clients.processes.identity import LINUX, is_alive, read_stat, same_host
from omium.clients.processes.register import Entry, Register

State = Literal["running", "stalled", "stopped", "orphaned", "adopted", "ended", "elsewhere"]
_STOPPED: Final = "Tt"


@dataclass(frozen=True, slots=True)
class ProcessView:
    """A supervised program and all below it. Times are microseconds since the epoch; cpu_s: seconds of CPU,
    cpu_percent: of one core, on average since the start; rss: bytes. state: `orphaned` has lost its supervisor,
    `adopted` has got another one, `ended` waits to be noticed, `elsewhere` cannot be looked at from here.
    last_output_at: None if nothing came, or if the supervisor has not said yet."""

    run: str
    node: str
    attempt: int
    command: str
    pid: int
    state: State
    started_at: int
    last_output_at: int | None
    last_heartbeat_at: int | None
    output_bytes: int
    cpu_s: float | None
    cpu_percent: float | None
    rss: int | None
    supervisor: int
    argv: Sequence[str]


def listed(register: Register, run: str | None = None) -> list[ProcessView]:
    """Oldest first; only those of one run if it is given."""
    found = [_view(entry) for entry in register.entries() if run is None or entry.run == run]
    return sorted(found, key=lambda view: (view.started_at, view.pid))


def _view(entry: Entry) -> ProcessView:
    state = _state(entry)
    there = state not in ("ended", "elsewhere")
    cpu = usage(entry.leader)[0] if there else None
    age = max(time.time() - entry.started_at, 0.01)
    return ProcessView(
        run=entry.run,
        node=entry.node,
        attempt=entry.attempt,
        command=entry.command,
        pid=entry.leader.pid,
        state=state,
        started_at=_us(entry.started_at),
        last_output_at=None if entry.last_output_at is None else _us(entry.last_output_at),
        last_heartbeat_at=None if entry.last_heartbeat_at is None else _us(entry.last_heartbeat_at),
        output_bytes=entry.output_bytes,
        cpu_s=None if cpu is None else round(cpu, 2),
        cpu_percent=None if cpu is None else round(100 * cpu / age, 1),
        rss=resident(entry.leader) if there else None,
        supervisor=entry.owner.pid,
        argv=entry.argv,
    )


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _state(entry: Entry) -> State:
    if not same_host(entry.leader):
        return "elsewhere"
    if not is_alive(entry.leader):
        return "ended"
    if not is_alive(entry.owner):
        return "orphaned"
    if LINUX:
        fields = read_stat(entry.leader.pid)
        if fields is not None and fields[0] in _STOPPED:
            return "stopped"
    if entry.adopted:
        return "adopted"
    return "stalled" if entry.stalled else "running"
