"""What the surface costs a client that puts all of it before its model, by a real tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from mcp import Client

from omium.server.mcp import build_server
from tests import nodejs
from tests.interaction.studio import ADA, Studio, open_studio

pytestmark = pytest.mark.anyio

_PROGRAM = Path(__file__).with_name("tokens.mjs")


async def tokens(text: str) -> int:
    """By o200k_base, the vocabulary of models since GPT-4o; Claude's own is not published."""
    modules = await anyio.to_thread.run_sync(nodejs.modules)
    done = await anyio.run_process([str(nodejs.node()), str(_PROGRAM), str(modules)], input=text.encode())
    return int(done.stdout)


async def test_the_default_toolset_costs_under_6000_tokens(tmp_path: Path) -> None:
    async with open_studio(tmp_path) as studio:
        listed = await listing(studio)
    with anyio.fail_after(60):
        price = await tokens(listed)
    assert 500 < price < 6_000, price


async def listing(studio: Studio) -> str:
    async with Client(build_server(studio.core, ADA)) as client:
        result = await client.list_tools()
    return json.dumps(result.model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":"))
