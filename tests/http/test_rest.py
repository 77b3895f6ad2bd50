"""REST: every verb, its errors, its repeats, and that it says the same as the command line."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from omium.orchestration.errors import ERROR_CODES, OmiumError
from omium.orchestration.ids import ApprovalId, RunId, new_id
from omium.orchestration.service.figures_view import Figures, ReportView
from omium.orchestration.service.views import (
    ApprovalView,
    EventView,
    NodeView,
    RunPage,
    RunView,
    WorkflowView,
)  # fmt: skip
from omium.server.commands.wire import as_json
from omium.server.http import models as m
from omium.server.http.app import ENDPOINTS, HttpSettings
from omium.server.http.failures import STATUS, error_response
from tests.http.served import JSON, Served, refusal, serve_studio
from tests.interaction.studio import ADA, HOSTILE

pytestmark = pytest.mark.anyio

MODELS: list[tuple[type[m.Shown], type[Any]]] = [
    (m.Run, RunView), (m.Node, NodeView), (m.Approval, ApprovalView), (m.Workflow, WorkflowView),
    (m.Event, EventView), (m.Runs, RunPage), (m.Figures, Figures), (m.Report, ReportView),
]  # fmt: skip


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == ERROR_CODES
    for code in ERROR_CODES:
        answer = error_response(OmiumError(code, "what was wrong", retry_after_s=0.3))  # type: ignore[arg-type]
        assert 400 <= answer.status_code < 600
        assert answer.headers["retry-after"] == "1"
        assert json.loads(bytes(answer.body))["error"]["code"] == code


@pytest.mark.parametrize(("model", "view"), MODELS, ids=lambda one: one.__name__)
def test_a_model_has_the_fields_of_its_view(model: type[m.Shown], view: type[Any]) -> None:
    assert list(model.model_fields) == [one.name for one in fields(view)]


async def test_a_run_from_its_start_to_its_end(served: Served) -> None:
    with anyio.fail_after(60):
        async with served.http() as client:
            body = {"workflow": "gated", "inputs": {}, "title": "a title", "priority": 5}
            started = await client.post("/api/v1/runs", json=body)
            assert started.status_code == 201
            run_id = started.json()["id"]
            assert started.headers["location"] == f"/api/v1/runs/{run_id}"
            waiting = await served.ended(client, run_id)
            assert (waiting["status"], waiting["title"]) == ("waiting_approval", "a title")
            (question,) = (await client.get("/api/v1/approvals", params={"run_id": run_id})).json()["approvals"]
            assert waiting["approvals"] == [question]
            assert (await client.get(f"/api/v1/approvals/{question['id']}")).json() == question
            refused = await client.post(f"/api/v1/approvals/{question['id']}/decide", json={"decision": "approve"})
            assert refusal(refused, 403, "forbidden")["data"]["required"] == "elicited"
            await served.studio.core.decide(ADA, ApprovalId(question["id"]), "approve", assurance="elicited")
            ended = await served.ended(client, run_id)
            assert (ended["status"], ended["output"], ended["progress"]) == ("completed", "published", 1.0)
            assert [node["status"] for node in ended["nodes"]] == ["completed"] * 3


async def test_it_says_what_the_command_line_says(served: Served) -> None:
    """The same core, and one shape: that of `--json`."""
    core = served.studio.core
    with anyio.fail_after(60):
        async with served.http() as client:
            for workflow, inputs in (
                ("gated", {}),
                ("failing", {}),
                ("wide", {"count": 3}),
                ("echo", {"value": HOSTILE}),
            ):
                run_id = RunId(await served.started(client, workflow, **inputs))
                found = await served.ended(client, run_id)
                assert found == as_json(await core.get_run(ADA, run_id, detail=True))
                events = (await client.get(f"/api/v1/runs/{run_id}/events")).json()
                assert events["events"] == as_json(await core.events(ADA, run_id))
                assert events["next"] == found["seq"]
            listed = (await client.get("/api/v1/runs")).json()
            assert listed == as_json(await core.list_runs(ADA))
            assert (await client.get("/api/v1/approvals")).json()["approvals"] == as_json(
                await core.list_approvals(ADA)
            )
            workflows = (await client.get("/api/v1/workflows")).json()["workflows"]
            assert workflows == as_json(await core.list_workflows(ADA))


async def test_nothing_of_an_answer_can_move_a_terminal(served: Served) -> None:
    async with served.http() as client:
        run_id = await served.started(client, "echo", value=HOSTILE)
        await served.ended(client, run_id)
        answer = await client.get(f"/api/v1/runs/{run_id}", params={"detail": "true"})
        assert answer.text.isprintable()
        assert answer.json()["output"] == HOSTILE


async def test_pause_resume_and_cancel(served: Served) -> None:
    with anyio.fail_after(60):
        async with served.http(**JSON) as client:
            run_id = await served.started(client, "held")
            await served.studio.holding.wait()
            paused = await client.post(f"/api/v1/runs/{run_id}/pause", json={"reason": "a look"})
            assert (paused.json()["status"], paused.json()["reason"]) == ("paused", "a look")
            again = await client.post(f"/api/v1/runs/{run_id}/pause")  # it is so already
            assert (again.status_code, again.json()["status"], again.json()["reason"]) == (200, "paused", "a look")
            assert (await client.post(f"/api/v1/runs/{run_id}/resume")).json()["status"] == "executing"
            assert (await client.post(f"/api/v1/runs/{run_id}/cancel")).json()["status"] == "cancelled"
            error = refusal(await client.post(f"/api/v1/runs/{run_id}/resume"), 409, "not_allowed")
            assert "rollback" in error["data"]["allowed"]


async def test_a_draft_waits_to_be_resumed(served: Served) -> None:
    async with served.http(**JSON) as client:
        started = await client.post("/api/v1/runs", json={"workflow": "chain", "start": False})
        run_id = started.json()["id"]
        assert started.json()["status"] == "draft"
        await client.post(f"/api/v1/runs/{run_id}/resume")
        assert (await served.ended(client, run_id))["status"] == "completed"


async def test_a_repeat_with_a_key_changes_nothing_more(served: Served) -> None:
    body = {"workflow": "chain", "inputs": {"word": "two"}}
    async with served.http(idempotency_key="k1") as client:
        first = (await client.post("/api/v1/runs", json=body)).json()["id"]
        again = (await client.post("/api/v1/runs", json=body)).json()["id"]
        assert first == again
        refusal(await client.post("/api/v1/runs", json={"workflow": "chain"}), 409, "conflict")
        await served.ended(client, first)
    async with served.http() as client:
        assert len((await client.get("/api/v1/runs")).json()["runs"]) == 1
        for key in ("", "x" * 201):
            answer = await client.post("/api/v1/runs", json=body, headers={"idempotency-key": key})
            refusal(answer, 400, "invalid_argument")
    assert served.studio.calls["echo"] == 3


async def test_lists_have_pages_and_filters(served: Served) -> None:
    async with served.http() as client:
        for number in range(5):
            run_id = await served.started(client, "chain" if number % 2 else "failing")
            await served.ended(client, run_id)
        first = (await client.get("/api/v1/runs", params={"limit": 3})).json()
        second = (await client.get("/api/v1/runs", params={"limit": 3, "before": first["next"]})).json()
        assert [len(first["runs"]), len(second["runs"]), second["next"]] == [3, 2, None]
        failed = await client.get("/api/v1/runs", params=[("status", "failed"), ("status", "cancelled")])
        assert {run["workflow"] for run in failed.json()["runs"]} == {"failing"}
        found = (await client.get("/api/v1/runs", params={"workflow": "chain", "text": "chain"})).json()["runs"]
        assert len(found) == 2
        report = (await client.get("/api/v1/report", params={"by": "workflow", "hours": 1})).json()
        lines = {one["key"]: (one["runs"], one["completed"], one["failed"]) for one in report["groups"]}
        assert lines == {"chain": (2, 2, 0), "failing": (3, 0, 3)}
        assert (report["total"]["runs"], report["whole"], report["since_at"] < report["until_at"]) == (5, True, True)
        refusal(await client.get("/api/v1/report", params={"by": "colour"}), 400, "invalid_argument")


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=501", "limit=x", "status=odd", "unknown=1", "limit=1&limit=2", "wait_seconds=1",
        "before=" + "x" * 300,
    ],
)  # fmt: skip
async def test_a_query_that_is_not_right_is_refused(served: Served, query: str) -> None:
    async with served.http() as client:
        refusal(await client.get(f"/api/v1/runs?{query}"), 400, "invalid_argument")


BODIES = [
    b"", b"{", b"[]", b"null", b'"run"', b"\xff", b"\xef\xbb\xbf{}", b"{}", b"[" * 50_000,
    b'{"workflow": "chain", "workflow": "chain"}',
    b'{"workflow": "chain", "priority": NaN}', b'{"workflow": "chain", "priority": Infinity}',
    b'{"workflow": "chain", "priority": 1e400}', b'{"workflow": "chain", "priority": "5"}',
    b'{"workflow": "chain", "priority": true}', b'{"workflow": "chain", "priority": ' + b"9" * 5_000 + b"}",
    b'{"workflow": "chain", "owner": "root"}', b'{"workflow": ["chain"]}', b'{"workflow": ""}',
    b'{"workflow": "chain", "inputs": []}', b'{"workflow": "chain", "title": "' + b"x" * 300 + b'"}',
    b'{"workflow": "chain", "deadline_seconds": 0}', b'{"workflow": "chain", "inputs": {"word": 5}}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: repr(body)[:50])
async def test_a_body_that_is_not_right_is_refused_and_changes_nothing(served: Served, body: bytes) -> None:
    before = await served.studio.changes()
    async with served.http(**JSON) as client:
        refusal(await client.post("/api/v1/runs", content=body), 400, "invalid_argument")
    assert await served.studio.changes() == before


@pytest.mark.parametrize("value", [b'"\\ud800"', b"1e400", b"[" * 90 + b"]" * 90], ids=repr)
async def test_a_value_that_cannot_be_stored_is_refused(served: Served, value: bytes) -> None:
    async with served.http(**JSON) as client:
        body = b'{"workflow": "echo", "inputs": {"value": ' + value + b"}}"
        answer = await client.post("/api/v1/runs", content=body)
        assert answer.status_code in (400, 422), answer.text
        assert answer.json()["error"]["code"] in ("invalid_argument", "invalid_value")
        assert (await client.get("/api/v1/runs")).json()["runs"] == []


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx",
     "application/json; charset=utf-16", "text/plain; application/json"],
)  # fmt: skip
async def test_a_form_of_a_foreign_page_changes_nothing(served: Served, kind: str) -> None:
    """What a page can send without asking first: no other content type than these, and no header of ours."""
    async with served.http() as client:
        run_id = await served.started(client, "held")
        await served.studio.holding.wait()
        before = await served.studio.changes(held=1)
        for path in ("/api/v1/runs", f"/api/v1/runs/{run_id}/cancel", f"/api/v1/approvals/{new_id('apr')}/decide"):
            request = client.build_request("POST", path, content=b'{"workflow": "chain", "decision": "approve"}')
            request.headers["content-type"] = kind
            refusal(await client.send(request), 415, "invalid_argument")
        assert await served.studio.changes(held=1) == before
        assert (await client.get(f"/api/v1/runs/{run_id}")).json()["status"] == "executing"


async def test_unknown_things_are_not_found(served: Served) -> None:
    async with served.http(**JSON) as client:
        error = refusal(await client.post("/api/v1/runs", json={"workflow": "chian"}), 404, "not_found")
        assert "chain" in error["hint"]
        for method, path in (
            ("GET", f"/api/v1/runs/{new_id('run')}"),
            ("GET", f"/api/v1/runs/{new_id('run')}/events"),
            ("POST", f"/api/v1/runs/{new_id('run')}/cancel"),
            ("GET", f"/api/v1/approvals/{new_id('apr')}"),
            ("GET", f"/api/v1/approvals/{new_id('run')}"),
        ):
            refusal(await client.request(method, path), 404, "not_found")


# --- waiting ------------------------------------------------------------------------------------------------------


async def test_a_wait_ends_with_its_run(served: Served) -> None:
    found: list[dict[str, Any]] = []

    async def wait(run_id: str) -> None:
        async with served.http() as client:
            found.append(await served.ended(client, run_id))

    with anyio.fail_after(30):
        async with served.http() as client:
            run_id = await served.started(client, "held")
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait, run_id)
                await served.studio.holding.wait()
                served.studio.release.set()
            assert found[0]["status"] == "completed"
            short = await client.get(f"/api/v1/runs/{run_id}", params={"wait_seconds": 46})
            refusal(short, 400, "invalid_argument")


async def test_a_wait_whose_client_has_gone_is_over(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, over = anyio.Event(), anyio.Event()
    wait = served.studio.core.wait

    async def watched(*args: Any, **kwargs: Any) -> RunView:
        begun.set()
        try:
            return await wait(*args, **kwargs)
        finally:
            over.set()

    monkeypatch.setattr(served.studio.core, "wait", watched)
    with anyio.fail_after(30):
        async with served.http() as client:
            run_id = await served.started(client, "held")
            async with anyio.create_task_group() as tasks:

                async def give_up() -> None:
                    async with served.http() as other:
                        await other.get(f"/api/v1/runs/{run_id}", params={"wait_seconds": 45})

                tasks.start_soon(give_up)
                await begun.wait()
                tasks.cancel_scope.cancel()
            await over.wait()
            assert (await client.get(f"/api/v1/runs/{run_id}")).json()["status"] == "executing"


async def test_a_bug_shows_nothing_of_itself(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(served.studio.core, "list_workflows", broken)
    async with served.http() as client:
        answer: httpx2.Response = await client.get("/api/v1/workflows")
        refusal(answer, 500, "internal")
        assert "secret" not in answer.text
        assert (await client.get("/healthz")).status_code == 200


async def test_a_server_to_look_at_refuses_every_verb_that_changes_something(tmp_path: Path) -> None:
    async with serve_studio(tmp_path, HttpSettings(grace_s=1, read_only=True)) as looking, looking.http() as client:
        run = await looking.studio.core.run_workflow(ADA, "gated")
        before = (await client.get(f"/api/v1/runs/{run.id}", params={"wait_seconds": 45})).json()
        asked = (await client.get("/api/v1/approvals")).json()["approvals"][0]["id"]
        changing = [one for one in ENDPOINTS if one.method != "GET"]
        for one in changing:
            path = one.path.format(run_id=run.id, approval_id=asked)
            refusal(await client.request(one.method, path, json={}), 403, "forbidden")
        assert len(changing) > 4
        assert (await client.get(f"/api/v1/runs/{run.id}")).json()["seq"] == before["seq"]
        assert len((await client.get("/api/v1/runs")).json()["runs"]) == 1
        told = (await client.get("/api/v1/openapi.json")).json()["paths"]
        assert {method for path in told.values() for method in path} == {"get"}
