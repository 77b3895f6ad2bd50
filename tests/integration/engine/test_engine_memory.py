"""What a run had in memory goes with its last reference: a collector that comes seldom holds nothing back."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.engine.execution import Execution
from tests.integration.engine.worlds import ME, world

pytestmark = pytest.mark.anyio


class Held:
    """Stands for what a node's code has in its hands."""


@contextmanager
def nobody_collects() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left() -> list[str]:
    """What should be gone and is not."""
    return [type(one).__name__ for one in gc.get_objects() if type(one) in (Execution, Held)]


async def _works(_attempt: Any, value: Any = None) -> Any:
    held = Held()
    return value if held is not None else None


async def _breaks(_attempt: Any, value: Any = None) -> Any:
    held = Held()
    raise ValueError(f"{value} and {type(held).__name__}")


FLOWS = {
    "ends": "- {id: a, kind: function, use: works}\n- {id: b, kind: function, use: works, needs: a}",
    "fans": "- {id: a, kind: function, use: works, for_each: [1, 2, 3], with: {value: '${{ item }}'}}",
    "fails": "- {id: a, kind: function, use: breaks}",
    "retries": "- {id: a, kind: function, use: breaks, retry: {max_attempts: 2, initial: 0}}",
    "expects": "- {id: a, kind: function, use: works, with: {value: 1}, expects: [output == 2]}",
    "stops": "- {id: a, kind: function, use: hold, with: {name: never}, timeout: 0.001}",
}


@pytest.mark.parametrize("flow", FLOWS)
async def test_nothing_of_a_run_is_left_when_it_has_ended(tmp_path: Path, flow: str) -> None:
    text = f"name: flow\nnodes:\n{FLOWS[flow]}\n"
    async with world(tmp_path, text, functions={"works": _works, "breaks": _breaks}) as w:
        with nobody_collects():
            run = await w.run("flow")
            await w.finished(run, "completed" if flow in ("ends", "fans") else "failed")
            await w.idle()
            assert left() == []


async def test_nothing_of_a_run_is_left_when_it_was_cancelled(tmp_path: Path) -> None:
    flow = "name: flow\nnodes:\n- {id: a, kind: function, use: hold, with: {name: never}}\n"
    async with world(tmp_path, flow) as w:
        with nobody_collects():
            run = await w.run("flow")
            await w.entered("never")
            await w.core.cancel(ME, run)
            await w.finished(run, "cancelled")
            await w.idle()
            assert left() == []
