"""Waiting for something to happen to a run, without asking again and again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio

from omium.orchestration.ids import RunId
from omium.orchestration.log.events import Event, EventType
from omium.orchestration.ports import Store

STATUS_CHANGES = frozenset(
    {
        EventType.RUN_WAITING, EventType.RUN_PAUSED, EventType.RUN_COMPLETED, EventType.RUN_FAILED,
        EventType.RUN_CANCELLED, EventType.RUN_ROLLED_BACK,
    }
)  # fmt: skip


class Watch:
    """Set by every event of one run, and by any commit of another process."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        """Until something has happened since the last call."""
        await self._event.wait()
        self._event = anyio.Event()


@contextmanager
def watching(store: Store, run_id: RunId, kinds: frozenset[EventType] | None = None) -> Iterator[Watch]:
    """A watch over a run, or over its events of some kinds; look at the run after entering, then wait."""
    watch = Watch()

    def hear(_: RunId, events: Sequence[Event]) -> None:
        for event in events:  # written out, since it is done for every commit of every run that somebody waits for
            if kinds is None or event.type in kinds:
                watch.ring()
                return

    ends = store.on_change(watch.ring, own=False), store.listen(hear, run_id)
    try:
        yield watch
    finally:
        for end in ends:
            end()
