"""What one node becomes many by: fan-outs, loops, groups, plans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omium.orchestration.ports import Attempt
from tests.integration.engine.worlds import ME, world

pytestmark = pytest.mark.anyio


def fan(more: str = "", use: str = "add", inner: str = 'with: {x: "${{ item }}", y: 100}') -> str:
    return f"""
name: fan
nodes:
- {{id: l, kind: function, use: items, with: {{n: "${{{{ inputs.n }}}}"}}}}
- id: f
  kind: function
  use: {use}
  needs: l
  for_each: {{items: "${{{{ nodes.l.output }}}}"{more}}}
  {inner}
- {{id: end, kind: function, use: echo, with: {{value: "${{{{ nodes.f.output }}}}"}}, needs: f}}
"""


async def test_a_fan_out_gives_the_list_of_what_its_instances_gave(tmp_path: Path) -> None:
    async with world(tmp_path, fan()) as w:
        view = await w.finished(await w.run("fan", {"n": 4}))
        assert view.output == {"end": [100, 101, 102, 103]}
        assert [node.id for node in view.nodes] == ["l", "f", "f[0]", "f[1]", "f[2]", "f[3]", "end"]


async def test_an_empty_list_completes_at_once(tmp_path: Path) -> None:
    async with world(tmp_path, fan()) as w:
        view = await w.finished(await w.run("fan", {"n": 0}))
        assert view.output == {"end": []}


async def test_what_is_no_list_fails_the_node_and_says_so(tmp_path: Path) -> None:
    flow = "{name: no, nodes: [{id: f, kind: function, use: echo, for_each: {items: '${{ inputs.x }}'}}]}"
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("no", {"x": 5}), "failed")
        assert view.error is not None and "needs a list, not int" in view.error["message"]


async def test_instances_are_named_by_their_key(tmp_path: Path) -> None:
    flow = """
name: keyed
nodes:
- id: f
  kind: function
  use: echo
  for_each: {items: [{n: b}, {n: a}], key: "item.n"}
  with: {value: "${{ index }}:${{ key }}:${{ item.n }}"}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("keyed"))
        assert [node.id for node in view.nodes] == ["f", "f[b]", "f[a]"]
        assert view.output == {"f": ["0:b:b", "1:a:a"]}


async def test_a_key_that_comes_twice_fails_the_node(tmp_path: Path) -> None:
    flow = "{name: twice, nodes: [{id: f, kind: function, use: echo, for_each: {items: [1, 1], key: item}}]}"
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("twice"), "failed")
        assert view.error is not None and "twice" in view.error["message"]
        assert w.calls == []


async def test_max_parallel_bounds_what_runs_at_once(tmp_path: Path) -> None:
    flow = fan(", max_parallel: 3", "hold", 'with: {name: "h${{ item }}", value: "${{ item }}"}')
    async with world(tmp_path, flow) as w:
        run = await w.run("fan", {"n": 10})
        for number in range(3):
            await w.entered(f"h{number}")
        assert w.running == 3
        for number in range(10):
            await w.entered(f"h{number}")
            w.let_go(f"h{number}")
        view = await w.finished(run)
        assert view.output == {"end": list(range(10))}
        assert w.most == 3


async def test_an_instance_that_fails_fails_the_whole_and_starts_no_other(tmp_path: Path) -> None:
    flow = fan(", max_parallel: 1", "boom", 'with: {message: "no ${{ item }}"}')
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("fan", {"n": 5}), "failed")
        assert view.error is not None and (view.error["node"], view.error["message"]) == ("f[0]", "no 0")
        assert w.called() == ["l", "f[0]"]


async def test_with_continue_a_failed_instance_gives_null(tmp_path: Path) -> None:
    async def odd(attempt: Attempt, n: int) -> int:
        if n % 2:
            raise ValueError("odd")
        return n

    flow = fan(", on_failure: continue", "odd", 'with: {n: "${{ item }}"}')
    async with world(tmp_path, flow, functions={"odd": odd}) as w:
        view = await w.finished(await w.run("fan", {"n": 5}))
        assert view.output == {"end": [0, None, 2, None, 4]}


