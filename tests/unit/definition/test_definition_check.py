"""What expressions may read, what a workflow may name, and whether it runs itself."""

from __future__ import annotations

from typing import Any

import pytest

from omium.orchestration.definition import (
    WorkflowDef,
    check_recursion,
    check_registered,
    check_workflow,
    lint,
    load_workflow,
    workflow,
)
from omium.orchestration.errors import OmiumError

HEAD = """
name: w
inputs:
  type: object
  properties: {repo: {type: string}, who: {type: object, properties: {mail: {type: string}}}}
nodes:
- id: a
  kind: function
  use: f
  output_schema:
    type: object
    properties: {list: {type: array, items: {$ref: '#/$defs/item'}}}
    $defs: {item: {type: object, properties: {name: {type: string}}}}
- {id: b, kind: function, use: f, needs: a}
- {id: c, kind: function, use: f, needs: b}
- {id: side, kind: function, use: f}
"""
D = "- {id: d, kind: function, use: f, "
G = "- id: g\n  kind: group\n  nodes:\n  - {id: x, kind: function, use: f"


def problems(tail: str) -> list[tuple[str, str]]:
    try:
        load_workflow(HEAD + tail, source="w")
    except OmiumError as error:
        assert error.code == "invalid_definition"
        assert all(problem["line"] for problem in error.data["problems"])
        return [(problem["path"], problem["message"]) for problem in error.data["problems"]]
    return []


@pytest.mark.parametrize(
    "tail",
    [
        D + "needs: c, with: {x: '${{ nodes.a.output.list[0].name }}'}}",
        D + "with: {x: '${{ inputs.who.mail }} ${{ run.id }}'}}",
        D + "needs: c, when: nodes.a.state == 'completed' && nodes.b.error == null}",
        D + "needs: {node: c, when: nodes.c.output.ok}}",
        D + "for_each: [1], with: '${{ item }} ${{ index }} ${{ key }}'}",
        D + "for_each: {items: [1], key: item.id + string(index)}}",
        D + "repeat: {until: output.ok && iteration > 1, max: 3}, with: '${{ previous }}'}",
        D + "requires: input.x > 1, expects: output.y > input.x}",
        "- {id: d, kind: approval, needs: c, approval: {prompt: '${{ nodes.a.output.list }}', "
        "show: '${{ nodes.c.output }}'}}",
        "- {id: d, kind: wait, needs: c, wait: {for: '${{ nodes.c.output.s }}'}}",
        "- {id: d, kind: consensus, consensus: {voters: [x], quorum: 1, choice: output.answer}}",
        D + "with: '${{ [1].map(item, item) }}'}",
        "- id: g\n  kind: group\n  needs: c\n  for_each: [1]\n  output: '${{ nodes.y.output }}'\n  nodes:\n"
        "  - {id: x, kind: function, use: f, with: '${{ item }} ${{ nodes.a.output }}'}\n"
        "  - {id: y, kind: function, use: f, needs: x, with: '${{ nodes.x.output }}'}\n",
        "- id: g\n  kind: group\n  nodes:\n"
        "  - {id: a, kind: function, use: f}\n"
        "  - {id: y, kind: function, use: f, needs: a, with: '${{ nodes.a.output.anything }}'}\n",
        "outputs: '${{ nodes.side.output }} ${{ nodes.a.output.list }}'",
        "approvals: {mode: custom, when: node.kind == 'cli' && inputs.repo != ''}",
    ],
)
def test_what_may_be_read(tail: str) -> None:
    assert problems(tail) == []


