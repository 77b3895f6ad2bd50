"""Many callers at once, in one process."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, Principal
from omium.orchestration.log.commands import (
    CancelRun,
    CompleteRun,
    Decide,
    PauseRun,
    PlanRun,
    ResumeRun,
    Signal,
    StartNode,
    StartRun,
)
from omium.orchestration.ports import IdempotencyKey, NewBlob, RunQuery, Write
from tests.conformance.store.acting import (
    INPUTS,
    OUTPUT,
    USER,
    A,
    B,
    completion,
    creation,
    digest_of,
    executing,
    new_run,
    request,
)
from tests.conformance.store.databases import AnyStore, count_commits

pytestmark = pytest.mark.anyio


async def test_racing_verbs_leave_one_consistent_history(store: AnyStore) -> None:
    for _ in range(3):
        run = await executing(store)
        outcomes = await asyncio.gather(
            *(run.ask(PauseRun()) for _ in range(5)),
            *(run.ask(ResumeRun()) for _ in range(5)),
            *(run.ask(CancelRun()) for _ in range(5)),
            *(run.do(CompleteRun(OUTPUT.digest, OUTPUT.size)) for _ in range(5)),
            return_exceptions=True,
        )
        written = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        refusals = [outcome for outcome in outcomes if isinstance(outcome, OmiumError)]
        assert len(written) + len(refusals) == 20 and {error.code for error in refusals} <= {"not_allowed"}
        events = await store.events(run.id)
        assert sorted(event.seq for outcome in written for event in outcome.events) == [e.seq for e in events[3:]]
        assert store.chain.breaks(events) == []
        kinds = [event.type.value for event in events[3:]]
        # Only an ending is last, there is one, and pauses and resumptions alternate before it.
        assert kinds[-1] in ("run.cancelled", "run.completed")
        assert kinds[:-1] == ["run.paused" if place % 2 == 0 else "run.resumed" for place in range(len(kinds) - 1)]
        row = await store.run(run.id)
        assert row is not None and row.status == kinds[-1].removeprefix("run.") == (await run.state()).status


async def test_fifty_decisions_have_one_winner(store: AnyStore) -> None:
    run = await executing(store)
    await run.do(request("ap_1", A))
    outcomes = await asyncio.gather(
        *(
            run.ask(Decide(ApprovalId("ap_1"), "approve" if n % 2 else "reject", f"user:{n}", "elicited"))
            for n in range(50)
        ),
        return_exceptions=True,
    )
    codes = Counter(getattr(outcome, "code", "written") for outcome in outcomes)
    assert codes == {"written": 1, "already_decided": 49}
    row = await store.approval(ApprovalId("ap_1"))
    winner = next(n for n, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException))
    assert row is not None and row.decided_by == f"user:{winner}" and row.status == "decided"
    told = next(outcome for outcome in outcomes if isinstance(outcome, OmiumError))
    assert told.data["by"] == f"user:{winner}"


async def test_concurrent_writes_share_commits(store: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [await executing(store) for _ in range(100)]
    commits = count_commits(monkeypatch)
    await asyncio.gather(*(run.do(StartNode(A, 0)) for run in runs))
    assert 1 <= commits() <= 5
    before = commits()
    for run in runs[:5]:
        await run.do(completion(A))
    assert commits() == before + 5  # nothing is acknowledged before its own commit


async def test_writes_of_one_run_share_a_commit_too(store: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    commits = count_commits(monkeypatch)
    await asyncio.gather(
        *(run.ask(Signal(f"s{n}", INPUTS.digest, INPUTS.size)) for n in range(50)), run.do(completion(A))
    )
    assert commits() <= 3
    state = await run.state()
    assert set(state.signals) == {f"s{n}" for n in range(50)} and state.completed_nodes == 1


async def test_jobs_and_writes_mix(store: AnyStore) -> None:
    run = await executing(store)
    assert run.fence is not None
    await asyncio.gather(
        *(run.ask(Signal(f"s{n}", INPUTS.digest, INPUTS.size)) for n in range(20)),
        *(store.put([NewBlob(OUTPUT)]) for _ in range(5)),
        *(store.recall("s", str(n)) for n in range(5)),
        run.do(StartNode(B, 0)),
    )
    assert (await run.state()).seq == 24


async def test_racing_requests_with_one_idempotency_key_are_one(store: AnyStore) -> None:
    key = "request-1"

    async def ask(n: int) -> tuple[str, bool]:
        run_id = new_run()
        idempotency = IdempotencyKey("default/ada/run_workflow", key, digest_of("same"), {"run": run_id})
        written = await store.write(Write(run_id, [creation()], Principal(f"user:{n}"), idempotency=idempotency))
        return (written.replayed["run"], True) if written.replayed is not None else (run_id, False)

    outcomes = await asyncio.gather(*(ask(n) for n in range(20)))
    assert len({run for run, _ in outcomes}) == 1
    assert Counter(replayed for _, replayed in outcomes) == {True: 19, False: 1}
    assert len(await store.runs(RunQuery(limit=100))) == 1


async def test_a_batch_may_create_and_go_on(store: AnyStore) -> None:
    """Writes of one run from its creation on, submitted together: each sees what the ones before it did."""
    run_id = new_run()
    await asyncio.gather(
        store.write(Write(run_id, [creation()], USER)),
        store.write(Write(run_id, [PlanRun()], USER)),
        store.write(Write(run_id, [StartRun()], USER)),
    )
    row = await store.run(run_id)
    assert row is not None and (row.status, row.seq) == ("executing", 3)
    assert await store.next_wake([row.project]) == row.updated_at
