"""Operations of history whose sub-runs go on between their plan and their write, and after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.history import branching, playing, rollback
from omium.orchestration.ids import RunId
from omium.orchestration.log.state import RunStatus
from omium.orchestration.ports import Attempt, RunQuery
from tests.integration.engine.worlds import ME, World, world

pytestmark = pytest.mark.anyio

PAYS = """
name: pays
nodes:
- {id: h1, kind: function, use: hold, with: {name: h1}}
- {id: p, kind: function, use: pay, needs: h1}
- {id: h2, kind: function, use: hold, with: {name: h2}, needs: p}
"""
LATER = """
name: later
nodes:
- {id: first, kind: function, use: hold, with: {name: first}}
- {id: s, kind: workflow, use: pays, needs: first}
"""
TOP = """
name: top
nodes:
- {id: a, kind: function, use: echo, with: {value: 1}}
- {id: s, kind: workflow, use: %s, needs: a}
"""


class Shop:
    """Where sub-runs pay. `unseen`: with calls that count, each of them."""

    def __init__(self, unseen: bool = True) -> None:
        self.paid: list[RunId] = []
        self._kind = "effect" if unseen else "tool"

    async def pay(self, attempt: Attempt) -> Any:
        async def act() -> str:
            self.paid.append(attempt.run_id)
            return "paid"

        how = "ask" if self._kind == "effect" else "rerun"
        return await attempt.effect("pay", act, kind=self._kind, on_unknown=how)


def once(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, then: Callable[[], Awaitable[Any]]) -> Any:
    """Have something happen once a plan is made, the first time. The plans."""
    real, planned = getattr(module, name), []

    async def plan(*args: Any, **more: Any) -> Any:
        planned.append(await real(*args, **more))
        if len(planned) == 1:
            await then()
        return planned[-1]

    monkeypatch.setattr(module, name, plan)
    return planned


OPERATIONS: dict[str, tuple[ModuleType, str]] = {
    "rollback": (rollback, "plan_rollback"),
    "play_from_node": (playing, "plan_play"),
    "branch": (branching, "draft_fork"),
}


async def act(w: World, operation: str, run: RunId, token: str | None = None) -> Any:
    if operation == "rollback":
        return await w.core.rollback(ME, run, "node:a", plan_token=token)
    if operation == "play_from_node":
        return await w.core.play_from_node(ME, run, "s", plan_token=token)
    return await w.core.branch(ME, run, "before:s", name="b", plan_token=token)


async def preview(w: World, operation: str, run: RunId) -> str:
    if operation == "rollback":
        return (await w.core.preview_rollback(ME, run, "node:a")).plan_token
    if operation == "play_from_node":
        return (await w.core.preview_play_from(ME, run, "s")).plan_token
    return (await w.core.preview_branch(ME, run, "before:s")).plan_token


@pytest.mark.parametrize("with_token", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("first", ["h1", "first"], ids=["of-one-that-is-known", "of-one-that-is-started-meanwhile"])
async def test_a_call_that_a_sub_run_makes_once_it_is_planned_is_not_repeated_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, with_token: bool, first: str
) -> None:
    shop, top = Shop(), TOP % ("pays" if first == "h1" else "later")
    async with world(tmp_path, PAYS, LATER, top, functions={"pay": shop.pay}) as w:
        run = await w.run("top")
        await w.entered(first)

        async def pays() -> None:
            for name in dict.fromkeys((first, "h1")):
                await w.entered(name)
                w.let_go(name)
            await w.entered("h2")

        token = await preview(w, operation, run) if with_token else None
        once(monkeypatch, *OPERATIONS[operation], pays)
        with pytest.raises(OmiumError) as refused:
            await act(w, operation, run, token)
        assert refused.value.code == ("plan_expired" if with_token else "plan_required")
        state = await w.machine.store.state(run)
        assert (state.generation, state.branches, len(shop.paid)) == (0, {}, 1)
        assert await w.machine.store.run(shop.paid[0]) is not None
        await w.core.cancel(ME, run)


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_calls_of_sub_runs_that_may_be_repeated_are_no_reason_to_plan_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    shop = Shop(unseen=False)
    async with world(tmp_path, PAYS, TOP % "pays", functions={"pay": shop.pay}) as w:
        run = await w.run("top")
        await w.entered("h1")

        async def pays() -> None:
            w.let_go("h1")
            await w.entered("h2")

        planned = once(monkeypatch, *OPERATIONS[operation], pays)
        await act(w, operation, run)
        assert (len(planned), len(shop.paid)) == (1, 1)
        for row in await w.machine.store.runs(RunQuery(top=True)):
            if row.ended_at is None:
                await w.core.cancel(ME, row.id)


@pytest.mark.parametrize("first", ["h1", "first"], ids=["one-that-is-known", "one-that-is-started-meanwhile"])
@pytest.mark.parametrize("operation", ["rollback", "play_from_node"])
async def test_sub_runs_of_what_is_reset_end_with_the_very_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, first: str
) -> None:
    """Otherwise they could go on to calls that nobody has seen, until they are cancelled."""
    shop, top = Shop(), TOP % ("pays" if first == "h1" else "later")
    async with world(tmp_path, PAYS, LATER, top, functions={"pay": shop.pay}) as w:
        run, store = await w.run("top"), w.machine.store
        await w.entered(first)
        written = store.write

        async def starts() -> None:
            if first == "first":
                w.let_go("first")
                await w.entered("h1")

        async def write(one: Any) -> Any:
            before = {row.id for row in await store.runs(RunQuery()) if row.caller_run is not None}
            done = await written(one)
            if one.below is not None:  # what is played again starts others by now
                below = [row for row in await store.runs(RunQuery()) if row.id in before]
                assert [row.status for row in below] == [RunStatus.CANCELLED] * (1 if first == "h1" else 2)
                assert {row.reason for row in below} >= {f"the node s of {run} was reset"}
            return done

        planned = once(monkeypatch, *OPERATIONS[operation], starts)
        monkeypatch.setattr(store, "write", write)
        await act(w, operation, run)
        assert (len(planned), (await store.state(run)).generation, shop.paid) == (1, 1, [])
        await w.core.cancel(ME, run)


@pytest.mark.parametrize("operation", ["rollback", "play_from_node"])
async def test_a_sub_run_that_is_created_once_it_is_planned_ends_with_the_very_write_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    shop = Shop()
    async with world(tmp_path, PAYS, TOP % "pays", functions={"pay": shop.pay}) as w:
        store, children = w.machine.store, w.machine.engine.children
        named, planned, written, create = anyio.Event(), anyio.Event(), store.write, children._create
        ids: list[RunId] = []  # the first of them is what the operation ends

        async def created(parent: Any, node_id: Any, child: RunId, *args: Any) -> None:
            ids.append(child)
            named.set()
            await planned.wait()
            await create(parent, node_id, child, *args)

        async def begins() -> None:
            planned.set()
            await w.entered("h1")

        async def write(one: Any) -> Any:
            done = await written(one)
            if one.below is not None:
                below = await store.run(ids[0])
                assert below is not None and below.status == RunStatus.CANCELLED
            return done

        monkeypatch.setattr(children, "_create", created)
        once(monkeypatch, *OPERATIONS[operation], begins)
        run = await w.run("top")
        await named.wait()
        monkeypatch.setattr(store, "write", write)
        await act(w, operation, run)
        assert ((await store.state(run)).generation, shop.paid) == (1, [])
        await w.core.cancel(ME, run)
