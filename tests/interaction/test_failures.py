"""Failures: one typed form for all of them, from schema violations to crashes, and nothing changed by any."""

from __future__ import annotations

import json
import sqlite3
import string
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.server.mcpserver.exceptions import UnexpectedToolError
from mcp_types import Tool

from omium.orchestration.errors import ERROR_CODES, OmiumError
from omium.orchestration.ids import new_id
from omium.storage.sqlite import connection
from omium.storage.sqlite import writer as writing
from omium.tools.failures import RETRYABLE, failure_result
from tests.interaction.studio import HOSTILE, MODES, WORKFLOWS, Mode, Studio, Visitor, failure_of, open_studio
from tests.interaction.test_surface import NAMES

pytestmark = pytest.mark.anyio

NOWHERE = new_id("run")
# Arguments that a tool takes as far as types go, and that name nothing there is.
PLAUSIBLE: dict[str, dict[str, Any]] = {
    "run_workflow": {"workflow": "nothing"},
    "get_run": {"run_id": NOWHERE},
    "list_runs": {"parent": NOWHERE},
    "control_run": {"run_id": NOWHERE, "action": "pause"},
    "checkpoint": {"run_id": NOWHERE, "label": "x"},
    "list_checkpoints": {"run_id": NOWHERE},
    "rollback": {"run_id": NOWHERE, "to": "start"},
    "branch": {"run_id": NOWHERE, "name": "x"},
    "play_from_node": {"run_id": NOWHERE, "node": "a"},
    "compare_runs": {"a": NOWHERE, "b": NOWHERE},
    "list_approvals": {"run_id": NOWHERE},
    "approve": {"approval_id": new_id("apr"), "decision": "approve"},
    "list_workflows": {"name": "nothing"},
    "simulate_workflow": {"workflow": "nothing"},
}


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_every_code_has_the_one_form_and_a_next_call(code: str) -> None:
    error = UnexpectedToolError("Error executing tool get_run")
    error.__cause__ = OmiumError(code, "what was wrong", "what to do", allowed=["pause"])  # type: ignore[arg-type]
    failure = failure_of(failure_result(error, "get_run"))
    assert failure["code"] == code
    assert failure["hint"] == "what to do"
    assert failure["data"] == {"allowed": ["pause"]}
    assert failure["retryable"] is (code in RETRYABLE)
    assert "(" in failure["next"] or failure["next"].startswith(("ask", "correct", "repeat", "read"))


def test_a_failure_that_passed_through_a_task_group_is_still_itself() -> None:
    error = UnexpectedToolError("Error executing tool get_run")
    error.__cause__ = ExceptionGroup("tasks", [ExceptionGroup("tasks", [OmiumError("not_found", "no such run")])])
    assert failure_of(failure_result(error, "get_run"))["code"] == "not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_what_names_nothing_is_not_found(studio: Studio, mode: Mode) -> None:
    assert set(PLAUSIBLE) == NAMES
    async with studio.client(mode) as visitor:
        before = await studio.changes()
        for name, arguments in PLAUSIBLE.items():
            failure = await visitor.error(name, **arguments)
            assert failure["code"] == "not_found", name
            assert "list_" in failure["next"]
        assert await studio.changes() == before


