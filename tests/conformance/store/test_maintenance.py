"""Maintenance does the same to every database: what it finds wrong, what it computes again, what it forgets."""

from __future__ import annotations

import random
from typing import Any

import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest, PlanToken, Principal, ProjectId, RunId, Seq, WorkerId
from omium.orchestration.log import commands as c
from omium.orchestration.ports import NewBlob, PlanRow, RunQuery, TokenRow, WorkerRow
from omium.orchestration.ports_gates import Amounts, Counter
from omium.orchestration.values import encode
from omium.storage import maintenance as m
from omium.storage.maintenance.projections import TABLES
from tests.conformance.store.databases import AnyStore, Database, TestClock
from tests.storage_histories import NAMES, Life

pytestmark = pytest.mark.anyio
DAY = 86_400.0
USER = Principal("user:ada")


async def tables_of(store: AnyStore) -> dict[str, list[tuple[Any, ...]]]:
    """Every projection, row by row."""

    def work(tables: m.Tables) -> dict[str, list[tuple[Any, ...]]]:
        found = {
            name: sorted(tables.all(f"SELECT {', '.join(cols)} FROM {name}"), key=repr)
            for name, (cols, _) in TABLES.items()
        }
        found["names"] = sorted(tables.all(NAMES))
        return found

    return await m.keeper(store).read(work)


async def stored(store: AnyStore, digest: Digest) -> bool:
    query = "SELECT 1 FROM blobs WHERE digest = :digest"
    return await m.keeper(store).read(lambda tables: tables.first(query, digest=digest)) is not None


async def finished(life: Life, *, value: Any = None, **changes: Any) -> RunId:
    run_id = await life.create(**changes)
    await life.finish(run_id, "a", "b", value=value)
    await life.end(run_id)
    return run_id


def out(run_id: RunId, node: str, value: Any = None) -> Digest:
    return encode({"of": run_id, "node": node, "value": value}).digest


# --- computing again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_any_history_is_sound_and_can_be_rebuilt(store: AnyStore, seed: int) -> None:
    numbers = random.Random(seed)
    life = Life(store)
    await life.live([numbers.randrange(10**6) for _ in range(160)])
    assert {"branch", "roll_back", "fall_back", "play_from", "settle", "label", "point", "adopt"} <= set(life.done)
    await catch_up(life)
    assert await m.verify(m.keeper(store)) == []
    before = await tables_of(store)
    await spoil(store)
    assert await m.verify(m.keeper(store)) != []
    rebuilt = await m.rebuild(m.keeper(store))
    assert rebuilt == m.Rebuilt(len(life.runs), [])
    assert await tables_of(store) == before
    assert await m.verify(m.keeper(store)) == []
    for run_id in life.runs:  # and the store goes on with them
        await life.do(run_id, c.Label(Seq(1), "after"))
    assert await m.verify(m.keeper(store)) == []


async def catch_up(life: Life) -> None:
    """What a branch takes over stands in its row from its second write on."""
    for run_id in life.runs:
        await life.do(run_id, c.Label(Seq(1), "end"))


async def spoil(store: AnyStore) -> None:
    def work(tables: m.Tables) -> None:
        tables.run("UPDATE runs SET status = 'completed', cost_usd = 7")
        tables.run("DELETE FROM effects WHERE id < (SELECT max(id) FROM effects)")
        tables.run("UPDATE effects SET outcome = NULL, result = 'x'")
        tables.run("INSERT INTO decisions (run_id, seq, node, call, action, tool, effect, input, version, at)"
                   " VALUES ('x', 1, 'y', 'z', 'allow', 't', 'read', '{}', 'v', 0)")  # fmt: skip
        tables.run("DELETE FROM labels")
        tables.run("UPDATE approvals SET status = 'pending'")
        tables.run("INSERT INTO links (digest, run_id) SELECT 'd', id FROM runs")
        tables.run("DELETE FROM links WHERE digest < '8'")
        tables.run("UPDATE blobs SET brought_by = NULL WHERE digest < '4'")
        tables.run("UPDATE blobs SET brought_by = (SELECT min(id) FROM runs) WHERE digest > 'c'")
        tables.run("UPDATE snapshots SET document = (SELECT document FROM snapshots ORDER BY run_id LIMIT 1)")

    await m.keeper(store).write(work)


