"""Executing: a chain, many runs at once, a fan-out, and what a state costs on disk."""

from __future__ import annotations

import time
from typing import Any

import anyio

from omium.orchestration.definition.build import Ref, workflow
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.log.events import EventType
from tests.bench.figures import Figure, gaps, rate
from tests.bench.ours.work import CALLER, Work, chain_of, ended, opened, output, step, stored_kb
from tests.bench.peers import workload
from tests.bench.peers.workload import State


async def chain(work: Work) -> list[Figure]:
    """Nodes per second of one chain, from asking for the run to knowing its end. The second one of the process: what is
    done once for a definition, and the growth of new files, is not the rate at which it works."""
    times: list[float] = []
    function = step(lambda _: times.append(time.perf_counter()))
    async with opened(work, {"step": function}, [chain_of(work.steps)]) as core:
        first = await core.run_workflow(CALLER, "chain", {"state": workload.initial_state(work)})
        await ended(core, first.id)
        times.clear()
        sqlite, state = work.store == "sqlite", workload.initial_state(work, 1)
        before = stored_kb(work) if sqlite else 0.0
        began, worked = time.perf_counter(), time.process_time()
        run = await core.run_workflow(CALLER, "chain", {"state": state})
        await ended(core, run.id)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        assert (await output(core, run.id, f"n{work.steps - 1}"))["n"] == work.steps
        detail: dict[str, Any] = {"cpu_us_per_node": round(worked / work.steps * 1e6), "state_kb": work.state_kb}
        if sqlite:
            detail["stored_kb_per_step"] = round((stored_kb(work) - before) / work.steps, 2)
    return [rate("chain", "nodes/s", work.steps, seconds, gaps(times), **detail)]


async def runs(work: Work) -> list[Figure]:
    """Runs per second, all of them asked for at once, each waited for by its own client."""
    async with opened(work, {"step": step()}, [chain_of(work.nodes)]) as core:
        states = [workload.initial_state(work, number) for number in range(work.runs)]
        last = f"n{work.nodes - 1}"

        async def run(state: State) -> None:
            begun = await core.run_workflow(CALLER, "chain", {"state": state})
            await ended(core, begun.id)
            finished.append(begun.id)

        finished: list[str] = []
        began, worked = time.perf_counter(), time.process_time()
        async with anyio.create_task_group() as tasks:
            for state in states:
                tasks.start_soon(run, state)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        assert len(finished) == work.runs
        some = await core.list_runs(CALLER, limit=1)
        assert (await output(core, some.runs[0].id, last))["n"] == work.nodes
    detail: dict[str, Any] = {
        "nodes": work.nodes,
        "peak_mb": workload.peak_mb(),
        "cpu_us_per_run": round(worked / work.runs * 1e6),
    }
    return [rate("runs", "runs/s", work.runs, seconds, **detail)]


def fan() -> WorkflowDef:
    """One node, as many as it says, one that takes all."""
    built = workflow("fan")
    split = built.function("split", use="split", with_={"state": built.inputs.state, "count": built.inputs.count})
    given = {"state": split.output.state, "number": Ref("item")}
    branch = built.function("branch", use="branch", with_=given, for_each=split.output.numbers, needs=split)
    built.function("join", use="join", with_={"states": branch.output}, needs=branch)
    return built.build()


async def fanout(work: Work) -> list[Figure]:
    """Branches per second; the end of each is an event of its own, committed before the join begins."""

    async def split(state: State, count: int) -> dict[str, object]:
        return {"state": state, "numbers": list(range(count))}

    async def branch(state: State, number: int) -> State:
        return {**state, "n": number}

    async def join(states: list[State]) -> int:
        return len(states)

    async with opened(work, {"split": split, "branch": branch, "join": join}, [fan()]) as core:
        began = time.perf_counter()
        given = {"state": workload.initial_state(work), "count": work.branches}
        run = await core.run_workflow(CALLER, "fan", given)
        await ended(core, run.id)
        seconds = time.perf_counter() - began
        assert await output(core, run.id, "join") == work.branches
        completed, after = 0, 0
        while page := await core.store.events(run.id, after, 10_000):  # type: ignore[arg-type]
            completed += sum(event.type is EventType.NODE_COMPLETED for event in page)
            after = page[-1].seq
        assert completed == work.branches + 3, completed  # the split, the fan as a whole, the join
    return [
        rate("fanout", "branches/s", work.branches, seconds, state_kb=work.state_kb),
        Figure("us_per_branch", round(seconds / work.branches * 1e6, 1), "us"),
    ]


async def storage(work: Work) -> list[Figure]:
    """KB stored for each node of a chain that changes a hundredth of its state at each."""

    async def change(state: State) -> State:
        name, text = workload.change(work, state["n"])
        return {**state, name: text, "n": state["n"] + 1}

    async with opened(work, {"change": change}, [chain_of(work.steps, function="change")]) as core:
        before = stored_kb(work)
        run = await core.run_workflow(CALLER, "chain", {"state": {"n": 0, **workload.pieces(work)}})
        await ended(core, run.id)
        stored = (stored_kb(work) - before) / work.steps
        state = await output(core, run.id, f"n{work.steps - 1}")
        name, text = workload.change(work, work.steps - 1)
        assert state[name] == text
    return [Figure("storage", round(stored, 2), "KB/node", detail={"steps": work.steps, "state_kb": work.state_kb})]
