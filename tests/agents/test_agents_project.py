"""Agents in a project: declared, refused with file and line, run by the real engine, listed, shown, made and tried."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.clients.agents.spec import ModelSpec
from omium.orchestration.definition.load import load_workflow
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config
from omium.server.project import Project
from omium.server.project_file import load_project
from tests.cli.harness import Place

HELLO = {"turns": [{"text": "hello from {{message}}"}]}


class Desk:
    """A project on disk, and its core."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, text: str, **scripts: Any) -> Desk:
        (self.directory / "omium.yaml").write_text(text)
        for name, script in scripts.items():
            (self.directory / f"{name}.json").write_text(json.dumps(script))
        return self

    async def run(self, core: Core, caller: Caller, workflow: str, **inputs: Any) -> Any:
        run = await core.run_workflow(caller, workflow, inputs)
        with anyio.fail_after(30):
            return await core.wait(caller, RunId(run.id), 25, detail=True)

    def config(self) -> Any:
        return load_config(self.directory, {"OMIUM_HOME": str(self.directory / "home"), "OMIUM_DETACH": "false"})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    path = list(sys.path)
    yield Desk(tmp_path)
    sys.path[:] = path


TWO = """
project: p
agents:
- {name: greeter, version: "1", model: {provider: scripted, script: one.json}, capabilities: [greeting], tags: [old]}
- {name: greeter, version: "2", default: true, model: {provider: scripted, script: two.json}, capabilities: [greeting]}
workflows:
- name: greet
  nodes:
  - {id: new, kind: agent, use: greeter, workspace: none, with: {task: me}}
  - {id: old, kind: agent, use: greeter@1, workspace: none, with: {task: you}}
"""


@pytest.mark.anyio
async def test_versions_run_side_by_side_and_are_counted(desk: Desk) -> None:
    config = desk.write(TWO, one=HELLO, two={"turns": [{"text": "hi, {{message}}"}]}).config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        done = await desk.run(core, caller, "greet")
        assert done.output == {"new": "hi, me", "old": "hello from you"}
        view = await core.get_agent(caller, "greeter")
        assert [(one.version, one.default) for one in view.versions] == [("2", True), ("1", False)]
        assert [(one.version, one.nodes, one.completed, one.runs) for one in view.usage] == [
            ("1", 1, 1, 1),
            ("2", 1, 1, 1),
        ]
        assert all(one.tokens > 0 and one.median_ms is not None for one in view.usage)
        assert [one.name for one in await core.list_agents(caller, capabilities=["greeting"])] == ["greeter"]
        assert await core.list_agents(caller, capabilities=["greeting", "flying"]) == []
        (found,) = await core.list_agents(caller, tags=["old", "other"])
        assert [one.version for one in found.versions] == ["1"]
        with pytest.raises(OmiumError) as caught:
            await core.get_agent(caller, "greter")
        assert caught.value.code == "not_found" and "greeter" in caught.value.hint


FAILING = """
project: p
agents:
- {name: greeter, version: "1", model: {provider: scripted, script: one.json}}
- {name: greeter, version: "2", default: true, model: {provider: scripted, script: bad.json}}
- {name: strict, model: {provider: scripted, script: one.json}, input: {type: object, required: [topic]}}
workflows:
- name: greet
  nodes:
  - {id: fails, kind: agent, use: greeter, workspace: none, with: {}}
- name: unfit
  nodes:
  - {id: a, kind: agent, use: strict, workspace: none, with: {}}
- name: never
  inputs: {type: object, properties: {x: {type: object}}}
  nodes:
  - {id: a, kind: agent, use: greeter, workspace: none, requires: ["has(inputs.x.y)"], with: {}}
"""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({}, "has neither turns nor cases"),
        ([], "is a list; expected a mapping"),
        ({"turns": []}, "turns: has 0 items; expected at least 1"),
        ({"turns": [{"txt": "hi"}]}, "turns[0].txt: unknown key 'txt'; expected 'text'"),
    ],
)
def test_what_is_wrong_with_a_script_is_said_as_everywhere(desk: Desk, script: Any, words: str) -> None:
    with pytest.raises(OmiumError) as refused:
        desk.write(FAILING, one=HELLO, bad=script).config()
    assert f"bad.json is not valid: {words}" in refused.value.message
    assert "omium.yaml:5: agents[1].model.script: " in refused.value.message


