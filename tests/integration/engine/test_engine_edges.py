"""Edges: what runs after what, what is skipped and why, and how that decides how the run ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.engine.worlds import world

pytestmark = pytest.mark.anyio

CHAIN = """
name: chain
nodes:
- {id: c, kind: function, use: add, with: {x: "${{ nodes.b.output }}", y: 1}, needs: b}
- {id: a, kind: function, use: add, with: {x: "${{ inputs.x }}", y: 1}}
- {id: b, kind: function, use: add, with: {x: "${{ nodes.a.output }}", y: 1}, needs: a}
"""


async def test_a_chain_runs_in_order_and_each_node_gets_what_the_last_one_gave(tmp_path: Path) -> None:
    async with world(tmp_path, CHAIN) as w:
        view = await w.finished(await w.run("chain", {"x": 1}))
        assert view.output == {"c": 4}
        assert w.called() == ["a", "b", "c"]
        assert view.progress == 1.0


async def test_each_node_has_one_start_and_one_end_and_a_run_its_five_events(tmp_path: Path) -> None:
    async with world(tmp_path, CHAIN) as w:
        run = await w.run("chain", {"x": 1})
        await w.finished(run)
        assert await w.log(run) == [
            "run.created", "run.planning", "run.started",
            "node.started", "node.completed", "node.started", "node.completed", "node.started", "node.completed",
            "run.completed",
        ]  # fmt: skip


async def test_independent_nodes_run_at_once(tmp_path: Path) -> None:
    flow = """
name: wide
nodes:
- {id: a, kind: function, use: hold, with: {name: a}}
- {id: b, kind: function, use: hold, with: {name: b}}
- {id: c, kind: function, use: hold, with: {name: c}}
- {id: after_a, kind: function, use: hold, with: {name: after}, needs: a}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("wide")
        for name in ("a", "b", "c"):
            await w.entered(name)
        assert w.running == 3
        w.let_go("a")
        await w.entered("after")  # no level has to be complete for that
        for name in ("b", "c", "after"):
            w.let_go(name)
        await w.finished(run)


DIAMOND = """
name: diamond
nodes:
- {id: top, kind: function, use: echo, with: {value: 1}}
- {id: left, kind: function, use: boom, needs: top}
- {id: right, kind: function, use: echo, with: {value: 2}, needs: top}
- {id: join, kind: function, use: echo, needs: [left, right]}
- {id: end, kind: function, use: echo, needs: join}
"""


async def test_a_failure_stops_what_comes_after_it_and_nothing_else(tmp_path: Path) -> None:
    async with world(tmp_path, DIAMOND) as w:
        view = await w.finished(await w.run("diamond"), "failed")
        nodes = {node.id: node for node in view.nodes}
        assert {name: node.status for name, node in nodes.items()} == {
            "top": "completed", "left": "failed", "right": "completed", "join": "skipped", "end": "skipped",
        }  # fmt: skip
        assert nodes["join"].reason == nodes["end"].reason == "upstream_failed"
        assert view.error is not None
        assert (view.error["node"], view.error["category"]) == ("left", "value_error")
        assert "bad timeout value" in view.error["message"]


async def test_the_reason_of_a_failure_has_its_traceback_in_the_node_and_not_in_the_run(tmp_path: Path) -> None:
    async with world(tmp_path, DIAMOND) as w:
        view = await w.finished(await w.run("diamond"), "failed")
        error = next(node.error for node in view.nodes if node.id == "left")
        assert error is not None and error["type"] == "builtins.ValueError"
        assert "Traceback" in error["traceback"]
        assert view.error is not None and "traceback" not in view.error


async def test_an_optional_edge_lets_the_next_node_run_and_see_what_went_wrong(tmp_path: Path) -> None:
    flow = """
name: tolerant
nodes:
- {id: a, kind: function, use: boom}
- id: b
  kind: function
  use: echo
  with: {value: {state: "${{ nodes.a.state }}", said: "${{ nodes.a.error.message }}"}}
  needs: {node: a, optional: true}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("tolerant"))
        assert view.output == {"b": {"state": "failed", "said": "bad timeout value"}}


@pytest.mark.parametrize(("bad", "ran"), [(True, "clean"), (False, "go")])
async def test_a_condition_on_an_optional_edge_counts_also_when_the_node_before_has_failed(
    tmp_path: Path, bad: bool, ran: str
) -> None:
    flow = f"""
name: either
nodes:
- {{id: a, kind: function, use: {"boom" if bad else "echo"}}}
- {{id: go, kind: function, use: echo, needs: {{node: a, optional: true, when: "nodes.a.state == 'completed'"}}}}
- {{id: clean, kind: function, use: echo, needs: {{node: a, optional: true, when: "nodes.a.state == 'failed'"}}}}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("either"))
        assert [node.id for node in view.nodes if node.id != "a" and node.status == "completed"] == [ran]
        assert [node.reason for node in view.nodes if node.status == "skipped"] == ["condition"]