@pytest.mark.parametrize(
    ("tail", "path", "words"),
    [
        (D + "needs: c, with: '${{ nodes.side.output }}'}", "nodes[4].with", "not upstream"),
        (D + "needs: c, with: '${{ nodes.zz.output }}'}", "nodes[4].with", "no node 'zz'"),
        (D + "with: '${{ nodes.d.output }}'}", "nodes[4].with", "reads itself"),
        (D + "needs: a, when: nodes.a.result.x}", "nodes[4].when", "no 'result'"),
        (D + "needs: a, with: '${{ nodes[inputs.repo].output }}'}", "nodes[4].with", "which node"),
        (D + "with: '${{ size(nodes) }}'}", "nodes[4].with", "which node"),
        (D + "with: {k: [1, '${{ inputs.rpo }}']}}", "nodes[4].with.k[1]", "no 'rpo'"),
        (D + "with: '${{ inputs.who.name }}'}", "nodes[4].with", "no 'name'"),
        (D + "with: '${{ inputs.repo.name }}'}", "nodes[4].with", "no 'name'"),
        (D + "needs: a, with: '${{ nodes.a.output.lst }}'}", "nodes[4].with", "no 'lst'"),
        (D + "needs: a, with: '${{ nodes.a.output.list[0].nme }}'}", "nodes[4].with", "no 'nme'"),
        (D + "needs: a, with: '${{ nodes.a.output.list.name }}'}", "nodes[4].with", "no 'name'"),
        (D + "with: '${{ item }}'}", "nodes[4].with", "'item' has no value"),
        (D + "for_each: '${{ item }}'}", "nodes[4].for_each.items", "'item' has no value"),
        (D + "for_each: {items: [1], key: previous}}", "nodes[4].for_each.key", "'previous'"),
        (D + "when: output.ok}", "nodes[4].when", "'output' has no value"),
        (D + "requires: output.ok}", "nodes[4].requires[0]", "'output' has no value"),
        (D + "when: 1 + 1}", "nodes[4].when", "gives int"),
        (D + "expects: [\"'yes'\"]}", "nodes[4].expects[0]", "gives string"),
        (D + "when: 1 +}", "nodes[4].when", "Syntax error"),
        (D + "with: {a: '${{ secrets.key }}'}}", "nodes[4].with.a", "undeclared"),
        (D + "with: {a: '${{ inputs.repo'}}", "nodes[4].with.a", "does not end"),
        (D + "when: ''}", "nodes[4].when", "empty"),
        (D + "needs: {node: c, when: nodes.side.output}}", "nodes[4].needs[0].when", "not upstream"),
        (G + ", with: '${{ nodes.a.output }}'}", "nodes[4].nodes[0].with", "'g' reads 'a'"),
        (G + ", with: '${{ nodes.g.output }}'}", "nodes[4].nodes[0].with", "is around"),
        (G + "}\n- {id: h, kind: function, use: f, needs: g, when: nodes.x.output}", "nodes[5].when", "no node 'x'"),
        ("outputs: '${{ nodes.x.output }}'", "outputs", "no node 'x'"),
        ("outputs: '${{ item }}'", "outputs", "'item'"),
        ("approvals: {mode: custom, when: [node.id]}\noutputs: '${{ node }}'", "outputs", "'node'"),
    ],
)
def test_what_may_not_be_read(tail: str, path: str, words: str) -> None:
    (found,) = problems(tail)
    assert found[0] == path
    assert words in found[1]


def test_the_output_of_a_fan_out_is_a_list() -> None:
    schema = "{type: object, properties: {n: {type: integer}}}"
    fan = f"- {{id: fan, kind: function, use: f, for_each: [1], output_schema: {schema}}}\n"
    user = "- {id: user, kind: function, use: f, needs: fan, with: '${{ nodes.fan.output%s }}'}"
    assert problems(fan + user % "[0].n") == []
    assert len(problems(fan + user % ".n")) == 1
    assert len(problems(fan + user % "[0].m")) == 1


def test_lint_flags_fields_that_cannot_be_checked() -> None:
    tail = (
        D + "needs: c, with: {x: '${{ nodes.b.output.n }}', y: '${{ nodes.b.output }}', "
        "z: '${{ nodes.a.output.list }}'}}\n"
    )
    (warning,) = lint(load_workflow(HEAD + tail))
    assert warning.path == "nodes[4].with.x"
    open_schema = D + "output_schema: {type: object}}\n"
    reader = "- {id: e, kind: function, use: f, needs: d, when: nodes.d.output.k}"
    (warning,) = lint(load_workflow(HEAD + open_schema + reader))
    assert warning.path == "nodes[5].when"


