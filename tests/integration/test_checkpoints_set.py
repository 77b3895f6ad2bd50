"""Checkpoints that functions set themselves, in runs: on every host, gone back to, and not to be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from omium.clients.executors import FunctionExecutor
from omium.clients.functions import CheckpointError, checkpoint
from omium.orchestration.errors import OmiumError
from omium.orchestration.log import commands as c
from omium.orchestration.log.events import Event
from omium.orchestration.log.events import EventType as E
from omium.orchestration.ports import Write
from omium.orchestration.service.catalog import FunctionSpec
from omium.server.app import open_omium
from omium.storage.maintenance import keeper, rebuild
from tests.integration.engine.worlds import ME, World, world
from tests.project_help import all_events, caller, config_of, node, write_project

pytestmark = pytest.mark.anyio

# --- every host, with processes as the product has them -------------------------------------------------------------

WORK = """
import random
from pathlib import Path
from omium.clients.functions import checkpoint

HERE = Path(__file__).parent

def first():
    if (HERE / "broken").exists():
        raise ConnectionError("refused")

@checkpoint("charge", validate=lambda receipt: receipt["paid"] > 0, note="before money moves")
def charge(items, amount):
    items.append("spoilt")
    first()
    return {"paid": amount, "items": items}

@checkpoint("acharge")
async def acharge(items, amount):
    items.append("spoilt")
    first()
    return {"paid": amount, "items": items}

def sync(ctx, n):
    return charge([n], random.random())

async def awaited(ctx, n):
    return await acharge([n], random.random())

async def inside(n):
    return charge([n], random.random())

def blocks(n):
    with checkpoint("block", state={"seen": []}) as point:
        if not point.restored:
            point.update_state(seen=[random.random()])
        first()
        return {"paid": point.state["seen"][0], "items": [n, "spoilt"]}

async def ablocks(n):
    async with checkpoint("block", state={"seen": []}) as point:
        if not point.restored:
            await point.update_state(seen=[random.random()])
        first()
        return {"paid": point.state["seen"][0], "items": [n, "spoilt"]}
"""

HOSTS = {
    "sync": "{ref: 'MODULE:sync'}",
    "in_thread": "{ref: 'MODULE:sync', host: thread}",
    "async_there": "{ref: 'MODULE:awaited'}",
    "async_here": "{ref: 'MODULE:awaited', host: async}",
    "sync_on_the_loop": "{ref: 'MODULE:inside', host: async}",
    "blocks": "{ref: 'MODULE:blocks'}",
    "ablocks": "{ref: 'MODULE:ablocks', host: async}",
}


@pytest.mark.parametrize("use", HOSTS)
async def test_the_run_goes_back_to_what_the_call_was_given(tmp_path: Path, use: str) -> None:
    module = f"points_{use}"  # what this process has loaded stays
    project = f"project: demo\nfunctions:\n  {use}: {HOSTS[use].replace('MODULE', module)}\n"
    write_project(tmp_path, {"w": [node("n", use, with_={"n": 1})]}, project)
    (tmp_path / f"{module}.py").write_text(WORK)
    (tmp_path / "broken").touch()
    config = config_of(tmp_path)
    me = caller(config)
    async with open_omium(config) as core:
        with anyio.fail_after(60):
            run = await core.run_workflow(me, "w")
            run = await core.wait(me, run.id, 60)
            assert run.status == "failed"
            events = await all_events(core, run.id)
            points = [event.data for event in events if event.type is E.CHECKPOINT_CREATED]
            before = points[-1]
            [ended] = [event.data for event in events if event.type is E.CHECKPOINT_ENDED]
            assert (ended["outcome"], ended["error"]["type"]) == ("failed", "builtins.ConnectionError")
            held = await core.store.value(before["state"])
            assert held == ({"seen": held["seen"]} if "block" in use else {"items": [1], "amount": held["amount"]})
            view = (await core.list_checkpoints(me, run.id)).checkpoints
            assert [(one.label, one.node) for one in view if one.label] == [(one["label"], "n") for one in points[::-1]]
            (tmp_path / "broken").unlink()
            await core.rollback(me, run.id, before["label"])
            await core.resume(me, run.id)
            run = await core.wait(me, run.id, 60, detail=True)
        drawn = held["seen"][0] if "block" in use else held["amount"]
        assert run.output == {"n": {"paid": drawn, "items": [1, "spoilt"]}}


# --- the engine, with functions of this process --------------------------------------------------------------------


class Clerk:
    """A function whose argument differs from call to call, and that fails as often as it is told."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.amount = 0
        self.given: list[int] = []

    async def work(self) -> int:
        self.amount += 1
        return await self.charge(self.amount)

    @checkpoint("charge")
    async def charge(self, amount: int) -> int:
        self.given.append(amount)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("refused")
        return amount


