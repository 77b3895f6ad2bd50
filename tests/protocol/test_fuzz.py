"""Arguments from every tool's schema, near it, and far beyond it.

Whatever comes in: an answer of the tool's output schema, or one typed failure; never a crash, and nothing is changed
by a tool that only reads or by a call that was refused.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from mcp import Client, MCPError
from mcp_types import INVALID_PARAMS, Tool

from omium.orchestration.errors import ErrorCode
from omium.server.mcp import build_server
from omium.tools.toolsets import TOOLSETS, select
from tests.interaction.studio import ADA, HOSTILE, Studio, failure_of, open_studio
from tests.interaction.test_stdio import answers, envelope, raw
from tests.protocol.project import Project

pytestmark = pytest.mark.anyio

SPECS = {spec.name: spec for spec in select(list(TOOLSETS), read_only=False)}
CODES = frozenset(get_args(ErrorCode)) - {"internal"}
EXAMPLES = 40
T = TypeVar("T")

WORKFLOWS = ("chain", "gated", "gated-loosely", "greet", "failing", "echo")


# --- values ----------------------------------------------------------------------------------------------------------

HOSTILE_TEXTS = (
    "",
    " ",
    HOSTILE,
    "\x00",
    "a\nb",
    "\ud800",
    "../../etc/passwd",
    "\uff0e\uff0e\uff0f",
    "%' OR 1=1 --",
    "' UNION SELECT * FROM runs --",
    "${{ nodes }}",
    "${{ inputs.__class__ }}",
    "--upload-pack=x",
    "@{",
    "null",
    "true",
    "[]",
    '{"a": 1}',
    "[" * 500,
    "run_",
    "run_@0",
    "before:",
    "node:",
    "label:",
    "9" * 40,
    "-1",
    "1e999",
    "x" * 5_000,
    "\U0001f600" * 300,
)
HOSTILE_NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**400, -(10**30), 0.5, -0.0, 1e308, 5e-324)
NOT_NUMBERS = (float("nan"), float("inf"), float("-inf"))


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(HOSTILE_NUMBERS + NOT_NUMBERS),
    st.integers(),
    st.floats(),
    st.sampled_from(HOSTILE_TEXTS),
    st.text(max_size=30),
)
anything = st.one_of(
    scalars,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=8,
    ),
    st.sampled_from([_deep(20), _deep(63), _deep(70), _deep(200)]),
    st.just({"__class__": "x", "constructor": {"prototype": 1}}),
)


# What texts of these names stand for; the lists come from the place.
KINDS = {
    "run_id": "run",
    "a": "side",
    "b": "side",
    "parent": "run",
    "approval_id": "approval",
    "decision": "option",
    "workflow": "workflow",
    "name": "workflow",
    "node": "node",
    "at": "position",
    "to": "position",
    "before": "position",
    "position": "position",
    "label": "label",
    "plan_token": "token",
}

Known = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Making:
    """Values that a schema of ours allows, as far as its keywords go; most texts name what there is."""

    schema: Mapping[str, Any]
    known: Known

    def value(self, schema: Mapping[str, Any], name: str = "") -> st.SearchStrategy[Any]:
        if "$ref" in schema:
            return self.value(self.schema["$defs"][schema["$ref"].removeprefix("#/$defs/")], name)
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        if "const" in schema:
            return st.just(schema["const"])
        if "anyOf" in schema:
            return st.one_of([self.value(one, name) for one in schema["anyOf"]])
        low, high = schema.get("minimum"), schema.get("maximum")
        match schema.get("type"):
            case "string":
                return self.text(name)
            case "boolean":
                return st.booleans()
            case "integer":
                return st.integers(0, 12).filter(lambda one: (low or 0) <= one <= (high or 12)) | st.integers(low, high)
            case "number":
                return st.floats(low or 0, 1_000 if high is None else high, allow_nan=False)
            case "array":
                return st.lists(self.value(schema.get("items", {}), name), max_size=3)
            case "object":
                return self.object(schema)
        return anything

    def text(self, name: str) -> st.SearchStrategy[str]:
        strange = st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=40)
        names = self.known.get(KINDS.get(name, ""))
        if names is None:
            return st.text("abc xyz", min_size=1, max_size=10) | strange
        usual, other = st.sampled_from(names), st.sampled_from([one for some in self.known.values() for one in some])
        return st.one_of(usual, usual, usual, usual, usual, other, strange)

    def object(self, schema: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        fields = {name: self.value(of, name) for name, of in schema.get("properties", {}).items()}
        if not fields:  # inputs of a workflow or a node
            named = st.fixed_dictionaries({}, optional={"name": scalars, "word": scalars, "value": scalars})
            odd = st.dictionaries(st.text(max_size=8), anything, max_size=3)
            return st.just({}) | st.just({"name": "Ada"}) | named | odd
        needed = {name: of for name, of in fields.items() if name in schema.get("required", ())}
        rest = [name for name in fields if name not in needed]
        # A few at a time: what is given together is often refused for that alone.
        some = st.lists(st.sampled_from(rest), max_size=3, unique=True) if rest else st.just([])
        return some.flatmap(lambda names: st.fixed_dictionaries({**needed, **{name: fields[name] for name in names}}))


def arguments(tool: Tool, known: Known) -> st.SearchStrategy[dict[str, Any]]:
    """As the schema says, with some of them spoilt, or all wrong. Nobody waits: only the length of a wait is ours."""
    right = Making(tool.input_schema, known).value(tool.input_schema)
    names = [*tool.input_schema["properties"], "run_id", "extra", "__proto__", ""]
    wrong = st.dictionaries(st.sampled_from(names), anything, min_size=1, max_size=3)
    spoilt = st.builds(lambda one, other: {**one, **other}, right, wrong)
    made = st.one_of(right, right, right, right, spoilt, wrong)
    return made.map(lambda given: {**given, "wait_seconds": 0.01} if _waits(given.get("wait_seconds")) else given)


def _waits(given: Any) -> bool:
    try:
        return 0 < float(given) <= 45
    except (TypeError, ValueError, OverflowError):
        return False


# --- the store -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """`known`: names of what there is."""

    studio: Studio
    client: Client
    known: Known
    tools: Mapping[str, Tool]


@asynccontextmanager
async def furnished(path: Path) -> AsyncIterator[Place]:
    """A studio with runs in several resting states, and a client of all tools."""
    async with open_studio(path) as studio:
        server = build_server(studio.core, ADA, toolsets=list(TOOLSETS))
        async with Client(server, read_timeout_seconds=60) as client:
            known: dict[str, list[str]] = {
                "workflow": list(WORKFLOWS),
                "node": ["a", "b", "c", "draft", "ask", "publish", "bad"],
                "position": ["start", "node:a", "node:draft", "before:a", "before:ask", "label:here", "here", "4"],
                "option": ["approve", "reject"],
                "label": ["here", "there"],
                "run": [],
                "side": [],
                "approval": [],
                "token": [],
            }
            for workflow, inputs in (("chain", {}), ("gated", {}), ("failing", {}), ("gated-loosely", {})):
                made = await carried_out(client, "run_workflow", workflow=workflow, inputs=inputs, wait_seconds=45)
                known["run"].append(made["run_id"])
                known["approval"] += [one["approval_id"] for one in made.get("approvals", ())]
            chain = known["run"][0]
            known["position"].append(f"{chain}@4")
            await carried_out(client, "checkpoint", run_id=chain, label="here")
            for to in ("start", "node:a", "node:b"):
                planned = await carried_out(client, "rollback", run_id=chain, to=to, preview=True)
                known["token"].append(planned["plan"]["plan_token"])
            forked = await carried_out(client, "branch", run_id=chain, at="node:a", name="other", start=False)
            known["run"].append(forked["run"]["run_id"])
            known["side"] += [*known["run"], f"{chain}@3", f"{chain}@4"]
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            yield Place(studio, client, known, tools)


async def carried_out(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert result.structured_content is not None, result
    return result.structured_content


async def told(studio: Studio) -> list[tuple[str, int, str]]:
    """Every run with the length of its log, once nothing executes any more: what has changed shows here."""
    page = await studio.core.list_runs(ADA, limit=500)
    for view in page.runs:
        if view.status in ("planning", "executing"):
            with anyio.fail_after(30):
                await studio.core.wait(ADA, view.id, 30)
    page = await studio.core.list_runs(ADA, limit=500)
    return sorted((view.id, view.seq, view.status) for view in page.runs)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with furnished(tmp_path) as place:
        yield place


# --- calls -----------------------------------------------------------------------------------------------------------


async def call(place: Place, name: str, given: dict[str, Any]) -> bool:
    """Whether a call was carried out; what came back must be what the tools promise."""
    result = await place.client.call_tool(name, given)
    if result.is_error:
        assert failure_of(result)["code"] in CODES, result
        return False
    schema = place.tools[name].output_schema
    assert schema is not None
    Draft202012Validator(schema).validate(result.structured_content)
    return True


def drawn(strategy: st.SearchStrategy[T], count: int) -> list[T]:
    """The same values at every run. Nothing is shrunk: what a call does depends on the calls before it."""
    values: list[T] = []

    @settings(max_examples=count, derandomize=True, database=None, phases=[Phase.generate])
    @given(strategy)
    def collect(value: T) -> None:
        values.append(value)

    collect()
    return values


@pytest.mark.parametrize("name", sorted(SPECS))
async def test_any_arguments(place: Place, name: str) -> None:
    for given_now in drawn(arguments(place.tools[name], place.known), EXAMPLES):
        before, changes = await told(place.studio), await place.studio.changes()
        try:
            carried_out = await call(place, name, given_now)
            if SPECS[name].reads_only:
                assert await place.studio.changes() == changes
            if not carried_out or SPECS[name].reads_only:
                assert await told(place.studio) == before
        except BaseException as error:
            error.add_note(f"{name} was called with {given_now!r:.2000}")
            raise


@pytest.mark.parametrize("name", ["drop_tables", "", "\x00", "run_workflow\n", "RUN_WORKFLOW", "x" * 5_000])
async def test_tools_that_there_are_not(place: Place, name: str) -> None:
    before = await place.studio.changes()
    with pytest.raises(MCPError) as refused:
        await place.client.call_tool(name, {})
    assert refused.value.error.code == INVALID_PARAMS
    assert len(refused.value.error.message) < 1_000
    assert await place.studio.changes() == before


# --- lines on the wire -----------------------------------------------------------------------------------------------

# Arguments of `run_workflow` that no JSON library of a well-meaning client would send.
RAW = (
    '{"workflow": "release", "inputs": {"topic": NaN}}',
    '{"workflow": "release", "inputs": {"topic": "a"}, "title": Infinity}',
    '{"workflow": "nonesuch", "workflow": "other", "inputs": {}}',
    '{"workflow": "release", "inputs": {"topic": "\\ud800"}}',
    '{"workflow": "release", "inputs": {"topic": "\\u0000\\u202e"}, "extra": 1}',
    '{"workflow": "release", "inputs": {"topic": "a"}, "deadline_seconds": ' + "9" * 5_000 + "}",
    '{"workflow": "release", "inputs": ' + '{"topic": ' * 5_000 + "1" + "}" * 5_001,
    '{"workflow": "release", "inputs": {"topic": ' + "[" * 100_000 + "}}",
    '{"workflow": "release", "inputs": {"topic": "' + "x" * 2_000_000 + '", "more": 1}}',
    "[]",
    "null",
    '"run_workflow"',
    "7",
    "{",
    "",
)


async def test_lines_that_are_hardly_json(project: Project) -> None:
    """Each is answered or dropped; the server lives on, says nothing that is not protocol, and starts no run."""
    with anyio.fail_after(60):
        async with raw(project.environment, project.directory) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            said = aiter(answers(server.stdout))
            for number, line_of in enumerate(RAW, start=1):
                given_now = b'"name": "run_workflow", "arguments": ' + line_of.encode()
                call = envelope(number, "tools/call", name="run_workflow")
                call = call.replace(b'"name": "run_workflow"', given_now)
                await server.stdin.send(call + envelope(1_000 + number, "tools/list"))
                async for message in said:
                    assert "Traceback" not in json.dumps(message)
                    if message.get("id") == 1_000 + number:
                        break
                    refused = message.get("error") or (message["result"].get("isError") and message["result"])
                    assert refused, (line_of[:100], message)
            await server.stdin.aclose()
            assert await server.wait() == 0
    async with project.core() as (core, caller):
        assert not (await core.list_runs(caller)).runs
