"""DBOS's side of the benchmark: async workflows and steps, in the peers' virtual environment.

    python -m tests.bench.peers.dbos_peer --measure chain --store sqlite --directory /tmp/peer --json

SQLite is put into WAL mode, which DBOS leaves to its user, and keeps synchronous=FULL. Logging is off.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from tests.bench.figures import Figure, gaps, milliseconds, percentile, rate
from tests.bench.peers import environment, workload
from tests.bench.peers.workload import State, Work

MODULE = "tests.bench.peers.dbos_peer"
WORKFLOW = "chain"
# Every statement is a hop to a thread. Unbounded, as by default, two hundred concurrent runs cost a third more
# processor time and are slower; 4 to 16 threads are alike on SQLite, and on PostgreSQL 16 are no worse.
EXECUTOR_THREADS = 16


class Application:
    """DBOS and the benchmark's workflows, which are its process-wide registry's."""

    def __init__(self, work: Work, begun: Callable[[int], None] = lambda _: None) -> None:
        from dbos import DBOS, SetWorkflowID  # type: ignore[import-not-found]

        self.dbos: Any = DBOS
        self.identified: Any = SetWorkflowID
        if work.store == "sqlite":
            with sqlite3.connect(work.database) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.close()
            url = f"sqlite:///{work.database}"
        else:
            url = (work.url or "").replace("postgresql://", "postgresql+psycopg://")
        config: dict[str, Any] = {
            "name": "peer",
            "system_database_url": url,
            "application_version": "1",
            "log_level": "CRITICAL",
            "max_executor_threads": EXECUTOR_THREADS,
        }
        DBOS(config=config)
        self._register(work, begun)
        DBOS.launch()

    def _register(self, work: Work, begun: Callable[[int], None]) -> None:
        async def no_op(state: State) -> State:
            begun(state["n"])
            return {**state, "n": state["n"] + 1}

        async def change(state: State) -> State:
            name, text = workload.change(work, state["n"])
            return {**state, name: text, "n": state["n"] + 1}

        async def only_change(number: int) -> State:
            name, text = workload.change(work, number)
            return {name: text, "n": number + 1}

        async def join(states: list[State]) -> int:
            return len(states)

        step = self.dbos.step(name="no_op")(no_op)
        changing = self.dbos.step(name="change")(change)
        changing_only = self.dbos.step(name="only_change")(only_change)
        joining = self.dbos.step(name="join")(join)

        async def chain(state: State, steps: int) -> State:
            for _ in range(steps):
                state = await step(state)
            return state

        async def whole(state: State, steps: int) -> int:
            for _ in range(steps):
                state = await changing(state)
            return int(state["n"])

        async def parts(state: State, steps: int) -> int:
            for number in range(steps):
                state = {**state, **await changing_only(number)}
            return int(state["n"])

        async def fanout(state: State, branches: int) -> int:
            first = await step(state)
            states = await asyncio.gather(*(step({**first, "n": number}) for number in range(branches)))
            return int(await joining(states))

        self.chain: Any = self.dbos.workflow(name=WORKFLOW)(chain)
        self.whole: Any = self.dbos.workflow(name="whole")(whole)
        self.parts: Any = self.dbos.workflow(name="parts")(parts)
        self.fanout: Any = self.dbos.workflow(name="fanout")(fanout)

    def close(self) -> None:
        self.dbos.destroy()


def _stored_kb(work: Work) -> float:
    if work.store == "sqlite":
        return workload.sqlite_kb(work.database)
    import psycopg  # type: ignore[import-not-found]

    with psycopg.connect(work.url) as connection:
        return float(connection.execute(workload.POSTGRES_KB).fetchone()[0])


async def chain(work: Work) -> Figure:
    times: list[float] = []
    application = Application(work, lambda _: times.append(time.perf_counter()))
    await application.chain(workload.initial_state(work), work.steps)  # warms, as for everyone
    times.clear()
    before, state = _stored_kb(work), workload.initial_state(work, 1)
    begin = time.perf_counter()
    result = await application.chain(state, work.steps)
    seconds = time.perf_counter() - begin
    assert result["n"] == work.steps
    stored = (_stored_kb(work) - before) / work.steps
    application.close()
    detail = {"stored_kb_per_step": round(stored, 1), "state_kb": work.state_kb}
    return rate(work.name, "steps/s", work.steps, seconds, gaps(times), **detail)


async def runs(work: Work) -> Figure:
    application = Application(work)
    states = [workload.initial_state(work, number) for number in range(work.runs)]

    async def run(state: State) -> None:
        result = await application.chain(state, work.nodes)
        assert result["n"] == work.nodes

    begin = time.perf_counter()
    await asyncio.gather(*(run(state) for state in states))
    seconds = time.perf_counter() - begin
    application.close()
    return rate(work.name, "runs/s", work.runs, seconds, nodes=work.nodes, peak_mb=workload.peak_mb())


async def fanout(work: Work) -> Figure:
    """The branches are concurrent steps of one workflow, each recorded on its own."""
    application = Application(work)
    begin = time.perf_counter()
    joined = await application.fanout(workload.initial_state(work), work.branches)
    seconds = time.perf_counter() - begin
    assert joined == work.branches
    application.close()
    return rate(work.name, "branches/s", work.branches, seconds, state_kb=work.state_kb)


async def fork(work: Work) -> Figure:
    """The forks wait in a queue that nothing takes from, so that only the fork is measured."""
    application = Application(work)
    with application.identified(WORKFLOW):
        await application.chain(workload.initial_state(work), work.steps)
    before = _stored_kb(work)
    latencies = []
    for _ in range(workload.FORKS):
        begin = time.perf_counter()
        await application.dbos.fork_workflow_async(WORKFLOW, work.middle, queue_name="nobody")
        latencies.append(time.perf_counter() - begin)
    stored = (_stored_kb(work) - before) / workload.FORKS
    application.close()
    middle = milliseconds(percentile(latencies, 50))
    detail = {"stored_kb": round(stored, 2), "steps": work.steps, "state_kb": work.state_kb}
    return Figure(work.name, middle or 0.0, "ms", middle, milliseconds(percentile(latencies, 95)), detail)


async def storage(work: Work) -> Figure:
    """Two programs: steps that return the whole state (compared), and steps that return only what they changed."""
    application = Application(work)
    variants = {}
    for name, workflow in (("whole", application.whole), ("only_changes", application.parts)):
        before = _stored_kb(work)
        await workflow({"n": 0, **workload.pieces(work)}, work.steps)
        variants[name] = round((_stored_kb(work) - before) / work.steps, 2)
    application.close()
    return Figure(work.name, variants["whole"], "KB/step", detail={**variants, "steps": work.steps})


async def work_until_killed(work: Work, role: str) -> None:
    """DBOS recovers the workflow by itself when the new process launches."""
    application = Application(work, workload.report_step)
    if role == "start":
        with application.identified(WORKFLOW):
            await application.chain(workload.initial_state(work), work.steps)
    else:
        handle = await application.dbos.retrieve_workflow_async(WORKFLOW)
        await handle.get_result()


def main() -> None:
    work, role = workload.parse(MODULE)
    environment.enter(MODULE)
    if role != "measure":
        asyncio.run(work_until_killed(work, role))
    elif work.measure == "kill":
        workload.print_figure(workload.kill_and_resume(work, MODULE))
    else:
        measures = {"chain": chain, "runs": runs, "fanout": fanout, "fork": fork, "storage": storage}
        workload.print_figure(asyncio.run(measures[work.measure](work)))


if __name__ == "__main__":
    main()
