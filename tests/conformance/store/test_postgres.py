"""What only PostgreSQL has: sessions that are lost, locks of others, notifications, and settings of an operator."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import anyio
import asyncpg  # type: ignore[import-untyped]
import pytest

from omium.orchestration.errors import OmiumError, Unheard
from omium.orchestration.ids import NodeId, ProjectId, Seq, WorkerId
from omium.orchestration.log.below import Below
from omium.orchestration.log.commands import CancelRun, Label, PauseRun, ResumeRun, Signal, StartNode
from omium.orchestration.ports import NewBlob, RunQuery, Write
from omium.orchestration.values import encode
from omium.storage.maintenance import erase, keeper
from omium.storage.open import open_store
from omium.storage.postgres import attempt, connection, tail
from omium.storage.postgres.store import PostgresStore
from tests.conformance.store.acting import ENGINE, USER, WORKER, A, B, Run, completion, executing, refused, request
from tests.conformance.store.test_below import call, child_of, known
from tests.conformance.store.test_processes import wake
from tests.postgres import PostgresServer
from tests.storage_histories import Life

pytestmark = pytest.mark.anyio

DEFAULT = [ProjectId("default")]


async def opened(url: str, **options: object) -> PostgresStore:
    store = await open_store(url, **options)  # type: ignore[arg-type]
    assert isinstance(store, PostgresStore)
    return store


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = await opened(postgres_url)
    yield store
    await store.close()


def name_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


def cut_sessions(postgres: PostgresServer, url: str, which: str = "%") -> None:
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{name_of(url)}' AND application_name LIKE '{which}' AND pid <> pg_backend_pid()"
    )


async def test_a_lost_session_is_made_again(store: PostgresStore, postgres: PostgresServer, postgres_url: str) -> None:
    run = await executing(store)
    for command in (PauseRun(), ResumeRun(), PauseRun()):
        cut_sessions(postgres, postgres_url, "omium%")
        await run.ask(command)
        assert (await run.state()).seq == len(await store.events(run.id))
        cut_sessions(postgres, postgres_url, "omium%")
        assert await store.run(run.id) is not None
        cut_sessions(postgres, postgres_url, "omium%")
        await store.beat(WORKER)
    assert (await run.state()).seq == 6


async def test_sessions_lost_under_load_lose_and_repeat_nothing(
    store: PostgresStore, postgres: PostgresServer, postgres_url: str
) -> None:
    runs = [await executing(store) for _ in range(10)]
    acknowledged: dict[str, list[int]] = {run.id: [] for run in runs}

    async def label(run: Run) -> None:
        for n in range(20):
            with contextlib.suppress(OmiumError):  # twice cut in one write; whether it took place is in the log
                acknowledged[run.id].append((await run.ask(Label(Seq(1), str(n)))).seq)

    async with anyio.create_task_group() as tasks:
        for run in runs:
            tasks.start_soon(label, run)
        for _ in range(5):
            await anyio.to_thread.run_sync(cut_sessions, postgres, postgres_url, "omium-writer%")
    for run in runs:
        events = await store.events(run.id)
        assert store.chain.breaks(events) == []
        labels = [event.data["label"] for event in events[3:]]
        assert len(labels) == len(set(labels))
        assert set(acknowledged[run.id]) <= {event.seq for event in events}
        assert len(acknowledged[run.id]) >= 10


class Proxy:
    """Between a store and its server, so that a test can cut the line at a certain moment."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.drop: str | None = None  # "answer": the next long message arrives, its answer does not; "message"
        self.dropped = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        user = f"{self._target.username}:{self._target.password}"
        return urlunsplit(self._target._replace(netloc=f"{user}@127.0.0.1:{port}"))

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(self._target.hostname, self._target.port)
        cut = asyncio.Event()

        async def forth() -> None:
            while data := await client.read(1 << 20):
                if self.drop is not None and len(data) > 600:
                    what, self.drop = self.drop, None
                    if what == "answer":
                        cut.set()
                        to_server.write(data)
                    else:
                        self.dropped.set()
                        break
                else:
                    to_server.write(data)
            if not cut.is_set():
                to_server.close()
                to_client.close()

        async def back() -> None:
            while data := await server.read(1 << 20):
                if cut.is_set():
                    self.dropped.set()
                    break
                to_client.write(data)
            to_client.close()
            to_server.close()

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(forth(), back())


