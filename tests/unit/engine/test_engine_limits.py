"""Slots and the queue for them: never more than allowed, never less than there is room for, best first."""

from __future__ import annotations

import random
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.engine.limits import ALL, Limit, ReadyQueue, Ticket


def items(queue: ReadyQueue[Any]) -> list[Any]:
    return [ticket.item for ticket in queue.take()]


def test_the_better_priority_first_and_within_one_the_first_come() -> None:
    queue: ReadyQueue[str] = ReadyQueue(10, {})
    for name, priority in (("low", -5), ("a", 0), ("b", 0), ("high", 3), ("c", 0)):
        queue.put(name, (), priority)
    assert items(queue) == ["high", "a", "b", "c", "low"]


def test_slots_are_given_out_and_come_back() -> None:
    queue: ReadyQueue[int] = ReadyQueue(2, {})
    for number in range(5):
        queue.put(number, (), 0)
    first = list(queue.take())
    assert [ticket.item for ticket in first] == [0, 1]
    assert items(queue) == []
    queue.drop(first[0])
    assert items(queue) == [2]
    queue.drop(first[0])  # dropping twice gives nothing twice
    assert items(queue) == []


def test_a_ticket_that_is_dropped_while_it_waits_is_passed_over_and_gives_nothing_back() -> None:
    queue: ReadyQueue[int] = ReadyQueue(1, {})
    tickets = [queue.put(number, (), 0) for number in range(3)]
    assert items(queue) == [0]
    queue.drop(tickets[1])
    assert queue.process.used == 1
    queue.drop(tickets[0])
    assert items(queue) == [2]


def test_who_waits_at_a_limit_is_called_in_order_of_priority() -> None:
    queue: ReadyQueue[str] = ReadyQueue(10, {"gpu": 1})
    gpu = queue.named("gpu")
    assert gpu is not None and queue.named("other") is None
    for name, priority in (("first", 0), ("second", 0), ("urgent", 9)):
        queue.put(name, [(gpu, 1)], priority)
    (holder,) = queue.take()
    assert holder.item == "urgent"
    queue.put("late but urgent", [(gpu, 1)], 5)
    assert items(queue) == []
    queue.drop(holder)
    (holder,) = queue.take()
    assert holder.item == "late but urgent"


def test_a_slot_whose_first_in_line_cannot_use_it_goes_to_the_next() -> None:
    queue: ReadyQueue[str] = ReadyQueue(10, {"a": 1, "b": 1})
    a, b = queue.named("a"), queue.named("b")
    assert a is not None and b is not None
    queue.put("has a", [(a, 1)], 9)
    queue.put("has b", [(b, 1)], 9)
    holders = list(queue.take())
    queue.put("needs both", [(a, 1), (b, 1)], 5)
    queue.put("needs a", [(a, 1)], 0)
    assert items(queue) == []
    queue.drop(holders[0])
    assert items(queue) == ["needs a"]


def test_a_slot_whose_first_in_line_is_gone_goes_to_the_next() -> None:
    queue: ReadyQueue[str] = ReadyQueue(1, {"a": 1})
    a = queue.named("a")
    assert a is not None
    queue.put("has a", [(a, 1)], 9)
    (holder,) = queue.take()
    gone = queue.put("gone", [(a, 1)], 5)
    queue.put("next", [(a, 1)], 0)
    queue.process.size = 2
    assert items(queue) == []  # both wait at a
    queue.drop(holder)  # calls the first of them
    queue.drop(gone)
    assert items(queue) == ["next"]


def test_an_exclusive_hold_waits_for_all_and_keeps_all_out() -> None:
    queue: ReadyQueue[str] = ReadyQueue(10, {})
    files = Limit(1_000_000)
    readers = [queue.put(f"r{number}", [(files, 1)], 0) for number in range(2)]
    assert items(queue) == ["r0", "r1"]
    writer = queue.put("w", [(files, ALL)], 0)
    assert items(queue) == []
    queue.drop(readers[0])
    assert items(queue) == []
    queue.drop(readers[1])
    assert items(queue) == ["w"]
    queue.put("r2", [(files, 1)], 0)
    queue.put("r3", [(files, 1)], 0)
    assert items(queue) == []
    queue.drop(writer)
    assert items(queue) == ["r2", "r3"]


def test_what_takes_several_slots_waits_for_so_many_and_what_takes_too_many_has_them_all() -> None:
    queue: ReadyQueue[str] = ReadyQueue(10, {"memory": 100})
    memory = queue.named("memory")
    assert memory is not None
    for name, slots in (("first", 80), ("second", 80), ("third", 20)):
        queue.put(name, [(memory, slots)], 0)
    (first, third) = queue.take()  # there is room for it beside the first
    assert (first.item, third.item, memory.used) == ("first", "third", 100)
    queue.drop(third)
    assert items(queue) == []
    queue.drop(first)
    (second,) = queue.take()
    queue.put("giant", [(memory, 1_000)], 0)
    assert (second.item, items(queue)) == ("second", [])
    queue.drop(second)
    (giant,) = queue.take()
    assert (giant.item, memory.used) == ("giant", 100)
    queue.drop(giant)
    assert memory.used == 0


LIMITS = ("a", "b", "c")


