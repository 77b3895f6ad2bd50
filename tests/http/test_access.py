"""Who asks: every request by its own credential; another's sessions, runs and questions do not exist for it."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, RunId
from omium.orchestration.service.views import Caller
from omium.server.http.access import identify
from omium.server.http.app import HttpSettings
from omium.server.identity.limits import RequestLimits
from omium.server.identity.tokens import revoke_token
from omium.storage.maintenance import keeper
from tests.http.served import (
    JSON,
    WAYS,
    Served,
    Way,
    bearer,
    headers_of,
    messages_of,
    refusal,
    request_of,
    serve_studio,
)  # fmt: skip
from tests.interaction.studio import ADA, failure_of

pytestmark = pytest.mark.anyio

BAD = ["Bearer nonsense", "Bearer", "Basic YTpi", "Bearer a b", "bearer omium_x_y", "Bearer " + "a" * 20_000]
GUARDED = ["/api/v1/runs", "/api/v1/openapi.json", "/mcp", "/sse", "/nowhere"]


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[Served]:
    """A server that knows nobody without a credential."""
    async with serve_studio(tmp_path, open_to=False) as served:
        yield served


@pytest.mark.parametrize("given", [None, *BAD], ids=lambda one: str(one)[:20])
async def test_without_a_good_credential_there_is_nothing(closed: Served, given: str | None) -> None:
    headers = {} if given is None else {"authorization": given}
    async with closed.http() as client:
        for path in GUARDED:
            answer = await client.get(path, headers=headers)
            if answer.status_code == 431:
                assert given is not None
                assert len(given) > 10_000
                continue
            refusal(answer, 401, "unauthenticated")
            assert answer.headers["www-authenticate"].startswith("Bearer ")
        message = request_of("tools/list")
        answer = await client.post("/mcp", json=message, headers={**headers_of(message), **headers})
        assert answer.status_code in (401, 431)
        assert (await client.get("/healthz", headers=headers)).status_code == 200


async def test_a_body_is_not_even_read_without_a_credential(closed: Served) -> None:
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4000000\r\n\r\n"
    async with closed.raw() as stream:
        await stream.send(head)
        with anyio.fail_after(10):
            assert b"401" in (await stream.receive()).splitlines()[0]


async def test_two_credentials_at_once_are_refused(closed: Served) -> None:
    token = await closed.token("viewer", "vera")
    pairs = [("authorization", f"Bearer {token}"), ("authorization", f"Bearer {token}")]
    async with closed.http() as client:
        refusal(await client.get("/api/v1/runs", headers=pairs), 400, "invalid_argument")


async def test_a_websocket_needs_a_credential_too(closed: Served) -> None:
    token = await closed.token("operator", "otto")
    async with closed.http(token) as client:
        run_id = await closed.started(client, "chain")
    url = f"{closed.url.replace('http', 'ws')}/api/v1/runs/{run_id}/events/ws"
    other = await closed.token("operator", "oda")
    for given, status in ((None, 401), ("omium_no", 401), (other, 404)):
        with anyio.fail_after(10), pytest.raises(InvalidStatus) as refused:
            async with connect(url, additional_headers=bearer(given)):
                raise AssertionError("it was let in")
        assert refused.value.response.status_code == status
    with anyio.fail_after(10):
        async with connect(url, additional_headers=bearer(token)) as socket:
            assert '"run.created"' in str(await socket.recv())


async def test_a_role_that_is_not_enough_is_forbidden(closed: Served) -> None:
    viewer, approver = await closed.token("viewer", "vera"), await closed.token("approver", "anna")
    for token in (viewer, approver):
        async with closed.http(token) as client:
            refusal(await client.post("/api/v1/runs", json={"workflow": "chain"}), 403, "forbidden")
            assert (await client.get("/api/v1/runs")).status_code == 200
        async with closed.mcp("auto", token) as visitor:
            assert (await visitor.error("run_workflow", workflow="chain"))["code"] == "forbidden"
    assert closed.studio.calls["echo"] == 0


@pytest.mark.parametrize("way", WAYS)
async def test_the_caller_is_who_shows_the_credential(closed: Served, way: Way) -> None:
    token = await closed.token("operator", "otto")
    async with closed.mcp(way, token) as visitor:
        run_id = await visitor.finished("greet", {"name": "Ada"})
    row = await closed.studio.store.run(RunId(run_id))
    assert row is not None
    assert row.owner == "token:otto"


# --- others -------------------------------------------------------------------------------------------------------


async def test_anothers_runs_and_questions_do_not_exist(closed: Served) -> None:
    otto, oda = await closed.token("operator", "otto"), await closed.token("operator", "oda")
    async with closed.mcp("auto", otto) as visitor:
        run_id, approval_id = await visitor.asking()
    with anyio.fail_after(30):
        async with closed.http(oda, **JSON) as client:
            for path in (f"/api/v1/runs/{run_id}", f"/api/v1/runs/{run_id}/events", f"/api/v1/approvals/{approval_id}"):
                refusal(await client.get(path), 404, "not_found")
            feed = await client.get(f"/api/v1/runs/{run_id}/events", headers={"accept": "text/event-stream"})
            refusal(feed, 404, "not_found")
            for verb in ("pause", "resume", "cancel"):
                refusal(await client.post(f"/api/v1/runs/{run_id}/{verb}"), 404, "not_found")
            decision = await client.post(f"/api/v1/approvals/{approval_id}/decide", json={"decision": "approve"})
            refusal(decision, 404, "not_found")
            refusal(await client.get("/api/v1/approvals", params={"run_id": run_id}), 404, "not_found")
            assert (await client.get("/api/v1/runs")).json()["runs"] == []
            assert (await client.get("/api/v1/approvals")).json()["approvals"] == []
        for way in WAYS:
            async with closed.mcp(way, oda) as visitor:
                assert (await visitor.error("get_run", run_id=run_id))["code"] == "not_found"
                assert (await visitor.error("control_run", run_id=run_id, action="cancel"))["code"] == "not_found"
                found = await visitor.error("approve", approval_id=approval_id, decision="approve")
                assert found["code"] == "not_found"
    view = await closed.studio.core.get_approval(ADA, ApprovalId(approval_id))
    assert view.status == "pending"


async def initialized(client: httpx2.AsyncClient) -> str:
    """A session of the older era."""
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    answer = await client.post("/mcp", json=message, headers={"accept": "application/json, text/event-stream"})
    assert answer.status_code == 200, answer.text
    session = answer.headers["mcp-session-id"]
    told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    headers = {"accept": "application/json, text/event-stream", "mcp-session-id": session}
    assert (await client.post("/mcp", json=told, headers=headers)).status_code == 202
    return str(session)


async def test_anothers_session_does_not_exist(closed: Served) -> None:
    otto, oda = await closed.token("operator", "otto"), await closed.token("operator", "oda")
    again = await closed.token("operator", "otto")  # another credential of the same principal
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {}}
    async with closed.http(otto) as mine, closed.http(oda) as others, closed.http(again) as also_mine:
        session = await initialized(mine)
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-session-id": session,
            "mcp-protocol-version": "2025-11-25",
        }
        assert (await others.post("/mcp", json=call, headers=headers)).status_code == 404
        assert (await others.get("/mcp", headers=headers)).status_code == 404
        assert (await others.delete("/mcp", headers=headers)).status_code == 404
        assert (await mine.post("/mcp", json=call, headers=headers)).status_code == 200
        assert (await also_mine.post("/mcp", json=call, headers=headers)).status_code == 200
        assert (await mine.delete("/mcp", headers=headers)).status_code == 200
        assert (await mine.post("/mcp", json=call, headers=headers)).status_code == 404


async def test_anothers_sse_session_does_not_exist(closed: Served) -> None:
    otto, oda = await closed.token("operator", "otto"), await closed.token("operator", "oda")
    async with closed.http(otto) as mine, closed.http(oda) as others, mine.stream("GET", "/sse") as stream:
        lines = stream.aiter_lines()
        while not (line := await anext(lines)).startswith("data: "):
            pass
        path = line.removeprefix("data: ")
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert (await others.post(path, json=ping)).status_code == 404
        assert (await mine.post(path, json=ping)).status_code == 202


async def test_two_clients_may_use_one_id_of_json_rpc(closed: Served) -> None:
    """Each gets its own answer, also when both wait at the same time under the same id."""
    found: dict[str, Any] = {}
    runs: dict[str, str] = {}

    async def ask(name: str, token: str) -> None:
        arguments = {"run_id": runs[name], "wait_seconds": 30}
        message = request_of("tools/call", name="get_run", arguments=arguments)
        async with closed.http(token) as client:
            answer = await client.post("/mcp", json=message, headers=headers_of(message))
        whole = answer.json() if "json" in answer.headers["content-type"] else messages_of(answer.text)[-1]
        found[name] = whole["result"]["structuredContent"]["run_id"]

    with anyio.fail_after(60):
        tokens = {name: await closed.token("operator", name) for name in ("otto", "oda")}
        for name, token in tokens.items():
            async with closed.http(token) as client:
                runs[name] = await closed.started(client, "held")
        async with anyio.create_task_group() as tasks:
            for name, token in tokens.items():
                tasks.start_soon(ask, name, token)
            await closed.studio.holding.wait()
            closed.studio.release.set()
    assert found == runs


# --- the credential itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
async def test_the_credential_goes_no_further_and_is_logged_nowhere(
    tmp_path: Path, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def look(ctx: Context[Any, Any]) -> Caller:
        request = ctx.request_context.request
        seen.append(repr([dict(ctx.headers or {}), dict(request.scope), request.scope["user"].access_token]))
        return identify(ctx)

    with caplog.at_level(logging.DEBUG):
        async with serve_studio(tmp_path, open_to=False, look=look) as served:
            token = await served.token("operator", "otto")
            async with served.mcp(way, token) as visitor:
                await visitor.finished("chain")
            async with served.http(token) as client:
                await client.get("/api/v1/runs/nothing")
            events = await served.studio.core.events(ADA, RunId((await served.studio.core.list_runs(ADA)).runs[0].id))
    assert seen
    secret = token.split("_", 2)[2]  # may itself hold a "_"
    ours = [one.getMessage() for one in caplog.records if not one.name.startswith(("http", "h11", "mcp.client"))]
    for place in (*ours, *seen, *map(repr, events)):
        assert secret not in place


async def test_a_request_that_nobody_looked_at_has_no_caller() -> None:
    class Nothing:
        request_context = type("Inner", (), {"request": None})

    with pytest.raises(OmiumError) as refused:
        identify(Nothing())  # type: ignore[arg-type]
    assert refused.value.code == "unauthenticated"


async def test_a_revoked_credential_ends_what_it_opened(tmp_path: Path) -> None:
    settings = HttpSettings(heartbeat_s=0.05)
    async with serve_studio(tmp_path, settings, open_to=False) as served:
        token = await served.token("operator", "otto")
        with anyio.fail_after(30):
            async with served.http(token) as client:
                run_id = await served.started(client, "held")
                headers = {"accept": "text/event-stream"}
                async with client.stream("GET", f"/api/v1/runs/{run_id}/events", headers=headers) as stream:
                    lines = stream.aiter_lines()
                    while not (await anext(lines)).startswith(": seq="):
                        pass
                    row = (await served.studio.store.tokens(ADA.project))[0]
                    await revoke_token(served.studio.store, ADA, served.studio.core.clock, row.id)
                    rest = [line async for line in lines]
                assert "event: error" in rest
                refusal(await client.get(f"/api/v1/runs/{run_id}"), 401, "unauthenticated")


async def test_who_may_decide(closed: Served) -> None:
    """Whoever asked for it decides nothing by a plain request; an approver of their own name does, and once."""
    otto = await closed.token("operator", "otto")
    same = await closed.token("approver", "otto")
    anna = await closed.token("approver", "anna")
    async with closed.mcp("auto", otto) as visitor:
        _, approval_id = await visitor.asking()
        pending = await visitor.ok("approve", approval_id=approval_id, decision="approve")
        assert pending["decided"] is False
    path = f"/api/v1/approvals/{approval_id}/decide"
    for token in (otto, same):
        async with closed.http(token) as client:
            refusal(await client.post(path, json={"decision": "approve"}), 403, "forbidden")
            refused = await client.post(path, json={"decision": "approve", "approved": True, "assurance": "signed"})
            refusal(refused, 400, "invalid_argument")
    async with closed.http(anna) as client:
        refusal(await client.post(path, json={"decision": "maybe"}), 400, "invalid_argument")
        decided = (await client.post(path, json={"decision": "approve", "feedback": "fine"})).json()
        assert decided["status"] == "decided"
        assert decided["decided_by"] == "token:anna"
        assert decided["assurance"] == "separate_identity"
        refusal(await client.post(path, json={"decision": "reject"}), 409, "already_decided")


async def test_two_approvers_at_once_decide_once(closed: Served) -> None:
    answers: list[httpx2.Response] = []

    async def decide(token: str, path: str, decision: str) -> None:
        async with closed.http(token) as client:
            answers.append(await client.post(path, json={"decision": decision}))

    with anyio.fail_after(60):
        otto = await closed.token("operator", "otto")
        deciders = [await closed.token("approver", name) for name in ("anna", "abel", "alma", "axel")]
        async with closed.mcp("auto", otto) as visitor:
            run_id, approval_id = await visitor.asking()
        async with anyio.create_task_group() as tasks:
            for number, token in enumerate(deciders):
                decision = ("approve", "reject")[number % 2]
                tasks.start_soon(decide, token, f"/api/v1/approvals/{approval_id}/decide", decision)
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
        (won,) = (answer.json() for answer in answers if answer.status_code == 200)
        view = await closed.studio.core.get_approval(ADA, ApprovalId(approval_id))
        assert (view.decision, view.decided_by) == (won["decision"], won["decided_by"])
        async with closed.http(otto) as client:
            ended = await closed.ended(client, run_id)
        assert (ended["status"] == "completed") is (won["decision"] == "approve")


async def test_a_decision_and_a_cancellation_at_once(closed: Served) -> None:
    """Either the run was cancelled and the question with it, or it was decided and the run cancelled afterwards."""
    codes: dict[str, int] = {}

    async def send(name: str, token: str, path: str, body: dict[str, Any]) -> None:
        async with closed.http(token) as client:
            codes[name] = (await client.post(path, json=body)).status_code

    with anyio.fail_after(60):
        otto, anna = await closed.token("operator", "otto"), await closed.token("approver", "anna")
        async with closed.mcp("auto", otto) as visitor:
            run_id, approval_id = await visitor.asking("gated-loosely")
        async with anyio.create_task_group() as tasks:
            path = f"/api/v1/approvals/{approval_id}/decide"
            tasks.start_soon(send, "decide", anna, path, {"decision": "approve"})
            tasks.start_soon(send, "cancel", otto, f"/api/v1/runs/{run_id}/cancel", {})
        view = await closed.studio.core.get_approval(ADA, ApprovalId(approval_id))
        assert codes["decide"] in (200, 409)
        assert codes["cancel"] in (200, 409)
        assert view.status == ("decided" if codes["decide"] == 200 else "cancelled")


# --- how often ----------------------------------------------------------------------------------------------------


async def test_whoever_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    limits = RequestLimits(reads=60, changes=60, starts=60)  # thirty at once, then one a second
    async with serve_studio(tmp_path, limits=limits, open_to=False) as served:
        token, other = await served.token("viewer", "vera"), await served.token("viewer", "viktor")
        async with served.http(token) as client:
            answers = [await client.get("/api/v1/workflows") for _ in range(60)]
            refused = next(one for one in answers if one.status_code != 200)
            refusal(refused, 429, "rate_limited")
            assert int(refused.headers["retry-after"]) >= 1
            message = request_of("tools/list")
            answer = await client.post("/mcp", json=message, headers=headers_of(message))
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["id"] == 1
            assert answer.json()["error"]["data"]["code"] == "rate_limited"
        async with served.http(other) as client:
            assert (await client.get("/api/v1/workflows")).status_code == 200


async def test_guessing_credentials_is_slowed_down(tmp_path: Path) -> None:
    async with serve_studio(tmp_path, limits=RequestLimits(failures=60), open_to=False) as served:
        async with served.http() as client:
            codes = [
                (await client.get("/api/v1/runs", headers=bearer(f"omium_guess{number}"))).status_code
                for number in range(20)
            ]
        assert codes[0] == 401
        assert codes[-1] == 429


async def test_what_a_refused_tool_says_is_its_own_form(closed: Served) -> None:
    token = await closed.token("viewer", "vera")
    async with closed.mcp("auto", token) as visitor:
        result = await visitor.client.call_tool("run_workflow", {"workflow": "chain"})
        assert isinstance(result, CallToolResult)
        assert failure_of(result)["code"] == "forbidden"


async def test_what_a_role_may_not_do_is_recorded_once_a_minute_whatever_the_door(closed: Served) -> None:
    token, other = await closed.token("viewer", "vera"), await closed.token("viewer", "viktor")
    approver = await closed.token("approver", "anna")
    for way in WAYS:
        async with closed.mcp(way, token) as visitor:
            for _ in range(3):
                assert (await visitor.error("run_workflow", workflow="chain"))["code"] == "forbidden"
    async with closed.http(token) as client:
        refusal(await client.post("/api/v1/runs", json={"workflow": "chain"}), 403, "forbidden")
        run_id = "run_" + "0" * 26
        refusal(await client.post(f"/api/v1/runs/{run_id}/cancel", json={}), 403, "forbidden")
    async with closed.http(other) as client:
        refusal(await client.post("/api/v1/runs", json={"workflow": "chain"}), 403, "forbidden")
    async with closed.http(approver) as client:
        assert (await client.get("/api/v1/runs/run_" + "1" * 26)).status_code == 404
    told = await refusals_in(closed)
    assert [(actor, one["verb"], one["role"]) for actor, one in told] == [
        ("token:vera", "run_workflow", "viewer"),
        ("token:vera", "cancel", "viewer"),
        ("token:viktor", "run_workflow", "viewer"),
    ]
    assert told[0][1]["needed"] == ["operator", "admin"]


async def refusals_in(served: Served) -> list[tuple[str, dict[str, Any]]]:
    """Who was refused, and what, as the project's log has it."""
    rows = await keeper(served.studio.store).read(
        lambda tables: tables.all("SELECT actor, data FROM project_events WHERE type = 'role.refused' ORDER BY seq")
    )
    return [(actor, json.loads(data)) for actor, data in rows]


async def test_a_client_learns_who_gives_credentials(tmp_path: Path) -> None:
    settings = HttpSettings(issuers=["https://login.example.com/"])
    async with serve_studio(tmp_path, settings, open_to=False) as served, served.http() as client:
        answer = await client.get("/mcp")
        refusal(answer, 401, "unauthenticated")
        place = answer.headers["www-authenticate"].partition('resource_metadata="')[2].rstrip('"')
        assert place.startswith(served.url)
        told = (await client.get(place)).json()
        assert told["authorization_servers"] == ["https://login.example.com/"]
        assert told["resource"] == f"{served.url}/mcp"