@pytest.mark.parametrize("what", ["answer", "message"])
async def test_a_commit_whose_answer_is_lost_counts_once(postgres_url: str, what: str) -> None:
    proxy = Proxy(postgres_url)
    async with proxy as url:
        store = await opened(url)
        run = await executing(store)
        await run.complete(A)  # the statement is prepared by now: it travels as one message
        heard: list[int] = []
        store.listen(lambda run_id, events: heard.extend(event.seq for event in events))
        await run.do(StartNode(B, 0))
        proxy.drop = what
        written = await run.do(completion(B))
        assert proxy.dropped.is_set()
        assert written.seq == 7 and heard == [6, 7]
        events = await store.events(run.id)
        assert [event.seq for event in events] == list(range(1, 8)) and store.chain.breaks(events) == []
        await store.close()


@pytest.mark.parametrize("what", ["answer", "message"])
async def test_a_commit_that_nobody_could_be_asked_about_counts_once(
    postgres_url: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Proxy(postgres_url)
    async with proxy as url:
        store = await opened(url)
        run = await executing(store)
        await run.complete(A)
        await run.do(StartNode(B, 0))
        proxy.drop = what
        monkeypatch.setattr(attempt, "RESOLVE_S", 0.1)
        monkeypatch.setattr(store._writer._link, "_dsn", "postgresql://postgres:x@127.0.0.1:1/x")
        error = await refused("storage_unavailable", run.do(completion(B)))
        assert isinstance(error, Unheard) and [event.seq for event in error.events] == [7]
        monkeypatch.undo()
        again = Write(run.id, [completion(B)], ENGINE, fence=run.fence, faults=run.faults, tried=error.events)
        assert (await store.write(again)).seq == 7
        events = await store.events(run.id)
        assert [event.seq for event in events] == list(range(1, 8)) and store.chain.breaks(events) == []
        assert (events[-1:] == list(error.events)) is (what == "answer")
        await run.ask(PauseRun())
        await store.close()


async def test_a_claim_whose_answer_is_lost_is_not_lost(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened(postgres_url)
    run = await executing(store, worker=None)
    db = await store._writer._link.get()
    execute = db.execute

    async def cut(statement: str, *rest: object) -> object:
        result = await execute(statement, *rest)
        if statement == "COMMIT":
            db.terminate()
            raise ConnectionResetError("the line was cut")
        return result

    monkeypatch.setattr(type(db), "execute", staticmethod(cut), raising=False)
    claiming = asyncio.ensure_future(store.claim(WORKER, DEFAULT, 1, 2**62))
    while not db.is_closed():
        await asyncio.sleep(0)
    monkeypatch.undo()
    assert [found.run_id for found in await claiming] == [run.id]
    assert await store.take(WorkerId("other"), run.id) is None
    await store.close()


async def test_a_server_that_is_away_is_said(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await executing(store)
    monkeypatch.setattr(connection, "PATIENCE_S", 0.1)
    monkeypatch.setattr(store._writer._link, "_dsn", "postgresql://postgres:x@127.0.0.1:1/x")
    store._writer._link.lose()
    for _ in range(2):
        error = await refused("storage_unavailable", run.ask(PauseRun()))
        assert "unreachable" in error.message
    await refused("storage_unavailable", store.beat(WORKER))
    monkeypatch.undo()
    await run.ask(PauseRun())
    assert (await run.state()).seq == 4


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"netloc": "postgres:wrong@{at}"}, "user or password"),
        ({"path": "/no_such_database"}, "does not exist"),
        ({"netloc": "postgres:x@127.0.0.1:1"}, "reach"),
    ],
)
async def test_a_database_that_cannot_be_opened_is_said(postgres_url: str, change: dict[str, str], said: str) -> None:
    parts = urlsplit(postgres_url)
    changes = {name: value.format(at=f"{parts.hostname}:{parts.port}") for name, value in change.items()}
    error = await refused("storage_unavailable", opened(urlunsplit(parts._replace(**changes))))
    assert said in str(error) or said in str(error.data)
    assert str(parts.password) not in str(error) + str(error.data)


async def test_a_read_only_database_is_said(postgres: PostgresServer, postgres_url: str) -> None:
    first = await opened(postgres_url)
    run = await executing(first)
    await first.close()
    postgres.execute(f'ALTER DATABASE "{name_of(postgres_url)}" SET default_transaction_read_only = on')
    store = await opened(postgres_url)
    error = await refused("storage_unavailable", Run(store, run.id, run.fence).ask(PauseRun()))
    assert "read-only" in error.message
    assert (await store.state(run.id)).seq == 3
    await store.close()


