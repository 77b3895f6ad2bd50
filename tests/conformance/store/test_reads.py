"""Lists and pages."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import func, literal, select
from sqlalchemy.dialects import sqlite as sqlite_dialect

from omium.orchestration.ids import ApprovalId, EffectId, NodeId, ProjectId, RunId, Seq
from omium.orchestration.log.commands import (
    CancelRun,
    CloseBranch,
    CompleteRun,
    Decide,
    ExpireApproval,
    FailAttempt,
    FailRun,
    IntendEffect,
    Label,
    NoteProgress,
    PauseRun,
    SettleEffect,
    SkipNode,
    StartNode,
)
from omium.orchestration.log.events import EventType
from omium.orchestration.ports import RunQuery
from omium.storage.reads import runs_statement
from omium.storage.sqlite.store import SqliteStore
from tests.conformance.store.acting import OUTPUT, USER, A, B, C, Run, completion, executing, new_run, refused, request
from tests.conformance.store.databases import AnyStore, Database, SqliteDatabase, TestClock

pytestmark = pytest.mark.anyio

DEFAULT = ProjectId("default")


async def found(store: AnyStore, query: RunQuery) -> list[RunId]:
    return [row.id for row in await store.runs(query)]


async def test_runs_are_listed_newest_first_in_pages(store: AnyStore) -> None:
    runs = [(await executing(store)).id for _ in range(7)]
    newest = runs[::-1]
    assert await found(store, RunQuery()) == newest
    pages: list[RunId] = []
    while page := await found(store, RunQuery(before=pages[-1] if pages else None, limit=3)):
        pages += page
    assert pages == newest


async def test_runs_are_filtered(store: AnyStore) -> None:
    plain = await executing(store)
    other = await executing(store, project="other", workflow="release", session="s1")
    paused = await executing(store, workflow="release", caller={"run": plain.id, "node": A, "generation": 0})
    await paused.ask(PauseRun())
    failed = await executing(store, parent={"run": plain.id, "seq": 3}, branch="try", hypothesis="better")
    await failed.do(FailRun({"category": "x", "message": "no"}))
    for query, expected in (
        (RunQuery(projects=(DEFAULT,)), [failed, paused, plain]),
        (RunQuery(projects=(DEFAULT, ProjectId("other"))), [failed, paused, other, plain]),
        (RunQuery(projects=()), []),
        (RunQuery(statuses=("executing",)), [other, plain]),
        (RunQuery(statuses=("paused", "failed"), projects=(DEFAULT,)), [failed, paused]),
        (RunQuery(workflow="release"), [paused, other]),
        (RunQuery(workflow="release", statuses=("paused",)), [paused]),
        (RunQuery(parent=plain.id), [failed]),
        (RunQuery(caller=plain.id), [paused]),
        (RunQuery(session="s1"), [other]),
        (RunQuery(top=True), [failed, other, plain]),
        (RunQuery(top=True, before=other.id), [plain]),
        (RunQuery(top=True, workflow="release", limit=2), [other]),
        (RunQuery(top=True, caller=plain.id), []),
        (RunQuery(text="lease"), [paused, other]),
        (RunQuery(text=plain.id[-8:]), [plain]),
        (RunQuery(workflow="none"), []),
    ):
        assert await found(store, query) == [run.id for run in expected], query
    row = await store.run(failed.id)
    assert row is not None
    assert (row.parent_run, row.parent_seq, row.branch, row.hypothesis) == (plain.id, 3, "try", "better")
    assert row.error == {"category": "x", "message": "no"} and row.ended_at is not None
    row = await store.run(paused.id)
    assert row is not None and (row.caller_run, row.caller_node) == (plain.id, A)
    assert await store.run(new_run()) is None
    second = await executing(store, caller={"run": plain.id, "node": B, "generation": 0})
    await executing(store, caller={"run": second.id, "node": B, "generation": 0})
    assert await store.started_by([plain.id, other.id, second.id]) == {plain.id: 2, second.id: 1}
    assert await store.started_by([]) == await store.started_by([other.id]) == {}


async def test_text_is_searched_literally(store: AnyStore) -> None:
    titles = ["100% sure", "100 sure", "a_b", "aXb", "c\\d", "c\\\\d", "Ünï", "it's", "[x]", "UPPER lower"]
    runs = {title: (await executing(store, title=title)).id for title in titles}
    for text, expected in (
        ("100%", ["100% sure"]),
        ("%", ["100% sure"]),
        ("_b", ["a_b"]),
        ("c\\d", ["c\\d"]),
        ("\\\\", ["c\\\\d"]),
        ("\\", ["c\\\\d", "c\\d"]),
        ("nï", ["Ünï"]),
        ("'", ["it's"]),
        ("[x]", ["[x]"]),
        ("upper LOWER", ["UPPER lower"]),
    ):
        assert await found(store, RunQuery(text=text)) == [runs[title] for title in expected], text


async def test_the_lists_of_runs_use_indices(database: Database) -> None:
    if not isinstance(database, SqliteDatabase):
        return  # what PostgreSQL plans depends on its statistics, which an empty table has not
    store = await database.open()
    assert isinstance(store, SqliteStore)
    run = new_run()
    for query in (
        RunQuery(before=run),
        RunQuery(projects=(DEFAULT,)),
        RunQuery(projects=(DEFAULT,), before=run),
        RunQuery(projects=(DEFAULT,), before=run, top=True),
        RunQuery(projects=(DEFAULT,), statuses=("executing",)),
        RunQuery(projects=(DEFAULT,), workflow="w"),
        RunQuery(parent=run),
        RunQuery(caller=run),
        RunQuery(session="s"),
    ):
        compiled = runs_statement(query).compile(
            dialect=sqlite_dialect.dialect(), compile_kwargs={"literal_binds": True}
        )
        plan = " ".join(str(row[-1]) for row in database.execute(f"EXPLAIN QUERY PLAN {compiled}"))
        assert plan.startswith("SEARCH runs USING") and "TEMP B-TREE" not in plan, (query, plan)


async def test_checkpoints_are_paged_newest_first(store: AnyStore) -> None:
    run = await executing(store)
    await run.complete(A)
    await run.do(StartNode(B, 0), NoteProgress(B, 0, 1, "half"), FailAttempt(B, 0, 1, {"category": "x"}))
    await run.do(SkipNode(C, 0, "upstream_failed", B))
    await run.ask(Label(Seq(5), "good", note="before b"))
    every = await store.checkpoints(run.id)
    assert [event.type for event in every] == [
        EventType.CHECKPOINT_CREATED,
        EventType.NODE_SKIPPED,
        EventType.NODE_FAILED,
        EventType.NODE_COMPLETED,
        EventType.RUN_CREATED,
    ]
    pages = []
    while page := await store.checkpoints(run.id, before=pages[-1].seq if pages else None, limit=2):
        pages += page
    assert pages == every
    labels = await store.labels(run.id)
    assert [(row.label, row.at, row.seq, row.note, row.actor) for row in labels] == [("good", 5, 11, "before b", USER)]


async def test_approvals_are_listed_oldest_first(store: AnyStore, clock: TestClock) -> None:
    run = await executing(store)
    other = await executing(store, project="other")
    await run.do(request("ap_2", A, details={"tool": "x"}, binding=OUTPUT.digest))
    clock.advance(1)
    await other.do(request("ap_1", A))
    clock.advance(1)
    await run.do(request("ap_0", None, expires_at=clock.us + 1, scope="plan"))
    listed = await store.approvals()
    assert [row.id for row in listed] == ["ap_2", "ap_1", "ap_0"]
    assert (listed[0].options, listed[0].details, listed[0].binding) == (
        ["approve", "reject"],
        {"tool": "x"},
        OUTPUT.digest,
    )
    assert [row.id for row in await store.approvals(projects=[DEFAULT])] == ["ap_2", "ap_0"]
    assert [row.id for row in await store.approvals(run_id=other.id)] == ["ap_1"]
    assert [row.id for row in await store.approvals(limit=1)] == ["ap_2"]
    clock.advance(1)
    await run.ask(Decide(ApprovalId("ap_2"), "approve", "user:bob", "out_of_band", feedback="fine"))
    await run.ask(ExpireApproval(ApprovalId("ap_0")))
    await other.ask(CancelRun())
    assert await store.approvals() == []
    statuses = {row.id: (row.status, row.decision) for row in await store.approvals(pending=False)}
    assert statuses == {
        "ap_2": ("decided", "approve"),
        "ap_1": ("cancelled", "cancelled"),
        "ap_0": ("expired", "expired"),
    }
    row = await store.approval(ApprovalId("ap_2"))
    assert row is not None and (row.feedback, row.decided_by, row.assurance, row.decided_at, row.consumed) == (
        "fine", "user:bob", "out_of_band", clock.us, False,
    )  # fmt: skip
    await run.do(StartNode(A, 0, approval=ApprovalId("ap_2")))
    row = await store.approval(ApprovalId("ap_2"))
    assert row is not None and row.consumed is True
    assert await store.approval(ApprovalId("ap_9")) is None


async def test_the_ledger_is_in_the_order_of_the_intents(store: AnyStore) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    for name in ("e3", "e1", "e2"):
        await run.do(IntendEffect(EffectId(name), A, 0, 1, name, "tool", "ask", compensate="undo"))
    await run.ask(SettleEffect(EffectId("e1"), "unknown"))
    await run.ask(SettleEffect(EffectId("e1"), "done", OUTPUT.digest, OUTPUT.size))
    rows = await store.effects(run.id)
    assert [(row.id, row.outcome, row.compensate) for row in rows] == [
        ("e3", None, "undo"), ("e1", "done", "undo"), ("e2", None, "undo"),
    ]  # fmt: skip
    assert await store.effects(new_run()) == []


async def test_costs_add_up(store: AnyStore) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0), completion(A, usage={"tokens": 100, "cost_usd": 0.25, "model": "m"}))
    await run.do(StartNode(B, 0), completion(B, usage={"tokens": 11}))
    await run.do(CompleteRun(OUTPUT.digest, OUTPUT.size))
    row = await store.run(run.id)
    assert row is not None
    assert (row.tokens, row.cost_usd, row.completed_nodes, row.output) == (111, 0.25, 2, OUTPUT.digest)
    assert (await run.state()).nodes[A].usage == {"tokens": 100, "cost_usd": 0.25, "model": "m"}


async def test_only_a_branch_is_closed(store: AnyStore) -> None:
    run = await executing(store)
    await refused("not_allowed", run.ask(CloseBranch("abandoned")))
    branch = await executing(store, parent={"run": run.id, "seq": 3}, branch="b")
    await branch.ask(CloseBranch("abandoned", "no better"))
    row = await store.run(branch.id)
    assert row is not None and row.closed == "abandoned"
    assert Run(store, run.id, None).fence is None and NodeId("x") == "x"


@pytest.mark.parametrize("wait", [True, False])
async def test_a_read_that_is_cancelled_leaves_nothing_behind(store: AnyStore, wait: bool) -> None:
    """Neither a task that outlives the store, nor a connection that is not given back."""
    assert await found(store, RunQuery()) == []
    others = asyncio.all_tasks()
    count = select(literal(1).label("n")).cte("count", recursive=True)
    count = count.union_all(select(count.c.n + 1).where(count.c.n < 300_000))
    slow = asyncio.create_task(store._all(select(func.count()).select_from(count)))
    while not store._reading:
        await asyncio.sleep(0)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    if wait:
        assert await found(store, RunQuery()) == []  # there is a connection for the next one
    await store.close()
    assert store._reading == set()
    assert {task for task in asyncio.all_tasks() - others if task.get_name() == "omium-read"} == set()
    assert asyncio.all_tasks() <= others
    assert store._engine is not None and store._engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_events_of_some_kinds_are_read_over_several_logs(store: AnyStore) -> None:
    runs = [await executing(store) for _ in range(3)]
    for run in runs:
        await run.complete(A, B)
    kinds = [EventType.NODE_COMPLETED, EventType.RUN_CREATED]
    some = await store.events_among([runs[2].id, runs[0].id], kinds, 100)
    assert [(one.run_id, one.type) for one in some] == [
        (run.id, kind)
        for run in (runs[0], runs[2])
        for kind in (EventType.RUN_CREATED, EventType.NODE_COMPLETED, EventType.NODE_COMPLETED)
    ]
    whole = await store.events(runs[0].id)
    assert some[0] == whole[0]  # the whole event, as it is linked
    assert len(await store.events_among([runs[2].id, runs[0].id], kinds, 4)) == 4
    assert await store.events_among([], kinds, 100) == await store.events_among([runs[0].id], [], 100) == []
