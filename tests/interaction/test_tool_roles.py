"""The tools as each role sees them, and what becomes of a call of those that it does not see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_types import CallToolResult, ToolAnnotations

from omium.orchestration.ids import Principal
from omium.orchestration.service import roles
from omium.orchestration.service.views import Caller, Role
from omium.server.mcp import build_server
from omium.tools.permitted import permitted
from omium.tools.toolsets import TOOLSETS, select
from tests.interaction.studio import ADA, MODES, Mode, Studio, Visitor, failure_of, text_of
from tests.interaction.test_core_roles import asked, one, rows, strict, waiting

pytestmark = pytest.mark.anyio

__all__ = ["strict"]  # a fixture

SPECS = {spec.name: spec for spec in select(tuple(TOOLSETS), read_only=False)}


def caller(role: Role) -> Caller:
    return one("somebody", role, sees="project")


@asynccontextmanager
async def visiting(studio: Studio, who: Caller, mode: Mode = "auto") -> AsyncIterator[Visitor]:
    """A client of all the tools that there are."""
    async with Client(build_server(studio.core, who, toolsets=tuple(TOOLSETS)), mode=mode) as client:
        yield Visitor(client)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("role", roles.ROLES)
async def test_a_role_is_shown_what_it_may_use(studio: Studio, role: Role, mode: Mode) -> None:
    async with visiting(studio, caller(role), mode) as visitor:
        listed = {tool.name for tool in (await visitor.client.list_tools()).tools}
    reading = {name for name, spec in SPECS.items() if spec.reads_only}
    expected = {
        "viewer": reading,
        "approver": reading | {"approve"},
        "operator": set(SPECS),
        "admin": set(SPECS),
    }[role]
    assert listed == expected


def arguments(name: str, run: str, approval: str) -> dict[str, Any]:
    """Arguments that an operator's call would be done with."""
    given: dict[str, dict[str, Any]] = {
        "run_workflow": {"workflow": "gated"},
        "control_run": {"run_id": run, "action": "cancel"},
        "checkpoint": {"run_id": run, "label": "mine"},
        "rollback": {"run_id": run, "to": "start"},
        "branch": {"run_id": run, "name": "mine"},
        "play_from_node": {"run_id": run, "node": "draft"},
        "approve": {"approval_id": approval, "decision": "approve"},
    }
    return given[name]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("role", ["viewer", "approver"])
async def test_what_a_role_is_not_shown_is_refused_and_changes_nothing(studio: Studio, role: Role, mode: Mode) -> None:
    of = await waiting(studio)
    async with visiting(studio, caller(role), mode) as visitor:
        listed = {tool.name for tool in (await visitor.client.list_tools()).tools}
        hidden = set(TOOLSETS_CHANGING) - listed
        assert hidden
        for name in sorted(hidden):
            before = await rows(studio)
            result = await visitor.client.call_tool(name, arguments(name, of.run, of.approval))
            assert isinstance(result, CallToolResult)
            assert result.is_error, text_of(result)
            failure = failure_of(result)
            assert failure["code"] == "forbidden", name
            assert failure["data"]["role"] == role
            assert "operator" in failure["data"]["needed"]
            assert await rows(studio) == before, name


TOOLSETS_CHANGING = tuple(spec.name for spec in TOOLSETS["default"] if not spec.reads_only)


@pytest.mark.parametrize("role", ["operator", "admin"])
async def test_what_a_role_is_shown_is_not_refused_for_the_role(studio: Studio, role: Role) -> None:
    for name in TOOLSETS_CHANGING:
        of = await waiting(studio)
        async with visiting(studio, caller(role)) as visitor:
            result = await visitor.client.call_tool(name, arguments(name, of.run, of.approval))
        assert isinstance(result, CallToolResult)
        assert not result.is_error or failure_of(result)["code"] != "forbidden", name


@pytest.mark.parametrize("role", ["nobody", "", "Admin"])
async def test_a_role_that_there_is_not_is_shown_and_may_nothing(studio: Studio, role: str) -> None:
    unknown = Caller(Principal("token:x"), role=role)  # type: ignore[arg-type]
    async with visiting(studio, unknown) as visitor:
        assert (await visitor.client.list_tools()).tools == []
        assert (await visitor.error("list_runs"))["code"] == "forbidden"


def test_a_tool_without_annotations_is_not_taken_for_harmless() -> None:
    assert not permitted("x", None, "viewer")
    assert not permitted("x", ToolAnnotations(), "approver")
    assert permitted("x", None, "operator")


async def test_each_request_of_one_server_is_its_own_callers(studio: Studio) -> None:
    """One server for all, as over HTTP: what it shows depends on the request and on nothing that it remembers."""
    now = [caller("admin")]
    server = build_server(studio.core, lambda _: now[0], toolsets=("default",))
    counts = []
    async with Client(server, mode="legacy") as client:
        for role in (*roles.ROLES, *reversed(roles.ROLES)):
            now[0] = caller(role)
            counts.append(len((await client.list_tools()).tools))
    assert counts == counts[::-1]
    assert counts[0] < counts[2] < counts[1] == counts[3]


# --- an agent and its own question ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("role", ["operator", "approver", "admin"])
async def test_who_asked_for_a_run_has_no_tool_that_decides_it(strict: Studio, role: Role, mode: Mode) -> None:
    """Whatever role its credential has: every tool, with every decision that the gate offers."""
    approval = await asked(strict, one("ci", "operator"))
    async with visiting(strict, one("ci", role, sees="project"), mode) as agent:
        for decision in ("approve", "reject"):
            result = await agent.client.call_tool("approve", {"approval_id": approval, "decision": decision})
            assert isinstance(result, CallToolResult)
            if result.is_error:
                assert failure_of(result)["code"] == "forbidden"
            else:
                assert result.structured_content is not None
                assert result.structured_content["decided"] is False
                assert "--credential" in result.structured_content["next"]
    assert (await strict.core.get_approval(ADA, approval)).status == "pending"


@pytest.mark.parametrize("mode", MODES)
async def test_an_operator_without_a_form_decides_nothing(studio: Studio, mode: Mode) -> None:
    of = await waiting(studio, one("ci", "operator"))
    async with visiting(studio, one("ci", "operator"), mode) as agent:
        answer = await agent.ok("approve", approval_id=of.approval, decision="approve")
    assert answer["decided"] is False
    assert (await studio.core.get_approval(ADA, of.approval)).status == "pending"


@pytest.mark.parametrize("mode", MODES)
async def test_an_approver_who_is_somebody_else_needs_no_form(strict: Studio, mode: Mode) -> None:
    approval = await asked(strict, one("ci", "operator"))
    with anyio.fail_after(20):
        async with visiting(strict, one("ada", "approver"), mode) as visitor:
            decided = await visitor.ok("approve", approval_id=approval, decision="approve")
    assert decided["decided"] is True
    assert decided["approval"]["assurance"] == "separate_identity"
    assert decided["approval"]["decided_by"] == "token:ada"
