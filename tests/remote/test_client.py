"""The Python client against the whole surface, in one process; over a real server in `test_client_stdio`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED

from omium.clients.remote import OmiumClient
from omium.clients.remote.client import Ask, _form
from omium.clients.remote.connection import Connection
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.server.mcp import build_server
from omium.tools.toolsets import TOOLSETS
from tests.interaction.studio import ADA, Studio, open_studio

pytestmark = pytest.mark.anyio


@pytest.fixture
async def studio(tmp_path: Any) -> AsyncIterator[Studio]:
    async with open_studio(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def client(studio: Studio, ask: Ask | None = None) -> AsyncIterator[OmiumClient]:
    server = build_server(studio.core, ADA, toolsets=list(TOOLSETS))

    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        async with Client(server, elicitation_callback=_form(ask)) as opened:
            yield opened

    with anyio.fail_after(60):
        async with OmiumClient(Connection(connect, patience_s=5)) as opened:
            yield opened


async def agree(_: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"decision": schema["properties"]["decision"]["default"], "feedback": "fine"}


async def refuse(_: str, __: Mapping[str, Any]) -> None:
    return None


async def test_runs_are_started_awaited_listed_and_read(studio: Studio) -> None:
    async with client(studio) as omium:
        assert "greet" in {one.name for one in await omium.list_workflows()}
        run = await omium.run_workflow("greet", {"name": "Ada"}, title="hello")
        assert (await omium.wait(run.run_id, seconds=20)).status == "completed"
        assert await omium.output(run.run_id) == "Hello Ada"
        assert await omium.output(run.run_id, "hello") == "Hello Ada"
        assert [one.title for one in await omium.list_runs(text="hello")] == ["hello"]
        same = [await omium.run_workflow("greet", {"name": "B"}, idempotency_key="k") for _ in range(2)]
        assert same[0].run_id == same[1].run_id


async def test_a_long_output_comes_whole(studio: Studio) -> None:
    async with client(studio) as omium:
        value = {"text": "\u202e" * 3_000, "list": list(range(2_000))}
        run = await omium.run_workflow("echo", {"value": value})
        await omium.wait(run.run_id)
        assert await omium.output(run.run_id) == value


async def test_history_operations(studio: Studio) -> None:
    async with client(studio) as omium:
        run = await omium.run_workflow("chain", {"word": "x"})
        await omium.wait(run.run_id)
        point = await omium.checkpoint(run.run_id, "early", at="node:a")
        assert "early" in {one.label for one in await omium.checkpoints(run.run_id)}
        plan = await omium.preview("branch", run_id=run.run_id, at="before:b")
        assert plan.plan_token and not plan.in_place
        made = await omium.branch(
            run.run_id, name="other", at="before:b", hypothesis="y", overrides={"inputs": {"word": "y"}}
        )
        assert (await omium.wait(made.run.run_id)).hypothesis == "y"
        assert (await omium.compare(run.run_id, made.run.run_id)).a.run_id == run.run_id
        back = await omium.rollback(run.run_id, "early")
        assert (back.run.status, point.position) == ("paused", f"{run.run_id}@{point.seq}")
        assert (await omium.control(run.run_id, "resume")).run_id == run.run_id
        assert (await omium.wait(run.run_id)).status == "completed"
        again = await omium.play_from(run.run_id, "b", overrides={"inputs": {"word": "z"}})
        assert (await omium.wait(again.run.run_id)).status == "completed"
        assert (await omium.close_branch(made.run.run_id, "abandoned")).run_id == made.run.run_id


async def test_a_human_decides_through_the_client_or_not_at_all(studio: Studio) -> None:
    async with client(studio) as alone:
        run = await alone.run_workflow("gated")
        assert (await alone.wait(run.run_id)).status == "waiting_approval"
        (question,) = await alone.approvals(run.run_id)
        left = await alone.approve(question.approval_id)
        assert not left.decided and "omium approve" in left.next
    async with client(studio, refuse) as refusing:
        assert (await refusing.approve(question.approval_id)).approval.decision == "reject"
    async with client(studio, agree) as agreeing:
        run = await agreeing.run_workflow("gated")
        await agreeing.wait(run.run_id)
        (question,) = await agreeing.approvals(run.run_id)
        decided = await agreeing.approve(question.approval_id)
        assert (decided.decided, decided.approval.assurance, decided.approval.feedback) == (True, "elicited", "fine")
        assert (await agreeing.wait(run.run_id)).status == "completed"


async def test_every_failure_is_the_one_error(studio: Studio) -> None:
    async with client(studio) as omium:
        for work, code in (
            (omium.run_workflow("nothing"), "not_found"),
            (omium.run_workflow("greet", {}), "invalid_argument"),
            (omium.get_run("run_" + "0" * 26), "not_found"),
            (omium.call("no_such_tool"), "not_found"),
            (omium.call("get_run", run_id="x", nonsense=1), "invalid_argument"),
        ):
            with pytest.raises(OmiumError) as failed:
                await work
            assert failed.value.code == code, failed.value
        assert failed.value.message
        held = await omium.run_workflow("held")
        with pytest.raises(OmiumError) as late:
            await omium.wait(held.run_id, seconds=0)
        assert late.value.code == "timeout"
        await omium.control(held.run_id, "cancel")


async def test_an_error_in_the_block_is_not_wrapped(studio: Studio) -> None:
    with pytest.raises(ZeroDivisionError):
        async with client(studio):
            raise ZeroDivisionError


async def test_a_lost_connection_is_made_again_and_the_call_repeated_once_at_the_server(studio: Studio) -> None:
    server = build_server(studio.core, ADA)
    opened = 0

    class Losing:
        """A connection whose first answer is lost on the way back."""

        def __init__(self, inner: Client) -> None:
            self.inner = inner

        async def call_tool(self, *arguments: Any, **options: Any) -> Any:
            answer = await self.inner.call_tool(*arguments, **options)
            if opened == 1:
                raise MCPError(CONNECTION_CLOSED, "Connection closed")
            return answer

    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        nonlocal opened
        async with Client(server) as inner:
            opened += 1
            yield Losing(inner)

    with anyio.fail_after(30):
        async with OmiumClient(Connection(connect)) as omium:
            run = await omium.run_workflow("greet", {"name": "Ada"})
            assert (opened, omium.connection.reconnected) == (2, 1)
            assert [one.run_id for one in await omium.list_runs()] == [run.run_id]


async def test_events_are_followed_once_and_in_order_although_the_connection_is_lost(studio: Studio) -> None:
    server = build_server(studio.core, ADA, toolsets=list(TOOLSETS))
    told: list[int] = []
    opened = 0

    class Losing:
        """A connection that answers twice, and loses the third answer."""

        def __init__(self, inner: Client) -> None:
            self.inner = inner
            self.left = 3

        async def call_tool(self, *arguments: Any, **options: Any) -> Any:
            answer = await self.inner.call_tool(*arguments, **options)
            self.left -= 1
            if not self.left and told:
                raise MCPError(CONNECTION_CLOSED, "Connection closed")
            return answer

    @asynccontextmanager
    async def connect() -> AsyncIterator[Any]:
        nonlocal opened
        async with Client(server) as inner:
            opened += 1
            if opened > 3:  # the run goes on once the connection was lost three times
                studio.release.set()
            yield Losing(inner)

    with anyio.fail_after(60):
        async with OmiumClient(Connection(connect)) as omium:
            run = await omium.run_workflow("held")
            async for event in omium.events(run.run_id):
                told.append(event.seq)
                if event.type == "node.started" and event.data["node"] == "second":
                    for number in range(60):  # so that there is something to hear of while it is held
                        await studio.core.signal(ADA, RunId(run.run_id), f"s{number}", None)
            ended = await omium.get_run(run.run_id)
            assert omium.connection.reconnected >= 3
            assert (ended.status, told) == ("completed", list(range(1, ended.seq + 1)))
            assert [one.seq async for one in omium.events(run.run_id, after=5)] == told[5:]


async def test_a_server_that_is_not_there_is_said_after_a_while() -> None:
    @asynccontextmanager
    async def connect() -> AsyncIterator[Client]:
        raise ConnectionRefusedError("nobody listens")
        yield

    said: list[str] = []
    with anyio.fail_after(20), pytest.raises(OmiumError) as unreachable:
        async with OmiumClient(Connection(connect, patience_s=0.3, tell=said.append)):
            raise AssertionError("it is not there")
    assert unreachable.value.code == "tool_failed" and unreachable.value.data["reason"] == "unreachable"
    assert "nobody listens" in unreachable.value.message
    assert said == ["the server cannot be reached (ConnectionRefusedError: nobody listens); trying for 0.3 s."]
