"""Chores that come round: which is due, who does it, and what came of it last time.

A row for each chore says when it was begun. Whoever finds it due begins it by changing that row, so that of all the
processes on a database one does it. A chore that was broken off is due again a day later.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import anyio
import orjson

from omium.orchestration.errors import OmiumError
from omium.storage.maintenance.tables import Keeper, Tables

FIRST_S: Final = 5.0  # short commands end before
LOOK_S: Final = 600.0
_BROKEN_OFF_US: Final = 86_400_000_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chore:
    """name: one for the database. every_s: seconds from one beginning to the next. work: does it, and gives what came
    of it as JSON."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class Last:
    """The last time of a chore, in microseconds since the epoch. ended_at: None while it is under way, or when it was
    broken off. outcome: what came of it, {"error"} when it failed; None when it has never been done."""

    name: str
    started_at: int
    ended_at: int | None
    outcome: Mapping[str, Any] | None


async def last_times(keeper: Keeper) -> list[Last]:
    """Every chore that was ever looked at, by name."""

    def read(tables: Tables) -> list[Last]:
        rows = tables.all("SELECT name, started_at, ended_at, outcome FROM upkeep ORDER BY name")
        return [Last(name, start, end, None if told is None else orjson.loads(told)) for name, start, end, told in rows]

    return await keeper.read(read)


async def run_due(keeper: Keeper, chores: Sequence[Chore], *, now: bool = False) -> dict[str, Mapping[str, Any]]:
    """Do those chores that are due (with `now` all that nobody is at), one after the other; what came of each that was
    done. A chore that fails with an anticipated error says so, and the next one is done. Raises `storage_unavailable`
    when the database cannot be asked."""
    done: dict[str, Mapping[str, Any]] = {}
    for chore in chores:
        if not now and not await keeper.read(partial(_is_due, chore=chore, at=keeper.clock.now_us(), now=False)):
            continue
        started = keeper.clock.now_us()
        if await keeper.write(partial(_begin, chore=chore, at=started, now=now)):
            done[chore.name] = await _do(keeper, chore, started)
    return done


async def keep_up(
    keeper: Keeper, chores: Sequence[Chore], pause: Callable[[float], Awaitable[None]] = anyio.sleep
) -> None:
    """Do what is due, now and then, until it is cancelled. `pause` waits for so many seconds."""
    await pause(FIRST_S)
    while True:
        try:
            for name, outcome in (await run_due(keeper, chores)).items():
                _log.info("upkeep: %s: %s", name, dict(outcome))
        except OmiumError as error:
            _log.warning("upkeep has to wait: %s", error)
        await pause(LOOK_S)


def _row(tables: Tables, name: str) -> tuple[Any, ...] | None:
    return tables.first("SELECT started_at, ended_at FROM upkeep WHERE name = :name", name=name)


def _is_due(tables: Tables, chore: Chore, at: int, now: bool) -> bool:
    """Also when nobody has ever looked at it: that is then noted."""
    row = _row(tables, chore.name)
    if row is None:
        return True
    started, ended = row
    if ended is None and abs(at - started) < _BROKEN_OFF_US:
        return False
    return now or abs(at - started) >= chore.every_s * 1e6  # whichever way the clock was changed


def _begin(tables: Tables, chore: Chore, at: int, now: bool) -> bool:
    """Whether it is ours to do. A chore of a new database is not due before its time has passed once."""
    tables.lock("upkeep")
    if not _is_due(tables, chore, at, now):
        return False
    fresh = _row(tables, chore.name) is None
    tables.run("DELETE FROM upkeep WHERE name = :name", name=chore.name)
    tables.run(
        "INSERT INTO upkeep (name, started_at, ended_at) VALUES (:name, :at, :ended)",
        name=chore.name, at=at, ended=at if fresh and not now else None,
    )  # fmt: skip
    return now or not fresh


async def _do(keeper: Keeper, chore: Chore, started: int) -> Mapping[str, Any]:
    outcome: Mapping[str, Any] = {"error": "interrupted"}

    def note(tables: Tables) -> None:
        tables.run(
            "UPDATE upkeep SET ended_at = :at, outcome = :told WHERE name = :name AND started_at = :started",
            at=keeper.clock.now_us(), told=orjson.dumps(outcome), name=chore.name, started=started,
        )  # fmt: skip

    try:
        outcome = await chore.work()
    except OmiumError as error:
        _log.warning("upkeep: %s: %s", chore.name, error)
        outcome = {"error": error.code, "message": error.message}
    finally:
        with anyio.CancelScope(shield=True):
            await keeper.write(note)
    return outcome


__all__ = ["Chore", "Last", "keep_up", "last_times", "run_due"]
