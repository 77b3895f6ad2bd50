"""`notifications/tasks`: told on the client's subscription, whoever made the change, and to nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError

from omium.orchestration.ids import Principal
from omium.orchestration.service.core import Core
from omium.server.mcp import build_server
from omium.storage.sqlite.store import SqliteStore
from omium.tools.tasks_listen import MAX_LISTENED
from tests.interaction.studio import ADA, WORKFLOWS, Studio, open_studio
from tests.interaction.tasks_client import Anything, Listen, Params, taking

pytestmark = pytest.mark.anyio

OUTER = """
name: outer
nodes:
- {id: inner, kind: workflow, use: gated}
"""


@pytest.fixture
async def studio(tmp_path: Path) -> AsyncIterator[Studio]:
    async with open_studio(tmp_path, workflows={**WORKFLOWS, "outer": OUTER}) as opened:
        yield opened


def plain(told: dict[str, Any]) -> dict[str, Any]:
    """A notification without what differs from poll to poll."""
    return {key: item for key, item in told.items() if key not in ("_meta", "meta", "pollIntervalMs", "resultType")}


async def test_a_task_is_told_of_to_its_end(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="held")
            await studio.holding.wait()
            async with taker.listening(task_id) as hears:
                first = await hears.receive()
                assert (first["taskId"], first["status"]) == (task_id, "working")
                studio.release.set()
                while (last := await hears.receive())["status"] == "working":
                    pass
                assert plain(last) == plain(await taker.get(task_id))
    assert last["status"] == "completed"
    assert last["result"]["structuredContent"]["status"] == "completed"


async def test_questions_are_told_with_their_requests(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="gated")
            async with taker.listening(task_id) as hears:
                while (asks := await hears.receive())["status"] != "input_required":
                    pass
                assert asks["inputRequests"] == (await taker.get(task_id))["inputRequests"]
                (key,) = asks["inputRequests"]
                await taker.update(task_id, **{key: {"action": "accept", "content": {"decision": "approve"}}})
                while (last := await hears.receive())["status"] != "completed":
                    assert "inputRequests" not in last or last["inputRequests"] == asks["inputRequests"]
    assert last["result"]["structuredContent"]["status"] == "completed"


async def test_what_another_process_changes_is_told(studio: Studio, tmp_path: Path) -> None:
    """A store of its own over the same database is what another process has."""
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="gated")
            await taker.until(task_id, "input_required")
            row = await studio.store.task(task_id)
            assert row is not None
            other = await SqliteStore.open(tmp_path / "omium.db")
            try:
                elsewhere = Core(other, studio.core.catalog)
                async with taker.listening(task_id) as hears:
                    assert (await hears.receive())["status"] == "input_required"
                    await elsewhere.cancel(ADA, row.run_id)
                    while (last := await hears.receive())["status"] == "input_required":
                        pass
            finally:
                await other.close()
    assert last["status"] == "cancelled"


async def test_a_run_below_is_heard(studio: Studio) -> None:
    """The question of a run that the task's run has started."""
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="outer")
            async with taker.listening(task_id) as hears:
                while (asks := await hears.receive())["status"] != "input_required":
                    pass
    assert len(asks["inputRequests"]) == 1


async def test_an_ended_task_is_told_of_once(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            ended = await taker.task("run_workflow", workflow="chain")
            await taker.ended(ended)
            other = await taker.task("run_workflow", workflow="held")
            await studio.holding.wait()
            async with taker.listening(ended, other, ended) as hears:
                first = [await hears.receive(), await hears.receive()]
                assert {told["taskId"] for told in first} == {ended, other}
                studio.release.set()
                while (last := await hears.receive())["status"] == "working":
                    pass
                assert last["taskId"] == other


async def test_nobody_is_told_of_anothers_task(studio: Studio) -> None:
    eve = replace(ADA, principal=Principal("user:eve"))
    async with taking(studio.core) as taker, taking(studio.core, caller=eve) as other:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="held")
            await studio.holding.wait()
            own = await other.task("run_workflow", workflow="chain")
            async with other.listening(task_id, "task_nowhere", own) as hears:
                heard = [await hears.receive()]
                studio.release.set()
                await taker.ended(task_id)
                while heard[-1]["status"] != "completed":
                    heard.append(await hears.receive())
                assert {told["taskId"] for told in heard} == {own}


async def test_the_acknowledgement_names_what_is_told(studio: Studio) -> None:
    """As the protocol's client sees it: the ids that are the caller's, and no others."""
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="held")
            async with taker.acknowledged(task_id, "task_nowhere") as honored:
                assert honored == {"taskIds": [task_id]}


async def test_listening_for_tasks_takes_the_extension(studio: Studio) -> None:
    async with Client(build_server(studio.core, ADA)) as client:
        request = Listen(params=Params.model_validate({"notifications": {"taskIds": ["task_1"]}}))
        with anyio.fail_after(20), pytest.raises(MCPError) as refused:
            await client.session.send_request(request, Anything)
    assert refused.value.code == -32021


@pytest.mark.parametrize("ids", [[f"task_{n}" for n in range(MAX_LISTENED + 1)], "task_1", [1], [None]])
async def test_what_is_no_list_of_tasks_is_refused(studio: Studio, ids: Any) -> None:
    async with taking(studio.core) as taker:
        request = Listen(params=Params.model_validate({"notifications": {"taskIds": ids}}))
        with anyio.fail_after(20), pytest.raises(MCPError) as refused:
            await taker.client.session.send_request(request, Anything)
    assert refused.value.code == -32602
