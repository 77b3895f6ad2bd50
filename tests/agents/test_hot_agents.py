"""Agents that change while a process lives: new runs take them, runs under way keep theirs, what is broken is not in
force, and is said once."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.agents.spec import AgentDef, AgentLimits, ModelSpec, Price, WorkerSpec
from omium.clients.agents.stored import agents_of, document_of
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import ApprovalId, RunId
from omium.orchestration.log.events import EventType
from omium.orchestration.values import decode, encode
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from tests.agents.test_agents_project import Desk
from tests.cli.harness import Place
from tests.packages import install, on_path

SCRIPT = {"turns": [{"text": "{{message}}"}]}
PROJECT = """
project: p
workflows:
- name: say
  nodes:
  - {id: a, kind: agent, use: greeter, workspace: none, with: {}}
- name: twice
  nodes:
  - {id: a, kind: agent, use: greeter, workspace: none, with: {}}
  - {id: ok, kind: approval, needs: a, approval: {prompt: go on?}}
  - {id: b, kind: agent, use: greeter, needs: ok, workspace: none, with: {}}
"""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    path = list(sys.path)
    (tmp_path / "agents").mkdir()
    yield Desk(tmp_path).write(PROJECT, script=SCRIPT)
    sys.path[:] = path


def manifest(desk: Desk, message: str, name: str = "greeter", **more: str) -> Path:
    """The agent answers its message."""
    path = desk.directory / "agents" / f"{name}.yaml"
    lines = {"name": name, "message": message, "model": "{provider: scripted, script: ../script.json}", **more}
    path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return path


async def say(desk: Desk, core: Any, caller: Any) -> Any:
    return (await desk.run(core, caller, "say")).output["a"]


@pytest.mark.anyio
async def test_new_runs_take_a_changed_manifest_and_those_under_way_keep_theirs(desk: Desk) -> None:
    manifest(desk, "one")
    config = desk.config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        run = await core.run_workflow(caller, "twice", {})
        with anyio.fail_after(30):
            await core.wait(caller, RunId(run.id), 25)
        manifest(desk, "two", version='"2"')
        assert await say(desk, core, caller) == "two"
        view = await core.get_agent(caller, "greeter")
        assert [one.version for one in view.versions] == ["2"] and view.problem == ""

    async with open_omium(desk.config()) as core:  # another process, which has only met the second one
        (question,) = await core.list_approvals(caller)
        await core.decide(caller, ApprovalId(question.id), "approve", assurance="elicited")
        with anyio.fail_after(30):
            done = await core.wait(caller, RunId(run.id), 25, detail=True)
        assert done.output == {"b": "one"}
        usage = {one.version: one.completed for one in (await core.get_agent(caller, "greeter")).usage}
        assert usage == {"1": 2, "2": 1}


@pytest.mark.anyio
async def test_who_plays_a_node_again_means_the_agents_of_now(desk: Desk) -> None:
    manifest(desk, "one")
    config = desk.config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        run = await core.run_workflow(caller, "twice", {})
        with anyio.fail_after(30):
            await core.wait(caller, RunId(run.id), 25)
        first = (await core.store.state(RunId(run.id))).agents
        manifest(desk, "two")
        await core.play_from_node(caller, RunId(run.id), "a")
        with anyio.fail_after(30):
            await core.wait(caller, RunId(run.id), 25)
        state = await core.store.state(RunId(run.id))
        assert first is not None and state.agents not in (None, first)
        assert state.nodes["a"].output == encode("two").digest


@pytest.mark.anyio
@pytest.mark.parametrize("broken", ["name: [", "name: greeter\nframework: nonsense\n", "name: other\n"])
async def test_a_broken_manifest_leaves_the_last_good_one_and_is_said_once(
    desk: Desk, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = manifest(desk, "one")
    config = desk.config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        path.write_text(broken)
        with caplog.at_level(logging.ERROR):
            assert await say(desk, core, caller) == "one"
            assert await say(desk, core, caller) == "one"
        told = [record.getMessage() for record in caplog.records if "stay as they were" in record.getMessage()]
        assert len(told) == 1
        view = await core.get_agent(caller, "greeter")
        assert view.problem and view.problem in told[0]
        manifest(desk, "mended")
        assert await say(desk, core, caller) == "mended"
        assert (await core.get_agent(caller, "greeter")).problem == ""


@pytest.mark.anyio
async def test_files_beside_a_manifest_and_new_manifests_count(desk: Desk) -> None:
    (desk.directory / "agents" / "prompt.md").write_text("first")
    path = manifest(desk, "one")
    path.write_text(path.read_text() + "prompt_file: prompt.md\n")
    config = desk.config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        await say(desk, core, caller)
        before = core.agents_now()
        (desk.directory / "agents" / "prompt.md").write_text("second")
        after = core.agents_now()
        assert before is not None and after is not None and b"second" in after.data and before != after
        (desk.directory / "agents" / "prompt.md").unlink()
        assert core.agents_now() == after and "prompt.md" in (await core.get_agent(caller, "greeter")).problem
        (desk.directory / "agents" / "prompt.md").write_text("third")
        assert "third" in str(core.agents_now()) and (await core.get_agent(caller, "greeter")).problem == ""
        manifest(desk, "hello", name="second")
        assert [one.name for one in await core.list_agents(caller)] == ["greeter", "second"]


@pytest.mark.anyio
async def test_the_first_agent_may_come_late(desk: Desk) -> None:
    idle = "workflows:\n- name: idle\n  nodes: [{id: a, kind: wait, wait: 1ms}]\n"
    (desk.directory / "omium.yaml").write_text(f"project: p\n{idle}")
    config = desk.config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        assert await core.list_agents(caller) == [] and core.agents_now() is None
        manifest(desk, "hello")
        assert [one.name for one in await core.list_agents(caller)] == ["greeter"]
        assert "greeter" in core.catalog.registered()["agent"]  # plans may name it from now on


@pytest.mark.anyio
async def test_a_run_without_agents_keeps_none(desk: Desk) -> None:
    manifest(desk, "one")
    text = PROJECT + "- name: idle\n  nodes: [{id: a, kind: wait, wait: 1ms}]\n"
    desk.write(text, script=SCRIPT)
    config = desk.config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        for name, keeps in (("idle", False), ("say", True)):
            run = await desk.run(core, caller, name)
            assert ((await core.store.state(RunId(run.id))).agents is not None) == keeps


PLUGIN = """
from acme_agents.words import WORD
from omium.clients.agents.spec import AgentDef, ModelSpec
from pathlib import Path

