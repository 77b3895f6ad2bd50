"""What the server offers before anything is called: names, schemas, annotations, instructions, and their price."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp import MCPError
from mcp_types import Tool

from omium.orchestration.errors import OmiumError
from omium.server.mcp import build_server
from omium.tools.app.deciding import VIEW_TOOLS
from omium.tools.toolsets import TOOLSETS, select
from tests.interaction.studio import ADA, MODES, Mode, Studio

pytestmark = pytest.mark.anyio

SNAPSHOT = Path(__file__).with_name("tools.json")
NAMES = {
    "run_workflow",
    "get_run",
    "list_runs",
    "control_run",
    "checkpoint",
    "list_checkpoints",
    "rollback",
    "branch",
    "play_from_node",
    "compare_runs",
    "list_approvals",
    "approve",
    "list_workflows",
    "simulate_workflow",
}


async def tools_of(studio: Studio, mode: Mode = "auto", *, read_only: bool = False) -> list[Tool]:
    async with studio.client(mode, read_only=read_only) as visitor:
        return (await visitor.client.list_tools()).tools


def on_the_wire(tools: list[Tool]) -> list[dict[str, Any]]:
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in tools]


def estimated_tokens(text: str) -> int:
    """What a byte-pair tokenizer makes of JSON and English, rather more than less: a token for each word of up to nine
    letters, for three digits, and for four signs in a row."""
    pieces = re.findall(r"[A-Za-z]+|\d{1,3}|[^\sA-Za-z\d]+", text)
    return sum(-(-len(piece) // (9 if piece[0].isalpha() else 4)) for piece in pieces)


@pytest.mark.parametrize("mode", MODES)
async def test_the_default_toolset_has_these_tools(studio: Studio, mode: Mode) -> None:
    tools = await tools_of(studio, mode)
    assert {tool.name for tool in tools} == NAMES
    assert len(tools) <= 15
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", tool.name) for tool in tools)


async def test_every_tool_is_typed_both_ways_and_describes_itself(studio: Studio) -> None:
    for tool in await tools_of(studio):
        assert tool.input_schema["type"] == "object"
        assert tool.input_schema["additionalProperties"] is False
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        assert tool.output_schema["properties"]
        for schema in (tool.input_schema, tool.output_schema):
            Draft202012Validator.check_schema(schema)
        assert tool.title
        assert tool.description
        assert len(tool.description) < 300
        said = tool.description.lower()
        assert tool.annotations is not None
        if tool.annotations.read_only_hint:
            assert "changes nothing" in said or "executes and stores nothing" in said


async def test_every_annotation_is_given(studio: Studio) -> None:
    for tool in await tools_of(studio):
        assert tool.annotations is not None
        given = tool.annotations.model_dump(exclude={"title"})
        assert None not in given.values(), tool.name
        if tool.annotations.read_only_hint:
            assert not tool.annotations.destructive_hint
            assert "idempotency_key" not in tool.input_schema["properties"]
        else:
            assert "idempotency_key" in tool.input_schema["properties"]


async def test_the_schemas_are_those_of_the_snapshot(studio: Studio) -> None:
    """A change of the surface is seen by every client; `python -m tests.interaction.schemas` writes the new one."""
    assert on_the_wire(await tools_of(studio)) == json.loads(SNAPSHOT.read_text())


async def test_listing_the_tools_is_cheap(studio: Studio) -> None:
    text = json.dumps(on_the_wire(await tools_of(studio)), separators=(",", ":"))
    assert estimated_tokens(text) < 6_000
    assert len(text) / 4 < 6_000


@pytest.mark.parametrize("mode", MODES)
async def test_the_instructions_say_what_to_do_first(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        said = visitor.client.instructions
    assert said is not None
    assert len(said) <= 2_048
    assert said.index("list_workflows") < said.index("run_workflow") < said.index("get_run(run_id, wait_seconds=45)")
    assert "approve(approval_id, decision)" in said


@pytest.mark.parametrize("mode", MODES)
async def test_read_only_offers_nothing_that_changes_anything(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode, read_only=True) as visitor:
        tools = (await visitor.client.list_tools()).tools
        assert tools
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
        assert "run_workflow" not in str(visitor.client.instructions)
        before = await studio.changes()
        with pytest.raises(MCPError, match="read-only") as refused:
            await visitor.client.call_tool("run_workflow", {"workflow": "greet", "inputs": {"name": "Ada"}})
        assert refused.value.error.code == -32602
        assert await studio.changes() == before


@pytest.mark.parametrize("mode", MODES)
async def test_an_unknown_tool_is_a_protocol_error(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with pytest.raises(MCPError) as refused:
            await visitor.client.call_tool("drop_\x1btables", {})
        assert refused.value.error.code == -32602
        assert "\x1b" not in refused.value.error.message


def test_unknown_toolsets_are_refused() -> None:
    for wanted in (["default", "magic"], []):
        with pytest.raises(OmiumError) as refused:
            select(wanted, read_only=False)
        assert refused.value.code == "invalid_argument"
        assert refused.value.data["allowed"] == list(TOOLSETS)


async def test_naming_a_toolset_twice_offers_its_tools_once(studio: Studio) -> None:
    server = build_server(studio.core, ADA, toolsets=["default", "default"])
    assert len(await server.list_tools()) == len(NAMES) + len(VIEW_TOOLS)
