"""LangGraph's side of the benchmark: graphs with a durable checkpointer, in LangGraph's own virtual environment.

    python -m tests.bench.peers.langgraph_peer --measure chain --store sqlite --directory /tmp/peer --json

Durability is "sync": a checkpoint is committed before the next step begins. SQLite is in WAL mode with
synchronous=FULL, which its saver sets and SQLite defaults to. With PostgreSQL the saver gets one connection, since it
holds a lock around every statement and a pool brings it nothing; its pipeline mode was no faster.
"""

from __future__ import annotations

import asyncio
import operator
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypedDict

from tests.bench.figures import Figure, gaps, milliseconds, percentile, rate
from tests.bench.peers import environment, workload
from tests.bench.peers.workload import State, Work

MODULE = "tests.bench.peers.langgraph_peer"
os.environ["LANGSMITH_TRACING"] = "false"

Node = Callable[[Any], Coroutine[Any, Any, Any]]


class ChainState(TypedDict):
    state: State


class FanoutState(TypedDict):
    states: Annotated[list[State], operator.add]
    joined: int


@asynccontextmanager
async def _saver(work: Work) -> AsyncIterator[Any]:
    if work.store == "sqlite":
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver  # type: ignore[import-not-found]

        async with AsyncSqliteSaver.from_conn_string(str(work.database)) as saver:
            await saver.setup()
            yield saver
        return
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # type: ignore[import-not-found]

    async with AsyncPostgresSaver.from_conn_string(work.url) as saver:
        await saver.setup()
        yield saver


async def _stored_kb(work: Work, saver: Any) -> float:
    if work.store == "sqlite":
        await saver.conn.commit()
        return workload.sqlite_kb(work.database)
    async with saver.conn.cursor() as cursor:
        await cursor.execute(workload.POSTGRES_KB)
        return float(next(iter((await cursor.fetchone()).values())))


def _config(thread: str, steps: int) -> dict[str, Any]:
    return {"configurable": {"thread_id": thread}, "recursion_limit": steps + 10}


def _chain(schema: Any, steps: int, node: Node, *, looped: bool, saver: Any) -> Any:
    """A compiled chain of `steps` nodes, or one node that returns to itself until the state's `n` is `steps`."""
    from langgraph.graph import END, START, StateGraph  # type: ignore[import-not-found]

    builder = StateGraph(schema)
    if looped:
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        builder.add_conditional_edges("node", lambda state: END if state.get("state", state)["n"] >= steps else "node")
        return builder.compile(checkpointer=saver)
    previous = START
    for number in range(steps):
        name = f"node_{number}"
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    builder.add_edge(previous, END)
    return builder.compile(checkpointer=saver)


def _step(begun: Callable[[int], None]) -> Node:
    """The no-op step: the whole state in, the whole state out."""

    async def step(state: ChainState) -> ChainState:
        value = state["state"]
        begun(value["n"])
        return {"state": {**value, "n": value["n"] + 1}}

    return step


async def chain(work: Work) -> Figure:
    times: list[float] = []
    async with _saver(work) as saver:
        step = _step(lambda _: times.append(time.perf_counter()))
        graph = _chain(ChainState, work.steps, step, looped=work.looped, saver=saver)
        warming, state = [{"state": workload.initial_state(work, number)} for number in (0, 1)]
        await graph.ainvoke(warming, _config("first", work.steps), durability="sync")  # warms, as for everyone
        times.clear()
        before = await _stored_kb(work, saver)
        begin = time.perf_counter()
        result = await graph.ainvoke(state, _config("chain", work.steps), durability="sync")
        seconds = time.perf_counter() - begin
        assert result["state"]["n"] == work.steps
        stored = (await _stored_kb(work, saver) - before) / work.steps
    return rate(
        work.name,
        "steps/s",
        work.steps,
        seconds,
        gaps(times),
        stored_kb_per_step=round(stored, 1),
        state_kb=work.state_kb,
        looped=work.looped,
    )


async def runs(work: Work) -> Figure:
    async with _saver(work) as saver:
        graph = _chain(ChainState, work.nodes, _step(lambda _: None), looped=False, saver=saver)
        states = [workload.initial_state(work, number) for number in range(work.runs)]

        async def run(number: int) -> None:
            config = _config(f"run-{number}", work.nodes)
            result = await graph.ainvoke({"state": states[number]}, config, durability="sync")
            assert result["state"]["n"] == work.nodes

        begin = time.perf_counter()
        await asyncio.gather(*(run(number) for number in range(work.runs)))
        seconds = time.perf_counter() - begin
    return rate(work.name, "runs/s", work.runs, seconds, nodes=work.nodes, peak_mb=workload.peak_mb())


