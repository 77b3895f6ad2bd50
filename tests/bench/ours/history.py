"""Going back and branching: branches of long runs, checkpoints of large states, a rollback with its files."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

from omium.orchestration.definition.build import Node, workflow
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.ports_workspace import WorkspaceSpec
from tests.bench.figures import KB, Figure, milliseconds, percentile
from tests.bench.ours.work import CALLER, Function, Work, chain_of, ended, latency, opened, output, step, stored_kb
from tests.bench.peers import workload
from tests.bench.peers.workload import State

WRITERS = 5  # nodes of the rollback's run that change files


async def branch(work: Work) -> list[Figure]:
    """A branch in the middle of a finished chain: how long it takes, what the database grows by, what is written.

    `branch_ms` is the median of `times` at a known position, after one that warms up; `branch_by_node_ms` that of
    branches at a node, whose position has to be found first. The branches are not started, so that only the branching
    is measured; `branch_kb` is the growth of the database, `branch_wal_kb` what went to the write-ahead log (whole
    pages, most of which the next checkpoint of the log merges).
    """
    log = work.directory / "omium.db-wal"
    async with opened(work, {"step": step()}, [chain_of(work.steps)]) as core:
        run = await core.run_workflow(CALLER, "chain", {"state": workload.initial_state(work)})
        await ended(core, run.id)
        node = f"node:n{work.middle}"
        warm = await core.branch(CALLER, run.id, node, name="warm", start=False)
        at = warm.run.parent_seq
        before = stored_kb(work)
        latencies = []
        for number in range(work.times):
            began = time.perf_counter()
            made = await core.branch(CALLER, run.id, at, name=f"b{number}", start=False)
            latencies.append(time.perf_counter() - began)
        stored = (stored_kb(work) - before) / work.times
        found = []
        for number in range(work.times):
            began = time.perf_counter()
            await core.branch(CALLER, run.id, node, name=f"n{number}", start=False)
            found.append(time.perf_counter() - began)
        empty_log(work)  # apart from what is timed: commits that make the log grow are slower
        for number in range(work.times):
            await core.branch(CALLER, run.id, at, name=f"w{number}", start=False)
        written = log.stat().st_size / KB / work.times
        # What a branch of the middle has is what its parent had there.
        view = await core.get_run(CALLER, made.run.id, detail=True)
        states = {one.id: one.status for one in view.nodes}
        assert states[f"n{work.middle}"] == "completed" != states[f"n{work.middle + 1}"], view.counts  # type: ignore[index]
    middle = milliseconds(percentile(latencies, 50)) or 0.0
    return [
        Figure("branch_ms", middle, "ms", middle, milliseconds(percentile(latencies, 95)), {"steps": work.steps}),
        Figure("branch_by_node_ms", milliseconds(percentile(found, 50)) or 0.0, "ms"),
        Figure("branch_kb", round(stored, 2), "KB"),
        Figure("branch_wal_kb", round(written, 1), "KB"),
    ]


def empty_log(work: Work) -> None:
    with closing(sqlite3.connect(work.database)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def fresh(work: Work, number: int) -> str:
    """`state_kb` KB of text that is new at each step and compresses by a quarter at most."""
    return b64encode(random.Random(number).randbytes(work.state_kb * KB * 3 // 4)).decode()


async def checkpoint(work: Work) -> list[Figure]:
    """Checkpoints of a large state: `save_ms` from the end of a node to the beginning of the next one, when the state
    that it gave is durable; `label_ms` to name the present position. Each of `times` states is new as a whole."""
    begun: list[float] = []
    given: list[float] = []
    texts = [fresh(work, number) for number in range(8)]

    async def renew(state: State) -> State:
        begun.append(time.perf_counter())
        number = state["n"]
        # A new text for the price of a join: another beginning, and another order of what follows.
        text = f"{number:012}" + texts[number % 8][12 + number :] + texts[number % 8][12 : 12 + number]
        given.append(time.perf_counter())
        return {"n": number + 1, "text": text}

    async with opened(work, {"step": renew}, [chain_of(work.times + 1)]) as core:
        run = await core.run_workflow(CALLER, "chain", {"state": {"n": 0, "text": texts[0]}})
        await ended(core, run.id)
        state = await output(core, run.id, f"n{work.times}")
        assert len(state["text"]) == work.state_kb * KB
        saves = [later - earlier for earlier, later in zip(given, begun[1:], strict=False)]
        labels = []
        for number in range(work.times):
            began = time.perf_counter()
            await core.checkpoint(CALLER, run.id, f"label-{number}")
            labels.append(time.perf_counter() - began)
    return [latency("save_ms", saves), latency("label_ms", labels)]


# --- rollback -----------------------------------------------------------------------------------------------------


def fill(directory: Path, work: Work) -> None:
    """`files` files of `file_kb` KB each, fifty to a directory."""
    for number in range(work.files):
        file = directory / f"d{number // 50:03}" / f"f{number:05}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(random.Random(number).randbytes(work.file_kb * KB))


def changed_files(directory: Path, work: Work) -> list[Path]:
    """The tenth of the files that the run changes, spread over all directories."""
    return sorted(directory.glob("d*/f*.bin"))[:: max(1, work.files // (work.files // 10 or 1))]


def writing(steps: int) -> WorkflowDef:
    """A chain, in the second half of which some nodes change files."""
    built = workflow("files")
    writers = {steps // 2 + 1 + number * (steps // 2 - 1) // WRITERS for number in range(WRITERS)}
    previous: Node | None = None
    for number in range(steps):
        name, given = f"n{number}", {"state": built.inputs.state if previous is None else previous.output}
        needs = [] if previous is None else [previous]
        if number == 0 or number in writers:
            use = "look" if number == 0 else "change"
            previous = built.function(name, use=use, with_=given, needs=needs, workspace="write")
        else:
            previous = built.function(name, use="step", with_=given, needs=needs)
    return built.build()


async def rollback(work: Work) -> list[Figure]:
    """A rollback to the middle of a finished run of `steps` nodes, over a workspace of which a tenth has changed since.

    Before it the workspace is set up from a directory of that size: `workspace_setup_s` is the first node, in which the
    files are copied and captured.
    """
    source = work.directory / "source"
    fill(source, work)
    places: list[Path] = []

    async def look(ctx: Any, state: State) -> State:
        places.append(ctx.workspace)
        return state

    async def change(ctx: Any, state: State) -> State:
        chosen = changed_files(ctx.workspace, work)
        part = state["n"] % WRITERS
        for file in chosen[part::WRITERS]:
            file.write_bytes(os.urandom(work.file_kb * KB))
        return {**state, "n": state["n"] + 1}

    async def same(state: State) -> State:
        return state

    functions: dict[str, Function] = {"look": look, "change": change, "step": same}
    spaces = {"files": WorkspaceSpec("directory", str(source))}
    async with opened(work, functions, [writing(work.steps)], workspaces=spaces) as core:
        began = time.perf_counter()
        run = await core.run_workflow(
            CALLER, "files", {"state": workload.initial_state(work)}, workspace="files", start=True
        )
        while not places:
            await anyio.sleep(0.002)
        setup = time.perf_counter() - began
        await ended(core, run.id)
        before = _contents(source, work)
        changed = _contents(places[0], work)
        assert len(changed) == work.files // 10 and all(changed[name] != before[name] for name in before)
        began = time.perf_counter()
        result = await core.rollback(CALLER, run.id, f"node:n{work.middle}")
        seconds = time.perf_counter() - began
        assert _contents(places[0], work) == before, "the files are not what they were"
        assert result.files_changed == work.files // 10, result
    detail = {"steps": work.steps, "files": work.files, "mb": work.files * work.file_kb / KB, "changed": len(changed)}
    return [
        Figure("rollback", round(seconds, 3), "s", detail=detail),
        Figure("workspace_setup", round(setup, 3), "s"),
    ]


def _contents(directory: Path, work: Work) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in changed_files(directory, work)}
