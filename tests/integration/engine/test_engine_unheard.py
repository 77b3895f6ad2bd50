"""Answers of the store that are lost: the commit took place, and whoever asked for it was told that nobody knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError, Unheard
from omium.orchestration.ids import RunId, WorkerId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Attempt, RunQuery, Write, Written
from omium.storage.listening import Listeners
from tests.integration.engine.worlds import ME, Store, eventually, world

pytestmark = pytest.mark.anyio

ONE = "{name: one, nodes: [{id: a, kind: function, use: hold, with: {name: a, value: 1}}]}"
TWO = """
name: two
nodes:
- {id: a, kind: function, use: echo, with: {value: 1}}
- {id: b, kind: function, use: hold, on_unknown: ask, with: {name: b, value: 2}, needs: a}
"""
SPENDS = "{name: spends, nodes: [{id: a, kind: function, use: spend}]}"
PARENT = "{name: parent, nodes: [{id: sub, kind: workflow, use: one}]}"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("execution", "writing"):
        monkeypatch.setattr(f"omium.orchestration.engine.{module}.PAUSE_S", 0.001)
    monkeypatch.setattr("omium.orchestration.engine.children._RETRY_S", 0.001)


class Unanswered:
    """The first call of a method of all stores that is `meant` takes place, and its answer is lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, meant: Callable[..., bool]) -> None:
        self.left = 1
        original = getattr(Store, name)

        async def method(store: Store, *args: Any, **more: Any) -> Any:
            answer = await original(store, *args, **more)
            if self.left and meant(answer, *args):
                self.left = 0
                raise OmiumError("storage_unavailable", "the line was cut.", outcome="unknown")
            return answer

        monkeypatch.setattr(Store, name, method)


def _creates(workflow: str) -> Callable[..., bool]:
    def meant(_: Any, write: Any) -> bool:
        return isinstance(write.commands[0], c.CreateRun) and write.commands[0].workflow == workflow

    return meant


async def test_a_claim_whose_answer_is_lost_does_not_keep_the_run_from_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, ONE) as w:
        unheard = Unanswered(monkeypatch, "claim", lambda claimed, *_: bool(claimed))
        run = await w.run("one", start=False)
        await w.core.resume(ME, run)
        await w.entered("a")
        w.let_go("a")
        await w.finished(run)
        assert not unheard.left and w.called() == ["a"]
        await w.idle()


@pytest.mark.parametrize("key", [None, "k1"])
async def test_a_run_whose_creation_is_not_heard_of_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    async with world(tmp_path, ONE) as w:
        Unanswered(monkeypatch, "write", _creates("one"))
        w.let_go("a")
        with pytest.raises(OmiumError, match="the line was cut"):
            await w.run("one", idempotency_key=key)
        [row] = await w.machine.store.runs(RunQuery())
        if key is not None:
            assert await w.run("one", idempotency_key=key) == row.id
        await w.finished(row.id)
        assert w.called() == ["a"]
        await w.idle()


async def test_a_child_whose_creation_is_not_heard_of_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, ONE, PARENT) as w:
        unheard = Unanswered(monkeypatch, "write", _creates("one"))
        w.let_go("a")
        await w.finished(await w.run("parent"))
        assert not unheard.left and w.called() == ["a"]


def _compares(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
    """Gives what waits until what the worker owns has been compared twice from then on."""
    looks, original = [0], Store.claimed_by

    async def claimed_by(store: Store, worker: WorkerId) -> Any:
        found = await original(store, worker)
        looks[0] += 1
        return found

    monkeypatch.setattr(Store, "claimed_by", claimed_by)

    async def twice() -> None:
        until = looks[0] + 3  # one may be under way
        await eventually(lambda: looks[0] >= until)

    return twice


async def test_a_claim_that_is_being_answered_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, ONE) as w:
        compared, original, slow = _compares(monkeypatch), Store.claim, anyio.Event()

        async def claim(store: Store, *args: Any) -> Any:
            claimed = await original(store, *args)
            if claimed:
                slow.set()
                await compared()
            return claimed

        monkeypatch.setattr(Store, "claim", claim)
        run = await w.run("one", start=False)
        await w.core.resume(ME, run)
        await slow.wait()
        await w.entered("a")
        assert [one.fence for one in await w.machine.store.claimed_by(w.machine.engine.worker)] == [1]
        w.let_go("a")
        await w.finished(run)


async def test_a_creation_that_is_being_answered_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, ONE) as w:
        compared, original = _compares(monkeypatch), Store.write

        async def write(store: Store, what: Any) -> Any:
            written = await original(store, what)
            if isinstance(what.commands[0], c.CreateRun):
                await compared()
            return written

        monkeypatch.setattr(Store, "write", write)
        run = await w.run("one")
        await w.entered("a")
        assert [one.fence for one in await w.machine.store.claimed_by(w.machine.engine.worker)] == [1]
        w.let_go("a")
        await w.finished(run)


async def test_a_run_that_history_holds_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path, ONE) as w:
        compared = _compares(monkeypatch)
        run: RunId = await w.run("one", start=False)
        async with w.core._ground.held(run) as held:
            assert held
            await compared()
            assert await w.machine.store.take(WorkerId("other"), run) is None
        assert await w.machine.store.take(WorkerId("other"), run) is not None


class Lost:
    """The first write with a command of this kind takes place, which nobody hears of; and the next is not made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, node: str | None = None) -> None:
        self.left, self._muted = 2, False
        original, tell = Store.write, Listeners.tell

        async def write(store: Store, what: Write) -> Written:
            meant = any(type(one) is kind and node in (None, getattr(one, "node", None)) for one in what.commands)
            if not self.left or not meant:
                return await original(store, what)
            self.left -= 1
            if not self.left:
                raise OmiumError("storage_unavailable", "the database is away.")
            self._muted = True
            written = await original(store, what)
            self._muted = False
            raise Unheard("the line was cut.", "", written.events)

        monkeypatch.setattr(Store, "write", write)
        monkeypatch.setattr(Listeners, "tell", lambda one, heard: None if self._muted else tell(one, heard))


async def test_a_node_whose_start_was_not_heard_of_starts_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, TWO) as w:
        lost = Lost(monkeypatch, c.StartNode, "b")
        run = await w.run("two")
        await w.entered("b")
        assert not lost.left and w.called() == ["a", "b"]
        w.let_go("b")
        view = await w.finished(run)
        assert view.output == {"b": 2}
        assert await w.log(run, "b") == ["node.started", "node.completed"]
        assert "approval.requested" not in await w.log(run)


async def test_what_a_call_has_cost_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def spend(attempt: Attempt) -> int:
        held = await attempt.reserve("a model", tokens=10, usd=0.5)
        await held.settle(tokens=10, usd=0.5, model="big")
        await attempt.keep({"said": "hello"})
        return 1

    async with world(tmp_path, SPENDS, functions={"spend": spend}) as w:
        lost = Lost(monkeypatch, c.NoteUsage)
        run = await w.run("spends")
        await w.finished(run)
        assert not lost.left and w.called() == ["a"]
        assert (await w.log(run)).count("node.usage") == 1
        row = await w.machine.store.run(run)
        assert row is not None and (row.tokens, row.cost_usd) == (10, 0.5)


async def test_the_end_of_a_child_that_was_not_heard_of_is_told_to_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, ONE, PARENT) as w:
        lost = Lost(monkeypatch, c.CompleteRun)
        w.let_go("a")
        run = await w.run("parent")
        await w.finished(run)
        assert not lost.left and w.called() == ["a"]
        await w.idle()