@given(
    slots=st.integers(1, 4),
    sizes=st.fixed_dictionaries({name: st.integers(1, 3) for name in LIMITS}),
    wants=st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from(LIMITS), st.integers(1, 4)),
            st.integers(-2, 2),
            st.one_of(st.none(), st.booleans()),
        ),
        max_size=30,
    ),
    rng=st.randoms(use_true_random=False),
)
def test_limits_hold_at_every_moment_nobody_waits_without_need_and_all_come_to_their_end(
    slots: int, sizes: dict[str, int], wants: list[tuple[dict[str, int], int, bool | None]], rng: random.Random
) -> None:
    """`wants`: slots of named limits, priority, and how it uses the files: not, or exclusively or not."""
    queue: ReadyQueue[int] = ReadyQueue(slots, sizes)
    files = Limit(1_000_000)
    todo, waiting, held, done = list(range(len(wants))), {}, {}, set()
    while todo or waiting or held:
        step = rng.random()
        if todo and step < 0.4:
            number = todo.pop()
            names, priority, use = wants[number]
            limits = [(limit, slots_of) for name, slots_of in names.items() if (limit := queue.named(name)) is not None]
            if use is not None:
                limits.append((files, ALL if use else 1))
            waiting[number] = queue.put(number, limits, priority)
        elif held and step < 0.8:
            queue.drop(held.pop(rng.choice(sorted(held))))
        elif waiting and step < 0.85:
            queue.drop(waiting.pop(rng.choice(sorted(waiting))))
        for ticket in queue.take():
            held[ticket.item] = waiting.pop(ticket.item)
            done.add(ticket.item)
        _check(queue, files, slots, sizes, wants, held, waiting)
    assert queue.process.used == 0 == files.used
    assert len(queue) == 0 or all(ticket.dead for ticket in queue.heap)


def _check(
    queue: ReadyQueue[int],
    files: Limit,
    slots: int,
    sizes: dict[str, int],
    wants: list[tuple[dict[str, int], int, bool | None]],
    held: dict[int, Ticket[int]],
    waiting: dict[int, Ticket[int]],
) -> None:
    assert queue.process.used == len(held) <= slots

    def takes(number: int, name: str) -> int:
        return min(wants[number][0].get(name, 0), sizes[name])

    used = {name: sum(takes(number, name) for number in held) for name in LIMITS}
    assert all(used[name] == limit.used <= sizes[name] for name in LIMITS if (limit := queue.named(name)) is not None)
    writers = [number for number in held if wants[number][2] is True]
    users = [number for number in held if wants[number][2] is not None]
    assert not writers or (users == writers and len(writers) == 1)
    if len(held) < slots:
        for number in waiting:
            names, _, use = wants[number]
            room = all(used[name] + takes(number, name) <= sizes[name] for name in names)
            free = use is None or (not users if use else not writers)
            behind = use is False and any(wants[other][2] is True for other in waiting)  # a writer is before it
            # One that needs more, and waits for that, may be before it too.
            behind |= any(takes(other, name) > takes(number, name) for other in waiting for name in names)
            assert not (room and free) or behind, number


def test_many_that_wait_for_one_slot_cost_little_each() -> None:
    queue: ReadyQueue[int] = ReadyQueue(100, {"one": 1})
    one = queue.named("one")
    assert one is not None
    count = 20_000
    for number in range(count):
        queue.put(number, [(one, 1)], 0)
    began = time.perf_counter()
    order: list[int] = []
    while held := list(queue.take()):
        for ticket in held:
            order.append(ticket.item)
            queue.drop(ticket)
    assert order == list(range(count))
    # Scanning all that wait at every turn would take 200 million looks.
    assert time.perf_counter() - began < 20


def test_slots_that_are_free_are_taken_at_once() -> None:
    gpu = Limit(1)
    queue: ReadyQueue[str] = ReadyQueue(2, {})
    first = queue.at_once("first", [(gpu, 1)], 0)
    assert first is not None and (gpu.used, queue.process.used) == (1, 1)
    assert queue.at_once("no gpu is left", [(gpu, 1)], 9) is None
    queue.put("it came before", (), 0)
    assert queue.at_once("others wait", (), 9) is None
    assert [ticket.item for ticket in queue.take()] == ["it came before"]
    assert queue.at_once("the process is full", (), 9) is None
    queue.drop(first)
    assert (gpu.used, queue.process.used) == (0, 1)
    assert queue.at_once("now it fits", [(gpu, 1)], 0) is not None


def test_one_that_needs_many_slots_lets_only_so_many_pass() -> None:
    queue: ReadyQueue[int] = ReadyQueue(1_000, {"memory": 10})
    memory = queue.named("memory")
    assert memory is not None
    held = [queue.at_once(-number, [(memory, 5)], 0) for number in (1, 2)]
    queue.put(0, [(memory, 10)], 9)
    assert items(queue) == []
    for number in range(1, 1_000):
        first = held.pop(0)
        assert first is not None
        queue.put(number, [(memory, 5)], 0)
        queue.drop(first)
        taken = list(queue.take())
        held += taken
        if not taken:
            break
    assert number == 65  # the one that came after those that were let pass
    last = held.pop()
    assert last is not None and not held
    queue.drop(last)
    assert items(queue) == [0]
