"""The toolsets that a server offers when it is told to: authoring, replay, supervision."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp import Client
from mcp_types import Tool

from omium.orchestration.ids import new_id
from omium.server.mcp import build_server
from omium.tools.toolsets import TOOLSETS, instructions, select
from tests.interaction.studio import ADA, MODES, WORKFLOWS, Mode, Studio, Visitor, open_studio
from tests.interaction.test_surface import estimated_tokens, on_the_wire

pytestmark = pytest.mark.anyio

FURTHER = [name for name in TOOLSETS if name != "default"]
SAYS_THE_SAME = {"remember", "forget"}  # the same call again changes nothing, so it needs no key
WAITING = {
    **WORKFLOWS,
    "patient": """
name: patient
nodes:
- {id: word, kind: wait, wait: {signal: word}}
- {id: again, kind: wait, needs: word, wait: {signal: word}}
outputs: "${{ nodes.word.output }}"
""",
}


@asynccontextmanager
async def client(
    studio: Studio, *toolsets: str, mode: Mode = "auto", read_only: bool = False
) -> AsyncIterator[Visitor]:
    chosen = toolsets or tuple(TOOLSETS)
    async with Client(build_server(studio.core, ADA, toolsets=chosen, read_only=read_only), mode=mode) as opened:
        yield Visitor(opened)


async def tools_of(studio: Studio, *toolsets: str, **options: Any) -> list[Tool]:
    async with client(studio, *toolsets, **options) as visitor:
        return (await visitor.client.list_tools()).tools


# --- the surface -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("toolset", FURTHER)
async def test_a_toolset_is_offered_when_it_is_named(studio: Studio, toolset: str) -> None:
    names = {spec.name for spec in TOOLSETS[toolset]}
    assert {tool.name for tool in await tools_of(studio, toolset)} == names
    assert names.isdisjoint({tool.name for tool in await tools_of(studio, "default")})
    both = {tool.name for tool in await tools_of(studio, "default", toolset)}
    assert both == names | {spec.name for spec in TOOLSETS["default"]}


@pytest.mark.parametrize("toolset", FURTHER)
async def test_its_tools_are_typed_annotated_and_cheap(studio: Studio, toolset: str) -> None:
    tools = await tools_of(studio, toolset)
    for tool in tools:
        for schema in (tool.input_schema, tool.output_schema):
            assert schema is not None
            Draft202012Validator.check_schema(schema)
        assert tool.input_schema["additionalProperties"] is False
        assert tool.title
        assert tool.description and len(tool.description) < 300
        assert tool.annotations is not None
        assert None not in tool.annotations.model_dump(exclude={"title"}).values()
        says = "changes nothing" in re.sub(r"\s+", " ", tool.description.lower())
        assert tool.annotations.read_only_hint is says
        takes_key = "idempotency_key" in tool.input_schema["properties"]
        assert takes_key is not (tool.annotations.read_only_hint or tool.name in SAYS_THE_SAME)
    assert estimated_tokens(json.dumps(on_the_wire(tools), separators=(",", ":"))) < 2_600


async def test_read_only_leaves_what_reads(studio: Studio) -> None:
    names = {tool.name for tool in await tools_of(studio, *FURTHER, read_only=True)}
    assert names == {spec.name for one in FURTHER for spec in TOOLSETS[one]} - {
        "send_signal", "close_branch", "start_epic", "rollback_phase", "remember", "forget",
    }  # fmt: skip


def test_the_instructions_fit_and_name_only_what_is_there() -> None:
    for chosen in (["default"], list(TOOLSETS), FURTHER, *([one] for one in FURTHER)):
        specs = select(chosen, read_only=False)
        text = instructions(specs)
        assert len(text) <= 2_500
        every = {spec.name for specs_of in TOOLSETS.values() for spec in specs_of}
        assert {name for name in every if re.search(rf"\b{name}\(", text)} <= {spec.name for spec in specs}
    assert len(instructions(select(["default"], read_only=False))) <= 2_048


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_not_there_is_a_typed_failure(studio: Studio, mode: Mode) -> None:
    nowhere = new_id("run")
    before = await studio.changes()
    async with client(studio, mode=mode) as visitor:
        for name, arguments, code in (
            ("get_workflow", {"name": "nothing"}, "not_found"),
            ("replay_run", {"run_id": nowhere}, "not_found"),
            ("run_state_at", {"run_id": nowhere, "at": "start"}, "not_found"),
            ("compare_positions", {"run_id": nowhere, "a": 1, "b": 2}, "not_found"),
            ("verify_run", {"run_id": nowhere}, "not_found"),
            ("list_resumable_nodes", {"run_id": nowhere}, "not_found"),
            ("list_rollbacks", {"run_id": nowhere}, "not_found"),
            ("list_failures", {"run_id": nowhere}, "not_found"),
            ("send_signal", {"run_id": nowhere, "name": "x"}, "not_found"),
            ("list_events", {"run_id": nowhere}, "not_found"),
            ("close_branch", {"run_id": nowhere, "outcome": "adopted"}, "not_found"),
            ("branch_tree", {"run_id": nowhere}, "not_found"),
            ("get_epic", {"run_id": nowhere}, "not_found"),
            ("rollback_phase", {"run_id": nowhere, "phase": "x"}, "not_found"),
            ("start_epic", {"goal": "x", "workflow": "nothing"}, "not_found"),
            ("remember", {"key": "a b", "text": "x"}, "invalid_argument"),
            ("remember", {"key": "a", "text": "x", "scope": "elsewhere"}, "invalid_argument"),
            ("recall", {"scope": "epic:"}, "invalid_argument"),
            ("forget", {"scope": "epic:../x"}, "invalid_argument"),
            ("validate_workflow", {"definition": ""}, "invalid_argument"),
            ("validate_workflow", {"definition": "x", "format": "toml"}, "invalid_argument"),
            ("run_state_at", {"run_id": nowhere}, "invalid_argument"),
            ("close_branch", {"run_id": nowhere, "outcome": "merged"}, "invalid_argument"),
        ):
            assert (await visitor.error(name, **arguments))["code"] == code, name
    assert await studio.changes() == before


# --- authoring -------------------------------------------------------------------------------------------------------


async def test_a_definition_is_checked_as_a_whole(studio: Studio) -> None:
    async with client(studio, "authoring") as visitor:
        good = await visitor.ok("validate_workflow", definition=WORKFLOWS["gated"])
        assert good["valid"] is True
        assert (good["workflow"], good["nodes"]) == ("gated", 3)
        registered, _ = await studio.core.get_workflow(ADA, "gated")
        assert good["definition"] == registered.definition
        bad = await visitor.ok(
            "validate_workflow",
            definition="name: bad\nnodes:\n- {id: a, kind: function, use: echo, needs: nobody}\n- {id: a, kind: no}\n",
        )
        assert bad["valid"] is False
        assert {one["line"] for one in bad["problems"]} <= {3, 4}
        assert bad["count"] >= 1
        missing = await visitor.ok(
            "validate_workflow", definition="name: m\nnodes:\n- {id: a, kind: function, use: os.system}\n"
        )
        assert missing["valid"] is False
        assert "os.system" in missing["unregistered"][0]["problem"]
        as_json = json.dumps(
            {"name": "j", "nodes": [{"id": "a", "kind": "function", "use": "echo", "with": {"value": 1}}]}
        )
        assert (await visitor.ok("validate_workflow", definition=as_json, format="json"))["valid"] is True
        broken = await visitor.ok("validate_workflow", definition="name: [\n")
        assert broken["problems"][0]["line"] in (1, 2)
    assert await studio.core.list_workflows(ADA) == await studio.core.list_workflows(ADA)
    assert "m" not in studio.core.catalog.workflows


async def test_a_definition_with_many_problems_is_a_bounded_answer(studio: Studio) -> None:
    line = "- {{id: n{0}, kind: function, use: missing-{0}, needs: gone-{0}}}\n"
    nodes = "".join(line.format(index) for index in range(900))
    async with client(studio, "authoring") as visitor:
        answer = await visitor.ok("validate_workflow", definition=f"name: many\nnodes:\n{nodes}")
    assert answer["valid"] is False
    assert answer["count"] >= 900
    assert len(answer["problems"]) < 100


async def test_a_registered_definition_is_shown_whole(studio: Studio) -> None:
    async with client(studio, "authoring") as visitor:
        shown = await visitor.ok("get_workflow", name="gated")
        assert shown["kinds"] == {"function": 2, "approval": 1}
        document = shown["document"]["value"]
        assert [node["id"] for node in document["nodes"]] == ["draft", "ask", "publish"]
        again = await visitor.ok("validate_workflow", definition=json.dumps(document), format="json")
        assert again["definition"] == shown["definition"]


async def test_a_long_definition_comes_in_pages(tmp_path: Path) -> None:
    nodes = "".join(
        f"- {{id: n{index}, kind: function, use: echo, with: {{value: {index}}}}}\n" for index in range(300)
    )
    async with (
        open_studio(tmp_path, workflows={"long": f"name: long\nnodes:\n{nodes}"}) as studio,
        client(studio, "authoring") as visitor,
    ):
        text, offset = "", 0
        while True:
            page = (await visitor.ok("get_workflow", name="long", offset=offset))["document"]
            text += page["text"]
            if "next_offset" not in page:
                break
            offset = page["next_offset"]
        assert len(json.loads(text)["nodes"]) == 300


# --- replay ----------------------------------------------------------------------------------------------------------


async def test_a_run_replays_as_it_was(studio: Studio) -> None:
    async with client(studio) as visitor:
        run = await visitor.finished("chain", {"word": "x"})
        calls = dict(studio.calls)
        first = await visitor.ok("replay_run", run_id=run)
        assert first["identical"] is True
        assert first["replayed"] == 3
        assert "divergence" not in first
        assert (await visitor.ok("replay_run", run_id=run))["digest"] == first["digest"]
        assert dict(studio.calls) == calls


async def test_a_run_is_shown_as_it_stood(studio: Studio) -> None:
    async with client(studio) as visitor:
        run = await visitor.finished("chain", {"word": "x"})
        then = await visitor.ok("run_state_at", run_id=run, at="node:b")
        assert then["status"] == "executing"
        assert {node["id"]: node["status"] for node in then["nodes"]}["a"] == "completed"
        assert {node["id"]: node["status"] for node in then["nodes"]}["c"] in ("pending", "running")
        seq = then["seq"]
        assert (await visitor.ok("run_state_at", run_id=run, at=seq))["seq"] == seq
        output = await visitor.ok("run_state_at", run_id=run, at=seq, node="b")
        assert output["output"]["value"] == "x-b"
        failure = await visitor.error("run_state_at", run_id=run, at=seq, node="c")
        assert failure["code"] == "not_found"
        failure = await visitor.error("run_state_at", run_id=run, at=10_000)
        assert failure["code"] in ("not_found", "invalid_argument")
        now = await visitor.ok("get_run", run_id=run)
        assert now["status"] == "completed"
        assert now["seq"] > seq


async def test_two_positions_are_compared(studio: Studio) -> None:
    async with client(studio) as visitor:
        run = await visitor.finished("chain", {"word": "x"})
        found = await visitor.ok("compare_positions", run_id=run, a="node:a", b="node:c", detail=True)
        assert [one["node"] for one in found["nodes"]] == ["b", "c"]
        same = await visitor.ok("compare_positions", run_id=run, a="node:b", b="node:b")
        assert same["nodes"] == []
        assert "outputs_equal" not in same  # at that position there was none yet


async def test_a_run_is_verified(studio: Studio) -> None:
    async with client(studio) as visitor:
        run, other = await visitor.finished("chain"), await visitor.finished("chain")
        sound = await visitor.ok("verify_run", run_id=run)
        assert sound["sound"] is True
        assert sound["events"] > 5

        def tamper(db: Any) -> None:
            db.execute("DROP TRIGGER events_no_update")  # whoever tampers does not ask
            db.execute("UPDATE events SET actor = 'user:eve' WHERE run_id = ? AND seq = 3", (run,))

        await studio.store.job(tamper)
        damaged = await visitor.ok("verify_run", run_id=run)
        assert damaged["sound"] is False
        assert damaged["damages"][0]["kind"] == "chain"
        assert (await visitor.ok("verify_run", run_id=other))["sound"] is True


# --- supervision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_signal_wakes_one_node_and_its_repeat_none(tmp_path: Path, mode: Mode) -> None:
    async with open_studio(tmp_path, workflows=WAITING) as studio, client(studio, mode=mode) as visitor:
        run = await visitor.ok("run_workflow", workflow="patient")
        run_id = run["run_id"]
        for _ in range(2):
            await visitor.ok(
                "send_signal", run_id=run_id, name="word", payload={"said": "first"}, idempotency_key="one"
            )
        failure = await visitor.error("send_signal", run_id=run_id, name="word", payload=2, idempotency_key="one")
        assert failure["code"] == "conflict"
        events = await visitor.ok("list_events", run_id=run_id, types=["signal.*"])
        assert len(events["events"]) == 1
        await visitor.ok("send_signal", run_id=run_id, name="word", payload="second")
        done = await visitor.ok("get_run", run_id=run_id, wait_seconds=45, detail=True)
        assert done["status"] == "completed"
        assert done["output"]["value"] == {"said": "first"}


async def test_the_log_is_read_from_a_cursor(studio: Studio) -> None:
    async with client(studio) as visitor:
        run = await visitor.finished("chain")
        whole: list[dict[str, Any]] = []
        cursor, more = 0, True
        while more:
            page = await visitor.ok("list_events", run_id=run, after=cursor, limit=4)
            whole += page["events"]
            cursor, more = page["after"], page["more"]
        assert [one["seq"] for one in whole] == list(range(1, len(whole) + 1))
        assert len(whole) == (await visitor.ok("get_run", run_id=run))["seq"]
        empty = await visitor.ok("list_events", run_id=run, after=cursor)
        assert empty["events"] == []
        assert (empty["after"], empty["more"]) == (cursor, False)
        nodes = await visitor.ok("list_events", run_id=run, types=["node.completed"], limit=50)
        assert [one["type"] for one in nodes["events"]] == ["node.completed"] * 3
        assert (await visitor.error("list_events", run_id=run, types=["node.*", "magic"]))["code"] == "invalid_argument"


async def test_a_long_log_passes_every_event_once(studio: Studio) -> None:
    async with client(studio) as visitor:
        run = await visitor.finished("wide", {"count": 120})
        seen: list[int] = []
        cursor, more = 0, True
        while more:
            page = await visitor.ok("list_events", run_id=run, after=cursor, types=["node.completed"], limit=7)
            seen += [one["seq"] for one in page["events"]]
            cursor, more = page["after"], page["more"]
        assert len(seen) == len(set(seen)) == 122  # the numbers, the fan, and what is in it
        assert seen == sorted(seen)


async def test_branches_are_shown_adopted_and_abandoned(studio: Studio) -> None:
    async with client(studio) as visitor:
        run = await visitor.finished("chain", {"word": "x"})
        made = []
        for name in ("left", "right"):
            branch = await visitor.ok("branch", run_id=run, at="before:b", name=name, hypothesis=f"{name} is better")
            made.append(branch["run"]["run_id"])
            await visitor.ok("get_run", run_id=made[-1], wait_seconds=45)
        tree = await visitor.ok("branch_tree", run_id=made[1])
        assert [(one["run_id"], one["depth"]) for one in tree["branches"]] == [(run, 0), (made[0], 1), (made[1], 1)]
        assert tree["branches"][1]["hypothesis"] == "left is better"
        assert tree["branches"][1]["parent"].startswith(f"{run}@")
        for _ in range(2):
            adopted = await visitor.ok("close_branch", run_id=made[0], outcome="adopted", idempotency_key="adopt")
            assert adopted["run_id"] == made[0]
        assert (await visitor.error("close_branch", run_id=made[1], outcome="adopted"))["code"] in (
            "conflict",
            "not_allowed",
        )
        await visitor.ok("close_branch", run_id=made[1], outcome="abandoned", reason="slower")
        closed = {one["run_id"]: one.get("closed") for one in (await visitor.ok("branch_tree", run_id=run))["branches"]}
        assert closed == {run: None, made[0]: "adopted", made[1]: "abandoned"}
        assert (await visitor.error("close_branch", run_id=run, outcome="abandoned"))["code"] == "not_allowed"
        page = await visitor.ok("branch_tree", run_id=run, after=run)
        assert [one["run_id"] for one in page["branches"]] == made
