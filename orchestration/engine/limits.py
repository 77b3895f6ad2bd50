"""Who may run now: slots by process, run, agent and named resource, and a queue by priority.

Each waiting node costs O(log n); a node that a full limit holds back waits at that limit, and a slot that is freed
there calls as many as it has room for, best first, so that nothing is ever scanned.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

_MOST_PASSED: Final = 64  # how many with fewer slots may go before one that waits for many

ALL: Final = 0
"""As the number of slots: every one of them, to nobody else's use, as a writer of a workspace has it."""


class Limit:
    """Slots of one kind. A hold takes a number of them, or `ALL`; one that takes more than there are has them all.
    `waiting` is a heap of (ticket, slots)."""

    __slots__ = ("alone", "size", "used", "waiting")

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self.alone = False
        self.waiting: list[tuple[Ticket[Any], int]] = []

    def fits(self, slots: int) -> bool:
        return self.used == 0 if slots == ALL else not self.alone and self.used + min(slots, self.size) <= self.size

    def admits(self, ticket: Ticket[Any], slots: int) -> bool:
        """Whether the ticket may have its slots: they are free, and whoever comes before it and waits for more of them
        has not let too many pass: one that needs many would never have them together."""
        if not self.fits(slots):
            return False
        waiting = self.waiting
        while waiting and waiting[0][0].dead:
            heapq.heappop(waiting)
        if waiting and waiting[0][0] < ticket:
            waiting[0][0].passed += 1
            return waiting[0][0].passed <= _MOST_PASSED
        return True

    def take(self, slots: int) -> int:
        """How many were taken, which is what is to be given back."""
        self.alone = slots == ALL
        taken = 1 if self.alone else min(slots, self.size)
        self.used += taken
        return taken

    def called(self) -> Iterator[Ticket[Any]]:
        """The best of those who wait, as many as the free slots may admit; they wait here no longer."""
        free = 0 if self.alone else self.size - self.used
        while self.waiting and free > 0:
            ticket, slots = self.waiting[0]
            needed = self.size if slots == ALL else min(slots, self.size)
            if needed > free and not ticket.dead:
                return  # it is next, and everyone else after it
            heapq.heappop(self.waiting)
            if not ticket.dead:
                free -= needed
                yield ticket


class Ticket(Generic[T]):
    """A node that wants to run, and the limits that it counts against: (limit, slots). It waits, then holds slots until
    it gives them back; `dead` is one that nobody wants any more. held: what it has of each; None while it waits.
    passed: how many went before it though they came later."""

    __slots__ = ("dead", "held", "item", "limits", "order", "passed")

    def __init__(self, item: T, limits: Sequence[tuple[Limit, int]], order: tuple[int, int]) -> None:
        self.item = item
        self.limits = limits
        self.order = order
        self.dead = False
        self.held: list[tuple[Limit, int]] | None = None
        self.passed = 0

    def __lt__(self, other: Ticket[T]) -> bool:
        return self.order < other.order


class ReadyQueue(Generic[T]):
    """Tickets by priority, first come first served within one."""

    def __init__(self, slots: int, resources: Mapping[str, int]) -> None:
        self.process = Limit(slots)
        self._named = {name: Limit(size) for name, size in resources.items()}
        self.heap: list[Ticket[T]] = []  # those that may be looked at now, the best first
        self._count = itertools.count()

    def named(self, name: str) -> Limit | None:
        """The limit of a resource, an agent or a workflow that the operator has limited; None if it is not."""
        return self._named.get(name)

    def put(self, item: T, limits: Sequence[tuple[Limit, int]], priority: int) -> Ticket[T]:
        ticket = Ticket(item, ((self.process, 1), *limits), (-priority, next(self._count)))
        heapq.heappush(self.heap, ticket)
        return ticket

    def at_once(self, item: T, limits: Sequence[tuple[Limit, int]], priority: int) -> Ticket[T] | None:
        """`put` and `take` in one, for a node that nobody stands before and that every limit has room for; else None,
        and nothing is done."""
        if self.heap or not self.process.fits(1):
            return None
        for limit, slots in limits:
            if limit.waiting or not limit.fits(slots):
                return None
        ticket = Ticket(item, ((self.process, 1), *limits), (-priority, next(self._count)))
        held = ticket.held = []
        for limit, slots in ticket.limits:
            held.append((limit, limit.take(slots)))
        return ticket

    def take(self) -> Iterator[Ticket[T]]:
        """The tickets that may run now; each has its slots when it comes out."""
        while self.heap:
            if not self.process.fits(1):
                return
            ticket = heapq.heappop(self.heap)
            full: Limit | None = None
            if not ticket.dead:
                for limit, slots in ticket.limits:
                    if not limit.admits(ticket, slots):
                        heapq.heappush(limit.waiting, (ticket, slots))
                        full = limit
                        break
                else:
                    ticket.held = [(limit, limit.take(slots)) for limit, slots in ticket.limits]
                    yield ticket
                    continue
            # It may have been called for a free slot that it does not take: the next one there has its chance.
            for limit, _ in ticket.limits:
                if limit is not full and limit.waiting:
                    self._call(limit)

    def drop(self, ticket: Ticket[T]) -> None:
        """Be done with a ticket: it gives back the slots that it holds, or waits for none any more."""
        ticket.dead = True
        held, ticket.held = ticket.held, None
        for limit, taken in held or ():
            limit.used -= taken
            limit.alone = False
            if limit.waiting:
                self._call(limit)

    def _call(self, limit: Limit) -> None:
        for ticket in limit.called():
            heapq.heappush(self.heap, ticket)

    def __len__(self) -> int:
        """How many may be looked at now, were there slots: those that wait at a limit do not count."""
        return len(self.heap)
