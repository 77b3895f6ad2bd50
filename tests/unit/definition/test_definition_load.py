"""Whole workflows: the file form, its canonical document, hashes, and the builder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.definition import (
    ApprovalSpec,
    ConsensusSpec,
    ForEach,
    Need,
    NodeDef,
    Ref,
    Repeat,
    Retry,
    WaitSpec,
    WorkflowDef,
    definition_hash,
    document_schema,
    load_file,
    load_workflow,
    node_hash,
    read_document,
    to_document,
    workflow,
)
from omium.orchestration.errors import OmiumError

RELEASE = """
name: release
description: Release notes, approved by a human.
inputs:
  type: object
  properties:
    repo: {type: string}
    count: {type: integer, default: 5}
  required: [repo]
deadline: 2d
max_parallel: 4
approvals: {mode: custom, when: node.kind == 'cli'}
outputs: {notes: "${{ nodes.draft.output.text }}"}
nodes:
- id: collect
  kind: function
  use: history
  with: {repo: "${{ inputs.repo }}", count: "${{ inputs.count }}"}
  timeout: 90s
  retry: 3
  output_schema: {type: object, properties: {commits: {type: array, items: {type: string}}}}
- id: each
  kind: agent
  use: reader
  needs: collect
  for_each: ${{ nodes.collect.output.commits }}
  with: {commit: "${{ item }}", n: "${{ index }}"}
- id: draft
  kind: agent
  use: writer
  needs: [collect, {node: each, optional: true, when: "${{ size(nodes.collect.output.commits) > 0 }}"}]
  with: {task: "Write about ${{ nodes.each.output }}"}
  output_schema: {type: object, properties: {text: {type: string}}}
  retry: {max_attempts: 2, initial: 5s, max: 1m, on: [timeout]}
  budget: {usd: 2, seconds: 10m}
  expects: size(output.text) > 10
- id: fix
  kind: group
  needs: draft
  repeat: {until: output.test.passed, max: 3}
  nodes:
  - {id: mend, kind: cli, use: claude, with: {last: "${{ previous }}", text: "${{ nodes.draft.output.text }}"}}
  - {id: test, kind: cli, use: pytest, needs: mend, workspace: read}
- id: gate
  kind: approval
  needs: fix
  approval: {prompt: "Publish ${{ nodes.draft.output.text }}?", expires: 1h, options: [yes, no]}
- id: pause
  kind: wait
  needs: gate
  wait: 15m
- id: publish
  kind: tool
  use: github/create_release
  needs: pause
  when: nodes.gate.output.decision == 'yes'
  compensate: unpublish
  on_unknown: ask