def test_a_name_has_one_default_version(desk: Desk) -> None:
    twice = FAILING.replace('version: "1",', 'version: "1", default: true,')
    with pytest.raises(OmiumError) as refused:
        desk.write(twice, one=HELLO, bad=HELLO).config()
    assert "omium.yaml:5: agents[1]" in refused.value.message and "'2' would be another one" in refused.value.message


@pytest.mark.anyio
async def test_what_failed_counts_for_the_version_that_ran_it(desk: Desk) -> None:
    refused = {"turns": [{"error": {"status": 401}}, {"text": "never"}]}
    config = desk.write(FAILING, one=HELLO, bad=refused).config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        for workflow, inputs in (("greet", {}), ("unfit", {}), ("never", {"x": {}})):
            assert (await desk.run(core, caller, workflow, **inputs)).status == "failed"
        counted = [(one.version, one.nodes, one.failed) for one in (await core.get_agent(caller, "greeter")).usage]
        assert counted == [("2", 2, 2)] and (await core.get_agent(caller, "strict")).usage[0].failed == 1
    before = desk.directory / "omium.yaml"
    before.write_text(before.read_text().replace(", default: true", "").replace('version: "2"', 'version: "0"'))
    config = desk.config()
    async with open_omium(config) as core:  # what the name means now does not change what it meant then
        counted = [(one.version, one.failed) for one in (await core.get_agent(caller, "greeter")).usage]
        assert counted == [("2", 2)]