async def test_each_difference_of_a_projection_is_named(store: AnyStore) -> None:
    life = Life(store)
    run_id = await finished(life)
    spoil = {
        "UPDATE runs SET title = 'x'": ("runs", ["title"]),
        "UPDATE blobs SET brought_by = NULL WHERE digest = (SELECT inputs FROM runs)": ("links", []),
        "DELETE FROM links": ("links", []),  # what the rebuilding has put there
        "INSERT INTO labels (run_id, seq, label, at, created_at, actor) SELECT id, 9, 'x', 1, 1, 'y' FROM runs": (
            "labels",
            [],
        ),
    }
    for statement, (table, columns) in spoil.items():
        await m.keeper(store).write(lambda tables, statement=statement: tables.run(statement))
        (damage,) = await m.verify(m.keeper(store))
        assert (damage.kind, damage.subject, damage.data["table"], damage.data["columns"]) == (
            "projection", run_id, table, columns,
        )  # fmt: skip
        await m.rebuild(m.keeper(store))
        assert await m.verify(m.keeper(store)) == []


async def test_one_run_can_be_verified_alone(store: AnyStore) -> None:
    life = Life(store)
    good, bad = await finished(life), await finished(life)
    await m.keeper(store).write(lambda tables: tables.run("UPDATE runs SET title = 'x' WHERE id = :id", id=bad))
    assert await m.verify(m.keeper(store), [good]) == []
    assert [damage.subject for damage in await m.verify(m.keeper(store), [bad])] == [bad]
    with pytest.raises(OmiumError) as refusal:
        await m.verify(m.keeper(store), [RunId("run_none")])
    assert refusal.value.code == "not_found"


# --- blobs ------------------------------------------------------------------------------------------------------------