async def test_calls_at_once_on_a_locked_database_fail_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = 0

    def counted(db: sqlite3.Connection, patient: bool) -> None:
        nonlocal waits
        waits += patient
        begin(db, patient)

    begin = writing.begin
    monkeypatch.setattr(connection, "BUSY_MS", 1)
    async with open_studio(tmp_path) as studio, studio.client() as visitor:
        run, _ = await visitor.asking()
        await studio.changes()  # the run is nobody's
        failures: list[dict[str, Any]] = []

        async def fails(name: str, /, **arguments: Any) -> None:
            failures.append(await visitor.error(name, **arguments))

        calls = [partial(fails, "run_workflow", workflow="gated", wait_seconds=45, idempotency_key="k") for _ in "ab"]
        calls.append(partial(fails, "control_run", run_id=run, action="cancel"))
        monkeypatch.setattr(writing, "begin", counted)
        with closing(sqlite3.connect(studio.store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with anyio.create_task_group() as group:
                for call in calls:
                    group.start_soon(call)
            assert (await visitor.ok("get_run", run_id=run))["status"] == "waiting_approval"  # who reads goes on
            other.execute("ROLLBACK")
        assert [(one["code"], one["retryable"]) for one in failures] == [("storage_unavailable", True)] * 3
        assert all("repeat" in one["next"] and "locked" in one["message"] for one in failures)
        # A call waits at most for those before it and for its own turn, however many there are.
        assert waits <= 2
        again = await visitor.ok("run_workflow", workflow="gated", wait_seconds=45, idempotency_key="k")
        assert again["status"] == "waiting_approval" and again["run_id"] != run


WRONG: dict[str, list[Any]] = {
    "string": [3, True, None, [], {}, ["a"], "x" * 20_000],
    "integer": ["many", 1.5, [], {}, None, 10**30, -1],
    "number": ["many", [], {}, None, -1, "NaN", 1e300],
    "boolean": ["perhaps", 7, [], {}],
    "object": [3, "text", [1], True],
    "array": [3, "text", {"a": 1}, True],
}


@pytest.mark.parametrize("mode", MODES)
async def test_wrong_types_from_each_schema_are_typed_errors(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        tools = (await visitor.client.list_tools()).tools
        before = await studio.changes()
        for tool in tools:
            for name, schema in tool.input_schema["properties"].items():
                for wrong in WRONG[schema["type"]]:
                    result = await visitor.client.call_tool(tool.name, {**PLAUSIBLE[tool.name], name: wrong})
                    if wrong is None and name not in PLAUSIBLE[tool.name]:
                        continue  # null for what may be left out is as good as leaving it out
                    if wrong is None and not result.is_error:
                        assert name in ("parent", "name", "run_id")  # filters
                        continue
                    # A position may be given as a number.
                    expected = {"not_found", "invalid_argument"} if wrong in (3, None) else {"invalid_argument"}
                    assert failure_of(result)["code"] in expected, (tool.name, name, wrong)
            for missing in tool.input_schema.get("required", ()):
                rest = {key: value for key, value in PLAUSIBLE[tool.name].items() if key != missing}
                assert (await visitor.error(tool.name, **rest))["code"] == "invalid_argument"
            unknown = await visitor.error(tool.name, **PLAUSIBLE[tool.name], approved=True)
            assert unknown["data"]["problems"][0]["path"] == "approved"
        assert await studio.changes() == before


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.sampled_from(
        ["last", "start", "node:a", "'; DROP TABLE runs; --", "%", "../../etc/passwd", HOSTILE, *WORKFLOWS]
    ),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(string.printable, max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def test_fuzzed_arguments_never_crash_and_errors_change_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    workflows = {name: WORKFLOWS[name] for name in ("greet", "gated", "chain")}

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        anyio.run(one_session, data)

    async def one_session(data: st.DataObject) -> None:
        with anyio.fail_after(60):
            async with (
                open_studio(tmp_path_factory.mktemp("fuzz"), workflows=workflows) as studio,
                studio.client(data.draw(st.sampled_from(MODES))) as visitor,
            ):
                for tool in (await visitor.client.list_tools()).tools:
                    await one_call(studio, visitor, tool, data)

    async def one_call(studio: Studio, visitor: Visitor, tool: Tool, data: st.DataObject) -> None:
        properties = set(tool.input_schema["properties"]) - {"wait_seconds"}
        names = data.draw(st.lists(st.sampled_from([*sorted(properties), "extra"]), unique=True, max_size=4))
        arguments = {**PLAUSIBLE[tool.name], **{name: data.draw(JSON) for name in names}}
        before = await studio.changes()
        result = await visitor.client.call_tool(tool.name, arguments)
        if result.is_error:
            assert failure_of(result)["code"] != "internal", (tool.name, arguments)
            assert await studio.changes() == before, (tool.name, arguments)

    fuzz()


@pytest.mark.parametrize("mode", MODES)
async def test_a_crash_says_nothing_of_itself(
    studio: Studio, mode: Mode, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(studio.core, "list_runs", crash)
    async with studio.client(mode) as visitor:
        failure = await visitor.error("list_runs")
    assert failure["code"] == "internal"
    assert "swordfish" not in json.dumps(failure)
    assert "swordfish" in caplog.text


@pytest.mark.parametrize("mode", MODES)
async def test_the_codes_of_runs(studio: Studio, mode: Mode) -> None:
    deep: Any = 1
    for _ in range(80):
        deep = [deep]
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            before = await studio.changes()
            wrong = await visitor.error("run_workflow", workflow="greet", inputs={"nane": "Ada"})
            undeclared = await visitor.error("run_workflow", workflow="held", workspace="/etc")
            too_deep = await visitor.error("run_workflow", workflow="echo", inputs={"value": deep})
            simulated = await visitor.error("simulate_workflow", workflow="greet", inputs={"name": 5})
            assert await studio.changes() == before
    assert wrong["code"] == simulated["code"] == "invalid_argument"
    assert "name" in json.dumps(wrong)
    assert undeclared["code"] == "not_registered"
    assert too_deep["code"] == "invalid_value"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code", ["queue_full", "storage_unavailable", "fenced", "timeout", "rate_limited"])
async def test_what_may_be_repeated_says_so(
    studio: Studio, mode: Mode, code: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise OmiumError(code, "not now.", "Later.", retry_after_s=30)

    monkeypatch.setattr(studio.core, "run_workflow", refuse)
    async with studio.client(mode) as visitor:
        failure = await visitor.error("run_workflow", workflow="greet")
    assert failure["code"] == code
    assert failure["retryable"] is True
    assert failure["data"]["retry_after_s"] == 30
    assert "idempotency_key" in failure["next"]


UNREGISTERED: list[dict[str, Any]] = [
    {"workflow": "os:system"},
    {"workflow": "../../etc/passwd"},
    {"workflow": "name: mine\nnodes: [{id: a, kind: cli, use: sh}]"},
    {"workflow": {"name": "mine", "nodes": [{"id": "a", "kind": "function", "use": "os:system"}]}},
    {"workflow": "held", "nodes": [{"id": "a", "kind": "cli", "use": "sh"}]},
    {"workflow": "held", "env": {"PATH": "/tmp"}},
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arguments", UNREGISTERED)
async def test_only_registered_workflows_are_run(studio: Studio, mode: Mode, arguments: dict[str, Any]) -> None:
    async with studio.client(mode) as visitor:
        before = await studio.changes()
        refused = await visitor.error("run_workflow", **arguments)
        assert refused["code"] in ("not_found", "invalid_argument")
        assert await studio.changes() == before


@pytest.mark.parametrize("mode", MODES)
async def test_a_plan_that_names_anything_unregistered_fails_its_run(studio: Studio, mode: Mode) -> None:
    plan = {"steps": [{"id": "x", "kind": "function", "use": "os:system", "with": {"command": "true"}}]}
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            run = await visitor.ok("run_workflow", workflow="planned", inputs={"plan": plan}, wait_seconds=45)
            shown = await visitor.ok("get_run", run_id=run["run_id"], detail=True)
    assert shown["status"] == "failed"
    assert "registered" in json.dumps(shown)
    assert all(node["id"] != "plan.x" or node["status"] != "completed" for node in shown["nodes"])


async def hostile_texts(visitor: Visitor) -> list[str]:
    """The text forms of everything that shows what somebody else wrote."""
    run = await visitor.finished("echo", {"value": {HOSTILE: [HOSTILE]}})
    await visitor.ok("control_run", run_id=(await visitor.asking())[0], action="cancel", reason=HOSTILE)
    titled = await visitor.ok(
        "run_workflow", workflow="failing", title=HOSTILE[:60].replace("\n", " "), wait_seconds=45
    )
    _, approval = await visitor.asking("gated-hostilely", {"text": HOSTILE})
    return [
        await visitor.text("get_run", run_id=run, detail=True),
        await visitor.text("get_run", run_id=run, node="echo"),
        await visitor.text("get_run", run_id=titled["run_id"], detail=True),
        await visitor.text("list_runs"),
        await visitor.text("list_approvals", detail=True),
        await visitor.text("approve", approval_id=approval, decision="approve"),
        json.dumps(await visitor.error("run_workflow", workflow=HOSTILE), ensure_ascii=False),
        json.dumps(await visitor.error("get_run", run_id=HOSTILE[:50]), ensure_ascii=False),
        json.dumps(await visitor.error("get_run", run_id=run, node=HOSTILE), ensure_ascii=False),
    ]


@pytest.mark.parametrize("mode", MODES)
async def test_hostile_text_is_shown_and_not_obeyed(studio: Studio, mode: Mode) -> None:
    async with studio.client(mode) as visitor:
        with anyio.fail_after(20):
            texts = await hostile_texts(visitor)
    for text in texts:
        assert all(character == "\n" or character.isprintable() for character in text), text
        assert "plain" in text
    # The hostile text's own line never stands as a line of the answer.
    assert not any(part == "status: completed" for text in texts[2:] for part in text.split("\n"))


@pytest.mark.parametrize("mode", MODES)
async def test_the_form_shows_hostile_text_harmlessly(studio: Studio, mode: Mode) -> None:
    from tests.interaction.test_approvals import answering

    human, shown = answering("cancel")
    async with studio.client(mode, human=human) as visitor:
        with anyio.fail_after(20):
            _, approval = await visitor.asking("gated-hostilely", {"text": HOSTILE})
            await visitor.ok("approve", approval_id=approval, decision="approve", feedback=HOSTILE)
    assert all(character == "\n" or character.isprintable() for character in shown[0].message)
