"""What the supervisor of this process has done so far, in numbers; whoever exports metrics reads them."""

from __future__ import annotations

from collections import Counter
from typing import Final


class Counters:
    """Plain numbers, changed in the event loop only.

    running: supervised processes now. stalled: how often one stopped making progress. asked, resumed: questions of
    programs, and reruns with an answer. orphans: by what became of processes whose owner had died.
    """

    def __init__(self) -> None:
        self.running = 0
        self.starts = 0
        self.ends: Counter[str] = Counter()  # by the supervisor's reason
        self.output_bytes = 0
        self.heartbeats = 0
        self.stalled = 0
        self.asked = 0
        self.resumed = 0
        self.protocol_errors = 0
        self.orphans: Counter[str] = Counter()
        self.log_failures = 0  # lines and records that could not be written down

    def started(self) -> None:
        self.running += 1
        self.starts += 1

    def ended(self, reason: str, output_bytes: int, heartbeats: int) -> None:
        self.running -= 1
        self.ends[reason] += 1
        self.output_bytes += output_bytes
        self.heartbeats += heartbeats

    def snapshot(self) -> dict[str, float | dict[str, int]]:
        """All of them by name; `ends` and `orphans` by reason."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


counters: Final = Counters()
"""Those of this process."""