def of(world: World, **functions: Any) -> None:
    """Have these run by the executor of the product, in this process."""
    specs = {name: FunctionSpec(name, f"tests:{name}", "async") for name in functions}
    executors: Any = world.machine.engine._executors
    executors["function"] = FunctionExecutor(specs, callables=functions)


async def points_of(w: World, run: Any) -> list[Event]:
    return [event for event in await w.events(run) if event.type is E.CHECKPOINT_CREATED]


async def test_a_rule_takes_the_run_back_to_the_arguments_of_the_call(tmp_path: Path) -> None:
    clerk = Clerk(2)
    flow = "{name: w, on_failure: {do: rollback, to: charge, max: 2}, nodes: [{id: n, kind: function, use: work}]}"
    async with world(tmp_path, flow, functions={"work": clerk.work}) as w:
        of(w, work=clerk.work)
        run = await w.run("w")
        assert (await w.finished(run)).output == {"n": 1}
        assert (clerk.amount, clerk.given) == (3, [1, 1, 1])
        assert (await rebuild(keeper(w.machine.store))).runs == 1
        state = (await w.machine.store.state(run)).nodes["n"]  # type: ignore[index]
        assert (state.points, state.restored) == (None, None)


async def test_a_retry_is_given_what_it_passes_itself(tmp_path: Path) -> None:
    clerk = Clerk(1)
    flow = "{name: w, nodes: [{id: n, kind: function, use: work, retry: {max_attempts: 2, initial: 0}}]}"
    async with world(tmp_path, flow, functions={"work": clerk.work}) as w:
        of(w, work=clerk.work)
        run = await w.run("w")
        await w.finished(run)
        assert clerk.given == [1, 2]
        assert [event.data["attempt"] for event in await points_of(w, run)] == [1, 2]


async def test_the_same_label_again_is_another_checkpoint_and_each_gets_its_own_back(tmp_path: Path) -> None:
    given: list[Any] = []
    broken = True

    @checkpoint("step")
    async def step(value: str) -> None:
        given.append(value)
        if value.startswith("third") and broken:
            raise ConnectionError("refused")

    async def work() -> None:
        nth = len(given)
        for name in ("first", "second", "third"):
            await step(f"{name} {nth}")

    flow = "{name: w, nodes: [{id: n, kind: function, use: work}]}"
    async with world(tmp_path, flow, functions={"work": work}) as w:
        of(w, work=work)
        run = await w.run("w")
        await w.finished(run, "failed")
        second = (await points_of(w, run))[1]
        broken = False
        await w.core.rollback(ME, run, int(second.data["at"]))
        await w.core.resume(ME, run)
        await w.finished(run)
    assert given == ["first 0", "second 0", "third 0", "first 0", "second 0", "third 3"]


async def test_one_machine_goes_back_to_what_another_recorded_also_twice(tmp_path: Path) -> None:
    clerk = Clerk(9)
    flow = "{name: w, nodes: [{id: n, kind: function, use: work}]}"
    async with world(tmp_path, flow, functions={"work": clerk.work}) as w:
        of(w, work=clerk.work)
        run = await w.run("w")
        await w.finished(run, "failed")
        assert len(await points_of(w, run)) == 1
        await w.crash(w.machine)
        await w.start()
        of(w, work=clerk.work)
        await w.core.rollback(ME, run, "charge")
        await w.core.rollback(ME, run, int((await w.machine.store.state(run)).seq))  # and to where that landed
        clerk.failures = 0
        await w.core.resume(ME, run)
        assert (await w.finished(run)).output == {"n": 1}


async def test_a_function_that_works_in_a_thread_of_its_node(tmp_path: Path) -> None:
    @checkpoint("there")
    def there(x: int) -> int:
        return x + 1

    async def work() -> int:
        return await anyio.to_thread.run_sync(there, 1)

    flow = "{name: w, nodes: [{id: n, kind: function, use: work}]}"
    async with world(tmp_path, flow, functions={"work": work}) as w:
        of(w, work=work)
        run = await w.run("w")
        assert (await w.finished(run)).output == {"n": 2}
        log = await w.log(run)
        assert log.index("checkpoint.created") < log.index("checkpoint.ended") < log.index("node.completed")