@pytest.mark.parametrize(
    ("line", "path", "said"),
    [
        ("framework: nonsense", "agents[0].framework", "ag2"),
        ("api_version: omium.dev/agent/v9", "agents[0].api_version", "is 'omium.dev/agent/v9' 'omium.dev/agent/v1'"),
        ("api_version: 1", "agents[0].api_version", "'omium.dev/agent/v1'"),
        ("model: {provider: scripted, script: missing.json}", "agents[0].model.script", "no file"),
        ("model: {provider: acme, name: m}", "agents[0].model.provider", "openai"),
        ("tools: [nothing]", "agents[0].tools[0]", "not registered"),
        ("handoffs: [nobody]", "agents[0].handoffs[0]", "not registered"),
        ("handoffs: [one]", "agents[0].handoffs[0]", "itself"),
        ("prompt: ${{ inputs.x }}", "agents[0].prompt", "input and run"),
        ("prompt: ${{ input. }}", "agents[0].prompt", ""),
        ("input: {type: nonsense}", "agents[0].input", ""),
        ("limits: {turns: 0}", "agents[0].limits.turns", ""),
        ("api_key: sk-1", "agents[0].api_key", ""),
        ("tools: [srv/find]", "agents[0].tools[0]", "'srv', which is not declared"),
        ("model: {provider: scripted, script: omium.yaml}", "agents[0].model.script", "not valid"),
        ("model: {provider: openai, name: m, api_key_env: sk-0123}", "agents[0].model.api_key_env", "not the name"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(desk: Desk, line: str, path: str, said: str) -> None:
    model = "" if line.startswith("model") else "  model: {provider: scripted, script: one.json}\n"
    desk.write(f"project: p\nagents:\n- name: one\n{model}  {line}\n", one=HELLO)
    with pytest.raises(OmiumError) as caught:
        load_project(desk.directory / "omium.yaml")
    (problem,) = [one for one in caught.value.data["problems"] if one["path"].startswith(path)]
    assert said in f"{problem['message']} {problem['expected']}" and "sk-0123" not in str(caught.value)
    assert problem["file"].endswith("omium.yaml") and problem["line"] >= 3


def test_a_workflow_that_names_no_agent_is_refused(desk: Desk) -> None:
    nodes = "- {id: a, kind: agent, use: ghost}\n  - {id: v, kind: consensus, consensus: {voters: [g1, g2], quorum: 1}}"
    desk.write(f"project: p\nworkflows:\n- name: w\n  nodes:\n  {nodes}\n")
    with pytest.raises(OmiumError) as caught:
        load_project(desk.directory / "omium.yaml")
    assert caught.value.code == "not_registered"
    assert len(caught.value.data["problems"]) == 3


def test_manifests_are_found_and_a_version_is_registered_once(desk: Desk) -> None:
    folder = desk.directory / "agents" / "greeter"
    folder.mkdir(parents=True)
    (folder / "s.json").write_text(json.dumps(HELLO))
    text = "name: greeter\nmodel: {provider: scripted, script: s.json}\nprompt_file: prompt.md\n"
    (folder / "agent.yaml").write_text(text)
    (folder / "prompt.md").write_text("You greet.")
    desk.write("project: p\n")
    (agent,) = load_project(desk.directory / "omium.yaml").project.agents.versions("greeter")
    assert agent.prompt == "You greet." and agent.model is not None and agent.model.script == folder / "s.json"
    desk.write("project: p\nagents:\n- {name: greeter, model: {provider: scripted, script: agents/greeter/s.json}}\n")
    with pytest.raises(OmiumError) as caught:
        load_project(desk.directory / "omium.yaml")
    assert "twice" in caught.value.message and caught.value.data["problems"][0]["file"].endswith("agent.yaml")


@pytest.mark.parametrize("line", ["", "api_version: omium.dev/agent/v1\n"])
def test_a_manifest_of_the_present_form_is_taken(desk: Desk, line: str) -> None:
    (desk.directory / "agents").mkdir()
    text = f"name: greeter\n{line}model: {{provider: scripted, script: ../one.json}}\n"
    (desk.directory / "agents" / "greeter.yaml").write_text(text)
    desk.write("project: p\n", one=HELLO)
    assert load_project(desk.directory / "omium.yaml").project.agents.names() == ["greeter"]


def test_a_manifest_of_a_form_that_is_not_known_is_refused_with_its_line(desk: Desk) -> None:
    (desk.directory / "agents").mkdir()
    (desk.directory / "agents" / "late.yaml").write_text("name: late\napi_version: omium.dev/agent/v2\n")
    desk.write("project: p\n")
    with pytest.raises(OmiumError) as caught:
        load_project(desk.directory / "omium.yaml")
    (problem,) = caught.value.data["problems"]
    assert problem["file"].endswith("late.yaml") and problem["line"] == 2
    assert problem["path"] == "api_version" and "omium.dev/agent/v1" in problem["expected"]


async def weather(city: str, days: int = 1) -> dict[str, Any]:
    """The weather of a city."""
    return {"city": city, "sun": days}


@pytest.mark.anyio
async def test_an_agent_in_python_with_functions_and_a_question(desk: Desk) -> None:
    script = desk.directory / "s.json"
    turns = [
        {"calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]},
        {"calls": [{"name": "ask_human", "arguments": {"question": "Take it?", "options": ["yes", "reject"]}}]},
        {"text": "{{last}}"},
    ]
    script.write_text(json.dumps({"turns": turns}))
    project = Project("p", directory=desk.directory)
    model = ModelSpec("scripted", script=script)
    project.agent("forecaster", model=model, tools=[weather], human_input=True)
    project.workflow(load_workflow("name: w\nnodes:\n- {id: a, kind: agent, use: forecaster, workspace: none}\n"))
    config = desk.write("project: p\n").config()
    config = replace(config, project=project)
    caller = local_caller(config)
    async with open_omium(config) as core:
        waiting = await desk.run(core, caller, "w")
        assert waiting.status == "waiting_approval"
        (question,) = await core.list_approvals(caller)
        assert question.question == "Take it?" and list(question.options) == ["yes", "answer: reject"]
        assert question.details is not None and question.details["agent"] == "forecaster"
    async with open_omium(config) as core:  # another process, days later
        await core.decide(caller, question.id, "yes", assurance="elicited", feedback="with pleasure")
        with anyio.fail_after(30):
            done = await core.wait(caller, RunId(waiting.id), 25, detail=True)
        assert done.output == {"a": "<human>yes: with pleasure</human>"}
        assert done.nodes is not None and done.nodes[0].usage is not None and done.nodes[0].usage["calls"] == 3


VOTE = """
project: p
agents:
- {name: a, model: {provider: scripted, script: yes.json}}
- {name: b, model: {provider: scripted, script: no.json}}
- {name: c, model: {provider: scripted, script: THIRD.json}}
workflows:
- name: vote
  nodes:
  - {id: v, kind: consensus, with: {task: well}, consensus: {voters: [a, b, c], quorum: 2}}
"""


@pytest.mark.anyio
@pytest.mark.parametrize(("third", "choice"), [("yes", "yes"), ("no", "no"), ("other", None), ("broken", None)])
async def test_a_vote(desk: Desk, third: str, choice: str | None) -> None:
    scripts = {name: {"turns": [{"text": name}]} for name in ("yes", "no", "other")}
    scripts["broken"] = {"turns": [{"error": {"status": 400, "attempts": 9}}]}
    config = desk.write(VOTE.replace("THIRD", third), **scripts).config()
    async with open_omium(config) as core:
        done = await desk.run(core, local_caller(config), "vote")
    if choice is None:
        assert done.status == "failed" and "decided nothing" in done.error["message"]
        assert "a: yes" in done.error["message"]
    else:
        assert done.output["v"]["choice"] == choice and len(done.output["v"]["agreeing"]) == 2
        assert set(done.output["v"]["votes"]) == {"a", "b", "c"}


@pytest.mark.anyio
async def test_a_refused_provider_is_tried_again_and_the_failure_is_classified(desk: Desk) -> None:
    text = (
        "project: p\nagents:\n- {name: a, model: {provider: scripted, script: s.json}}\n"
        "workflows:\n- name: w\n  nodes:\n"
        "  - {id: a, kind: agent, use: a, workspace: none, retry: {max_attempts: 3, initial: 1ms}}\n"
    )
    turns = [{"error": {"status": 429, "attempts": 2}}, {"text": "at last"}]
    config = desk.write(text, s={"turns": turns}).config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        done = await desk.run(core, caller, "w")
        events = await core.events(caller, RunId(done.id), limit=500)
    assert done.output == {"a": "at last"}
    failed = [event.data["error"]["category"] for event in events if event.type == "node.attempt_failed"]
    assert failed == ["rate_limited", "rate_limited"]


@pytest.mark.anyio
async def test_an_attempt_is_told_what_mended_such_a_failure_in_an_earlier_run(desk: Desk) -> None:
    text = (
        "project: p\nagents:\n- {name: a, model: {provider: scripted, script: s.json}}\n"
        "workflows:\n- name: w\n  nodes:\n"
        "  - {id: a, kind: agent, use: a, workspace: none, with: {task: '${{ inputs.task }}'},"
        " retry: {max_attempts: 2, initial: 1ms}}\n"
    )
    never = [{"error": {"status": 500, "message": "down", "attempts": 99}}, {"text": "never"}]
    once = [{"error": {"status": 500, "message": "down"}}, {"text": "{{last}}"}]
    cases = [{"when": "everything", "turns": never}]
    config = desk.write(text, s={"cases": cases, "turns": once}).config()
    async with open_omium(config) as core:
        caller = local_caller(config)
        lost = await desk.run(core, caller, "w", task="everything")
        assert lost.status == "failed"
        smaller = {"nodes": {"a": {"with": {"task": "a little"}}}}
        again = await core.play_from_node(caller, lost.id, "a", overrides=smaller)
        with anyio.fail_after(30):
            assert (await core.wait(caller, again.run.id, 25)).status == "completed"
        done = await desk.run(core, caller, "w", task="a bit")
    assert "<mended_before>\n- run again from a with other a.with\n</mended_before>" in done.output["a"]


def test_no_agent_is_made_under_a_name_that_is_taken(desk: Desk) -> None:
    place = Place(desk.directory)
    desk.write("project: p\nagents:\n- {name: clerk, model: {provider: scripted, script: one.json}}\n", one=HELLO)
    refused = place.call("agent", "add", "clerk")
    assert refused.exit_code == 5 and "omium.yaml" in refused.stderr
    assert place.call("agent", "list").exit_code == 0  # the project still loads


def test_a_new_agent_passes_its_own_test_and_is_listed(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "omium.yaml").write_text("project: p\n")
    assert place.call("agent", "add", "summariser").exit_code == 0
    assert place.call("agent", "add", "summariser").exit_code == 5
    assert place.call("agent", "add", "../out").exit_code == 2
    assert "version" in place.call("agent", "add", "x@2").stderr
    assert "agent list" in place.call("agent", "search", "nothing like that").stderr
    (listed,) = place.json("agent", "list")
    assert (listed["name"], listed["versions"][0]["capabilities"]) == ("summariser", ["answering"])
    assert [one["name"] for one in place.json("agent", "search", "sentence")] == ["summariser"]
    shown = place.call("agent", "show", "summariser")
    assert shown.exit_code == 0 and "summariser@1 (default)" in shown.output
    assert place.call("agent", "show", "nobody").exit_code == 4
    own = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "agents/summariser"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert own.returncode == 0, own.stdout + own.stderr
