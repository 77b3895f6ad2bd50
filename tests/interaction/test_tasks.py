"""Tasks: what becomes one, how it stands while its run goes on, how it ends, and whose it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.client.extension import advertise
from mcp_types import CallToolResult

from omium.orchestration.ids import Principal, ProjectId, RunId
from omium.orchestration.service.views import Caller
from omium.server.mcp import build_server
from tests.interaction.studio import ADA, Studio, failure_of, open_studio
from tests.interaction.tasks_client import (
    TASKS,
    Anything,
    Params,
    Taker,
    TaskRequest,
    TaskResult,
    result_of,
    taking,
)

pytestmark = pytest.mark.anyio

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("tasks/get", {}),
    ("tasks/update", {"inputResponses": {}}),
    ("tasks/cancel", {}),
]


async def held_task(taker: Taker, studio: Studio, **arguments: Any) -> str:
    """The task of a run that goes on until `studio.release`."""
    task_id = await taker.task("run_workflow", workflow="held", **arguments)
    await studio.holding.wait()
    return task_id


async def run_of(studio: Studio, task_id: str) -> RunId:
    row = await studio.store.task(task_id)
    assert row is not None
    return row.run_id


# --- from the call to the result -------------------------------------------------------------------------------------


async def test_a_run_from_its_task_to_its_result(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            created = await taker.call("run_workflow", workflow="held", title="first")
            assert isinstance(created, TaskResult)
            assert created.status == "working"
            assert created.ttl_ms == 30 * 86_400_000
            assert created.created_at == created.last_updated_at
            assert str(await run_of(studio, created.task_id)) in (created.status_message or "")
            await studio.holding.wait()
            working = await taker.get(created.task_id)
            assert working["status"] == "working"
            assert "running: second" in working["statusMessage"]
            assert (working["createdAt"], working["ttlMs"]) == (created.created_at, created.ttl_ms)
            studio.release.set()
            ended = await taker.ended(created.task_id)
    assert ended["status"] == "completed"
    assert result_of(ended)["status"] == "completed"
    assert result_of(ended)["title"] == "first"
    assert ended["createdAt"] == created.created_at
    assert ended["lastUpdatedAt"] > working["lastUpdatedAt"]
    assert ended["result"]["content"]


async def test_the_clients_own_call_gives_the_result_of_the_task(studio: Studio) -> None:
    """The SDK checks it against the tool's output schema, as if the call had waited."""
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            await taker.client.list_tools()
            result = await taker.client.call_tool("run_workflow", {"workflow": "chain"})
            assert not result.is_error
            assert result.structured_content is not None
            assert result.structured_content["status"] == "completed"