def offer():
    return AgentDef("greeter", model=ModelSpec("scripted", script=Path({script!r})), message=WORD)
"""


@pytest.mark.anyio
async def test_an_edited_plugin_counts_for_new_runs_and_a_broken_one_does_not(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    script = str(desk.directory / "script.json")
    site = desk.directory / "site"
    points = {"omium.agents": {"greeter": "acme_agents.agent:offer"}}
    package = install(site, "acme_agents", points, agent=PLUGIN.format(script=script), words="WORD = 'one'\n")
    with on_path(site):
        config = desk.config()
        async with open_omium(config) as core:
            caller = local_caller(config)
            assert await say(desk, core, caller) == "one"
            run = await core.run_workflow(caller, "twice", {})
            with anyio.fail_after(30):
                await core.wait(caller, RunId(run.id), 25)
            (package / "words.py").write_text("WORD = 'two'\n")
            assert await say(desk, core, caller) == "two"
            with caplog.at_level(logging.ERROR):
                (package / "words.py").write_text("WORD = = 'three'\n")
                assert await say(desk, core, caller) == "two"
                assert await say(desk, core, caller) == "two"
            told = [one.getMessage() for one in caplog.records if "stay as they were" in one.getMessage()]
            assert len(told) == 1 and "acme_agents" in told[0] and "SyntaxError" in told[0]
            manifest(desk, "of the project", name="other")  # nobody else is harmed
            assert [one.name for one in await core.list_agents(caller)] == ["greeter", "other"]
            assert "SyntaxError" in (await core.get_agent(caller, "greeter")).problem
            (package / "words.py").write_text("WORD = 'four'\n")
            assert await say(desk, core, caller) == "four"
            assert (await core.get_agent(caller, "greeter")).problem == ""
            (question,) = await core.list_approvals(caller)
            await core.decide(caller, ApprovalId(question.id), "approve", assurance="elicited")
            with anyio.fail_after(30):
                await core.wait(caller, RunId(run.id), 25)
            state = await core.store.state(RunId(run.id))
            assert state.nodes["b"].output == encode("one").digest


@pytest.mark.anyio
async def test_a_plugin_that_is_broken_from_the_start_is_named_and_may_be_mended(desk: Desk) -> None:
    site = desk.directory / "site"
    points = {"omium.agents": {"greeter": "acme_late.agent:offer"}}
    good = PLUGIN.replace("acme_agents", "acme_late").format(script=str(desk.directory / "script.json"))
    package = install(site, "acme_late", points, agent=good, words="WORD = nonsense\n")
    manifest(desk, "mine", name="other")
    desk.write("project: p\n", script=SCRIPT)
    with on_path(site):
        config = desk.config()
        async with open_omium(config) as core:
            caller = local_caller(config)
            assert [one.name for one in await core.list_agents(caller)] == ["other"]
            with pytest.raises(OmiumError) as missing:
                await core.get_agent(caller, "greeter")
            assert "acme_late" in missing.value.hint and "nonsense" in missing.value.hint
            (package / "words.py").write_text("WORD = 'better'\n")
            assert [one.name for one in await core.list_agents(caller)] == ["greeter", "other"]
            assert (await core.get_agent(caller, "greeter")).problem == ""


def test_show_says_what_is_broken(tmp_path: Path) -> None:
    place = Place.make(tmp_path / "project")
    folder = place.directory / "agents"
    folder.mkdir()
    (folder / "late.yaml").write_text("name: late\nmodel: {provider: nonsense, name: m}\n")
    shown = place.call("agent", "show", "late")
    assert shown.exit_code != 0 and "late.yaml" in shown.stderr and "provider" in shown.stderr
    told = {one["name"]: one for one in json.loads(place.call("doctor", "--json").stdout)}["project"]
    assert told["status"] == "failed" and "late.yaml" in told["detail"]


# --- what is recorded -------------------------------------------------------------------------------------------------

WORDS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
NAMES = st.text(alphabet="abc-1", min_size=1, max_size=6)
MODELS = st.builds(
    ModelSpec,
    NAMES,
    name=WORDS,
    script=st.none() | st.just(Path("/no/where.json")),
    max_tokens=st.none() | st.integers(1, 10**6),
    timeout_s=st.floats(0.1, 3600),
    price=st.none() | st.builds(Price, st.floats(0, 100), st.floats(0, 100)),
    options=st.dictionaries(NAMES, st.integers(0, 9) | WORDS | st.lists(st.booleans(), max_size=3), max_size=3),
)
AGENTS = st.builds(
    AgentDef,
    NAMES,
    version=NAMES,
    model=st.none() | MODELS,
    prompt=WORDS,
    tools=st.lists(NAMES, max_size=3).map(tuple),
    tags=st.lists(NAMES, max_size=3).map(tuple),
    limits=st.builds(AgentLimits, turns=st.integers(1, 9), usd=st.none() | st.floats(0.1, 9)),
    input_schema=st.none() | st.just({"type": "object", "required": ["a"]}),
    worker=st.none() | st.just(WorkerSpec(Path("/venv/python"), Path("/work.py"), Path("/"), ("A",))),
)


@given(agent=AGENTS)
def test_what_a_run_keeps_is_the_agent(agent: AgentDef) -> None:
    stored = decode(encode(document_of({agent.name: agent, f"{agent.name}@{agent.version}": agent})).data)
    found = agents_of(stored)
    assert found[agent.name] == agent == found[f"{agent.name}@{agent.version}"]
    assert found[agent.name].digest() == agent.digest()


@pytest.mark.parametrize("document", [None, {}, {"form": 99, "agents": [], "uses": {}}])
def test_what_another_version_kept_is_refused(document: Any) -> None:
    with pytest.raises(OmiumError) as refused:
        agents_of(document)
    assert refused.value.code == "unsupported"


def test_event_fields_name_the_blob() -> None:
    from omium.orchestration.log.events import FIELDS
    from omium.orchestration.log.references import references

    for kind in (EventType.RUN_CREATED, EventType.RUN_PLAYED_FROM, EventType.RUN_ROLLED_BACK):
        assert "agents" in FIELDS[kind][1]
    assert references({"agents": "d" * 64}) == ["d" * 64]
