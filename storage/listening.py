"""Who hears of commits: of those of this process with their events, of any process's that something has changed."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from omium.orchestration.ids import RunId
from omium.orchestration.log.events import Event

_log = logging.getLogger(__name__)

Hear = Callable[[RunId, Sequence[Event]], None]


class Listeners:
    """Those who hear of every run, and those who hear of one: of those, a thousand cost a commit nothing."""

    def __init__(self) -> None:
        self._by_run: dict[RunId | None, list[Hear]] = {}

    def add(self, hear: Hear, run_id: RunId | None) -> Callable[[], None]:
        """Gives what ends the listening."""
        self._by_run.setdefault(run_id, []).append(hear)

        def end() -> None:
            left = self._by_run[run_id]
            left.remove(hear)
            if not left:
                del self._by_run[run_id]

        return end

    def tell(self, heard: Iterable[tuple[RunId, Sequence[Event]]]) -> None:
        for run_id, events in heard:
            for hear in (*self._by_run.get(None, ()), *self._by_run.get(run_id, ())):
                try:  # written out, since it is done for every commit
                    hear(run_id, events)
                except Exception:  # the write stands, and its caller and the other listeners are to hear of it
                    _log.exception("a listener failed")


def _call(caller: Callable[[], None]) -> None:
    try:
        caller()
    except Exception:  # as above
        _log.exception("a listener failed")


class Callers:
    """Whom to call when the database has changed: those who want to hear of every commit, and those who want to hear of
    other processes' only, who are not even looked at when this one commits."""

    def __init__(self) -> None:
        self._keys = itertools.count()
        self._of_all: dict[int, Callable[[], None]] = {}
        self._of_others: dict[int, Callable[[], None]] = {}
        self.iterations: set[Changes] = set()

    def __bool__(self) -> bool:
        return bool(self._of_all or self._of_others)

    def add(self, call: Callable[[], None], own: bool) -> Callable[[], None]:
        """Gives what ends it."""
        calls, key = self._of_all if own else self._of_others, next(self._keys)
        calls[key] = call

        def end() -> None:
            calls.pop(key, None)

        return end

    def committed(self) -> None:
        """This process has committed something."""
        if self._of_all:
            for call in list(self._of_all.values()):
                _call(call)

    def changed(self) -> None:
        """Anybody may have committed something."""
        self.committed()
        for call in list(self._of_others.values()):
            _call(call)

    async def close(self) -> None:
        for iteration in list(self.iterations):
            await iteration.aclose()


class Changes:
    """See `orchestration.ports.Subscription`."""

    def __init__(self, callers: Callers, own: bool) -> None:
        self._callers = callers
        self._event = asyncio.Event()
        self._closed = False
        self._end = callers.add(self._event.set, own)
        callers.iterations.add(self)

    async def __aiter__(self) -> AsyncIterator[None]:
        while not self._closed:
            await self._event.wait()
            self._event.clear()
            if not self._closed:
                yield

    async def aclose(self) -> None:
        self._closed = True
        self._end()
        self._callers.iterations.discard(self)
        self._event.set()
