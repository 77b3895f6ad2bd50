"""Who hears of commits: of those of this process with their events, of any process's that something has changed."""

from __future__ import annotations

import asyncio
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
                try:
                    hear(run_id, events)
                except Exception:  # the write stands, and its caller and the other listeners are to hear of it
                    _log.exception("a listener failed")


class Changes:
    """See `orchestration.ports.Subscription`. `call`, if given, is called instead of waking an iteration."""

    def __init__(self, registry: set[Changes], own: bool, call: Callable[[], None] | None = None) -> None:
        self.own = own
        self._registry = registry
        self._event = asyncio.Event()
        self._closed = False
        self.wake = call or self._event.set
        registry.add(self)

    async def __aiter__(self) -> AsyncIterator[None]:
        while not self._closed:
            await self._event.wait()
            self._event.clear()
            if not self._closed:
                yield

    async def aclose(self) -> None:
        self._closed = True
        self._registry.discard(self)
        self._event.set()