async def damage_blob(store: AnyStore, digest: Digest) -> None:
    def work(tables: m.Tables) -> None:
        row = tables.first("SELECT data FROM blobs WHERE digest = :digest", digest=digest)
        assert row is not None
        data = bytearray(row[0])
        data[len(data) // 2] ^= 1
        tables.run("UPDATE blobs SET data = :data WHERE digest = :digest", data=bytes(data), digest=digest)

    await m.keeper(store).write(work)


async def test_a_damaged_blob_is_found_quarantined_and_healed_by_a_new_copy(store: AnyStore) -> None:
    life = Life(store)
    run_id = await life.create()
    await life.finish(run_id, "a", "b", "c")
    state, digest = await store.state(run_id), out(run_id, "b")
    assert await m.nearest_valid_checkpoint(m.keeper(store), run_id) == state.nodes["c"].seq
    await damage_blob(store, digest)
    (damage,) = await m.verify(m.keeper(store))
    assert (damage.kind, damage.subject) == ("blob", digest)
    assert damage.data["runs"] == [run_id] and run_id in damage.problem
    assert await m.keeper(store).read(lambda tables: m.runs_needing(tables, digest)) == [run_id]
    assert await m.nearest_valid_checkpoint(m.keeper(store), run_id) == state.nodes["a"].seq
    assert await m.nearest_valid_checkpoint(m.keeper(store), run_id, state.nodes["a"].seq) == 1
    assert await m.nearest_valid_checkpoint(m.keeper(store), run_id, Seq(1)) is None
    with pytest.raises(OmiumError) as failure:
        await store.value(digest)
    assert failure.value.code == "integrity"
    assert await store.value(out(run_id, "a")) is not None
    await store.put([NewBlob(encode({"of": run_id, "node": "b", "value": None}))])
    assert await m.verify(m.keeper(store)) == []
    assert await store.value(digest) == {"of": run_id, "node": "b", "value": None}


async def test_reading_a_damaged_value_quarantines_it_and_names_who_needs_it(
    store: AnyStore, database: Database
) -> None:
    life = Life(store)
    run_id = await finished(life)
    branch = await life.create(parent={"run": run_id, "seq": 4})
    await damage_blob(store, out(run_id, "a"))
    with pytest.raises(OmiumError) as failure:
        await store.value(out(run_id, "a"))
    assert failure.value.code == "integrity"
    assert failure.value.data["runs"] == sorted([run_id, branch])
    assert database.execute("SELECT count(*) FROM blobs WHERE encoding = 'bad'")[0][0] in (1, "1")
    with pytest.raises(OmiumError) as failure:
        await store.values([out(run_id, "b"), out(run_id, "a")])
    assert failure.value.code == "integrity"


async def test_what_rests_on_a_damaged_blob_is_named_and_not_quarantined(store: AnyStore) -> None:
    life = Life(store)
    run_id = await life.create()
    rng = random.Random(1)
    text = "".join(rng.choice("abcdefgh") for _ in range(20_000))
    first, second = encode({"text": text}), encode({"text": text + "!"})
    for node, value, base in (("a", first, None), ("b", second, first.digest)):
        await life.do(run_id, c.StartNode(node, 0))  # type: ignore[arg-type]
        complete = c.CompleteNode(node, 0, value.digest, value.size)  # type: ignore[arg-type]
        await life.do(run_id, complete, blobs=[NewBlob(value, base)])
    await damage_blob(store, first.digest)
    found = {damage.subject: damage for damage in await m.verify(m.keeper(store))}
    assert set(found) == {first.digest, second.digest}
    assert found[second.digest].data["cause"] == first.digest
    await store.put([NewBlob(first)])
    assert await m.verify(m.keeper(store)) == []


async def test_a_blob_that_a_log_names_and_that_is_missing_is_found(store: AnyStore) -> None:
    life = Life(store)
    run_id = await finished(life)
    await m.keeper(store).write(lambda t: t.run("DELETE FROM blobs WHERE digest = :d", d=out(run_id, "a")))
    (damage,) = await m.verify(m.keeper(store))
    assert (damage.kind, damage.subject, damage.data["digest"]) == ("reference", run_id, out(run_id, "a"))


# --- the sweep --------------------------------------------------------------------------------------------------------


async def test_the_sweep_takes_what_is_unused_and_old(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    run_id = await finished(life)
    old, touched, fresh = (encode({"unused": n}) for n in range(3))
    await store.put([NewBlob(old), NewBlob(touched)])
    clock.advance(DAY / 2)
    await store.put([NewBlob(touched), NewBlob(fresh)])
    clock.advance(DAY / 2 + 1)
    assert (await m.sweep(m.keeper(store), clock.now_us())).blobs == 1
    assert [await stored(store, blob.digest) for blob in (old, touched, fresh)] == [False, True, True]
    clock.advance(DAY)
    assert (await m.sweep(m.keeper(store), clock.now_us())).blobs == 2
    assert (await m.sweep(m.keeper(store), clock.now_us())).blobs == 0
    assert await stored(store, out(run_id, "a"))
    assert await m.verify(m.keeper(store)) == []


async def test_the_sweep_keeps_bases_and_takes_whole_chains(store: AnyStore, clock: TestClock) -> None:
    rng = random.Random(2)
    text = "".join(rng.choice("abcdefgh") for _ in range(20_000))
    chain = [encode({"text": text, "n": n}) for n in range(5)]
    life = Life(store)
    run_id = await life.create()
    for n, value in enumerate(chain):
        await store.put([NewBlob(value, chain[n - 1].digest if n else None)])
    await life.do(run_id, c.Signal("go", chain[2].digest, chain[2].size))
    clock.advance(2 * DAY)
    assert (await m.sweep(m.keeper(store), clock.now_us())).blobs == 2
    assert [await stored(store, value.digest) for value in chain] == [True, True, True, False, False]
    assert await m.verify(m.keeper(store)) == []
    await life.do(run_id, c.CancelRun())
    clock.advance(2 * DAY)
    await m.retain(m.keeper(store), m.Policy(DAY), clock.now_us())
    await m.sweep(m.keeper(store), clock.now_us())
    assert not any([await stored(store, value.digest) for value in chain])


async def test_the_sweep_keeps_what_a_plan_names(store: AnyStore, clock: TestClock) -> None:
    blob = encode({"nodes": ["a"]})
    await store.put([NewBlob(blob)])
    clock.advance(2 * DAY)
    document = {"reset": {"nodes": blob.digest}}
    token = PlanToken("plan_1")
    plan = PlanRow(token, USER, RunId("r"), "rollback", Digest(""), clock.now_us() + 10**9, document)
    await store.put_plan(plan)
    await m.sweep(m.keeper(store), clock.now_us())
    assert await stored(store, blob.digest)
    await store.take_plan(token, USER, clock.now_us())
    await m.sweep(m.keeper(store), clock.now_us())
    assert not await stored(store, blob.digest)


# --- retention --------------------------------------------------------------------------------------------------------


async def test_old_runs_are_dropped_whole_and_leave_a_trace(
    store: AnyStore, clock: TestClock, database: Database
) -> None:
    life = Life(store)
    old = await finished(life)
    clock.advance(2 * DAY)
    young = await finished(life)
    live = await life.create()
    policy = m.Policy(DAY)
    assert (await m.retain(m.keeper(store), policy, clock.now_us(), preview=True)).dropped == [old]
    assert await store.run(old) is not None
    assert await m.retain(m.keeper(store), policy, clock.now_us()) == m.Retained([old], [], {})
    assert [run.id for run in await store.runs(RunQuery())] == sorted([young, live], reverse=True)
    assert await store.events(old) == []
    with pytest.raises(OmiumError) as refusal:  # nothing in this process remembers it
        await life.do(old, c.Label(Seq(1), "late"))
    assert refusal.value.code == "not_found"
    for table in ("snapshots", "claims", f"({NAMES}) AS names"):
        assert database.execute(f"SELECT count(*) FROM {table} WHERE run_id = '{old}'")[0][0] in (0, "0")
    assert database.execute("SELECT type FROM project_events") == [("run.dropped",)]
    assert await m.verify(m.keeper(store)) == []
    clock.advance(2 * DAY)
    await m.sweep(m.keeper(store), clock.now_us())
    assert not await stored(store, out(old, "a"))
    assert await stored(store, out(young, "a"))
    assert await m.verify(m.keeper(store)) == []


async def test_what_is_labelled_branched_or_called_stays(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    labelled = await finished(life)
    await life.do(labelled, c.Label(Seq(2), "keep"))
    parent = await finished(life)
    branch = await life.create(parent={"run": parent, "seq": 4})  # it still runs
    caller = await life.create()
    called = await finished(life, caller={"run": caller, "node": "a", "generation": 0})
    clock.advance(2 * DAY)
    kept = (await m.retain(m.keeper(store), m.Policy(DAY), clock.now_us())).kept
    assert set(kept) == {labelled, parent}
    assert all([await store.run(run_id) for run_id in (labelled, parent, branch, caller, called)])
    await life.do(branch, c.CancelRun())
    await life.end(caller)
    clock.advance(2 * DAY)
    dropped = (await m.retain(m.keeper(store), m.Policy(DAY), clock.now_us())).dropped
    assert set(dropped) == {parent, branch, caller, called}
    assert dropped.index(branch) < dropped.index(parent)
    assert dropped.index(called) < dropped.index(caller)
    assert await m.verify(m.keeper(store)) == []


async def test_a_policy_may_take_only_the_content(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    old, other = await finished(life), await finished(life, project="other")
    clock.advance(2 * DAY)
    policy = m.Policy(DAY, "blobs", (ProjectId("default"),))
    assert (await m.retain(m.keeper(store), policy, clock.now_us(), preview=True)).erased == [old]
    assert (await m.retain(m.keeper(store), policy, clock.now_us())).erased == [old]
    assert not await stored(store, out(old, "a"))
    assert await stored(store, out(other, "a"))
    clock.advance(2 * DAY)
    assert (await m.retain(m.keeper(store), policy, clock.now_us())).erased == []
    assert await m.verify(m.keeper(store)) == []


async def test_runs_that_somebody_names_go_however_young_and_labelled_they_are(
    store: AnyStore, clock: TestClock
) -> None:
    life = Life(store)
    keeping = m.keeper(store)
    caller = await life.create()
    called = await finished(life, caller={"run": caller, "node": "a", "generation": 0})
    labelled, other = await finished(life), await finished(life)
    await life.do(labelled, c.Label(Seq(2), "mine"))
    branch = await life.create(parent={"run": labelled, "seq": 4})
    mine = [caller, labelled]
    going_on = await m.forget(keeping, mine, "runs", reason="asked for", actor=USER)
    assert (going_on.dropped, set(going_on.kept)) == ([], {caller, labelled})
    part = await m.forget(keeping, [called], "blobs", reason="asked for", actor=USER)
    assert (part.erased, set(part.kept)) == ([], {called})
    for run_id in (caller, branch):
        await life.do(run_id, c.CancelRun())
    mine.append(branch)
    clock.advance(1)
    erased = await m.forget(keeping, mine, "blobs", reason="asked for", actor=USER)
    assert (set(erased.erased), erased.kept) == ({*mine, called}, {})
    assert not await stored(store, out(called, "a")) and await stored(store, out(other, "a"))
    seen = await m.forget(keeping, mine, "runs", reason="asked for", actor=USER, preview=True)
    dropped = await m.forget(keeping, mine, "runs", reason="asked for", actor=USER)
    assert set(seen.dropped) == set(dropped.dropped) == {*mine, called}
    assert dropped.dropped.index(branch) < dropped.dropped.index(labelled)
    assert [row.id for row in await store.runs(RunQuery())] == [other]
    with pytest.raises(OmiumError) as unknown:
        await m.forget(keeping, mine, "runs", reason="asked for", actor=USER)
    assert unknown.value.code == "not_found"
    assert await m.verify(keeping) == []


# --- the log of a project, and anchors --------------------------------------------------------------------------------


async def test_the_log_of_a_project_is_chained(store: AnyStore, database: Database) -> None:
    keeper, project = m.keeper(store), ProjectId("default")
    assert await m.append_project_event(keeper, project, "pin.set", USER, {"tool": "a/b", "hash": "x"}) == 1
    assert await m.append_project_event(keeper, project, "pin.dropped", USER, {"tool": "a/b"}) == 2
    assert await m.append_project_event(keeper, ProjectId("other"), "token.made", USER, {}) == 1
    with pytest.raises(OmiumError) as refusal:
        await m.append_project_event(keeper, project, "DROP TABLE", USER, {})
    assert refusal.value.code == "invalid_argument"
    with pytest.raises(OmiumError) as refusal:
        await m.append_project_event(keeper, project, "pin.set", USER, {"x": object()})
    assert refusal.value.code == "invalid_value"
    assert await m.verify(keeper) == []
    anchor = await m.export_heads(keeper)
    assert anchor["projects"]["default"][0] == 2
    await m.append_project_event(keeper, project, "pin.set", USER, {})
    assert await m.verify(keeper, anchor=anchor) == []


async def test_an_anchor_knows_what_is_missing(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    gone, stays = await finished(life), await finished(life)
    anchor = await m.export_heads(m.keeper(store))
    assert set(anchor["runs"]) == {gone, stays}
    clock.advance(2 * DAY)
    await life.do(stays, c.Label(Seq(1), "more"))
    await m.retain(m.keeper(store), m.Policy(DAY), clock.now_us())  # `gone` is dropped, and says so
    assert await m.verify(m.keeper(store), anchor=anchor) == []
    forged = {**anchor, "runs": {**anchor["runs"], stays: [anchor["runs"][stays][0], "00" * 32]}}
    assert [d.kind for d in await m.verify(m.keeper(store), anchor=forged)] == ["anchor"]
    longer = {**anchor, "runs": {**anchor["runs"], stays: [99, "00" * 32], "run_never": [1, "00" * 32]}}
    assert [d.subject for d in await m.verify(m.keeper(store), anchor=longer)] == [f"{stays}@99", "run_never@1"]
    for unreadable in ({}, {**anchor, "version": 2}, {**anchor, "runs": {"r": "x"}}, []):
        with pytest.raises(OmiumError) as refusal:
            await m.verify(m.keeper(store), anchor=unreadable)  # type: ignore[arg-type]
        assert refusal.value.code == "invalid_argument"


async def test_recorded_heads_are_anchors_within(store: AnyStore, clock: TestClock) -> None:
    life = Life(store)
    first, second = await finished(life), await finished(life, project="other")
    assert await m.record_heads(m.keeper(store), USER) == 2
    clock.advance(1)
    assert await m.record_heads(m.keeper(store), USER) == 0
    clock.advance(1)
    await life.do(first, c.Label(Seq(1), "more"))
    assert await m.record_heads(m.keeper(store), USER) == 1
    assert await m.verify(m.keeper(store)) == []
    assert second in (await m.export_heads(m.keeper(store)))["runs"]


# --- evidence ---------------------------------------------------------------------------------------------------------


async def test_what_shows_that_controls_work_is_counted_by_project(store: AnyStore, clock: TestClock) -> None:
    life, project = Life(store), ProjectId("default")
    run_id = await finished(life)
    other = await life.create(project="other")
    await life.do(run_id, c.NoteBudget("all", "usd", 50, 1.0, 2.0))
    await store.raise_budget(project, "all", Amounts(usd=1), USER)
    for number, (expires, revoked) in enumerate([(None, None), (1, None), (None, 2)]):
        token = TokenRow(f"tok_{number}", f"{number}" * 64, project, USER, "viewer", "own", "", 0, expires, revoked)
        await store.put_token(token, USER)
    found = await m.evidence(m.keeper(store), project)
    assert (found.runs, found.events, found.reached) == (1, (await store.heads([run_id]))[run_id], 1)
    assert found.tokens == {"active": 1, "expired": 1, "revoked": 1}
    assert found.noted == {"budget.raised": 1, "token.created": 3}
    assert (found.decided, found.by_others, found.open, found.decisions, found.pins) == ({}, 0, 0, {}, {})
    apart = await m.evidence(m.keeper(store), ProjectId("other"))
    assert (apart.runs, apart.events, apart.reached, apart.noted) == (1, (await store.heads([other]))[other], 0, {})


# --- copies -----------------------------------------------------------------------------------------------------------


async def test_a_copy_can_be_made_nobodys(store: AnyStore) -> None:
    """A worker of the original that a copy still had would be taken for silent by whoever works on the copy."""
    life, worker, project = Life(store), WorkerId("w"), ProjectId("default")
    run_id = await life.create()
    await store.register(WorkerRow(worker, "host", "boot", 1, 1.0, 0, (project,)))
    assert await store.hold("call", project, worker, [Counter("all")], Amounts(usd=4, tokens=2)) == []

    def disown(tables: m.Tables) -> None:
        for statement in m.DISOWN:
            tables.run(statement)

    await m.keeper(store).write(disown)
    assert await store.workers() == []
    claimed = await store.claim(WorkerId("new"), [project], 10, 1)
    assert [(one.run_id, one.fence) for one in claimed] == [(run_id, life.fences[run_id] + 1)]
    (spent,) = await store.budgets(project)
    assert (spent.spent.usd, spent.spent.tokens, spent.held.usd) == (4, 2, 0)
    assert await m.verify(m.keeper(store)) == []