async def test_a_run_that_fails_completes_its_task(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            ended = await taker.ended(await taker.task("run_workflow", workflow="failing"))
    assert ended["status"] == "completed"
    assert result_of(ended)["status"] == "failed"
    assert "failed" in ended["statusMessage"]


async def test_awaiting_a_run_gives_what_the_call_asked_for(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            run_id = await run_of(studio, await held_task(taker, studio))
            plain = await taker.task("get_run", run_id=run_id[-8:], wait_seconds=45)
            detailed = await taker.task("get_run", run_id=run_id, wait_seconds="45", detail=True)
            of_a_node = await taker.task("get_run", run_id=run_id, wait_seconds=1, node="second")
            studio.release.set()
            assert "nodes" not in result_of(await taker.ended(plain))
            assert len(result_of(await taker.ended(detailed))["nodes"]) == 3
            assert result_of(await taker.ended(of_a_node))["output"]["value"] == "released"


async def test_a_failure_of_the_tool_is_a_result(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            run_id = await run_of(studio, await held_task(taker, studio))
            task_id = await taker.task("get_run", run_id=run_id, wait_seconds=1, node="nowhere")
            studio.release.set()
            ended = await taker.ended(task_id)
            refused = await taker.call("run_workflow", workflow="nowhere")
    assert ended["status"] == "completed"
    assert failure_of(CallToolResult.model_validate(ended["result"]))["code"] == "not_found"
    assert isinstance(refused, CallToolResult)
    assert failure_of(refused)["code"] == "not_found"


async def test_branches_and_played_nodes_become_tasks(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            studio.release.set()
            run_id = result_of(await taker.ended(await taker.task("run_workflow", workflow="held")))["run_id"]
            studio.release = anyio.Event()
            branched = await taker.task("branch", run_id=run_id, at="before:second", name="again")
            studio.release.set()
            branch = result_of(await taker.ended(branched))
            studio.release = anyio.Event()
            played = await taker.task("play_from_node", run_id=run_id, node="second")
            studio.release.set()
            play = result_of(await taker.ended(played))
    assert branch["run"]["status"] == play["run"]["status"] == "completed"
    assert branch["run"]["branch"] == "again"
    assert branch["reset"] == play["reset"] == ["second", "third"]
    assert "done" in branch["next"]


async def test_what_is_answered_at_once_is_no_task(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            run = await taker.plain("run_workflow", workflow="chain", wait_seconds=45, idempotency_key="k")
            assert run["status"] == "completed"
            again = await taker.plain("run_workflow", workflow="chain", wait_seconds=45, idempotency_key="k")
            assert again["run_id"] == run["run_id"]
            await taker.plain("get_run", run_id=run["run_id"], wait_seconds=45)
            preview = await taker.plain("branch", run_id=run["run_id"], at="start", preview=True)
            assert "plan" in preview
            draft = await taker.plain("branch", run_id=run["run_id"], at="node:a", name="draft", start=False)
            assert draft["run"]["status"] == "draft"
            other = await run_of(studio, await held_task(taker, studio))
            looked = await taker.plain("get_run", run_id=other)
            assert looked["status"] == "executing"
            await taker.plain("list_runs")


async def test_a_repeat_with_its_key_is_another_task_of_the_same_run(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            first = await held_task(taker, studio, idempotency_key="once")
            second = await taker.task("run_workflow", workflow="held", idempotency_key="once")
            assert first != second
            assert await run_of(studio, first) == await run_of(studio, second)
            studio.release.set()
            assert result_of(await taker.ended(first)) == result_of(await taker.ended(second))
    assert studio.calls["held"] == 1


async def test_ids_cannot_be_guessed(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            ids = {await taker.task("run_workflow", workflow="held") for _ in range(20)}
    assert len(ids) == 20
    assert all(len(task_id) == len("task_") + 40 and int(task_id[5:], 16) > 0 for task_id in ids)


# --- pausing, going back, cancelling ---------------------------------------------------------------------------------


async def test_a_paused_run_goes_on_in_its_task_but_ends_a_wait(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await held_task(taker, studio)
            run_id = await run_of(studio, task_id)
            waiting = await taker.task("get_run", run_id=run_id, wait_seconds=45)
            await taker.plain("control_run", run_id=run_id, action="pause")
            task = await taker.get(task_id)
            assert task["status"] == "working"
            assert "action='resume'" in task["statusMessage"]
            assert result_of(await taker.get(waiting))["status"] == "paused"
            studio.release.set()
            await taker.plain("control_run", run_id=run_id, action="resume")
            assert result_of(await taker.ended(task_id))["status"] == "completed"
            assert (await taker.get(waiting))["status"] == "completed"


async def test_an_end_that_was_told_stays(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            studio.release.set()
            task_id = await taker.task("run_workflow", workflow="held")
            ended = await taker.ended(task_id)
            run_id = result_of(ended)["run_id"]
            await taker.plain("rollback", run_id=run_id, to="start")
            after = await taker.get(task_id)
    assert (after["status"], after["lastUpdatedAt"]) == ("completed", ended["lastUpdatedAt"])
    assert result_of(after)["status"] == "paused"


async def test_cancelling_the_task_cancels_its_run(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await held_task(taker, studio)
            await taker.cancel(task_id)
            cancelled = await taker.ended(task_id)
            assert cancelled["status"] == "cancelled"
            await taker.cancel(task_id)
            run = await taker.plain("get_run", run_id=await run_of(studio, task_id))
            assert run["status"] == "cancelled"


async def test_cancelling_what_has_ended_changes_nothing(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            told, untold = [await taker.task("run_workflow", workflow="chain") for _ in range(2)]
            await taker.ended(told)
            await taker.plain("get_run", run_id=await run_of(studio, untold), wait_seconds=45)
            for task_id in (told, untold):
                await taker.cancel(task_id)
                assert (await taker.get(task_id))["status"] == "completed"


async def test_cancelling_a_wait_leaves_the_run_alone(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await held_task(taker, studio)
            waiting = await taker.task("get_run", run_id=await run_of(studio, task_id), wait_seconds=45)
            await taker.cancel(waiting)
            assert (await taker.get(waiting))["status"] == "cancelled"
            studio.release.set()
            assert (await taker.ended(task_id))["status"] == "completed"
            assert (await taker.get(waiting))["status"] == "cancelled"


async def test_a_read_only_server_awaits_but_changes_nothing(studio: Studio) -> None:
    async with taking(studio.core) as taker, taking(studio.core, read_only=True) as reader:
        with anyio.fail_after(20):
            task_id = await held_task(taker, studio)
            waiting = await reader.task("get_run", run_id=await run_of(studio, task_id), wait_seconds=45)
            with pytest.raises(MCPError) as refused:
                await reader.cancel(task_id)
            assert refused.value.data["code"] == "forbidden"
            assert (await reader.get(task_id))["status"] == "working"
            studio.release.set()
            assert result_of(await reader.ended(waiting))["status"] == "completed"


# --- nothing lives in a request --------------------------------------------------------------------------------------


async def test_a_client_that_has_gone_takes_nothing_along(studio: Studio) -> None:
    with anyio.fail_after(20):
        async with taking(studio.core) as taker:
            task_id = await held_task(taker, studio)
            gone = await taker.task("get_run", run_id=await run_of(studio, task_id), wait_seconds=45)
        studio.release.set()
        async with taking(studio.core) as taker:
            assert result_of(await taker.ended(task_id))["status"] == "completed"
            assert result_of(await taker.ended(gone))["status"] == "completed"


async def test_tasks_survive_a_restart(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        async with open_studio(tmp_path) as studio, taking(studio.core) as taker:
            asking = await taker.task("run_workflow", workflow="gated")
            put = await taker.until(asking, "input_required")
            ended = await taker.task("run_workflow", workflow="chain")
            told = await taker.ended(ended)
            waiting = await taker.task("run_workflow", workflow="held")
            await studio.holding.wait()
        async with open_studio(tmp_path) as studio, taking(studio.core) as taker:
            studio.release.set()
            assert (await taker.get(ended))["result"] == told["result"]
            again = await taker.get(asking)
            assert again["inputRequests"] == put["inputRequests"]
            (key,) = again["inputRequests"]
            await taker.update(asking, **{key: {"action": "accept", "content": {"decision": "approve"}}})
            assert result_of(await taker.ended(asking))["status"] == "completed"
            assert result_of(await taker.ended(waiting))["status"] == "completed"


# --- who asks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "caller",
    [replace(ADA, principal=Principal("user:eve")), replace(ADA, project=ProjectId("other"))],
    ids=["principal", "project"],
)
@pytest.mark.parametrize(("method", "params"), METHODS)
async def test_anothers_task_is_as_unknown_as_none(
    studio: Studio, caller: Caller, method: str, params: dict[str, Any]
) -> None:
    async with taking(studio.core) as taker, taking(studio.core, caller=caller) as other:
        with anyio.fail_after(20):
            task_id = await held_task(taker, studio)
            errors = []
            for wanted in (task_id, "task_" + "0" * 40, "", "x" * 100_000, "task_\x00'; DROP TABLE tasks"):
                with pytest.raises(MCPError) as refused:
                    await other.method(method, taskId=wanted, **params)
                errors.append(refused.value.error)
            assert {error.code for error in errors} == {-32602}
            assert all(error == errors[0] for error in errors)
            assert (await taker.get(task_id))["status"] == "working"


@pytest.mark.parametrize(("method", "params"), METHODS)
async def test_an_expired_task_is_unknown_and_its_run_stays(
    studio: Studio, method: str, params: dict[str, Any]
) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await held_task(taker, studio)
            row = await studio.store.task(task_id)
            assert row is not None
            now = studio.core.clock.now_us()
            expired, fresh = (
                replace(row, id=f"task_{digit * 40}", expires_at=at) for digit, at in (("a", now), ("b", now + 10**9))
            )
            await studio.store.put_task(expired)
            await studio.store.put_task(fresh)
            assert (await taker.get(fresh.id))["status"] == "working"
            with pytest.raises(MCPError) as refused:
                await taker.method(method, taskId=expired.id, **params)
            assert refused.value.code == -32602
            run = await taker.plain("get_run", run_id=row.run_id)
            assert run["status"] == "executing"


@pytest.mark.parametrize(("method", "params"), METHODS)
async def test_a_client_that_takes_no_tasks_gets_none(studio: Studio, method: str, params: dict[str, Any]) -> None:
    async with taking(studio.core) as taker, Client(build_server(studio.core, ADA)) as plain:
        with anyio.fail_after(20):
            task_id = await held_task(taker, studio)
            request = TaskRequest(method=method, params=Params.model_validate({"taskId": task_id, **params}))
            with pytest.raises(MCPError) as refused:
                await plain.session.send_request(request, Anything)
            assert refused.value.code == -32021
            assert refused.value.data == {"requiredCapabilities": {"extensions": {TASKS: {}}}}
            for arguments in ({"workflow": "held"}, {"workflow": "held", "wait_seconds": 0.01}):
                result = await plain.call_tool("run_workflow", arguments)
                assert result.structured_content is not None
                assert result.structured_content["status"] in ("planning", "executing")


@pytest.mark.parametrize(("method", "params"), METHODS)
async def test_the_older_protocol_knows_no_tasks(studio: Studio, method: str, params: dict[str, Any]) -> None:
    server = build_server(studio.core, ADA)
    async with Client(server, mode="legacy", extensions=[advertise(TASKS)]) as client:
        with anyio.fail_after(20):
            result = await client.call_tool("run_workflow", {"workflow": "held"})
            assert result.structured_content is not None
            request = TaskRequest(method=method, params=Params.model_validate({"taskId": "task_1", **params}))
            with pytest.raises(MCPError) as refused:
                await client.session.send_request(request, Anything)
            assert refused.value.code == -32601


async def test_the_extension_is_advertised(studio: Studio) -> None:
    async with Client(build_server(studio.core, ADA)) as client:
        capabilities = client.server_capabilities
        assert capabilities is not None
        assert capabilities.tasks is None
        assert (capabilities.extensions or {}).get(TASKS) == {}


@pytest.mark.parametrize("method", ["tasks/list", "tasks/result"])
async def test_methods_that_went_are_not_found(studio: Studio, method: str) -> None:
    async with taking(studio.core) as taker:
        with pytest.raises(MCPError) as refused:
            await taker.method(method, taskId="task_1")
        assert refused.value.code == -32601


@pytest.mark.parametrize(
    "params",
    [{}, {"taskId": 1}, {"taskId": None}, {"taskId": ["task_1"]}, {"taskId": "task_1"}],
    ids=["nothing", "a number", "null", "a list", "no responses"],
)
async def test_what_is_no_update_is_refused(studio: Studio, params: dict[str, Any]) -> None:
    async with taking(studio.core) as taker:
        before = await studio.changes()
        with pytest.raises(MCPError) as refused:
            await taker.client.session.send_request(Update(params=Params.model_validate(params)), Anything)
        assert refused.value.code == -32602
        assert await studio.changes() == before


class Update(TaskRequest):
    name_param = None

    method: str = "tasks/update"
