"""Outputs that are erased or damaged: whoever asks for one hears so, and whoever looks at the run sees the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mcp_types import TextResourceContents

from omium.orchestration.ids import Digest, NodeId, RunId
from omium.storage import maintenance as m
from omium.tools import uris
from tests.conformance.store.test_maintenance import damage_blob
from tests.interaction.studio import Studio, Visitor

pytestmark = pytest.mark.anyio

TOLD = {"erased": ("not_found", "it was erased"), "damaged": ("integrity", "damaged")}


async def without_output(studio: Studio, visitor: Visitor, how: str) -> RunId:
    """A run whose output, which is also that of its only node, is not there any more."""
    run = RunId(await visitor.finished("greet", {"name": "Ada"}))
    if how == "erased":
        await m.erase(m.keeper(studio.store), run, "ticket 7")
    else:
        digest = (await studio.store.state(run)).nodes[NodeId("hello")].output
        await damage_blob(studio.store, Digest(digest or ""))
    return run


async def read(visitor: Visitor, uri: str) -> Any:
    (content,) = (await visitor.client.read_resource(uri, cache_mode="bypass")).contents
    assert isinstance(content, TextResourceContents)
    return json.loads(content.text)


@pytest.mark.parametrize("how", TOLD)
async def test_the_run_is_shown_and_says_why_it_has_no_output(studio: Studio, how: str) -> None:
    code, why = TOLD[how]
    async with studio.client() as visitor:
        run = await without_output(studio, visitor, how)
        shown = await visitor.ok("get_run", run_id=run, detail=True)
        assert (shown["status"], shown.get("output"), why in shown["next"]) == ("completed", None, True)
        for asked in ({"node": "hello"}, {"offset": 1}):
            refused = await visitor.error("get_run", run_id=run, **asked)
            assert (refused["code"], why in refused["message"]) == (code, True)
        for uri in (uris.run_uri(run), uris.node_uri(run, "hello")):
            page = await read(visitor, uri)
            assert "output" not in page and why in page["no_output"]


async def test_one_that_has_given_nothing_yet_has_no_page_of_output(studio: Studio) -> None:
    async with studio.client() as visitor:
        run = (await visitor.ok("run_workflow", workflow="held"))["run_id"]
        await studio.holding.wait()
        refused = await visitor.error("get_run", run_id=run, offset=5)
        assert (refused["code"], "it is executing" in refused["message"]) == ("not_found", True)
        studio.release.set()
