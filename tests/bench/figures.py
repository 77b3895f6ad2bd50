"""One measured figure, and the statistics that the floors, the peers and Omium's own measures share.

Only the standard library: the peers import this in their own virtual environment.
"""

from __future__ import annotations

import itertools
import math
import random
import signal
import string
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

KB = 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """What one measurement gave.

    `value` is in `unit`. `p50_ms` and `p95_ms` describe the single operation behind it (a step, a fork) in
    milliseconds, and are None where there is none. `detail` holds what a reader needs to judge the figure.
    """

    measure: str
    value: float
    unit: str
    p50_ms: float | None = None
    p95_ms: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rate(measure: str, unit: str, count: int, seconds: float, latencies: Sequence[float] = (), **detail: Any) -> Figure:
    """`count` operations in `seconds` as a Figure per second; `latencies` are in seconds."""
    return Figure(
        measure,
        round(count / seconds, 1),
        unit,
        milliseconds(percentile(latencies, 50)),
        milliseconds(percentile(latencies, 95)),
        {"count": count, "seconds": round(seconds, 3), **detail},
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile, None of nothing."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def gaps(times: Sequence[float]) -> list[float]:
    """The differences of consecutive times."""
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def exit_on_sigterm() -> None:
    """Turns SIGTERM into SystemExit: a benchmark that is told to stop then ends its processes and deletes its files."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def payload(kilobytes: int, seed: int = 0) -> str:
    """`kilobytes` KB of letters and digits that no store can compress much; the same for the same seed."""
    letters = string.ascii_letters + string.digits
    return "".join(random.Random(seed).choices(letters, k=kilobytes * KB))
