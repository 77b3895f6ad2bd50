"""Events over HTTP: pages, server-sent events, WebSockets; going on where one was; readers that are slow, or go."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from omium.orchestration.ids import RunId
from omium.orchestration.service.views import EventView
from omium.server.http import events, rest
from omium.server.http.access import Again
from omium.server.http.app import HttpSettings
from omium.server.identity.limits import RateLimits, RequestLimits
from tests.http.served import Served, messages_of, refusal, serve_studio
from tests.interaction.studio import ADA

pytestmark = pytest.mark.anyio

FEED = {"accept": "text/event-stream"}


async def listening(response: httpx2.Response) -> AsyncIterator[dict[str, str]]:
    """The parts of a feed: the fields of each event, or `{"": text}` of a comment."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
        elif fields:
            yield fields
            fields = {}


async def log_of(served: Served, run_id: str) -> list[int]:
    return [event.seq for event in await served.studio.core.events(ADA, RunId(run_id), limit=100_000)]


def socket_url(served: Served, run_id: str, after: int = 0) -> str:
    return f"{served.url.replace('http', 'ws')}/api/v1/runs/{run_id}/events/ws?after={after}"


async def told(socket: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    async for text in socket:
        yield json.loads(text)


async def test_pages(served: Served) -> None:
    async with served.http() as client:
        run_id = await served.started(client, "chain")
        await served.ended(client, run_id)
        found: list[int] = []
        after = 0
        while True:
            params = {"after": after, "limit": 4}
            page = (await client.get(f"/api/v1/runs/{run_id}/events", params=params)).json()
            found += [event["seq"] for event in page["events"]]
            if not page["events"]:
                break
            after = page["next"]
        assert found == await log_of(served, run_id)


@pytest.mark.parametrize("after", [0, 3])
async def test_a_feed_follows_the_run_to_its_end(served: Served, after: int) -> None:
    with anyio.fail_after(30):
        async with served.http() as client:
            run_id = await served.started(client, "held")
            path = f"/api/v1/runs/{run_id}/events"
            async with client.stream("GET", path, params={"after": after}, headers=FEED) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                assert response.headers["cache-control"] == "no-store"
                await served.studio.holding.wait()
                served.studio.release.set()
                parts = [part async for part in listening(response)]
        *sent, end = parts
        log = await log_of(served, run_id)
        assert [int(part["id"]) for part in sent] == log[after:]
        assert [json.loads(part["data"])["seq"] for part in sent] == log[after:]
        assert end["event"] == "end"
        assert json.loads(end["data"]) == {"seq": log[-1], "status": "completed"}


async def test_a_reader_that_comes_back_goes_on_where_it_was(served: Served) -> None:
    """Broken off after every event, it still sees each of them once, in order, and is then told not to come back."""
    seen: list[int] = []
    with anyio.fail_after(60):
        async with served.http() as client:
            run_id = await served.started(client, "chain")
            await served.ended(client, run_id)
            log = await log_of(served, run_id)
            while len(seen) < len(log):
                headers = {**FEED, **({"last-event-id": str(seen[-1])} if seen else {})}
                async with client.stream("GET", f"/api/v1/runs/{run_id}/events", headers=headers) as response:
                    part = await anext(listening(response))
                    seen.append(int(part["id"]))
            assert seen == log
            done = await client.get(f"/api/v1/runs/{run_id}/events", headers={**FEED, "last-event-id": str(seen[-1])})
            assert (done.status_code, done.content) == (204, b"")
            for bad in ("x", "-1", "1e3", "9" * 30):
                answer = await client.get(f"/api/v1/runs/{run_id}/events", headers={**FEED, "last-event-id": bad})
                refusal(answer, 400, "invalid_argument")


async def test_a_silent_run_is_heard_of(tmp_path: Path) -> None:
    async with serve_studio(tmp_path, HttpSettings(heartbeat_s=0.05)) as served, served.http() as client:
        with anyio.fail_after(30):
            run_id = await served.started(client, "held")
            await served.studio.holding.wait()
            log = await log_of(served, run_id)
            async with client.stream("GET", f"/api/v1/runs/{run_id}/events", headers=FEED) as response:
                parts = listening(response)
                comments = []
                while len(comments) < 3:
                    part = await anext(parts)
                    comments += [part[""]] if "" in part else []
            async with connect(socket_url(served, run_id)) as socket:
                beat = await anext(message async for message in told(socket) if message["type"] == "heartbeat")
    assert comments[-1].startswith(f"seq={log[-1]} at=20")
    assert beat["seq"] == log[-1]
    assert beat["at"].endswith("Z")


@pytest.mark.parametrize("after", [0, 3])
async def test_a_websocket_follows_the_run_to_its_end(served: Served, after: int) -> None:
    with anyio.fail_after(30):
        async with served.http() as client:
            run_id = await served.started(client, "held")
            async with connect(socket_url(served, run_id, after)) as socket:
                await served.studio.holding.wait()
                await socket.send("a reader has nothing to say")
                served.studio.release.set()
                messages = [message async for message in told(socket)]
                assert socket.close_code == 1000
        *sent, end = messages
        log = await log_of(served, run_id)
        assert [message["event"]["seq"] for message in sent] == log[after:]
        assert end == {"type": "end", "seq": log[-1], "status": "completed"}


async def test_a_websocket_of_nothing_is_refused_before_there_is_one(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async with served.http() as client:
        run_id = await served.started(client, "chain")
    for path, status in ((f"{run_id[:-1]}X", 404), ("nothing", 404), (run_id, 400)):
        url = socket_url(served, path).replace("after=0", "after=x" if status == 400 else "after=0")
        with anyio.fail_after(10), pytest.raises(InvalidStatus) as refused:
            async with connect(url):
                raise AssertionError("it was let in")
        assert refused.value.response.status_code == status
        assert b'"error"' in (refused.value.response.body or b"")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_large_message_ends_the_websocket(served: Served) -> None:
    with anyio.fail_after(30):
        async with served.http() as client:
            run_id = await served.started(client, "held")
            async with connect(socket_url(served, run_id)) as socket:
                with pytest.raises(ConnectionClosed):
                    await socket.send("x" * 100_000)
                    async for _ in socket:
                        pass
            assert (await client.get("/healthz")).status_code == 200


# --- readers ------------------------------------------------------------------------------------------------------


async def test_a_slow_reader_is_read_for_no_faster_than_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops reading: the feed reads on only until the buffers of its connection are full, and when it is dropped
    nothing of it is left. Coming back with its cursor it misses nothing."""
    pages: list[int] = []
    wide = 3_000
    async with serve_studio(tmp_path, HttpSettings(stalled_s=0.5)) as served, served.http() as client:
        with anyio.fail_after(120):
            run_id = await served.started(client, "wide", count=wide)
            assert (await served.ended(client, run_id))["status"] == "completed"
            log = await log_of(served, run_id)
            assert len(log) > 2 * wide
            read = served.studio.core.events

            async def counted(*args: Any, **kwargs: Any) -> Any:
                found = await read(*args, **kwargs)
                pages.append(len(found))
                return found

            monkeypatch.setattr(served.studio.core, "events", counted)
            async with served.raw() as stream:
                head = (
                    f"GET /api/v1/runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
                )
                await stream.send(head.encode())
                first = await stream.receive()
                while served.app.ending.open:
                    await anyio.sleep(0.05)
            assert pages
            assert max(pages) <= events.PAGE
            monkeypatch.undo()
            got = [
                message["seq"]
                for message in messages_of(first.rpartition(b"\n\n")[0].decode().partition("\r\n\r\n")[2])
            ]
            cursor = got[-1] if got else 0
            path = f"/api/v1/runs/{run_id}/events"
            async with client.stream("GET", path, headers={**FEED, "last-event-id": str(cursor)}) as response:
                got += [int(part["id"]) async for part in listening(response) if "id" in part]
            assert got == log


async def test_a_feed_holds_one_page_for_a_reader_that_stands_still(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, pages = served.studio.core.events, []
    got: list[int] = []
    stuck = anyio.Event()

    async def counted(*args: Any, **kwargs: Any) -> Any:
        pages.append(found := await read(*args, **kwargs))
        return found

    class Stuck:
        """Takes three events, and no more."""

        async def event(self, event: EventView) -> None:
            got.append(event.seq)
            if len(got) == 3:
                stuck.set()
                await anyio.sleep_forever()

        async def heartbeat(self, seq: int, at: int) -> None: ...

        async def end(self, seq: int, status: str) -> None: ...

    with anyio.fail_after(60):
        async with served.http() as client:
            run_id = await served.started(client, "wide", count=300)
            await served.ended(client, run_id)
        monkeypatch.setattr(served.studio.core, "events", counted)
        api = rest.Api(served.studio.core, served.app.ending, RateLimits(RequestLimits(), lambda: 0.0))
        feed = events.Feed(api, ADA, Again(served.authority, None, ADA), RunId(run_id), 0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(feed.into, Stuck())
            await stuck.wait()
            tasks.cancel_scope.cancel()
    assert got == [1, 2, 3]
    assert [len(page) for page in pages] == [events.PAGE]


async def test_readers_that_go_leave_nothing_behind(served: Served) -> None:
    with anyio.fail_after(60):
        async with served.http() as client:
            run_id = await served.started(client, "held")
            await served.studio.holding.wait()
            for _ in range(5):
                async with client.stream("GET", f"/api/v1/runs/{run_id}/events", headers=FEED) as response:
                    await anext(listening(response))
                async with connect(socket_url(served, run_id)) as socket:
                    await socket.recv()
            while served.app.ending.open:
                await anyio.sleep(0.05)


async def test_a_reader_sees_events_of_another_process(served: Served) -> None:
    """Somebody else works on the same database: its commits wake the feed too."""
    from omium.orchestration.log import commands as c
    from omium.orchestration.ports import Write
    from omium.storage.sqlite.store import SqliteStore

    with anyio.fail_after(30):
        async with served.http() as client:
            run_id = await served.started(client, "held")
            await served.studio.holding.wait()
            async with client.stream("GET", f"/api/v1/runs/{run_id}/events", headers=FEED) as response:
                parts = listening(response)
                await anext(parts)
                other = await SqliteStore.open(Path(served.studio.store.path))
                try:
                    await other.write(Write(RunId(run_id), [c.PauseRun("from elsewhere", False)], ADA.principal))
                finally:
                    await other.close()
                async for part in parts:
                    if "data" in part and json.loads(part["data"])["type"] == "run.paused":
                        break