async def test_a_run_that_is_locked_hurts_no_other(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection._WRITER, "lock_timeout", "'200ms'")
    store = await opened(postgres_url)
    stuck, other = await executing(store), await executing(store)
    holder = await asyncpg.connect(postgres_url)
    async with holder.transaction():
        await holder.execute("SELECT 1 FROM runs WHERE id = $1 FOR UPDATE", stuck.id)
        outcomes = await asyncio.gather(stuck.do(StartNode(A, 0)), other.do(StartNode(A, 0)), return_exceptions=True)
    assert isinstance(outcomes[0], OmiumError) and outcomes[0].code == "storage_unavailable"
    assert "locked" in outcomes[0].message and getattr(outcomes[1], "seq", None) == 4
    await stuck.do(StartNode(A, 0))
    await holder.close()
    await store.close()


async def test_a_call_below_that_comes_before_the_very_statement_is_looked_at(
    store: PostgresStore, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a write whose run is known here, so that nothing is locked before."""
    other = await opened(postgres_url)
    parent = await executing(store)
    child = await child_of(parent, other)
    below, finish = Below(await known(parent, child)), attempt.Attempt._finish
    tried: list[bool] = []

    async def after_a_call(self: Any, result: Any, statement: Any, locked: bool) -> None:
        if self._desk is store._writer._desk:
            tried.append(locked)
            if len(tried) == 1:
                await child.do(call(child))
        await finish(self, result, statement, locked)

    monkeypatch.setattr(attempt.Attempt, "_finish", after_a_call)
    await refused("conflict", store.write(Write(parent.id, [Label(Seq(1), "x")], USER, below=below)))
    assert tried == [False, True] and await store.labels(parent.id) == []
    await other.close()


async def test_text_that_postgres_cannot_hold_is_refused(store: PostgresStore) -> None:
    run, other = await executing(store), await executing(store)
    outcomes = await asyncio.gather(run.ask(PauseRun("a\x00b")), other.ask(PauseRun("ab")), return_exceptions=True)
    assert getattr(outcomes[0], "code", None) == "invalid_value" and getattr(outcomes[1], "seq", None) == 4
    await run.ask(PauseRun("ab"))


async def test_text_that_postgres_cannot_hold_is_not_looked_for(store: PostgresStore) -> None:
    """And that is no trouble of the database, so nobody is told to try again."""
    for query in (RunQuery(text="a\x00b"), RunQuery(workflow="\x00")):
        with pytest.raises(OmiumError) as told:
            await store.runs(query)
        assert told.value.code == "invalid_argument"
        assert "NUL" in told.value.message


async def test_a_question_shows_what_postgres_cannot_hold(store: PostgresStore) -> None:
    """What is asked may quote what a model or a tool gave, and the run has to go on all the same."""
    run = await executing(store)
    await run.do(request("apr_1", None, question="Send a\x00b?"))
    [asked] = await store.approvals(run_id=run.id)
    assert asked.question == "Send a\u2400b?"


@pytest.mark.parametrize(("durability", "found"), [("full", "on"), ("normal", "off")])
async def test_durability_is_the_sessions(postgres_url: str, durability: str, found: str) -> None:
    store = await opened(postgres_url, durability=durability)
    assert await (await store._writer._link.get()).fetchval("SHOW synchronous_commit") == found
    await store.close()


async def test_a_weaker_default_is_raised_and_a_stronger_one_stays(postgres: PostgresServer, postgres_url: str) -> None:
    for default, expected in (("off", "on"), ("remote_apply", "remote_apply")):
        postgres.execute(f'ALTER DATABASE "{name_of(postgres_url)}" SET synchronous_commit = {default}')
        store = await opened(postgres_url)
        assert await (await store._writer._link.get()).fetchval("SHOW synchronous_commit") == expected
        await store.close()


@pytest.mark.parametrize("lost", ["poll", "notification"])
async def test_either_notification_or_poll_is_enough(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    if lost == "poll":
        monkeypatch.setattr(tail, "POLL_S", 3600.0)
    else:
        monkeypatch.setattr(tail, "POLL_S", 0.1)
        monkeypatch.setattr(tail.Tail, "_heard", lambda *_: None)
    mine, theirs = await opened(postgres_url), await opened(postgres_url)
    subscription = theirs.changes()
    with anyio.fail_after(10):
        async for _ in subscription:  # listening began
            break
    run = await executing(mine)
    for command in (PauseRun(), ResumeRun()):
        written = await run.ask(command)

        async def seen(seq: int = written.seq) -> bool:
            return (await theirs.heads([run.id]))[run.id] == seq

        await wake(subscription, seen)
    await mine.close()
    await theirs.close()


async def test_listening_goes_on_after_its_session_was_lost(
    postgres: PostgresServer, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "RECONNECT_S", 0.01)
    mine, theirs = await opened(postgres_url), await opened(postgres_url)
    run = await executing(mine)
    subscription = theirs.changes()
    cut_sessions(postgres, postgres_url, "omium-tail%")
    await run.ask(PauseRun())

    async def seen() -> bool:
        return (await theirs.heads([run.id]))[run.id] == 4

    with anyio.fail_after(10):
        async for _ in subscription:
            if await seen():
                break
    await mine.close()
    await theirs.close()


async def test_the_order_of_columns_does_not_matter(postgres: PostgresServer, postgres_url: str) -> None:
    await (await opened(postgres_url)).close()
    for statement in (
        "ALTER TABLE labels DROP COLUMN note",
        "ALTER TABLE labels ADD COLUMN note text",
        "ALTER TABLE runs DROP COLUMN hypothesis",
        "ALTER TABLE runs ADD COLUMN hypothesis text",
        "ALTER TABLE events ADD COLUMN of_a_later_version text",
    ):
        postgres.execute(statement, name_of(postgres_url))
    store = await opened(postgres_url)
    run = await executing(store, hypothesis="better", parent={"run": "run_x", "seq": 1})
    await store.close()
    store = await opened(postgres_url)
    run = await executing(store, hypothesis="better")
    await run.do(StartNode(A, 0), completion(A))
    await run.ask(Label(Seq(1), "label", note="note"))
    assert [(row.label, row.note) for row in await store.labels(run.id)] == [("label", "note")]
    row = await store.run(run.id)
    assert row is not None and (row.hypothesis, row.completed_nodes) == ("better", 1)
    await store.close()


async def test_a_column_that_is_added_meanwhile_is_no_matter(
    store: PostgresStore, postgres: PostgresServer, postgres_url: str
) -> None:
    run = await executing(store)
    await run.do(StartNode(A, 0))
    for table in ("links", "runs", "events", "blobs"):
        postgres.execute(f"ALTER TABLE {table} ADD COLUMN of_a_later_version text", name_of(postgres_url))
        await run.do(completion(A) if table == "links" else StartNode(NodeId(table), 0), blobs=[NewBlob(encode(table))])
    assert set((await run.state()).nodes) == {A, "runs", "events", "blobs"}
    assert store.chain.breaks(await store.events(run.id)) == []


async def test_without_a_directory_large_values_are_rows(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    store = await opened(postgres_url)
    large = encode("x" + "".join(f"{n:07x}" for n in range(200_000)))
    await store.put([NewBlob(large)])
    assert postgres.execute("SELECT encoding FROM blobs", name_of(postgres_url)) == "zstd"
    await store.close()
    again = await opened(postgres_url, files_root=tmp_path)
    assert encode(await again.value(large.digest)).digest == large.digest
    await again.close()


async def test_an_erasure_waits_for_a_patch_upon_what_it_deletes(store: PostgresStore, postgres_url: str) -> None:
    """A writer that has chosen its base, and has not committed yet, keeps what it wrote."""
    text = random.Random(1).randbytes(20_000).hex()
    base, patch = encode({"text": text}), encode({"text": f"{text}!"})
    life = Life(store)
    run_id = await life.create()
    await life.do(run_id, Signal("s", base.digest, base.size), blobs=[NewBlob(base)])
    await life.do(run_id, CancelRun())
    await store.put([NewBlob(patch, base.digest)])
    writer = await asyncpg.connect(postgres_url)
    try:
        (row,) = await writer.fetch("DELETE FROM blobs WHERE digest = $1 RETURNING *", patch.digest)
        assert row["base"] == base.digest
        begun = writer.transaction()
        await begun.start()
        await writer.fetch("SELECT 1 FROM blobs WHERE digest = $1 FOR KEY SHARE", base.digest)
        places = ", ".join(f"${place}" for place in range(1, len(row) + 1))
        await writer.execute(f"INSERT INTO blobs ({', '.join(row.keys())}) VALUES ({places})", *row.values())
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: erase(keeper(store), run_id, "asked for"))
                while not await writer.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    await asyncio.sleep(0.01)  # real time: the server's
                await begun.commit()
    finally:
        await writer.close()
    await refused("not_found", store.value(base.digest))
    assert await store.value(patch.digest) == {"text": f"{text}!"}