"""


def code_and_problems(text: str) -> tuple[str, list[dict[str, Any]]]:
    with pytest.raises(OmiumError) as caught:
        load_workflow(text, source="w.yaml")
    return caught.value.code, caught.value.data["problems"]


def one_node(**keys: Any) -> str:
    node = {"id": "a", "kind": "function", "use": "f", **keys}
    return json.dumps({"name": "w", "nodes": [node]})


def test_a_file_becomes_the_inside_form() -> None:
    # The prompt reads draft, which is upstream of the gate only through fix.
    loaded = load_workflow(RELEASE, source="release.yaml")
    collect, each, draft, fix, gate, pause, publish = loaded.nodes
    assert (loaded.deadline_s, loaded.max_parallel, loaded.approvals) == (172_800.0, 4, "custom")
    assert loaded.approval_conditions == ("node.kind == 'cli'",)
    assert (collect.timeout_s, collect.retry, collect.workspace) == (90.0, Retry(max_attempts=3), "none")
    assert each.for_each == ForEach("${{ nodes.collect.output.commits }}")
    assert each.workspace == "write"
    assert draft.needs == (Need("collect"), Need("each", True, "size(nodes.collect.output.commits) > 0"))
    assert draft.retry == Retry(2, 5.0, 2.0, 60.0, 0.1, ("timeout",))
    assert draft.budget == {"usd": 2.0, "seconds": 600.0}
    assert draft.expects == ("size(output.text) > 10",)
    assert fix.repeat == Repeat("output.test.passed", 3)
    assert [inner.id for inner in fix.body] == ["mend", "test"]
    assert fix.body[1].workspace == "read"
    assert gate.approval == ApprovalSpec("Publish ${{ nodes.draft.output.text }}?", ("yes", "no"), 3600.0)
    assert pause.wait == WaitSpec(seconds=900.0)
    assert (publish.use, publish.compensate, publish.on_unknown) == ("github/create_release", "unpublish", "ask")


def test_yaml_json_and_the_canonical_document_are_one_definition() -> None:
    loaded = load_workflow(RELEASE)
    document = to_document(loaded)
    again = load_workflow(json.dumps(document), format="json")
    assert again == loaded
    assert definition_hash(again) == definition_hash(loaded)
    assert load_workflow(yaml.safe_dump(document, sort_keys=True)) == loaded


def test_the_spelling_of_a_definition_does_not_change_its_hash() -> None:
    plain = {"id": "a", "kind": "cli", "use": "c"}
    spelled = plain | {
        "timeout": None,
        "needs": [],
        "workspace": "write",
        "retry": {"max_attempts": 1, "max": "1m", "factor": 2},
        "with": {},
        "on_pause": "finish",
        "requires": [],
        "description": "",
        "approval": None,
    }
    hashes = {
        definition_hash(load_workflow(json.dumps({"name": "w", "nodes": [node]}), format="json"))
        for node in (plain, spelled)
    }
    assert len(hashes) == 1
    assert load_workflow(one_node(timeout="90s")) == load_workflow(one_node(timeout=90))


def test_a_change_changes_the_hash() -> None:
    loaded = load_workflow(RELEASE)
    hashes = {definition_hash(loaded), definition_hash(replace(loaded, name="other"))}
    for change in ({"use": "g"}, {"timeout_s": 1.0}, {"description": "d"}, {"input": {"n": 2**70}}):
        hashes.add(definition_hash(replace(loaded, nodes=(replace(loaded.nodes[0], **change), *loaded.nodes[1:]))))
    assert len(hashes) == 6


def test_the_hash_of_a_node_is_about_its_result() -> None:
    node = load_workflow(RELEASE).nodes[3]
    same: list[dict[str, Any]] = [
        {"description": "other"},
        {"timeout_s": 5.0},
        {"retry": Retry(7)},
        {"needs": ()},
        {"priority": 3},
        {"budget": {"usd": 1.0}},
        {"resources": ("gpu",)},
        {"on_unknown": "ask"},
        {"compensate": "undo"},
        {"body": (replace(node.body[0], description="x"), node.body[1])},
    ]
    other: list[dict[str, Any]] = [
        {"repeat": Repeat("output.ok", 3)},
        {"output": {"a": 1}},
        {"expects": ("output.ok",)},
        {"when": "inputs.a"},
        {"body": (replace(node.body[0], use="codex"), node.body[1])},
        {"body": node.body[:1]},
        {"approval": ApprovalSpec("?")},
    ]
    assert {node_hash(replace(node, **change)) for change in same} == {node_hash(node)}
    assert len({node_hash(replace(node, **change)) for change in other} | {node_hash(node)}) == len(other) + 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("250ms", 0.25),
        ("90s", 90.0),
        ("15m", 900.0),
        ("1.5h", 5400.0),
        ("24 h", 86400.0),
        ("2d", 172800.0),
    ],
)
def test_durations(text: Any, seconds: float) -> None:
    assert load_workflow(one_node(timeout=text)).nodes[0].timeout_s == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", -1, "1 week", "1h30m", True, [1], "1e3s", "\uff19s", "1s\n", 10**12])
def test_what_is_no_duration(text: Any) -> None:
    _, (problem,) = code_and_problems(one_node(timeout=text))
    assert problem["path"] == "nodes[0].timeout"
    assert "90s" in problem["expected"] or (text == 1000000000000 and "ten years" in problem["expected"])


def test_conditions_may_be_wrapped_or_be_words_of_yaml() -> None:
    for text, inside in (("${{ inputs.a }}", "inputs.a"), (" inputs.a ", "inputs.a"), (True, "true"), (False, "false")):
        assert load_workflow(one_node(when=text)).nodes[0].when == inside


def test_short_forms() -> None:
    text = """
    name: w
    nodes:
    - {id: a, kind: approval, approval: Really?}
    - {id: b, kind: wait, wait: {signal: go}, needs: a}
    - {id: c, kind: function, use: f, for_each: [1, 2], retry: 2, resources: gpu, requires: "${{ inputs.x }}"}
    """
    a, b, c = load_workflow(text).nodes
    assert a.approval == ApprovalSpec("Really?")
    assert b.wait == WaitSpec(signal="go")
    assert (c.for_each, c.resources, c.requires) == (ForEach([1, 2]), ("gpu",), ("inputs.x",))


def test_all_problems_are_reported_with_lines_in_the_order_of_the_file() -> None:
    text = (
        "name: w\n"
        "nodes:\n"
        "- id: a\n"
        "  kind: function\n"
        "  use: f\n"
        "  need: b\n"
        "- id: b c\n"
        "  kind: functoin\n"
        "  timeout: 5 years\n"
        "- kind: agent\n"
        "  retry: {max_attempts: 0}\n"
    )
    code, found = code_and_problems(text)
    assert code == "invalid_definition"
    assert [(problem["line"], problem["path"]) for problem in found] == [
        (6, "nodes[0].need"),
        (7, "nodes[1].id"),
        (8, "nodes[1].kind"),
        (9, "nodes[1].timeout"),
        (10, "nodes[2]"),
        (11, "nodes[2].retry.max_attempts"),
    ]
    assert found[0]["expected"] == "'needs'"
    assert "'function'" in found[2]["expected"]


def test_the_message_says_file_line_path_and_expectation() -> None:
    with pytest.raises(OmiumError) as caught:
        load_workflow("name: w\nnodes:\n- {id: a, kind: function, use: f,\n   needs: [b]}\n", source="w.yaml")
    assert caught.value.message.startswith(
        "w.yaml:4: nodes[0].needs[0]: 'a' needs 'b', which does not exist; expected "
    )


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"use": None}, "nodes[0]"),
        ({"kind": "tool", "use": "noserver"}, "nodes[0].use"),
        ({"kind": "wait", "use": None}, "nodes[0]"),
        ({"kind": "wait", "use": None, "wait": {}}, "nodes[0].wait"),
        ({"kind": "wait", "use": None, "wait": {"for": 1, "signal": "x"}}, "nodes[0].wait"),
        ({"wait": 5}, "nodes[0].wait"),
        ({"kind": "group", "use": None}, "nodes[0]"),
        ({"kind": "group", "use": None, "nodes": []}, "nodes[0]"),
        ({"nodes": [{"id": "b", "kind": "function", "use": "f"}]}, "nodes[0].nodes"),
        ({"output": 1}, "nodes[0].output"),
        ({"kind": "approval", "approval": "?"}, "nodes[0].use"),
        ({"kind": "approval", "use": None}, "nodes[0]"),
        ({"kind": "approval", "use": None, "approval": {"prompt": "?", "options": ["a", "a"]}}, "nodes[0].approval"),
        ({"approval": {"prompt": "?", "expires": 0}}, "nodes[0].approval"),
        ({"kind": "consensus", "use": None, "consensus": {"voters": ["a"], "quorum": 2}}, "nodes[0].consensus.quorum"),
        (
            {"kind": "consensus", "use": None, "consensus": {"voters": ["a", "a"], "quorum": 1}},
            "nodes[0].consensus.voters",
        ),
        ({"for_each": [1], "repeat": {"until": "output", "max": 2}}, "nodes[0]"),
        ({"kind": "approval", "use": None, "approval": "?", "expands": True}, "nodes[0].expands"),
        ({"kind": "wait", "use": None, "wait": 1, "retry": 3}, "nodes[0].retry"),
        ({"kind": "wait", "use": None, "wait": 1, "workspace": "read"}, "nodes[0].workspace"),
        ({"kind": "wait", "use": None, "wait": 1, "compensate": "f"}, "nodes[0].compensate"),
        ({"kind": "wait", "use": None, "wait": 1, "with": {"a": 1}}, "nodes[0].with"),
        ({"repeat": {"until": "output", "max": 0}}, "nodes[0].repeat.max"),
        ({"priority": True}, "nodes[0].priority"),
        ({"priority": "1"}, "nodes[0].priority"),
        ({"budget": {"euro": 1}}, "nodes[0].budget.euro"),
        ({"input_schema": {"type": "objekt"}}, "nodes[0].input_schema.type"),
        ({"output_schema": {"$ref": "https://example.org/s.json"}}, "nodes[0].output_schema.$ref"),
        ({"output_schema": {"$ref": "#/$defs/none"}}, "nodes[0].output_schema.$ref"),
        ({"output_schema": {"properties": {"a": {"pattern": "(?=x)"}}}}, "nodes[0].output_schema.properties.a.pattern"),
        ({"output_schema": {"$defs": {"a": {"$id": "x"}}}}, "nodes[0].output_schema.$defs.a.$id"),
    ],
)
def test_rules_of_the_kinds(keys: dict[str, Any], path: str) -> None:
    code, found = code_and_problems(one_node(**keys))
    assert code == "invalid_definition"
    assert [problem["path"] for problem in found] == [path]


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"nodes": []}, "nodes"),
        ({"nodes": {}}, "nodes"),
        ({"name": "a b"}, "name"),
        ({"name": None}, "name"),
        ({"version": 1}, "version"),
        ({"inputs": {"type": "array"}}, "inputs"),
        ({"approvals": "custom"}, "approvals"),
        ({"approvals": {"mode": "manual", "when": ["true"]}}, "approvals"),
        ({"approvals": "always"}, "approvals.mode"),
        ({"max_parallel": 0}, "max_parallel"),
        ({"outputs": "${{ nodes.zz.output }}"}, "outputs"),
    ],
)
def test_rules_of_the_whole(keys: dict[str, Any], path: str) -> None:
    document = {"name": "w", "nodes": [{"id": "a", "kind": "function", "use": "f"}]} | keys
    _, found = code_and_problems(json.dumps(document))
    assert [problem["path"] for problem in found] == [path]


def test_the_published_schema_accepts_what_loads_and_refuses_what_does_not() -> None:
    schema = document_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert list(validator.iter_errors(read_document(RELEASE, "f").value)) == []
    assert list(validator.iter_errors(to_document(load_workflow(RELEASE)))) == []
    for text in (one_node(kind="functoin"), one_node(need="b"), '{"name": "w"}'):
        assert not validator.is_valid(json.loads(text))


def test_a_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(RELEASE)
    assert load_file(path) == load_workflow(RELEASE)


def test_the_builder_gives_the_same_definition_as_a_file() -> None:
    wf = workflow(
        "release",
        description="Release notes, approved by a human.",
        inputs={
            "type": "object",
            "properties": {"repo": {"type": "string"}, "count": {"type": "integer", "default": 5}},
            "required": ["repo"],
        },
        deadline="2d",
        max_parallel=4,
        approvals={"mode": "custom", "when": "node.kind == 'cli'"},
    )
    commits = {"type": "object", "properties": {"commits": {"type": "array", "items": {"type": "string"}}}}
    text = {"type": "object", "properties": {"text": {"type": "string"}}}
    with_ = {"repo": wf.inputs.repo, "count": wf.inputs.count}
    collect = wf.function("collect", use="history", with_=with_, timeout=90, retry=3, output_schema=commits)
    item = {"commit": Ref("item"), "n": Ref("index")}
    each = wf.agent("each", use="reader", needs=collect, for_each=collect.output.commits, with_=item)
    draft = wf.agent(
        "draft",
        use="writer",
        needs=[collect, each.after(optional=True, when="size(nodes.collect.output.commits) > 0")],
        with_={"task": f"Write about {each.output}"},
        output_schema=text,
        retry={"max_attempts": 2, "initial": "5s", "max": 60, "on": ["timeout"]},
        budget={"usd": 2, "seconds": "10m"},
        expects="size(output.text) > 10",
    )
    fix = wf.group("fix", needs=draft, repeat={"until": "output.test.passed", "max": 3})
    mend = fix.cli("mend", use="claude", with_={"last": Ref("previous"), "text": draft.output.text})
    fix.cli("test", use="pytest", needs=mend, workspace="read")
    prompt = f"Publish {draft.output.text}?"
    gate = wf.approval("gate", prompt=prompt, expires="1h", options=("yes", "no"), needs=fix)
    pause = wf.wait("pause", seconds="15m", needs=gate)
    wf.tool(
        "publish",
        use="github/create_release",
        needs=pause,
        when="nodes.gate.output.decision == 'yes'",
        compensate="unpublish",
        on_unknown="ask",
    )
    built = wf.build(outputs={"notes": draft.output.text})
    loaded = load_workflow(RELEASE)
    assert built == loaded
    assert definition_hash(built) == definition_hash(loaded)


def test_the_builder_reports_like_a_file() -> None:
    wf = workflow("w")
    wf.function("a", use="f", needs="nowhere", with_={"x": object()})
    with pytest.raises(OmiumError) as caught:
        wf.build()
    assert caught.value.data["problems"][0]["path"] == "nodes[0].with.x"
    wf = workflow("w")
    wf.function("a", use="f", needs="nowhere")
    with pytest.raises(OmiumError) as caught:
        wf.build()
    assert caught.value.data["problems"][0]["path"] == "nodes[0].needs[0]"


def test_the_builder_takes_every_kind() -> None:
    wf = workflow("w")
    a = wf.workflow("a-b", use="other", with_={"n": 1}, approval="Go?")
    wf.consensus("vote", voters=["x", "y"], quorum=2, choice="output.answer", needs=a, with_={"q": a.output["k l"]})
    wf.wait("signal", signal="go", needs=[a], when=a.output.ok)
    built = wf.build()
    assert built.nodes[1].consensus == ConsensusSpec(("x", "y"), 2, "output.answer")
    assert built.nodes[1].input == {"q": '${{ nodes["a-b"].output["k l"] }}'}
    assert built.nodes[0].approval == ApprovalSpec("Go?")


def test_a_reference_is_no_sequence() -> None:
    with pytest.raises(TypeError):
        list(Ref("inputs").items_)
    with pytest.raises(AttributeError):
        Ref("inputs").__wrapped__  # noqa: B018


ids = st.sampled_from(["a", "b", "c", "d", "e-f", "_g"])
templates = st.sampled_from(
    [
        {},
        None,
        0,
        -(10**20),
        10**20,
        1.0,
        1,
        True,
        "",
        "é ${{ inputs.a }}",
        [],
        [[{}], {"k.x": None}],
        {"a": {"": [2.5]}},
    ]
)
seconds = st.floats(0, 1e6)
approval_specs = st.builds(
    ApprovalSpec,
    st.just("ok?"),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True).map(tuple),
    st.floats(1, 1e6),
    st.sampled_from(["none", "elicited", "signed"]),
    templates,
)


@st.composite
def node_defs(draw: st.DrawFn, node_id: str, others: list[str]) -> NodeDef:
    needs = draw(st.lists(st.sampled_from(others), unique=True)) if others else []
    return NodeDef(
        node_id,
        draw(st.sampled_from(["function", "agent", "tool", "cli", "workflow"])),
        use="srv/name",
        input=draw(templates.filter(lambda value: value is not None)),
        needs=tuple(Need(need, draw(st.booleans()), draw(st.none() | st.just("inputs.a"))) for need in needs),
        when=draw(st.none() | st.just("true")),
        for_each=draw(
            st.none() | st.builds(ForEach, st.just([1]), st.none() | st.just("item"), st.none() | st.integers(1, 9))
        ),
        expands=draw(st.booleans()),
        retry=draw(
            st.builds(
                Retry,
                st.integers(1, 9),
                seconds,
                st.floats(1, 9),
                seconds,
                st.floats(0, 1),
                st.none() | st.just(("timeout",)),
            )
        ),
        timeout_s=draw(st.none() | seconds),
        on_unknown=draw(st.sampled_from([None, "rerun", "fail"])),
        workspace=draw(st.sampled_from(["none", "read", "write"])),
        approval=draw(st.none() | approval_specs),
        compensate=draw(st.none() | st.just("undo")),
        budget=draw(st.none() | st.just({"usd": 1.5, "calls": 3})),
        requires=draw(st.sampled_from([(), ("true",)])),
        expects=draw(st.sampled_from([(), ("output.ok", "true")])),
        priority=draw(st.integers(-5, 5)),
        resources=draw(st.sampled_from([(), ("gpu",)])),
        on_pause=draw(st.sampled_from(["finish", "interrupt"])),
        output_schema=draw(st.none() | st.just({"type": "object"})),
        description=draw(st.sampled_from(["", "some text"])),
    )


@st.composite
def workflow_defs(draw: st.DrawFn) -> WorkflowDef:
    names = draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    return WorkflowDef(
        "w",
        tuple(draw(node_defs(name, names[:place])) for place, name in enumerate(names)),
        inputs=draw(st.none() | st.just({"type": "object"})),
        deadline_s=draw(st.none() | seconds),
        approvals=draw(st.sampled_from(["none", "manual"])),
    )


@given(workflow_defs())
def test_any_definition_reads_back_from_its_document(definition: WorkflowDef) -> None:
    from omium.orchestration.definition.schema import WorkflowFile, to_workflow

    text = json.dumps(to_document(definition))
    again = to_workflow(WorkflowFile.model_validate(json.loads(text)))
    assert again == definition
    assert definition_hash(again) == definition_hash(definition)
    assert to_document(again) == to_document(definition)
