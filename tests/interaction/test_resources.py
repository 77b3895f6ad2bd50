"""Resources through real clients: what is listed, what can be read, by whom, and for how long it may be kept."""

from __future__ import annotations

import json
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp.shared.uri_template import UriTemplate
from mcp_types import INVALID_PARAMS, TextResourceContents

from omium.orchestration.ids import Principal, RunId
from omium.orchestration.service.views import Caller
from omium.tools import pages, uris
from omium.tools.present import value_text
from omium.tools.resources import READERS, read
from omium.tools.uris import STATIC, TEMPLATES, parse
from tests.interaction.studio import ADA, HOSTILE, MODES, WORKFLOWS, Mode, Studio, open_studio

pytestmark = pytest.mark.anyio

BOB = Caller(Principal("user:bob"), sees="own")


async def text(client: Client, uri: str) -> str:
    (content,) = (await client.read_resource(uri, cache_mode="bypass")).contents
    assert isinstance(content, TextResourceContents)
    assert content.uri == uri
    return content.text


async def document(client: Client, uri: str) -> dict[str, Any]:
    found = json.loads(await text(client, uri))
    assert isinstance(found, dict)
    return found


async def unknown(client: Client, uri: str) -> str:
    """What is said of a resource that there is not, without its name."""
    with pytest.raises(MCPError) as refused:
        await client.read_resource(uri)
    assert refused.value.code == INVALID_PARAMS
    assert refused.value.error.data["uri"] == uri
    return str(refused.value.message)


# --- lists ------------------------------------------------------------------------------------------------------------


async def all_listed(client: Client) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await client.list_resources(cursor=cursor, cache_mode="bypass")
        assert 1 <= len(page.resources) <= 50
        found += [one.uri for one in page.resources]
        cursor = page.next_cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("mode", MODES)
async def test_the_list_has_what_stands_the_workflows_and_recent_runs(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        run = await visitor.finished("greet", {"name": "Ada"})
        found = await all_listed(visitor.client)
        assert {one.template for one in STATIC} < set(found)
        assert {uris.workflow_uri(name) for name in WORKFLOWS} < set(found)
        assert found[-1] == uris.run_uri(run)
        assert len(found) == len(set(found))
        for uri in found:
            await visitor.client.read_resource(uri)


async def test_the_list_is_given_in_pages_and_ends(studio: Studio) -> None:
    made = [(await studio.core.run_workflow(ADA, "greet", {"name": "x"}, start=False)).id for _ in range(120)]
    async with studio.client() as visitor:
        found = [uri for uri in await all_listed(visitor.client) if uri.startswith("omium://runs/")]
    assert found == [uris.run_uri(one) for one in sorted(made, reverse=True)[:100]]


async def test_a_list_without_runs_has_no_empty_page(studio: Studio) -> None:
    async with studio.client() as visitor:
        assert not [uri for uri in await all_listed(visitor.client) if uri.startswith("omium://runs/")]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "standing:", "standing:-1", "standing:9999", "runs:0:x", "runs:0:run_1", "standing:\u0663", "runs:1e3"],
)
async def test_a_cursor_that_was_never_given_is_refused(studio: Studio, cursor: str) -> None:
    async with studio.client() as visitor:
        with pytest.raises(MCPError) as refused:
            await visitor.client.list_resources(cursor=cursor)
        assert refused.value.code == INVALID_PARAMS
        for listed in (visitor.client.list_resource_templates, visitor.client.list_prompts):
            with pytest.raises(MCPError) as refused:
                await listed(cursor="x")
            assert refused.value.code == INVALID_PARAMS