async def test_two_thousand_instances(tmp_path: Path) -> None:
    async with world(tmp_path, fan()) as w:
        view = await w.finished(await w.run("fan", {"n": 2000}))
        assert view.output == {"end": [100 + n for n in range(2000)]}
        assert view.counts == {"completed": 2003}


LOOP = """
name: loop
nodes:
- id: l
  kind: function
  use: add
  repeat: {until: "output >= inputs.limit", max: 6}
  with: {x: "${{ previous == null ? 0 : previous }}", y: 2}
"""


@pytest.mark.parametrize(("limit", "rounds", "output"), [(2, 1, 2), (5, 3, 6), (1000, 6, 12)])
async def test_a_loop_goes_on_until_its_condition_or_its_maximum(
    tmp_path: Path, limit: int, rounds: int, output: int
) -> None:
    async with world(tmp_path, LOOP) as w:
        view = await w.finished(await w.run("loop", {"limit": limit}))
        assert view.output == {"l": output}
        assert w.called() == [f"l[{number}]" for number in range(rounds)]


async def test_a_round_that_fails_ends_the_loop(tmp_path: Path) -> None:
    flow = "{name: bad, nodes: [{id: l, kind: function, use: boom, repeat: {until: 'true', max: 5}}]}"
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("bad"), "failed")
        assert w.called() == ["l[0]"]
        assert view.error is not None and view.error["node"] == "l[0]"


NESTED = """
name: nested
nodes:
- {id: start, kind: function, use: items, with: {n: 2}}
- id: outer
  kind: group
  needs: start
  for_each: {items: "${{ nodes.start.output }}", key: "'k' + string(item)"}
  nodes:
  - {id: head, kind: function, use: add, with: {x: "${{ item }}", y: 10}}
  - id: fix
    kind: group
    needs: head
    repeat: {until: "output.check >= 12 + index", max: 5}
    output: {check: "${{ nodes.check.output }}", round: "${{ iteration }}"}
    nodes:
    - id: edit
      kind: function
      use: add
      with: {x: "${{ previous == null ? nodes.head.output : previous.check }}", y: 1}
    - id: inner
      kind: group
      needs: edit
      nodes:
      - id: leaf
        kind: function
        use: echo
        for_each: [7, 8]
        with: {value: "${{ item + iteration }}"}
      - {id: sum, kind: function, use: echo, with: {value: "${{ nodes.leaf.output }}"}, needs: leaf}
    - {id: check, kind: function, use: echo, with: {value: "${{ nodes.edit.output }}"}, needs: [edit, inner]}
- {id: end, kind: function, use: echo, with: {value: "${{ nodes.outer.output }}"}, needs: outer}
"""


async def test_groups_within_groups_with_a_fan_out_and_a_loop_inside(tmp_path: Path) -> None:
    async with world(tmp_path, NESTED) as w:
        view = await w.finished(await w.run("nested"))
        nodes = {node.id: node for node in view.nodes}
        # head is 10 and 11; each round adds one; the loop ends at 12 and 13.
        assert nodes["outer[k0].fix[1].inner.leaf[1]"].status == "completed"
        assert "outer[k0].fix[2]" not in nodes
        assert await w.core.node_output(ME, view.id, "outer[k0].fix[1].inner.sum") == [8, 9]
        output: Any = view.output
        assert [one["fix"] for one in output["end"]] == [{"check": 12, "round": 1}, {"check": 13, "round": 1}]


