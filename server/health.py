"""Whether a process can do its work: for load balancers, supervisors of services, and people.

`healthy`: everything works. `degraded`: runs can be looked at, but something needs a person or does not go on.
`unhealthy`: the database cannot even be read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeVar

import anyio

from omium.clients.processes.liveness import silent_since
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ProjectId, WorkerId
from omium.orchestration.ports import Store, WorkerRow
from omium.orchestration.ports_processes import Processes
from omium.server.commands.wire import rfc3339

T = TypeVar("T")
Status = Literal["healthy", "degraded", "unhealthy"]
WITHIN_S: Final = 2.0
_TRIAL: Final = "health"
LATE_US: Final = 60_000_000  # a run that is due for so long, and that nobody has taken


@dataclass(frozen=True, slots=True)
class Health:
    """checks: by name, `ok` or what is wrong. active and pending: runs that execute, and questions that wait; queued:
    runs that wait for a worker; workers: processes known to live; dead: workers that were killed and whose runs nobody
    has taken over yet. The numbers are None when the database could not be asked. stalled: supervised programs of this
    machine that make no progress; None where nobody has looked. hints: what would mend a check, where that is known."""

    status: Status
    checks: Mapping[str, str]
    active: int | None = None
    pending: int | None = None
    queued: int | None = None
    workers: int | None = None
    dead: int | None = None
    stalled: int | None = None
    hints: Mapping[str, str] = field(default_factory=dict)


async def health_of(
    store: Store, project: ProjectId, processes: Processes, now_us: int, within_s: float = WITHIN_S
) -> Health:
    """Look, within bounds: a database that does not answer for so many seconds does not answer."""
    reads = await _tried(_counted(store, project, processes, now_us), within_s)
    if isinstance(reads, OmiumError):
        return Health("unhealthy", {"database": reads.message, "writes": "not tried"}, hints={"database": reads.hint})
    active, pending, queued, workers, dead, silent, due = reads
    late = due is not None and due < now_us - LATE_US
    # One row that is written again and again: what writes no page is also let in where the disk is full.
    writes = await _tried(store.lease(_TRIAL, WorkerId(_TRIAL), _TRIAL), within_s)
    checks = {
        "database": "ok",
        "writes": writes.message if isinstance(writes, OmiumError) else "ok",
        "workers": f"{dead} died" if dead else silent or ("nobody takes what is due" if late else "ok"),
    }
    fine = all(told == "ok" for told in checks.values())
    hints = {"writes": writes.hint} if isinstance(writes, OmiumError) else {}
    return Health("healthy" if fine else "degraded", checks, active, pending, queued, workers, dead, hints=hints)


async def _counted(
    store: Store, project: ProjectId, processes: Processes, now_us: int
) -> tuple[int, int, int, int, int, str, int | None]:
    counted = await store.count(project)
    workers = [(one, processes.alive(one)) for one in await store.workers() if project in one.serving]
    alive = [lives for _, lives in workers]
    silent = [told_silent(one, since) for one, lives in workers if lives and (since := silent_since(one, now_us))]
    queued = await store.queued([project], now_us)
    running, due = counted.runs.get("executing", 0), await store.next_wake([project])
    return running, counted.approvals, queued, alive.count(True), alive.count(False), "; ".join(silent), due


def told_silent(worker: WorkerRow, since: int) -> str:
    return f"worker {worker.id} (pid {worker.pid}) has been silent since {rfc3339(since)}"


async def _tried(asked: Awaitable[T], within_s: float) -> T | OmiumError:
    """The answer, or why there is none."""
    try:
        with anyio.fail_after(within_s):
            return await asked
    except TimeoutError:
        hint = "Close the program that holds it, or allow more time: omium health --within 10"
        return OmiumError("timeout", f"no answer within {within_s:g} s", hint)
    except OmiumError as error:
        return error
