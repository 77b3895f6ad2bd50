"""Plans that expand into nodes."""

from __future__ import annotations

from typing import Any

import pytest

from omium.orchestration.definition import Need, Retry, parse_plan
from omium.orchestration.definition.check import check_names
from omium.orchestration.errors import OmiumError


def problems(steps: Any, **more: Any) -> list[dict[str, Any]]:
    with pytest.raises(OmiumError) as caught:
        parse_plan({"steps": steps}, **more)
    assert caught.value.code == "invalid_definition"
    found: list[dict[str, Any]] = caught.value.data["problems"]
    return found


def test_steps_become_nodes_in_the_order_of_the_plan() -> None:
    plan = {
        "steps": [
            {
                "id": "publish",
                "kind": "tool",
                "use": "gh/r",
                "depends_on": ["test"],
                "approval": True,
                "with": {"tag": "v1"},
            },
            {"id": "write", "task": "Write it", "use": "writer", "retry": 3},
            {"id": "test", "kind": "cli", "use": "pytest", "needs": "write", "approval": "Run tests?"},
            {"id": "review", "task": "Review it", "depends_on": "write", "with": {"strict": True}, "approval": False},
        ]
    }
    publish, write, test, review = parse_plan(plan, agent="helper")
    assert publish.needs == (Need("test"),)
    assert publish.approval is not None and publish.approval.show == {"tag": "v1"}
    assert (write.kind, write.use, write.input, write.retry) == ("agent", "writer", {"task": "Write it"}, Retry(3))
    assert test.approval is not None and test.approval.prompt == "Run tests?"
    assert (review.use, review.input, review.approval) == ("helper", {"task": "Review it", "strict": True}, None)


def test_a_missing_dependency_names_both_ids() -> None:
    (problem,) = problems([{"id": "a", "task": "x", "use": "w", "depends_on": ["b"]}])
    assert problem["path"] == "steps[0].needs[0]"
    assert "'a' needs 'b'" in problem["message"]


def test_a_cycle_is_named() -> None:
    steps = [{"id": one, "task": "x", "use": "w", "depends_on": [other]} for one, other in ("ac", "ba", "cb")]
    (problem,) = problems(steps)
    assert "a -> b -> c -> a" in problem["message"]


@pytest.mark.parametrize(
    "value",
    [None, [], {}, "plan", {"steps": []}, {"steps": {}}, {"steps": [1]}, {"steps": [None]}, {"steps": [{"id": "a"}]}],
)
def test_what_is_no_plan(value: Any) -> None:
    with pytest.raises(OmiumError) as caught:
        parse_plan(value)
    assert caught.value.code == "invalid_definition"


@pytest.mark.parametrize(
    ("step", "path"),
    [
        ({"id": "a", "task": "x", "use": "w", "command": "rm -rf /"}, "steps[0].command"),
        ({"id": "a", "kind": "function", "use": "f", "env": {"A": "b"}}, "steps[0].env"),
        ({"id": "../a", "task": "x", "use": "w"}, "steps[0].id"),
        ({"id": "a", "task": "x"}, "steps[0]"),
        ({"id": "a", "task": "x", "use": "w", "needs": [], "depends_on": []}, "steps[0]"),
        ({"id": "a", "task": object(), "use": "w"}, "steps[0].task"),
        ({"id": "a", "task": "x\ud800", "use": "w"}, "steps[0].task"),
        ({"id": "a", "task": "${{ nodes.secret.output }}", "use": "w"}, "steps[0].with.task"),
        ({"id": "a", "task": "${{ inputs.password }}", "use": "w"}, "steps[0].with.task"),
        ({"id": "a", "task": "x", "use": "w", "approval": {"prompt": "ok\u202e?"}}, "steps[0].approval.prompt"),
    ],
)
def test_steps_are_held_to_the_rules_of_any_node(step: dict[str, Any], path: str) -> None:
    found = problems([step], inputs={"type": "object", "properties": {"repo": {"type": "string"}}}, readable={"before"})
    assert [problem["path"] for problem in found] == [path]


def test_steps_read_each_other_and_what_is_upstream_of_the_plan() -> None:
    steps = [
        {"id": "a", "task": "On ${{ nodes.before.output.x }} and ${{ inputs.repo }}", "use": "w"},
        {"id": "b", "task": "On ${{ nodes.a.output }}", "use": "w", "depends_on": "a"},
    ]
    assert len(parse_plan({"steps": steps}, readable={"before"})) == 2
    del steps[1]["depends_on"]
    (problem,) = problems(steps, readable={"before"})
    assert "not upstream" in problem["message"]


def test_a_plan_has_at_most_a_thousand_steps() -> None:
    steps = [{"id": f"s{i}", "kind": "function", "use": "f"} for i in range(1001)]
    assert len(parse_plan({"steps": steps[:1000]})) == 1000
    assert "1,001 steps" in problems(steps)[0]["message"]


def test_what_a_plan_names_must_be_registered() -> None:
    nodes = parse_plan({"steps": [{"id": "a", "task": "x", "use": "writer"}]})
    check_names(nodes, {"agent": {"writer"}}, "steps")
    with pytest.raises(OmiumError) as caught:
        check_names(nodes, {"agent": {"other"}}, "steps")
    assert caught.value.code == "not_registered"
    assert caught.value.data["missing"][0]["path"] == "steps[0]"
