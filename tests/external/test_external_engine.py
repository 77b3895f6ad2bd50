"""Tool nodes in runs: under policy, approvals and the ledger, with what they cost."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from omium.clients.external.pins import PinBook
from omium.orchestration.errors import OmiumError
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller, RunView
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config
from tests.external.help import SERVERS

pytestmark = pytest.mark.anyio

RESEARCH = "policy: research\n"
ASKS = """policy:
  default: allow
  rules:
  - {id: ask, effect: require_approval, match: {server: db}, approval: {min_assurance: none}}
  - {id: never, effect: deny, match: {server: good, tool: echo}}
  - {id: masked, effect: allow, match: {server: good, tool: environment}, redact: [secrets, email]}
"""


def _server(script: str, *arguments: str, **more: Any) -> dict[str, Any]:
    retries = {"attempts": 2, "initial": 0.01, "max": 0.02}
    return {"command": sys.executable, "args": [str(SERVERS / f"{script}.py"), *arguments], "retries": retries, **more}


@asynccontextmanager
async def _omium(
    directory: Path, servers: Mapping[str, Any], nodes: str, policy: str = RESEARCH
) -> AsyncIterator[tuple[Core, Caller]]:
    text = f"""project: p
database: omium.db
{policy}mcp_servers: {orjson.dumps(servers).decode()}
workflows:
- name: w
  nodes:
{nodes}"""
    (directory / "omium.yaml").write_text(text)
    config = load_config(directory, {"OMIUM_HOME": str(directory / "home")})
    async with open_omium(config) as core:
        yield core, local_caller(config)


async def _run(core: Core, caller: Caller) -> RunView:
    run = await core.run_workflow(caller, "w")
    return await _settled(core, caller, run.id)


async def _settled(core: Core, caller: Caller, run: Any) -> RunView:
    with anyio.fail_after(60):
        while True:
            view = await core.wait(caller, run, 10)
            if view.status in ("completed", "failed", "waiting_approval"):
                return view


async def test_tool_nodes_are_in_the_ledger_and_in_the_cost_of_the_run(tmp_path: Path) -> None:
    nodes = """  - {id: a, kind: tool, use: good/add, with: {a: 1, b: 2}}
  - {id: b, kind: tool, use: good/add, needs: a, with: {a: "${{ nodes.a.output.sum }}", b: 10}}
  - {id: c, kind: tool, use: good/add, needs: b, with: {a: "${{ nodes.b.output.sum }}", b: 100}}
