"""Many runs, long chains, wide fans: every cost is linear."""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest

from omium.orchestration.definition.build import workflow
from omium.orchestration.definition.model import WorkflowDef
from omium.orchestration.ids import RunId
from omium.orchestration.ports import RunQuery
from tests.integration.engine.worlds import ME, world

pytestmark = pytest.mark.anyio

FAN = """
name: fan
nodes:
- {id: l, kind: function, use: items, with: {n: "${{ inputs.n }}"}}
- {id: f, kind: function, use: add, for_each: {items: "${{ nodes.l.output }}"}, with: {x: "${{ item }}"}, needs: l}
"""


def chain(length: int) -> WorkflowDef:
    made = workflow(f"chain{length}")
    last = made.function("n0", use="echo", with_={"value": 1})
    for number in range(1, length):
        last = made.function(f"n{number}", use="echo", with_={"value": last.output}, needs=last)
    return made.build()


async def test_a_thousand_runs_at_once(tmp_path: Path) -> None:
    flow = "{name: three, nodes: [{id: a, kind: function, use: echo}, {id: b, kind: function, use: echo, needs: a}]}"
    async with world(tmp_path, flow) as w:
        runs: list[RunId] = []

        async def start() -> None:
            runs.append(await w.run("three"))

        async with anyio.create_task_group() as tasks:
            for _ in range(1000):
                tasks.start_soon(start)
        with anyio.fail_after(120):
            while len(await w.machine.store.runs(RunQuery(statuses=("completed",), limit=2000))) < 1000:
                await anyio.sleep(0.05)
        await w.idle()
        assert len(w.calls) == 2000
        assert len({(call.run, call.node) for call in w.calls}) == 2000


async def took(w: object, run: RunId) -> None:
    """Until the run has ended, without reading it again and again."""
    view = await w.core.wait(ME, run, 120)  # type: ignore[attr-defined]
    assert view.status == "completed"


async def test_ten_times_the_chain_takes_no_more_than_its_share(tmp_path: Path) -> None:
    async with world(tmp_path, chain(1_000), chain(10_000)) as w:
        seconds: dict[int, float] = {}  # of the processor: others may be busy
        for length in (1_000, 10_000):
            began = time.process_time()
            await took(w, await w.run(f"chain{length}"))
            seconds[length] = time.process_time() - began
        assert w.called() == [f"n{n}" for n in range(1_000)] + [f"n{n}" for n in range(10_000)]
        assert seconds[10_000] < 30 * seconds[1_000], seconds  # quadratic would be a hundred times


async def test_ten_times_the_width_takes_no_more_than_its_share(tmp_path: Path) -> None:
    async with world(tmp_path, FAN) as w:
        seconds: dict[int, float] = {}
        for width in (1_000, 10_000):
            began = time.process_time()
            await took(w, await w.run("fan", {"n": width}))
            seconds[width] = time.process_time() - began
        assert len(w.calls) == 11_002
        assert seconds[10_000] < 30 * seconds[1_000], seconds
