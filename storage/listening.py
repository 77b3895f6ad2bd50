"""Who hears of the commits of this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

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