@pytest.mark.parametrize("mode", MODES)
async def test_every_template_is_listed_and_leads_to_its_reader(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        listed = (await visitor.client.list_resource_templates()).resource_templates
    assert [one.uri_template for one in listed if one.uri_template.startswith("omium://")] == [
        one.template for one in TEMPLATES
    ]
    assert {one.kind for one in (*TEMPLATES, *STATIC)} == set(READERS)
    for one in TEMPLATES:
        values = {"id": f"run_{'0' * 26}", "run": f"run_{'0' * 26}", "name": "a b/c", "node": "fan[3].x%20"}
        uri = UriTemplate.parse(one.template).expand(values)
        ref = parse(uri)
        assert ref is not None
        assert ref.kind == one.kind
        if one.kind == "node":
            assert ref.name == "fan[3].x%20"


# --- reading ----------------------------------------------------------------------------------------------------------

PARTS = ("", "/graph", "/graph.mmd", "/graph.dot", "/timeline", "/events", "/checkpoints", "/branches", "/artifacts")


@pytest.mark.parametrize("mode", MODES)
async def test_every_part_of_a_run_can_be_read(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        run, approval = await visitor.asking()
        client, here = visitor.client, f"omium://runs/{run}"
        shown = await document(client, here)
        assert (shown["status"], shown["workflow"]) == ("waiting_approval", "gated")
        assert shown["approvals"][0]["approval_id"] == approval
        assert {"pause", "cancel"} & set(shown["allowed"])
        for part in shown["parts"].values():
            assert await text(client, part)
        for node in shown["nodes"]:
            assert (await document(client, node["uri"]))["status"] == node["status"]
        assert (await document(client, f"{here}/nodes/draft"))["output"] == "the draft"
        assert (await document(client, "omium://approvals"))["approvals"][0]["question"] == "Publish it?"
        assert (await document(client, "omium://runs"))["runs"][0]["run_id"] == run
        tree = (await document(client, f"{here}/branches"))["tree"]
        assert (tree["run_id"], tree["this"], tree["branches"]) == (run, True, [])
        positions = (await document(client, f"{here}/checkpoints"))["checkpoints"]
        assert {one["node"] for one in positions} >= {"draft"}
        workflow = await document(client, "omium://workflows/gated")
        assert [node["id"] for node in workflow["document"]["nodes"]] == ["draft", "ask", "publish"]
        assert "gated" in {one["name"] for one in (await document(client, "omium://workflows"))["workflows"]}


async def test_a_workflow_shows_the_schema_of_its_inputs(studio: Studio) -> None:
    async with studio.client() as visitor:
        assert (await document(visitor.client, "omium://workflows/greet"))["inputs"]["required"] == ["name"]


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_somebody_elses_is_as_unknown_as_what_there_is_not(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        run, _ = await visitor.asking()
    missing = f"run_{'0' * 26}"
    async with studio.client(mode, caller=BOB) as visitor:
        for part in (*PARTS, "/nodes/draft", "/artifacts/x"):
            said = [await unknown(visitor.client, f"omium://runs/{one}{part}") for one in (run, missing)]
            assert said[0].replace(run, missing) == said[1]
        said = [await unknown(visitor.client, f"omium://audit/{one}") for one in (run, missing)]
        assert said[0].replace(run, missing) == said[1]
        assert (await document(visitor.client, "omium://runs"))["runs"] == []
        assert (await document(visitor.client, "omium://approvals"))["approvals"] == []
        assert not [uri for uri in await all_listed(visitor.client) if run in uri]


NOTHING = [
    "omium://",
    "omium:///runs",
    "omium://nothing",
    "omium://runs/",
    "omium://runs/x",
    "omium://runs/..",
    "omium://workflows/",
    "omium://workflows/missing",
    "omium://workflows/%ff",
    "omium://runs/{run}/",
    "omium://runs/{run}/nothing",
    "omium://runs/{run}/nodes",
    "omium://runs/{run}/nodes/",
    "omium://runs/{run}/nodes/nothing",
    "omium://runs/{run}/nodes/hello?offset=99999999",
    "omium://runs/{run}/nodes/hello?offset=-1",
    "omium://runs/{run}/nodes/hello?offset=x",
    "omium://runs/{run}/nodes/hello?after=1",
    "omium://runs/{run}/events?after=",
    "omium://runs/{run}/events?after=99999",
    "omium://runs/{run}/events?after=1&after=2",
    "omium://runs/{run}/events#x",
    "omium://runs/{run}/graph?after=nothing",
    "omium://runs/{run}/artifacts/",
    "omium://runs?before=x",
    "omium://approvals?after=apr_x",
    "OMIUM://runs",
    "file:///etc/passwd",
    "test://nothing",
    "",
]


@pytest.mark.parametrize("mode", MODES)
async def test_what_there_is_not_is_an_invalid_parameter(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        run = await visitor.finished("greet", {"name": "Ada"})
        for uri in NOTHING:
            await unknown(visitor.client, uri.replace("{run}", run))


async def test_a_viewer_reads_everything(studio: Studio) -> None:
    async with studio.client() as visitor:
        run = await visitor.finished("chain")
    async with studio.client(caller=Caller(Principal("user:eve"), role="viewer")) as visitor:
        for part in PARTS:
            assert await text(visitor.client, f"omium://runs/{run}{part}")
        assert await text(visitor.client, f"omium://audit/{run}")


async def test_nothing_that_is_shown_can_hide_or_move_anything(studio: Studio) -> None:
    """The texts are exact, and every character of them is to be seen."""
    async with studio.client() as visitor:
        run, _ = await visitor.asking("gated-hostilely", {"text": HOSTILE})
        for uri in (f"omium://runs/{run}", f"omium://audit/{run}", "omium://approvals", f"omium://runs/{run}/events"):
            shown = await text(visitor.client, uri)
            assert shown.isprintable()
        (approval,) = (await document(visitor.client, "omium://approvals"))["approvals"]
        assert approval["question"] == HOSTILE


# --- large things -----------------------------------------------------------------------------------------------------


async def test_a_whole_output_is_given_beyond_the_limit_of_tools(studio: Studio) -> None:
    value = [HOSTILE, 2**60, {"k": "x" * 60_000}]
    async with studio.client() as visitor:
        run = await visitor.finished("echo", {"value": value})
        node = await document(visitor.client, f"omium://runs/{run}/nodes/echo")
        assert node["output"] == value
        assert (await document(visitor.client, f"omium://runs/{run}"))["output"] == value


async def test_a_very_long_output_is_given_in_pieces(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PIECE", 10_000)
    value = ["\u20ac\x1b" * 3_000, "y" * 17_000]
    async with studio.client() as visitor:
        run = await visitor.finished("echo", {"value": value})
        for uri in (f"omium://runs/{run}/nodes/echo", f"omium://runs/{run}"):
            pieces: list[str] = []
            following: str | None = uri
            while following is not None:
                shown = await document(visitor.client, following)
                assert "output" not in shown
                assert len(shown["output_text"]) <= 10_000
                assert shown["output_offset"] == sum(map(len, pieces))
                pieces.append(shown["output_text"])
                following = shown.get("next")
            assert "".join(pieces) == value_text(value)
            assert len(pieces) > 2


async def test_events_are_given_in_pages_that_never_change(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_EVENTS", 4)
    async with studio.client() as visitor:
        run = RunId(await visitor.finished("chain"))
        seen: list[dict[str, Any]] = []
        following: str | None = f"omium://runs/{run}/events"
        kept: list[int | None] = []
        while following is not None:
            result = await visitor.client.read_resource(following)
            (content,) = result.contents
            assert isinstance(content, TextResourceContents)
            page = json.loads(content.text)
            kept.append(result.ttl_ms)
            seen += page["events"]
            following = page.get("next")
    recorded = await studio.core.events(ADA, run)
    assert [(one["seq"], one["hash"]) for one in seen] == [(one.seq, one.hash) for one in recorded]
    assert kept == [pages.DAY_MS] * (len(kept) - 1) + [0]
    assert len(kept) > 2


async def test_a_large_graph_is_given_in_pages(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_NODES", 7)
    async with studio.client() as visitor:
        run = await visitor.finished("wide", {"count": 30})
        for part in ("graph", "timeline"):
            found: list[str] = []
            edges: list[tuple[str, str]] = []
            following: str | None = f"omium://runs/{run}/{part}"
            while following is not None:
                page = await document(visitor.client, following)
                found += [node["id"] for node in page["nodes"]]
                edges += [(edge["from"], edge["to"]) for edge in page.get("edges", ())]
                following = page.get("next")
            assert found == ["numbers", "fan", *(f"fan[{index}]" for index in range(30))]
            assert part == "timeline" or len(edges) == len(set(edges)) == 31


async def test_runs_and_approvals_are_given_in_pages(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PIECE", 400)
    async with studio.client() as visitor:
        asked = {(await visitor.asking())[1] for _ in range(3)}
        for _ in range(52):
            await studio.core.run_workflow(ADA, "greet", {"name": "x"}, start=False)
        for uri, key, name, count in (
            ("omium://approvals", "approvals", "approval_id", 3),
            ("omium://runs", "runs", "run_id", 55),
        ):
            found: list[str] = []
            following: str | None = uri
            while following is not None:
                page = await document(visitor.client, following)
                found += [one[name] for one in page[key]]
                following = page.get("next")
            assert len(found) == len(set(found)) == count
            assert key != "approvals" or set(found) == asked


# --- how long it may be kept ------------------------------------------------------------------------------------------


async def test_what_belongs_to_a_caller_is_private_and_what_may_change_is_not_kept(studio: Studio) -> None:
    async with studio.client() as visitor:
        client = visitor.client
        run = await visitor.finished("chain")
        for part in PARTS:
            result = await client.read_resource(f"omium://runs/{run}{part}")
            assert (result.ttl_ms, result.cache_scope) == (0, "private")
        listed = await client.list_resources()
        assert (listed.ttl_ms, listed.cache_scope) == (0, "private")
        tools = await client.list_tools()
        assert tools.cache_scope == "private"
        for shared in (await client.list_resource_templates(), await client.list_prompts()):
            assert shared.ttl_ms is not None
            assert shared.ttl_ms > 0
            assert shared.cache_scope == "public"
        assert (await client.read_resource("omium://workflows/chain")).cache_scope == "private"


# --- the audit trail --------------------------------------------------------------------------------------------------


async def test_the_audit_trail_says_who_decided_what_and_that_the_chain_holds(studio: Studio) -> None:
    async with studio.client() as visitor:
        run, approval = await visitor.asking()
        await studio.core.decide(ADA, (await studio.core.list_approvals(ADA))[0].id, "approve", assurance="elicited")
        await studio.core.wait(ADA, RunId(run), 20)
        shown = await document(visitor.client, f"omium://audit/{run}")
    row = await studio.store.run(RunId(run))
    assert row is not None
    assert (shown["chain"], shown["head"], shown["seq"], shown["breaks"]) == ("whole", row.head.hex(), row.seq, [])
    (decision,) = shown["decisions"]
    assert (decision["by"], decision["decision"], decision["assurance"]) == ("user:ada", "approve", "elicited")
    assert (decision["approval_id"], decision["question"], decision["node"]) == (approval, "Publish it?", "ask")
    assert shown["deeds"][0]["type"] == "run.created"


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE events SET actor = 'user:eve' WHERE seq = 3",
        "DELETE FROM events WHERE seq = 4",
        "DELETE FROM events WHERE seq = (SELECT MAX(seq) FROM events)",
        "UPDATE runs SET head = zeroblob(32)",
    ],
)
async def test_the_audit_trail_shows_where_a_log_was_changed(tmp_path: Path, damage: str) -> None:
    async with open_studio(tmp_path) as studio:
        async with studio.client() as visitor:
            run = await visitor.finished("chain")
        with sqlite3.connect(tmp_path / "omium.db") as db:
            db.execute("PRAGMA foreign_keys = OFF")
            for (trigger,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                db.execute(f"DROP TRIGGER {trigger}")
            db.execute(damage)
        db.close()
        shown = json.loads((await read(studio.core, ADA, f"omium://audit/{run}")).content)
        assert shown["chain"] == "broken"
        assert shown["breaks"]


# --- what nodes did when ----------------------------------------------------------------------------------------------


async def test_the_intervals_of_every_node_add_up(studio: Studio) -> None:
    async with studio.client() as visitor:
        run, _ = await visitor.asking()
        waiting = await document(visitor.client, f"omium://runs/{run}/timeline")
        ask = next(node for node in waiting["nodes"] if node["id"] == "ask")
        assert (ask["intervals"][-1]["doing"], ask["intervals"][-1]["open"]) == ("approval", True)
        await studio.core.decide(ADA, (await studio.core.list_approvals(ADA))[0].id, "approve", assurance="elicited")
        await studio.core.wait(ADA, RunId(run), 20)
        for one in (run, await visitor.finished("wide", {"count": 4})):
            shown = await document(visitor.client, f"omium://runs/{one}/timeline")
            for node in shown["nodes"]:
                parts = node["intervals"]
                assert parts
                assert sum(part["end_us"] - part["start_us"] for part in parts) == node["duration_us"]
                assert all(a["end_us"] == b["start_us"] for a, b in pairwise(parts))
        assert not any(part.get("open") for node in shown["nodes"] for part in node["intervals"] if node["id"] == "fan")


async def test_the_path_of_a_failure_is_marked(studio: Studio) -> None:
    async with studio.client() as visitor:
        shown = await visitor.ok("run_workflow", workflow="failing", wait_seconds=45)
        assert shown["status"] == "failed"
        line = await document(visitor.client, f"omium://runs/{shown['run_id']}/timeline")
        assert line["failing_path"] == ["bad"]
        graph = await document(visitor.client, f"omium://runs/{shown['run_id']}/graph")
        assert [node["id"] for node in graph["nodes"] if node.get("failing")] == ["bad"]


async def test_reading_goes_on_while_a_run_is_under_way(studio: Studio) -> None:
    with anyio.fail_after(30):
        async with studio.client() as visitor:
            run = (await visitor.ok("run_workflow", workflow="held"))["run_id"]
            await studio.holding.wait()
            graph = await document(visitor.client, f"omium://runs/{run}/graph")
            assert {node["id"]: node["status"] for node in graph["nodes"]} == {
                "first": "completed",
                "second": "running",
                "third": "pending",
            }
            studio.release.set()


async def test_a_node_shows_its_attempts_and_its_calls(studio: Studio) -> None:
    async with studio.client() as visitor:
        failed = (await visitor.ok("run_workflow", workflow="failing", wait_seconds=45))["run_id"]
        node = await document(visitor.client, f"omium://runs/{failed}/nodes/bad")
        (attempt,) = node["attempts"]
        assert (attempt["attempt"], attempt["outcome"], node["attempts_in_all"]) == (1, "failed", 1)
        assert attempt["ended_at_us"] >= attempt["started_at_us"] == node["attempts"][0]["started_at_us"]
        assert attempt["error"]["category"] == "value_error" and "traceback" not in attempt["error"]
        assert node["calls"] == []
        sent = await visitor.finished("unsafe")
        (call,) = (await document(visitor.client, f"omium://runs/{sent}/nodes/send"))["calls"]
        assert (call["outcome"], call["attempt"]) == ("done", 1)
        assert call["result_digest"]
