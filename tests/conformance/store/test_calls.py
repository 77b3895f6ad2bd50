"""Two engines on one database: the end of a child run reaches its parent whoever owns that, and whenever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from omium.orchestration.definition.load import load_workflow
from omium.orchestration.engine.engine import Engine, EngineConfig
from omium.orchestration.ids import Principal, RunId
from omium.orchestration.ports import Attempt, Done, WorkerRow
from omium.orchestration.service.catalog import Catalog, FunctionSpec
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.orchestration.values import Value
from tests.conformance.store.databases import AnyStore, Database

pytestmark = pytest.mark.anyio
ME = Caller(Principal("user:ada"))
CHILD = "{name: child, nodes: [{id: a, kind: function, use: hold}]}"
PARENT = "{name: parent, nodes: [{id: sub, kind: workflow, use: child}]}"
CATALOG = Catalog(
    functions={"hold": FunctionSpec("hold", "tests:hold", "async")},
    workflows={one.name: one for one in map(load_workflow, (CHILD, PARENT))},
)


class Holding:
    """Runs the child's node when the test lets it."""

    def __init__(self) -> None:
        self.begun, self.go = anyio.Event(), anyio.Event()

    def digest(self, use: str) -> str:
        return use

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        self.begun.set()
        await self.go.wait()
        return Done("done")


class Alive:
    def __init__(self, pid: int) -> None:
        self._pid = pid

    def this(self) -> tuple[str, str, int, float]:
        return ("here", "boot", self._pid, 0.0)

    def alive(self, worker: WorkerRow) -> bool | None:
        return True

    def kill(self, worker: WorkerRow) -> None:
        raise AssertionError("nobody is to be killed")


def engine_on(store: AnyStore, pid: int, clock: Any, held: Holding) -> tuple[Core, Engine]:
    core = Core(store, CATALOG, clock=clock)
    engine = Engine(
        store,
        {"function": held},
        processes=Alive(pid),
        create_child=core.create_child,
        check_names=core.check_names,
        config=EngineConfig(runs=1),
        clock=clock,
    )
    core.bind(engine)
    return core, engine


async def test_an_end_that_comes_while_the_parent_is_given_up_is_not_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the minute after which a parent looks by itself: the clock stands still."""
    clock, held = database.clock, Holding()
    ours, theirs = await database.open(), await database.open()
    core, first = engine_on(ours, 1, clock, held)
    _, second = engine_on(theirs, 2, clock, held)
    give_up, woken, told = ours.release, theirs.wake, anyio.Event()
    given_up: list[RunId] = []

    async def release(run_id: RunId, *arguments: Any) -> bool:
        if not given_up:  # the parent, which has seen that its child goes on
            given_up.append(run_id)
            held.go.set()
            await told.wait()
        return await give_up(run_id, *arguments)

    async def wake(run_ids: list[RunId], at_us: int) -> None:
        await woken(run_ids, at_us)
        if given_up and given_up[0] in run_ids:
            told.set()

    monkeypatch.setattr(ours, "release", release)
    monkeypatch.setattr(ours, "wake", _nothing)  # what its own process hears is not what is tested
    monkeypatch.setattr(theirs, "wake", wake)
    with anyio.fail_after(20):
        async with first:
            parent = (await core.run_workflow(ME, "parent")).id
            async with second:
                await held.begun.wait()
                ended = await core.wait(ME, parent, 15)
    assert given_up[0] == parent
    assert (ended.status, ended.counts) == ("completed", {"completed": 1})


async def _nothing(*arguments: Any, **named: Mapping[str, Any]) -> None:
    """A word that is not said."""
