"""Budgets and leases, which several processes share: a part of every counter or of none, and never beyond a limit."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from omium.orchestration.ids import Principal, ProjectId, WorkerId
from omium.orchestration.ports import WorkerRow
from omium.orchestration.ports_gates import Amounts, BudgetRow, Counter
from omium.storage import maintenance as m
from omium.storage.maintenance.logs import project_rows
from tests.conformance.store.databases import AnyStore, Database, TestClock
from tests.storage_histories import Life

pytestmark = pytest.mark.anyio

P, ADA = ProjectId("default"), Principal("user:ada")
ONE, TWO = WorkerId("worker_1"), WorkerId("worker_2")
DAY_US = 86_400 * 1_000_000
NONE = Amounts()


async def counted(store: AnyStore, name: str) -> BudgetRow:
    (row,) = [row for row in await store.budgets(P) if row.name == name]
    return row


async def test_what_is_held_counts_and_what_is_settled_is_spent(store: AnyStore) -> None:
    most = [Counter("day", usd=1.0), Counter("run", tokens=100)]
    assert await store.hold("h1", P, ONE, most, Amounts(0.6, 60, 1)) == []
    assert (await counted(store, "day")).held == Amounts(0.6, 60, 1)
    assert await store.hold("h2", P, ONE, most, Amounts(0.6, 10, 1)) == ["day"]
    assert await store.hold("h2", P, ONE, most, Amounts(0.6, 60, 1)) == ["day", "run"]
    await store.settle_hold("h1", Amounts(0.25, 30, 1))
    for name in ("day", "run"):
        row = await counted(store, name)
        assert (row.spent, row.held) == (Amounts(0.25, 30, 1), NONE)
    assert await store.hold("h2", P, ONE, most, Amounts(0.6, 60, 1)) == []


async def test_one_that_is_refused_holds_nothing_of_the_others(store: AnyStore) -> None:
    assert await store.hold("h1", P, ONE, [Counter("a", calls=9), Counter("b", calls=0)], Amounts(calls=1)) == ["b"]
    assert [(row.held, row.spent) for row in await store.budgets(P)] in ([], [(NONE, NONE)] * 2)


async def test_a_limit_that_is_reached_refuses_even_what_costs_nothing(store: AnyStore) -> None:
    assert await store.hold("h1", P, ONE, [Counter("a", usd=1)], Amounts(usd=1)) == []
    assert await store.hold("h2", P, ONE, [Counter("a", usd=1)], NONE) == ["a"]
    assert await store.hold("h3", P, ONE, [Counter("a")], Amounts(usd=99)) == []  # counted only


async def test_settling_again_changes_nothing(store: AnyStore) -> None:
    await store.hold("h1", P, ONE, [Counter("a")], Amounts(calls=1))
    for _ in range(2):
        await store.settle_hold("h1", Amounts(calls=1))
    await store.settle_hold("unknown", Amounts(calls=1))
    assert (await counted(store, "a")).spent == Amounts(calls=1)


async def test_what_a_worker_held_that_is_gone_is_spent(store: AnyStore) -> None:
    for number in range(3):
        await store.hold(f"h{number}", P, ONE, [Counter("a"), Counter("b")], Amounts(1, 10, 1))
    await store.hold("theirs", P, TWO, [Counter("a")], Amounts(1, 10, 1))
    await store.settle_hold("h0", NONE)
    await store.retire(ONE)
    row = await counted(store, "a")
    assert (row.spent, row.held) == (Amounts(2, 20, 2), Amounts(1, 10, 1))
    await store.settle_hold("h1", Amounts(9, 9, 9))  # too late
    assert (await counted(store, "a")).spent == Amounts(2, 20, 2)


async def test_allowing_more_is_in_the_log_of_the_project(store: AnyStore) -> None:
    most = [Counter("a", calls=1)]
    assert await store.hold("h1", P, ONE, most, Amounts(calls=1)) == []
    await store.raise_budget(P, "a", Amounts(calls=1), ADA)
    assert await store.hold("h2", P, ONE, most, Amounts(calls=1)) == []
    assert await store.hold("h3", P, ONE, most, Amounts(calls=1)) == ["a"]
    assert (await counted(store, "a")).extra == Amounts(calls=1)
    rows = await m.keeper(store).read(lambda tables: list(project_rows(tables, P)))
    assert [(row[2], row[4]) for row in rows] == [("budget.raised", ADA)]


async def test_the_counters_of_projects_are_apart(store: AnyStore) -> None:
    most = [Counter("a", calls=1)]
    assert await store.hold("h1", P, ONE, most, Amounts(calls=1)) == []
    assert await store.hold("h2", ProjectId("q"), ONE, most, Amounts(calls=1)) == []


async def test_processes_together_never_hold_more_than_there_is(database: Database) -> None:
    stores = [await database.open() for _ in range(3)]
    names, numbers, held = ["a", "b", "c"], random.Random(7), 0

    async def ask(number: int, wanted: list[str]) -> bool:
        counters = [Counter(name, calls=20) for name in wanted]
        refused = await stores[number % 3].hold(f"h{number}", P, ONE, counters, Amounts(calls=1))
        return not refused

    with anyio.fail_after(60):
        for begin in range(0, 90, 30):
            wants = [numbers.sample(names, 2) for _ in range(30)]
            held += sum(await asyncio.gather(*(ask(begin + n, want) for n, want in enumerate(wants))))
    rows = await stores[0].budgets(P)
    assert sum(row.held.calls for row in rows) == 2 * held
    assert max(row.held.calls for row in rows) == 20


async def test_the_counter_of_a_rate_is_gone_when_its_window_is_long_over(store: AnyStore, clock: TestClock) -> None:
    async def made(window: int, hold: str, settled: bool = True) -> None:
        counters = [Counter(f"rate:r/2per60s@{window}", calls=2), Counter("all")]
        assert await store.hold(hold, P, ONE, counters, Amounts(calls=1)) == []
        if settled:
            await store.settle_hold(hold, Amounts(calls=1))

    await made(1, "h1")
    await made(2, "h2", settled=False)
    clock.us += 9 * DAY_US
    await made(2, "h3")  # no new window: nothing is looked for
    assert len(await store.budgets(P)) == 3
    await made(3, "h4")
    left = {row.name: row.spent.calls for row in await store.budgets(P)}
    assert left == {"rate:r/2per60s@2": 1, "rate:r/2per60s@3": 1, "all": 3}
    clock.us += 9 * DAY_US
    await made(4, "h5")
    assert sorted(row.name[-1] for row in await store.budgets(P)) == ["2", "4", "l"]  # of one, a call may go on


async def test_the_counters_of_a_run_go_with_it(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    run_id = await life.create()
    await life.finish(run_id, "a", "b")
    await life.end(run_id)
    for name in (f"node:{run_id}/a@0", f"policy:r/{run_id}", "day", "node:other/a@0"):
        await store.hold(name, P, ONE, [Counter(name)], Amounts(calls=1))
        await store.settle_hold(name, Amounts(calls=1))
    clock.us += 9 * DAY_US
    assert (await m.retain(m.keeper(store), m.Policy(86_400), clock.now_us())).dropped == [run_id]
    assert [row.name for row in await store.budgets(P)] == ["day", "node:other/a@0"]


# --- leases ---------------------------------------------------------------------------------------------------------


async def test_a_lease_has_one_holder_until_it_is_given_back_or_its_worker_is_gone(store: AnyStore) -> None:
    for worker in (ONE, TWO):
        await store.register(WorkerRow(worker, "here", "boot", 1, 0.0, 1, [P]))
    assert await store.lease("session", ONE, "run_1/a") is None
    assert await store.lease("session", ONE, "run_1/a") is None  # its own
    assert await store.lease("session", TWO, "run_2/a") == "run_1/a"
    assert await store.lease("other", TWO, "run_2/a") is None
    await store.unlease("session", TWO, "run_1/a")  # not its to give back
    await store.unlease("session", ONE, "run_2/a")
    assert await store.lease("session", TWO, "run_2/a") == "run_1/a"
    await store.unlease("session", ONE, "run_1/a")
    assert await store.lease("session", TWO, "run_2/a") is None
    await store.retire(TWO)
    assert await store.lease("session", ONE, "run_1/a") is None


async def test_of_many_that_want_a_lease_one_has_it(database: Database) -> None:
    stores = [await database.open() for _ in range(2)]
    await stores[0].register(WorkerRow(ONE, "here", "boot", 1, 0.0, 1, [P]))
    with anyio.fail_after(60):
        answers = await asyncio.gather(*(stores[n % 2].lease("s", ONE, f"holder_{n}") for n in range(20)))
    assert answers.count(None) == 1
    assert len(set(answers) - {None}) == 1
