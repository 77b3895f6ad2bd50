"""The kill: `python -m tests.bench.ours.kill --measure kill ... --worker start` works until it is killed, and the same
with `--worker resume` takes over what it left."""

from __future__ import annotations

import anyio

from tests.bench.figures import Figure
from tests.bench.ours.work import CALLER, Work, chain_of, ended, opened, step
from tests.bench.peers import workload

MODULE = "tests.bench.ours.kill"


async def kill(work: Work) -> list[Figure]:
    """Seconds from SIGKILL in the middle of a chain to the first node not seen before, in a new process."""
    found = await anyio.to_thread.run_sync(workload.kill_and_resume, work, MODULE)
    return [Figure("kill", found.value, found.unit, detail=found.detail)]


async def work_until_killed(work: workload.Work, role: str) -> None:
    """The new process does nothing but start: it finds by itself what nobody executes any more."""
    async with opened(work, {"step": step(workload.report_step)}, [chain_of(work.steps)]) as core:
        if role == "start":
            await core.run_workflow(CALLER, "chain", {"state": workload.initial_state(work)})
        page = await core.list_runs(CALLER, limit=1)
        await ended(core, page.runs[0].id)


def main() -> None:
    work, role = workload.parse(MODULE)
    anyio.run(work_until_killed, work, role)


if __name__ == "__main__":
    main()