def test_lint_asks_for_no_schema_where_none_can_be_given() -> None:
    group = "- {id: g, kind: group, nodes: [{id: x, kind: function, use: f}], output: {n: '${{ nodes.x.output }}'}}\n"
    waits = "- {id: w, kind: approval, approval: {prompt: '?'}}\n"
    for made, of in ((group, "g"), (waits, "w")):
        reader = f"- {{id: user, kind: function, use: f, needs: {of}, with: '${{{{ nodes.{of}.output.n }}}}'}}"
        assert lint(load_workflow(HEAD + made + reader)) == []


def test_ten_thousand_nodes_that_read_the_first_are_checked_quickly() -> None:
    import time

    wf = workflow("w")
    node = first = wf.function("n0", use="f")
    for number in range(1, 10_000):
        node = wf.function(f"n{number}", use="f", needs=node, with_={"x": first.output, "i": number})
    started = time.perf_counter()
    built = wf.build()
    assert time.perf_counter() - started < 15, "a quadratic search takes minutes"
    assert len(built.nodes) == 10_000


REGISTERED = {
    "function": {"f"},
    "agent": {"writer"},
    "tool": {"gh/release"},
    "command": {"claude"},
    "workflow": {"sub"},
}


def named(kind: str, use: str, **more: Any) -> WorkflowDef:
    wf = workflow("w")
    group = wf.group("g")
    getattr(group, kind)("n", use=use, **more)
    return wf.build()


def test_registered_names_pass() -> None:
    for kind, use in (
        ("function", "f"),
        ("agent", "writer"),
        ("tool", "gh/release"),
        ("cli", "claude"),
        ("workflow", "sub"),
    ):
        check_registered(named(kind, use, compensate="f"), REGISTERED)


@pytest.mark.parametrize(
    ("kind", "use", "registry"),
    [
        ("function", "os.system", "function"),
        ("function", "writer", "function"),
        ("agent", "riter", "agent"),
        ("tool", "gh/delete", "tool"),
        ("cli", "bash", "command"),
        ("workflow", "w", "workflow"),
    ],
)
def test_a_name_that_is_not_registered_is_refused(kind: str, use: str, registry: str) -> None:
    with pytest.raises(OmiumError) as caught:
        check_registered(named(kind, use), REGISTERED)
    assert caught.value.code == "not_registered"
    assert caught.value.data["missing"] == [
        {"path": "nodes[0].nodes[0]", "node": "n", "registry": registry, "name": use}
    ]


def test_compensations_and_voters_are_names_too() -> None:
    with pytest.raises(OmiumError) as caught:
        check_registered(named("function", "f", compensate="undo"), REGISTERED)
    assert caught.value.data["missing"][0]["name"] == "undo"
    wf = workflow("w")
    wf.consensus("v", voters=["writer", "stranger"], quorum=1)
    with pytest.raises(OmiumError) as caught:
        check_registered(wf.build(), REGISTERED)
    assert caught.value.data["missing"][0]["name"] == "stranger"


def test_nothing_is_registered_by_default() -> None:
    with pytest.raises(OmiumError):
        check_registered(named("function", "f"), {})


def sub(name: str, *below: str) -> WorkflowDef:
    wf = workflow(name)
    wf.function("start", use="f")
    group = wf.group("g")
    for number, other in enumerate(below):
        group.workflow(f"s{number}", use=other)
    if not below:
        group.function("x", use="f")
    return wf.build()


def test_workflows_that_run_themselves_are_refused_with_the_cycle() -> None:
    known = {
        one.name: one
        for one in (sub("a", "b", "c"), sub("b", "c"), sub("c", "d"), sub("d", "b"), sub("e", "e"), sub("f"))
    }
    for name, cycle in (("a", "b -> c -> d -> b"), ("e", "e -> e")):
        with pytest.raises(OmiumError) as caught:
            check_recursion(name, known.get)
        assert cycle in caught.value.message
    check_recursion("f", known.get)


def test_a_workflow_may_be_run_in_two_places() -> None:
    known = {one.name: one for one in (sub("a", "b", "c"), sub("b", "d"), sub("c", "d", "missing"), sub("d"))}
    check_recursion("a", known.get)


def test_a_workflow_made_in_code_is_checked_as_well() -> None:
    good = sub("a")
    check_workflow(good)
    with pytest.raises(OmiumError):
        check_workflow(WorkflowDef("w", (*good.nodes, *good.nodes)))