@pytest.mark.parametrize("kind", [c.SetPoint, c.EndPoint])
async def test_a_log_that_cannot_be_written_is_no_secret(tmp_path: Path, kind: type) -> None:
    seen: list[OmiumError] = []

    async def work() -> int:
        try:
            async with checkpoint("phase", state={"n": 1}):
                return 1
        except CheckpointError as error:
            seen.append(error)
            raise

    flow = "{name: w, nodes: [{id: n, kind: function, use: work}]}"
    async with world(tmp_path, flow, functions={"work": work}) as w:
        of(w, work=work)

        async def full(write: Write) -> None:
            if any(isinstance(one, kind) for one in write.commands):
                raise OmiumError("integrity", "the disk lies.")

        w.machine.store.before_write = full
        run = await w.run("w")
        await w.finished(run, "failed")
    assert seen[0].code == "integrity" and isinstance(seen[0].__cause__, OmiumError)


@pytest.mark.parametrize("label", ["412", "start", "a@b", "node:x", "two\nlines", ""])
async def test_a_label_that_would_read_as_something_else_is_refused(tmp_path: Path, label: str) -> None:
    async def work() -> None:
        async with checkpoint(label):
            raise AssertionError("not reached")

    flow = "{name: w, nodes: [{id: n, kind: function, use: work}]}"
    async with world(tmp_path, flow, functions={"work": work}) as w:
        of(w, work=work)
        run = await w.run("w")
        view = await w.finished(run, "failed")
        assert view.error is not None and "could not be recorded" in view.error["message"]
        assert not await points_of(w, run)


async def test_a_checkpoint_that_is_written_later_is_there_when_the_call_fails(tmp_path: Path) -> None:
    @checkpoint("soon")
    def soon(x: int) -> None:
        raise ConnectionError("refused")

    async def work() -> None:
        soon(1)

    flow = "{name: w, nodes: [{id: n, kind: function, use: work}]}"
    async with world(tmp_path, flow, functions={"work": work}) as w:
        of(w, work=work)
        run = await w.run("w")
        await w.finished(run, "failed")
        log = await w.log(run)
        assert log.index("checkpoint.created") < log.index("checkpoint.ended") < log.index("node.attempt_failed")


async def test_a_checkpoint_of_which_the_content_is_damaged_cannot_be_gone_back_to(tmp_path: Path) -> None:
    clerk = Clerk(1)
    flow = "{name: w, nodes: [{id: n, kind: function, use: work}]}"
    async with world(tmp_path, flow, functions={"work": clerk.work}) as w:
        of(w, work=clerk.work)
        run = await w.run("w")
        await w.finished(run, "failed")
        [point] = await points_of(w, run)
        value, store = w.machine.store.value, w.machine.store

        async def damaged(digest: Any) -> Any:
            if digest == point.data["state"]:
                raise OmiumError("integrity", "the bytes do not match.")
            return await value(digest)

        store.value = damaged  # type: ignore[method-assign]
        with pytest.raises(OmiumError) as refused:
            await w.core.rollback(ME, run, "charge")
        assert refused.value.code == "integrity" and "charge#1" in refused.value.message
        await w.core.rollback(ME, run, "start")


async def test_a_compensation_may_call_what_has_a_checkpoint(tmp_path: Path) -> None:
    undone: list[str] = []

    @checkpoint("inner")
    async def inner(node: str) -> None:
        undone.append(node)

    async def undo(**told: Any) -> None:
        await inner(told["node"])

    async def work() -> int:
        return 1

    flow = "{name: w, nodes: [{id: n, kind: function, use: work, compensate: undo}]}"
    async with world(tmp_path, flow, functions={"work": work, "undo": undo}) as w:
        of(w, work=work, undo=undo)
        run = await w.run("w")
        await w.finished(run)
        plan = await w.core.preview_rollback(ME, run, "start")
        back = await w.core.rollback(ME, run, "start", plan_token=plan.plan_token)
        assert ([one.compensated for one in back.undone], undone) == (["done"], ["n"])
        assert not await points_of(w, run)