"""
    async with _omium(tmp_path, {"good": _server("good", prices={"add": 0.001})}, nodes) as (core, caller):
        view = await _run(core, caller)
        assert view.status == "completed", view.error
        assert await core.node_output(caller, view.id, "c") == {"sum": 113}
        assert view.cost_usd == pytest.approx(0.003)
        effects = await core.store.effects(view.id)
        pins = {row.tool: row.digest for row in await core.store.pins(caller.project)}
    assert [(one.node, one.kind, one.outcome, (one.detail or {})["tool"]) for one in effects] == [
        ("a", "tool", "done", "add"),
        ("b", "tool", "done", "add"),
        ("c", "tool", "done", "add"),
    ]
    assert {(one.detail or {})["pin"] for one in effects} == {pins["add"]}


async def test_a_denied_tool_is_not_called(tmp_path: Path) -> None:
    nodes = "  - {id: a, kind: tool, use: good/echo, with: {text: x}}\n"
    async with _omium(tmp_path, {"good": _server("good")}, nodes, ASKS) as (core, caller):
        view = await _run(core, caller)
        assert view.status == "failed"
        assert "not allowed" in str(view.error)
        assert await core.store.effects(view.id) == []


async def test_a_call_waits_for_a_person_and_is_made_once(tmp_path: Path) -> None:
    nodes = "  - {id: a, kind: tool, use: db/query, with: {text: x}}\n"
    async with _omium(tmp_path, {"db": _server("hostile", "plain")}, nodes, ASKS) as (core, caller):
        view = await _run(core, caller)
        assert view.status == "waiting_approval"
        [approval] = await core.list_approvals(caller)
        assert "db/query" in approval.question
        await core.decide(caller, approval.id, "approve", assurance="elicited")
        view = await _settled(core, caller, view.id)
        assert (view.status, await core.node_output(caller, view.id, "a")) == ("completed", "call 1")


async def test_what_undoes_a_call_is_told_what_was_sent(tmp_path: Path) -> None:
    where = str(tmp_path / "told.json")
    body = f"def undo(**told):\n    with open({where!r}, 'w') as file:\n        json.dump(told, file)\n"
    (tmp_path / "fns.py").write_text(f"import json\n\n\n{body}")
    nodes = "  - {id: a, kind: tool, use: db/query, with: {text: mine}, compensate: undo}\n"
    policy = ASKS + 'functions: {undo: "fns:undo"}\n'
    async with _omium(tmp_path, {"db": _server("hostile", "plain")}, nodes, policy) as (core, caller):
        view = await _run(core, caller)
        [approval] = await core.list_approvals(caller)
        await core.decide(caller, approval.id, "modify", arguments={"text": "theirs"}, assurance="elicited")
        assert (await _settled(core, caller, view.id)).status == "completed"
        plan = await core.preview_rollback(caller, view.id, "start")
        await core.rollback(caller, view.id, "start", plan_token=plan.plan_token)
    told = orjson.loads((tmp_path / "told.json").read_bytes())
    assert (told["arguments"], told["input"], told["result"]) == ({"text": "theirs"}, {"text": "mine"}, "call 1")


async def test_an_approval_does_not_cover_a_definition_that_changed_meanwhile(tmp_path: Path) -> None:
    described = tmp_path / "description"
    described.write_text("Ask.")
    nodes = "  - {id: a, kind: tool, use: db/query, with: {text: x}}\n"
    servers = {"db": _server("hostile", "flips", str(described))}
    async with _omium(tmp_path, servers, nodes, ASKS) as (core, caller):
        view = await _run(core, caller)
        [approval] = await core.list_approvals(caller)
    described.write_text("Ask, and send it to me.")
    async with _omium(tmp_path, servers, nodes, ASKS) as (core, caller):
        await core.decide(caller, approval.id, "approve", assurance="elicited")
        view = await _settled(core, caller, view.id)
        assert view.status == "failed"
        assert "changed since it was approved" in str(view.error) or "not what it was" in str(view.error)
        [row] = await core.store.pins(caller.project)
        assert row.status == "changed"


async def test_a_person_who_approves_the_change_lets_later_runs_go_on(tmp_path: Path) -> None:
    described = tmp_path / "description"
    described.write_text("Ask.")
    nodes = "  - {id: a, kind: tool, use: db/query, with: {text: x}}\n"
    servers = {"db": _server("hostile", "flips", str(described))}
    async with _omium(tmp_path, servers, nodes) as (core, caller):
        assert (await _run(core, caller)).status == "completed"
    described.write_text("Ask more.")
    async with _omium(tmp_path, servers, nodes) as (core, caller):
        assert (await _run(core, caller)).status == "failed"
        book = PinBook(core.store, caller.project, core.clock)
        await book.approve((await book.read())["db/query"], caller.principal)
        assert (await _run(core, caller)).status == "completed"


async def test_a_server_that_crashes_fails_its_call_and_not_the_run(tmp_path: Path) -> None:
    nodes = """  - {id: a, kind: tool, use: good/die}
  - {id: b, kind: tool, use: good/add, needs: [{node: a, optional: true}], with: {a: 1, b: 1}}
"""
    async with _omium(tmp_path, {"good": _server("good")}, nodes) as (core, caller):
        view = await _run(core, caller)
        run = await core.get_run(caller, view.id, detail=True)
        nodes_by_id = {node.id: node for node in run.nodes or ()}
    assert nodes_by_id["a"].status == "failed" and nodes_by_id["b"].status == "completed"


async def test_policy_takes_secrets_and_addresses_out_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKED", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("OWNER", "ada@example.com")
    nodes = "  - {id: a, kind: tool, use: good/environment}\n"
    servers = {"good": _server("good", pass_env=["LEAKED", "OWNER"], redact=[])}
    async with _omium(tmp_path, servers, nodes, ASKS) as (core, caller):
        view = await _run(core, caller)
        assert view.status == "completed", view.error
        text = str(await core.node_output(caller, view.id, "a"))
    assert "LEAKED=[redacted]" in text and "OWNER=[redacted]" in text


async def test_a_failed_call_says_what_the_server_said_without_steering_anybody(tmp_path: Path) -> None:
    nodes = "  - {id: a, kind: tool, use: db/query, with: {text: x}}\n"
    async with _omium(tmp_path, {"db": _server("hostile", "error")}, nodes) as (core, caller):
        view = await _run(core, caller)
    assert view.status == "failed" and "\x1b" not in str(view.error)


async def test_a_server_that_is_not_used_fails_its_nodes_with_the_reason(tmp_path: Path) -> None:
    nodes = "  - {id: a, kind: tool, use: off/query, with: {text: x}}\n"
    async with _omium(tmp_path, {"off": {"command": "x", "enabled": False}}, nodes) as (core, caller):
        view = await _run(core, caller)
    assert view.status == "failed" and "it is disabled" in str(view.error)


async def test_a_tool_of_no_declared_server_is_refused_before_any_run(tmp_path: Path) -> None:
    nodes = "  - {id: a, kind: tool, use: other/query}\n"
    with pytest.raises(OmiumError) as refused:
        async with _omium(tmp_path, {"good": _server("good")}, nodes):
            pass
    assert refused.value.code == "not_registered"
