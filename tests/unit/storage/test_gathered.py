"""Questions of one moment share a query."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from omium.storage.gathered import Gathered

pytestmark = pytest.mark.anyio


class Source:
    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.values = {"a": 1, "b": 2}
        self.wait: asyncio.Event | None = None
        self.error: Exception | None = None

    async def fetch(self, keys: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(sorted(keys))
        found = {key: self.values[key] for key in keys if key in self.values}
        if self.wait is not None:
            await self.wait.wait()
        if self.error is not None:
            raise self.error
        return found


async def test_what_is_asked_together_is_answered_together() -> None:
    source = Source()
    rows = Gathered(source.fetch)
    assert await asyncio.gather(rows.get("a"), rows.get("b"), rows.get("a"), rows.get("c")) == [1, 2, 1, None]
    assert source.asked == [["a", "b", "c"]]


async def test_an_answer_is_never_older_than_its_question() -> None:
    source = Source()
    source.wait = asyncio.Event()
    rows = Gathered(source.fetch)
    first = asyncio.create_task(rows.get("a"))
    while not source.asked:
        await asyncio.sleep(0)
    source.values["a"] = 9  # after the first query has looked
    second = asyncio.create_task(rows.get("a"))
    await asyncio.sleep(0)
    source.wait.set()
    assert (await first, await second) == (1, 9)


async def test_all_hear_of_a_failure_and_the_next_question_is_asked_anew() -> None:
    source = Source()
    source.error = RuntimeError("away")
    rows = Gathered(source.fetch)
    told = await asyncio.gather(rows.get("a"), rows.get("b"), return_exceptions=True)
    assert [str(error) for error in told] == ["away", "away"]
    source.error = None
    assert await rows.get("a") == 1


async def test_one_who_gives_up_takes_nothing_from_the_others() -> None:
    source = Source()
    source.wait = asyncio.Event()
    rows = Gathered(source.fetch)
    gone, stays = asyncio.create_task(rows.get("a")), asyncio.create_task(rows.get("a"))
    while not source.asked:
        await asyncio.sleep(0)
    gone.cancel()
    source.wait.set()
    assert await stays == 1


async def test_closing_cancels_those_who_wait() -> None:
    source = Source()
    source.wait = asyncio.Event()
    rows = Gathered(source.fetch)
    waiting = asyncio.create_task(rows.get("a"))
    while not source.asked:
        await asyncio.sleep(0)
    await rows.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