async def test_a_failure_deep_inside_names_its_node(tmp_path: Path) -> None:
    flow = """
name: deep
nodes:
- id: a
  kind: group
  nodes:
  - id: b
    kind: group
    for_each: [1, 2]
    nodes:
    - {id: ok, kind: function, use: echo}
    - {id: c, kind: function, use: boom, needs: ok, when: "item == 2"}
- {id: after, kind: function, use: echo, needs: a}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("deep"), "failed")
        assert view.error is not None and view.error["node"] == "a.b[1].c"
        assert next(node.reason for node in view.nodes if node.id == "after") == "upstream_failed"


PLAN = """
name: plan
nodes:
- {id: make, kind: function, use: echo, with: {value: "${{ inputs.plan }}"}, expands: true}
- {id: after, kind: function, use: echo, with: {value: "${{ nodes.make.output }}"}, needs: make}
"""


def steps(*more: Any) -> dict[str, Any]:
    return {"plan": {"steps": list(more)}}


async def test_a_plan_becomes_nodes_inside_of_what_made_it(tmp_path: Path) -> None:
    plan = steps(
        {
            "id": "two",
            "kind": "function",
            "use": "add",
            "with": {"x": "${{ nodes.one.output }}"},
            "depends_on": ["one"],
        },
        {"id": "one", "kind": "function", "use": "add", "with": {"x": 1}},
    )
    async with world(tmp_path, PLAN) as w:
        view = await w.finished(await w.run("plan", plan))
        assert view.output == {"after": {"one": 2, "two": 3}}
        assert [node.id for node in view.nodes] == ["make", "make.two", "make.one", "after"]


@pytest.mark.parametrize(
    ("plan", "code", "said"),
    [
        (
            steps(
                {"id": "a", "kind": "function", "use": "echo", "depends_on": ["b"]},
                {"id": "b", "kind": "function", "use": "echo", "depends_on": ["a"]},
            ),
            "invalid_definition",
            "cycle",
        ),
        (steps({"id": "a", "kind": "function", "use": "rm"}), "not_registered", "rm"),
        (steps({"id": "a", "kind": "function", "use": "echo", "depends_on": ["z"]}), "invalid_definition", "'z'"),
        (steps({"id": "a", "kind": "cli", "use": "sh"}), "not_registered", "sh"),
        ({"plan": "no plan"}, "invalid_definition", "no steps"),
        (steps({"id": "a", "kind": "wait", "wait": 1, "resources": "gpu"}), "not_registered", "gpu"),
        (
            steps({"id": "a", "kind": "approval", "approval": {"prompt": "?", "min_assurance": "signed"}}),
            "invalid_definition",
            "steps[0].approval.min_assurance",
        ),
    ],
)
async def test_a_plan_that_is_not_valid_fails_what_made_it_and_nothing_of_it_runs(
    tmp_path: Path, plan: dict[str, Any], code: str, said: str
) -> None:
    async with world(tmp_path, PLAN) as w:
        view = await w.finished(await w.run("plan", plan), "failed")
        assert view.error is not None and view.error["code"] == code
        assert said in view.error["message"]
        assert w.called() == ["make"]


async def test_plans_within_plans_and_a_group_in_a_plan(tmp_path: Path) -> None:
    inner = {"steps": [{"id": "leaf", "kind": "function", "use": "echo", "with": {"value": 5}}]}
    plan = steps(
        {"id": "again", "kind": "function", "use": "echo", "with": {"value": inner}, "expands": True},
        {
            "id": "grp",
            "kind": "group",
            "depends_on": ["again"],
            "nodes": [{"id": "n", "kind": "function", "use": "echo", "with": {"value": "${{ nodes.again.output }}"}}],
        },
    )
    async with world(tmp_path, PLAN) as w:
        view = await w.finished(await w.run("plan", plan))
        assert view.output == {"after": {"again": {"leaf": 5}, "grp": {"n": {"leaf": 5}}}}


async def test_progress_counts_the_instances_that_have_not_begun(tmp_path: Path) -> None:
    flow = fan(", max_parallel: 1", "hold", 'with: {name: "h${{ item }}", value: "${{ item }}"}')
    async with world(tmp_path, flow) as w:
        run = await w.run("fan", {"n": 9})
        await w.entered("h0")
        (listed,), shown = (await w.core.list_runs(ME)).runs, await w.core.get_run(ME, run)
        # Of l, f, its nine instances and end, l is done.
        assert listed.progress == shown.progress == 1 / 12