async def fanout(work: Work) -> Figure:
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import Send  # type: ignore[import-not-found]

    state = workload.initial_state(work)

    async def split(_: FanoutState) -> dict[str, Any]:
        return {"states": []}

    def send(_: FanoutState) -> list[Any]:
        return [Send("branch", {**state, "n": number}) for number in range(work.branches)]

    async def branch(value: State) -> dict[str, Any]:
        return {"states": [value]}

    async def join(value: FanoutState) -> dict[str, Any]:
        return {"joined": len(value["states"])}

    async with _saver(work) as saver:
        builder = StateGraph(FanoutState)
        for name, node in (("split", split), ("branch", branch), ("join", join)):
            builder.add_node(name, node)
        builder.add_edge(START, "split")
        builder.add_conditional_edges("split", send, ["branch"])
        builder.add_edge("branch", "join")
        builder.add_edge("join", END)
        graph = builder.compile(checkpointer=saver)
        begin = time.perf_counter()
        result = await graph.ainvoke({"states": [], "joined": 0}, _config("fanout", 10), durability="sync")
        seconds = time.perf_counter() - begin
        assert result["joined"] == work.branches
    return rate(work.name, "branches/s", work.branches, seconds, state_kb=work.state_kb)


async def fork(work: Work) -> Figure:
    """A fork in LangGraph copies the checkpoint at the middle, with `update_state` as "__copy__"."""
    async with _saver(work) as saver:
        graph = _chain(ChainState, work.steps, _step(lambda _: None), looped=work.looped, saver=saver)
        config = _config("chain", work.steps)
        await graph.ainvoke({"state": workload.initial_state(work)}, config, durability="sync")
        begin = time.perf_counter()
        found = [item async for item in saver.alist(config, filter={"step": work.middle}, limit=1)]
        finding = time.perf_counter() - begin
        before = await _stored_kb(work, saver)
        latencies = []
        for _ in range(workload.FORKS):
            begin = time.perf_counter()
            await graph.aupdate_state(found[0].config, None, as_node="__copy__")
            latencies.append(time.perf_counter() - begin)
        stored = (await _stored_kb(work, saver) - before) / workload.FORKS
    return _fork_figure(work, latencies, stored, finding_ms=milliseconds(finding), looped=work.looped)


def _fork_figure(work: Work, latencies: Sequence[float], stored: float, **detail: Any) -> Figure:
    middle = milliseconds(percentile(latencies, 50))
    slow = milliseconds(percentile(latencies, 95))
    size = {"stored_kb": round(stored, 2), "steps": work.steps, "state_kb": work.state_kb}
    return Figure(work.name, middle or 0.0, "ms", middle, slow, {**size, **detail})


async def storage(work: Work) -> Figure:
    """Three programs: the state as one value (compared), as a hundred values, and as deltas, which are in beta.

    One looped node, since a graph's every node adds to each of its checkpoints.
    """
    variants = {}
    for name, measure in (("whole", _whole), ("hundred_values", _hundred_values), ("delta_channel", _delta_channel)):
        async with _saver(work) as saver:
            before = await _stored_kb(work, saver)
            schema, node, first = measure(work)
            graph = _chain(schema, work.steps, node, looped=True, saver=saver)
            await graph.ainvoke(first, _config(name, work.steps), durability="sync")
            variants[name] = round((await _stored_kb(work, saver) - before) / work.steps, 2)
    return Figure(work.name, variants["whole"], "KB/step", detail={**variants, "steps": work.steps})


Program = tuple[Any, Node, Any]


def _whole(work: Work) -> Program:
    async def step(state: ChainState) -> ChainState:
        value = state["state"]
        name, text = workload.change(work, value["n"])
        return {"state": {**value, name: text, "n": value["n"] + 1}}

    return ChainState, step, {"state": {"n": 0, **workload.pieces(work)}}


def _hundred_values(work: Work) -> Program:
    first: dict[str, Any] = {"n": 0, **workload.pieces(work)}
    schema = TypedDict("Pieces", {name: type(value) for name, value in first.items()})  # type: ignore[misc]

    async def step(state: dict[str, Any]) -> dict[str, Any]:
        name, text = workload.change(work, state["n"])
        return {name: text, "n": state["n"] + 1}

    return schema, step, first


def _delta_channel(work: Work) -> Program:
    from langgraph.channels import DeltaChannel  # type: ignore[import-not-found]

    def merge(value: dict[str, Any], writes: Sequence[dict[str, Any]]) -> dict[str, Any]:
        merged = dict(value)
        for write in writes:
            merged.update(write)
        return merged

    # Not as a class: its annotations would be strings, which nothing could resolve to the function above.
    Delta = TypedDict("Delta", {"state": Annotated[dict[str, Any], DeltaChannel(merge)]})  # noqa: UP013

    async def step(state: ChainState) -> ChainState:
        value = state["state"]
        name, text = workload.change(work, value["n"])
        return {"state": {name: text, "n": value["n"] + 1}}

    return Delta, step, {"state": {"n": 0, **workload.pieces(work)}}


async def work_until_killed(work: Work, role: str) -> None:
    async with _saver(work) as saver:
        graph = _chain(ChainState, work.steps, _step(workload.report_step), looped=work.looped, saver=saver)
        first = {"state": workload.initial_state(work)} if role == "start" else None
        await graph.ainvoke(first, _config("chain", work.steps), durability="sync")


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
