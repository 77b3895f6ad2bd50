"""How often: requests of one principal, by token buckets, and how many of them at once.

All of it is of one process and in memory, which is bounded: what was not used for longest is forgotten, and by then it
is normally full again, as if it had never been used.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Literal

from omium.orchestration.errors import OmiumError

Kind = Literal["read", "change", "start"]

_REMEMBERED: Final = 10_000  # buckets
_CALLS_S: Final = 30.0  # of a rate, at once
_FAILURES_S: Final = 10.0
_STARTS: Final = frozenset({"run_workflow", "branch", "play_from_node"})


def kind_of(verb: str, *, reads_only: bool) -> Kind:
    """Which bucket a call draws on: of a tool, by its name and annotation, or of a REST verb."""
    if verb in _STARTS:
        return "start"
    return "read" if reads_only else "change"


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Of each principal: reads, changes and starts of runs in a minute, and calls under way at once; of each address:
    failed authentications in a minute. Half a minute's worth of calls goes at once, so that many clients of one
    principal can begin together; of failures ten seconds' worth; and of either ten at least."""

    reads: int = 6_000
    changes: int = 1_200
    starts: int = 600
    concurrent: int = 512
    failures: int = 60


class Buckets:
    """Token buckets of one rate, by key. burst_s: seconds' worth of the rate that go at once."""

    def __init__(
        self,
        per_minute: int,
        monotonic: Callable[[], float],
        remembered: int = _REMEMBERED,
        *,
        burst_s: float = _CALLS_S,
    ) -> None:
        self.rate = per_minute / 60.0
        self.burst = max(self.rate * burst_s, 10.0)
        self._monotonic = monotonic
        self._remembered = remembered
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # what was left, and when

    def __len__(self) -> int:
        return len(self._levels)

    def wait_s(self, key: Hashable) -> float:
        """Seconds until there is one to take; 0 when there is."""
        missing = 1.0 - self._level(key, self._monotonic())
        return missing / self.rate if missing > 1e-9 else 0.0

    def take(self, key: Hashable) -> float:
        """Take one, or none if there is none: what `wait_s` would have said."""
        now = self._monotonic()
        level = self._level(key, now)
        wait = 0.0
        if level < 1.0 - 1e-9:
            wait = (1.0 - level) / self.rate
        else:
            level -= 1.0
        self._levels[key] = (level, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._remembered:
            self._levels.popitem(last=False)
        return wait

    def _level(self, key: Hashable, now: float) -> float:
        level, at = self._levels.get(key, (self.burst, now))
        return min(self.burst, level + max(now - at, 0.0) * self.rate)


class RateLimits:
    """The limits of one process. `monotonic`: seconds."""

    def __init__(self, limits: RequestLimits, monotonic: Callable[[], float]) -> None:
        self.limits = limits
        self._buckets: dict[Kind, Buckets] = {
            "read": Buckets(limits.reads, monotonic),
            "change": Buckets(limits.changes, monotonic),
            "start": Buckets(limits.starts, monotonic),
        }
        self._failures = Buckets(limits.failures, monotonic, burst_s=_FAILURES_S)
        self._under_way: dict[str, int] = {}

    def admit(self, principal: str, kind: Kind) -> None:
        """Count a request. Raises `rate_limited`; a request that is refused is not counted."""
        wait = self._buckets[kind].take(principal)
        if wait > 0.0:
            raise _limited(f"{principal} asks too often ({kind}).", wait, kind=kind)

    @asynccontextmanager
    async def held(self, principal: str) -> AsyncIterator[None]:
        """A call of this principal is under way in the block. Raises `rate_limited` when too many are."""
        count = self._under_way.get(principal, 0)
        if count >= self.limits.concurrent:
            raise _limited(f"{count} calls of {principal} are under way.", 1.0, kind="concurrent")
        self._under_way[principal] = count + 1
        try:
            yield
        finally:
            left = self._under_way[principal] - 1
            if left:
                self._under_way[principal] = left
            else:  # so that memory holds those only who call right now
                del self._under_way[principal]

    @asynccontextmanager
    async def call(self, principal: str, kind: Kind) -> AsyncIterator[None]:
        """`held` and `admit`. A call that finds too many under way takes nothing from its bucket."""
        async with self.held(principal):
            self.admit(principal, kind)
            yield

    def may_try(self, address: str) -> None:
        """Before a credential is looked at. Raises `rate_limited` for an address whose credentials failed too often."""
        wait = self._failures.wait_s(address)
        if wait > 0.0:
            raise _limited("too many credentials of this address were refused.", wait, kind="failures")

    def refused(self, address: str) -> None:
        """Count a credential that was not good."""
        self._failures.take(address)


def _limited(message: str, wait_s: float, *, kind: str) -> OmiumError:
    after = math.ceil(wait_s * 10) / 10
    return OmiumError("rate_limited", message, f"Repeat the same call after {after} s.", retry_after_s=after, kind=kind)
