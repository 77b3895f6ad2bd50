"""The view's side of the server: its page, who sees its tools, and that what was shown is what is decided."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from mcp import Client, MCPError
from mcp.client.extension import advertise
from mcp.server.apps import APP_MIME_TYPE, EXTENSION_ID
from mcp_types import TextResourceContents

from omium.orchestration.ids import ApprovalId, Principal
from omium.orchestration.values import digest_of
from omium.server.mcp import build_server
from omium.tools.app.deciding import VIEW_TOOLS, binding_of
from omium.tools.app.uri import APP_URI
from omium.tools.app.view import page
from omium.tools.toolsets import TOOLSETS
from tests.interaction.studio import ADA, MODES, Mode, Studio, Visitor

pytestmark = pytest.mark.anyio

NAMES = {"show_approval_in_view", "decide_in_view"}
EVERY_MODE = pytest.mark.parametrize("mode", MODES)


@asynccontextmanager
async def host(
    studio: Studio, mode: Mode = "auto", *, types: tuple[str, ...] = (APP_MIME_TYPE,), read_only: bool = False
) -> AsyncIterator[Visitor]:
    """A client that declares MCP Apps."""
    extension = advertise(EXTENSION_ID, {"mimeTypes": list(types)})
    async with Client(build_server(studio.core, ADA, read_only=read_only), mode=mode, extensions=[extension]) as client:
        yield Visitor(client)


async def names(visitor: Visitor) -> set[str]:
    return {tool.name for tool in (await visitor.client.list_tools()).tools}


@EVERY_MODE
async def test_the_tools_of_a_run_show_the_view_and_the_page_is_there(studio: Studio, mode: Mode) -> None:
    async with host(studio, mode) as visitor:
        if mode == "auto":  # the older era has no place for it; there the tools say it alone
            assert EXTENSION_ID in (visitor.client.server_capabilities.extensions or {})
        tools = {tool.name: tool.meta for tool in (await visitor.client.list_tools()).tools}
        contents = (await visitor.client.read_resource(APP_URI)).contents[0]
    assert tools["get_run"] == tools["run_workflow"] == {"ui": {"resourceUri": APP_URI}}
    assert [name for name, meta in tools.items() if meta] == ["run_workflow", "get_run", *sorted(NAMES, reverse=True)]
    assert isinstance(contents, TextResourceContents)
    assert contents.mime_type == APP_MIME_TYPE
    assert contents.text == page()


@EVERY_MODE
async def test_tools_for_the_view_are_there_for_hosts_with_views_only(studio: Studio, mode: Mode) -> None:
    _, approval = await _asking(studio)
    async with host(studio, mode) as visitor:
        listed = (await visitor.client.list_tools()).tools
        assert {tool.name for tool in listed} == {spec.name for spec in TOOLSETS["default"]} | NAMES
        for tool in listed:
            if tool.name in NAMES:
                assert tool.meta == {"ui": {"resourceUri": APP_URI, "visibility": ["app"]}}
    for other in (studio.client(mode), host(studio, mode, types=("text/html",))):
        async with other as visitor:
            assert not await names(visitor) & NAMES
            for name in NAMES:
                with pytest.raises(MCPError, match=f"Unknown tool: {name}") as refused:
                    await visitor.client.call_tool(
                        name, {"approval_id": approval, "binding": "x", "decision": "approve"}
                    )
                assert refused.value.error.code == -32602
    assert (await studio.core.get_approval(ADA, ApprovalId(approval))).status == "pending"


async def test_a_read_only_server_shows_and_decides_nothing(studio: Studio) -> None:
    async with host(studio, read_only=True) as visitor:
        assert await names(visitor) & NAMES == {"show_approval_in_view"}


async def _asking(studio: Studio, workflow: str = "gated", **inputs: str) -> tuple[str, str]:
    async with studio.client() as visitor:
        return await visitor.asking(workflow, inputs)


@EVERY_MODE
async def test_what_was_shown_is_decided_with_the_assurance_of_a_form(studio: Studio, mode: Mode) -> None:
    run, approval = await _asking(studio)
    async with host(studio, mode) as visitor:
        shown = await visitor.ok("show_approval_in_view", approval_id=approval)
        assert shown["question"] == "Publish it?"
        assert shown["details"] == '{"show":"the draft"}'
        assert shown["size"] == len(shown["details"])
        assert "undecidable" not in shown
        arguments = {
            "approval_id": approval,
            "binding": shown["binding"],
            "decision": "approve",
            "feedback": "fine",
            "idempotency_key": "click",
        }
        decided = await visitor.ok("decide_in_view", **arguments)
        assert decided["approval"]["assurance"] == "elicited"
        assert decided["approval"]["decision"] == "approve"
        assert decided["approval"]["feedback"] == "fine"
        assert (await visitor.ok("get_run", run_id=run, wait_seconds=45))["status"] == "completed"
        assert (await visitor.ok("decide_in_view", **arguments))["approval"] == decided["approval"]
        late = await visitor.error("decide_in_view", **{**arguments, "idempotency_key": "another"})
        assert late["code"] == "already_decided"


async def test_a_decision_about_something_else_is_refused(studio: Studio) -> None:
    _, approval = await _asking(studio)
    _, other = await _asking(studio)
    async with host(studio) as visitor:
        binding = (await visitor.ok("show_approval_in_view", approval_id=other))["binding"]
        for wrong in (binding, "", str(digest_of({}))):
            failure = await visitor.error("decide_in_view", approval_id=approval, binding=wrong, decision="approve")
            assert failure["code"] == ("conflict" if wrong else "invalid_argument")
        right = (await visitor.ok("show_approval_in_view", approval_id=approval))["binding"]
        failure = await visitor.error("decide_in_view", approval_id=approval, binding=right, decision="perhaps")
        assert failure["code"] == "invalid_argument"
    assert (await studio.core.get_approval(ADA, ApprovalId(approval))).status == "pending"


async def test_the_binding_covers_all_that_is_shown(studio: Studio) -> None:
    _, approval = await _asking(studio)
    view = await studio.core.get_approval(ADA, ApprovalId(approval))
    changed = [
        replace(view, question="Publish all?"),
        replace(view, details={"show": "another"}),
        replace(view, details=None),
        replace(view, options=("reject", "approve")),
        replace(view, node=None),
        replace(view, min_assurance="none"),
        replace(view, expires_at=view.expires_at + 1),
        replace(view, workflow="other"),
    ]
    assert len({binding_of(one) for one in (view, *changed)}) == len(changed) + 1
    assert binding_of(replace(view, status="decided", decision="approve")) == binding_of(view)


async def test_a_gate_that_wants_more_cannot_be_decided_here(studio: Studio) -> None:
    _, approval = await _asking(studio, "gated-strongly")
    async with host(studio) as visitor:
        shown = await visitor.ok("show_approval_in_view", approval_id=approval)
        assert "out_of_band" in shown["undecidable"]
        failure = await visitor.error(
            "decide_in_view", approval_id=approval, binding=shown["binding"], decision="approve"
        )
    assert failure["code"] == "forbidden"


async def test_what_is_long_is_shown_in_pages_and_what_is_too_long_cannot_be_decided(studio: Studio) -> None:
    for length, decidable in ((20_000, True), (70_000, False)):
        _, approval = await _asking(studio, "gated-hostilely", text="x" * length)
        async with host(studio) as visitor:
            shown = await visitor.ok("show_approval_in_view", approval_id=approval)
            details, offset = shown["details"], shown["next_offset"]
            while offset is not None:
                more = await visitor.ok("show_approval_in_view", approval_id=approval, offset=offset)
                assert more["binding"] == shown["binding"]
                details, offset = details + more["details"], more.get("next_offset")
            assert details == f'{{"show":"{"x" * length}"}}'
            assert not decidable or len(shown["question"]) < 7_000
            # A question is cut by the gate itself or by the view; both are too long to decide here.
            assert "undecidable" in shown


async def test_somebody_elses_question_is_not_there(studio: Studio) -> None:
    _, approval = await _asking(studio)
    stranger = replace(ADA, principal=Principal("user:eve"), sees="own")
    extension = advertise(EXTENSION_ID, {"mimeTypes": [APP_MIME_TYPE]})
    async with Client(build_server(studio.core, stranger), extensions=[extension]) as client:
        failure = await Visitor(client).error("show_approval_in_view", approval_id=approval)
    assert failure["code"] == "not_found"


def test_the_page_is_whole_and_lets_nothing_in() -> None:
    text = page()
    assert text.startswith("<!DOCTYPE html>")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert re.search(r"<(link|img|iframe|object|form|base)\b|@import|url\(", text) is None
    assert (
        re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|\beval\b|Function\(|\son\w+=", text)
        is None
    )
    assert len(re.findall(r"'sha256-[A-Za-z0-9+/=]{44}'", text)) == 2
    assert "unsafe" not in text
    assert text.count("<script") == text.count("<style") == 1
    assert len(text) < 64_000


def test_every_tool_for_the_view_says_so() -> None:
    assert {spec.name for spec in VIEW_TOOLS} == NAMES
    assert all(spec.meta is not None and spec.meta["ui"]["visibility"] == ["app"] for spec in VIEW_TOOLS)