ROUTE = """
name: route
nodes:
- {id: pick, kind: function, use: echo, with: {value: "${{ inputs.way }}"}}
- {id: left, kind: function, use: echo, with: {value: l}, needs: {node: pick, when: "nodes.pick.output == 'left'"}}
- {id: right, kind: function, use: echo, with: {value: r}, needs: {node: pick, when: "nodes.pick.output == 'right'"}}
- id: join
  kind: function
  use: echo
  needs: [{node: left, optional: true}, {node: right, optional: true}]
- {id: strict, kind: function, use: echo, needs: [left, right]}
"""


async def test_conditional_edges_choose_a_way_and_a_join_of_optional_ones_runs(tmp_path: Path) -> None:
    async with world(tmp_path, ROUTE) as w:
        view = await w.finished(await w.run("route", {"way": "left"}))
        nodes = {node.id: (node.status, node.reason) for node in view.nodes}
        assert nodes["left"] == ("completed", None)
        assert nodes["right"] == ("skipped", "condition")
        assert nodes["join"] == ("completed", None)
        assert nodes["strict"] == ("skipped", "upstream_skipped")


async def test_a_node_whose_condition_is_false_is_skipped_with_a_reason(tmp_path: Path) -> None:
    flow = """
name: maybe
nodes:
- {id: a, kind: function, use: echo, with: {value: 3}}
- {id: b, kind: function, use: echo, needs: a, when: "nodes.a.output > 5"}
- {id: c, kind: function, use: echo, needs: b}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("maybe")
        view = await w.finished(run)
        assert {n.id: (n.status, n.reason) for n in view.nodes if n.id != "a"} == {
            "b": ("skipped", "condition"),
            "c": ("skipped", "upstream_skipped"),
        }
        skipped = [event.data for event in await w.events(run) if event.type == "node.skipped"]
        assert skipped[1]["cause"] == "b"


async def test_a_condition_that_is_no_condition_fails_the_node(tmp_path: Path) -> None:
    flow = """
name: wrong
nodes:
- {id: a, kind: function, use: echo, with: {value: text}}
- {id: b, kind: function, use: echo, needs: a, when: "nodes.a.output"}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("wrong"), "failed")
        assert view.error is not None and view.error["code"] == "expression_error"
        assert w.called() == ["a"]


async def test_a_failure_shows_at_the_end_even_where_another_branch_was_skipped_before_it(tmp_path: Path) -> None:
    flow = """
name: both
nodes:
- {id: skipped, kind: function, use: echo, when: "false"}
- {id: broken, kind: function, use: boom}
- {id: join, kind: function, use: echo, needs: [skipped, broken]}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("both"), "failed")
        assert next(node.reason for node in view.nodes if node.id == "join") == "upstream_failed"


async def test_the_outputs_of_a_run_are_those_that_it_declares(tmp_path: Path) -> None:
    flow = """
name: told
outputs: {sum: "${{ nodes.b.output }}", of: "${{ inputs.x }}"}
nodes:
- {id: a, kind: function, use: add, with: {x: "${{ inputs.x }}"}}
- {id: b, kind: function, use: add, with: {x: "${{ nodes.a.output }}"}, needs: a}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("told", {"x": 5}))
        assert view.output == {"sum": 7, "of": 5}


async def test_an_output_that_cannot_be_stored_fails_the_node(tmp_path: Path) -> None:
    async def odd(attempt: object) -> object:
        return {"a": {1, 2}}

    flow = "{name: odd, nodes: [{id: a, kind: function, use: odd}, {id: b, kind: function, use: echo, needs: a}]}"
    async with world(tmp_path, flow, functions={"odd": odd}) as w:
        view = await w.finished(await w.run("odd"), "failed")
        assert view.error is not None and view.error["category"] == "validation"
        assert await w.nodes(view.id) == {"a": "failed", "b": "skipped"}


async def test_requires_and_expects_hold_a_node_to_its_word(tmp_path: Path) -> None:
    flow = """
name: held
nodes:
- {id: a, kind: function, use: echo, with: {value: 1}, requires: "input.value == 1", expects: "output == 1"}
- {id: b, kind: function, use: echo, with: {value: 1}, requires: "input.value == 2"}
- {id: c, kind: function, use: echo, with: {value: 1}, expects: "output == 2"}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("held"), "failed")
        assert {node.id: node.status for node in view.nodes} == {"a": "completed", "b": "failed", "c": "failed"}
        assert {node.id: (node.error or {}).get("code") for node in view.nodes if node.id != "a"} == {
            "b": "precondition_failed",
            "c": "precondition_failed",
        }
        assert sorted(w.called()) == ["a", "c"]


async def test_schemas_are_checked_on_both_sides_of_a_node(tmp_path: Path) -> None:
    flow = """
name: typed
nodes:
- {id: a, kind: function, use: echo, with: {value: 1}, input_schema: {type: object, required: [other]}}
- {id: b, kind: function, use: echo, with: {value: x}, output_schema: {type: integer}}
"""
    async with world(tmp_path, flow) as w:
        view = await w.finished(await w.run("typed"), "failed")
        assert [node.status for node in view.nodes] == ["failed", "failed"]
        assert w.called() == ["b"]
