"""Who may run now: slots by process, run, agent and named resource, and a queue by priority.

Each waiting node costs O(log n) once; a node that a full limit holds back waits at that limit and is looked at again
only when a slot of it is freed, so that nothing is ever scanned.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Limit:
    """Slots of one kind. `exclusive` takes all of them, as a writer of a workspace does."""

    __slots__ = ("alone", "size", "used", "waiting")

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self.alone = False
        self.waiting: deque[object] = deque()

    def fits(self, exclusive: bool) -> bool:
        return self.used == 0 if exclusive else not self.alone and self.used < self.size

    def take(self, exclusive: bool) -> None:
        self.used += 1
        self.alone = exclusive

    def give(self) -> None:
        self.used -= 1
        self.alone = False


class Ticket(Generic[T]):
    """A node that wants to run, and the limits that it counts against: (limit, exclusive)."""

    __slots__ = ("dead", "item", "limits", "order")

    def __init__(self, item: T, limits: Sequence[tuple[Limit, bool]], order: tuple[int, int]) -> None:
        self.item = item
        self.limits = limits
        self.order = order
        self.dead = False

    def __lt__(self, other: Ticket[T]) -> bool:
        return self.order < other.order


class ReadyQueue(Generic[T]):
    """Tickets by priority, first come first served within one."""

    def __init__(self, slots: int, resources: Mapping[str, int]) -> None:
        self.process = Limit(slots)
        self._named = {name: Limit(size) for name, size in resources.items()}
        self._heap: list[Ticket[T]] = []
        self._count = itertools.count()

    def named(self, name: str) -> Limit | None:
        """The limit of a resource, an agent or a workflow that the operator has limited; None if it is not."""
        return self._named.get(name)

    def put(self, item: T, limits: Sequence[tuple[Limit, bool]], priority: int) -> Ticket[T]:
        ticket = Ticket(item, ((self.process, False), *limits), (-priority, next(self._count)))
        heapq.heappush(self._heap, ticket)
        return ticket

    def take(self) -> Iterator[Ticket[T]]:
        """The tickets that may run now; each has its slots when it comes out."""
        while self._heap:
            if not self.process.fits(False):
                return
            ticket = heapq.heappop(self._heap)
            if ticket.dead:
                continue
            for limit, exclusive in ticket.limits:
                if not limit.fits(exclusive):
                    limit.waiting.append(ticket)
                    break
            else:
                for limit, exclusive in ticket.limits:
                    limit.take(exclusive)
                yield ticket

    def give_back(self, ticket: Ticket[T]) -> None:
        """Free a ticket's slots; whoever waited for one of them is looked at again."""
        for limit, _ in ticket.limits:
            limit.give()
            if limit.waiting and limit is not self.process:
                # A freed exclusive hold may admit several; each that still does not fit goes back to wait.
                waiting, limit.waiting = limit.waiting, deque()
                for other in waiting:
                    heapq.heappush(self._heap, other)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._heap)
