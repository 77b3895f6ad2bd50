"""Trouble that is no node's own: a bug, a database that is away. One run's never becomes another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.engine.values import ValueCache
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest
from omium.orchestration.values import encode
from tests.integration.engine.worlds import Functions, Store, eventually, world

pytestmark = pytest.mark.anyio

TWO = """
name: two
nodes:
- {id: a, kind: function, use: echo, with: {value: "${{ inputs.v }}"}}
- {id: b, kind: function, use: hold, with: {name: b, value: "${{ nodes.a.output }}"}, needs: a}
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("execution", "writing"):
        monkeypatch.setattr(f"omium.orchestration.engine.{module}.PAUSE_S", 0.001)
    monkeypatch.setattr("omium.orchestration.engine.values._PAUSES_S", (0.001, 0.001))


class Away:
    """A method of all stores that fails some times, and then works again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, times: int) -> None:
        self.left = times
        original = getattr(Store, name)

        async def method(store: Store, *args: Any, **more: Any) -> Any:
            if self.left:
                self.left -= 1
                raise OmiumError("storage_unavailable", "the database is locked.")
            return await original(store, *args, **more)

        monkeypatch.setattr(Store, name, method)


async def test_a_bug_that_is_met_in_one_run_ends_that_run_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(self: Functions, use: str) -> str:
        if use == "boom":
            raise RuntimeError("a bug")
        return use

    monkeypatch.setattr(Functions, "digest", digest)
    cursed = "{name: cursed, nodes: [{id: a, kind: function, use: boom}, {id: h, kind: function, use: echo}]}"
    async with world(tmp_path, TWO, cursed) as w:
        good = await w.run("two", {"v": 1})
        await w.entered("b")
        view = await w.finished(await w.run("cursed"), "failed")
        assert view.error is not None and view.error["message"] == "a bug"
        w.let_go("b")
        await w.finished(good)
        await w.idle()
        assert w.machine.engine.queue.process.used == 0


@pytest.mark.parametrize("method", ["state", "heads", "value", "release", "claim", "next_wake"])
async def test_reads_and_releases_that_fail_for_a_moment_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    async with world(tmp_path, TWO) as w:
        run = await w.run("two", {"v": 1})
        await w.entered("b")
        await w.crash(w.machine)
        w.let_go("b")
        away = Away(monkeypatch, method, 1 if method == "heads" else 2)
        await w.start()
        await eventually(lambda: not away.left)
        view = await w.finished(run)
        assert view.output == {"b": 1}


async def test_a_database_that_is_away_for_long_leaves_the_run_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path, TWO) as w:
        run = await w.run("two", {"v": list(range(100))})
        await w.entered("b")
        await w.crash(w.machine)
        w.let_go("b")
        away = Away(monkeypatch, "value", 10_000)
        await w.start()
        await eventually(lambda: away.left <= 9_997)
        away.left = 0
        await w.idle()
        w.advance(61)
        await w.finished(run)


async def test_a_value_is_waited_for_and_then_not(tmp_path: Path) -> None:
    encoded = encode({"a": 1})

    class Flaky:
        left = 0

        async def value(self, digest: Digest) -> Any:
            if self.left:
                self.left -= 1
                raise OmiumError("storage_unavailable", "the database is locked.")
            return {"a": 1}

    store: Any = Flaky()
    cache = ValueCache(store)
    store.left = 2
    assert await cache.load(encoded.digest) == {"a": 1}
    store.left = 10
    assert await cache.load(encoded.digest) == {"a": 1}  # it is at hand
    with pytest.raises(OmiumError, match="storage_unavailable"):
        await cache.load(Digest("other"))


async def test_values_are_kept_within_bounds_the_oldest_going_first() -> None:
    loads: list[Digest] = []

    class Counting:
        async def value(self, digest: Digest) -> Any:
            loads.append(digest)
            return digest

    store: Any = Counting()
    cache = ValueCache(store, max_bytes=1000)
    for name in ("a", "b", "c", "d", "e"):
        cache.put(Digest(name), name, 220)
    cache.put(Digest("big"), "big", 251)
    assert [await cache.load(Digest(name)) for name in ("e", "b")] == ["e", "b"]
    assert loads == []
    assert await cache.load(Digest("a")) == "a"
    assert await cache.load(Digest("big")) == "big"
    assert loads == ["a", "big"]
