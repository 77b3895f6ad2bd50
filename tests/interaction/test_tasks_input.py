"""What a task asks: the run's gates, by keys that stand for one question for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import MCPError
from pydantic import BaseModel

from omium.orchestration.ids import ApprovalId, Principal
from omium.tools.tasks_record import Record, read
from omium.tools.tasks_source import Question
from tests.interaction.studio import ADA, WORKFLOWS, Studio, open_studio
from tests.interaction.tasks_client import Taker, result_of, taking

pytestmark = pytest.mark.anyio

MORE = {
    "gated-late": """
name: gated-late
nodes:
- {id: first, kind: function, use: held}
- {id: ask, kind: approval, needs: first, approval: {prompt: "Publish it?"}}
""",
    "two-gates": """
name: two-gates
nodes:
- {id: left, kind: approval, approval: {prompt: "Left?"}}
- {id: right, kind: approval, approval: {prompt: "Right?"}}
- {id: held, kind: function, use: held}
""",
    "mixed-gates": """
name: mixed-gates
nodes:
- {id: weak, kind: approval, approval: {prompt: "Weak?"}}
- {id: strong, kind: approval, approval: {prompt: "Strong?", min_assurance: out_of_band}}
""",
    "again": """
name: again
nodes:
- id: ask
  kind: approval
  for_each: {items: "${{ [1, 2, 3] }}", max_parallel: 1}
  approval: {prompt: "One more?"}
""",
    "outer": """
name: outer
nodes:
- {id: inner, kind: workflow, use: gated}
outputs: "${{ nodes.inner.output }}"
""",
}


@pytest.fixture
async def studio(tmp_path: Path) -> AsyncIterator[Studio]:
    async with open_studio(tmp_path, workflows={**WORKFLOWS, **MORE}) as opened:
        yield opened


def accept(decision: str = "approve", **more: Any) -> dict[str, Any]:
    return {"action": "accept", "content": {"decision": decision, **more}}


async def asked(taker: Taker, workflow: str) -> tuple[str, dict[str, Any]]:
    """A task that asks, and its requests."""
    task_id = await taker.task("run_workflow", workflow=workflow)
    return task_id, (await taker.until(task_id, "input_required"))["inputRequests"]


async def decided(studio: Studio, task_id: str) -> list[tuple[str | None, str | None, str | None]]:
    """(decision, assurance, feedback) of the run's approvals."""
    row = await studio.store.task(task_id)
    assert row is not None
    views = await studio.core.list_approvals(ADA, run_id=row.run_id, pending=False)
    return [(view.decision, view.assurance, view.feedback) for view in views]


# --- one question ----------------------------------------------------------------------------------------------------


async def test_a_gate_asks_through_the_task(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id, requests = await asked(taker, "gated")
            ((key, request),) = requests.items()
            assert request["method"] == "elicitation/create"
            assert request["params"]["mode"] == "form"
            assert "Publish it?" in request["params"]["message"]
            assert "the draft" in request["params"]["message"]
            schema = request["params"]["requestedSchema"]
            assert schema["required"] == ["decision"]
            assert schema["properties"]["decision"]["enum"] == ["approve", "reject"]
            assert (await taker.get(task_id))["inputRequests"] == requests
            await taker.update(task_id, **{key: accept(feedback="well done")})
            ended = await taker.ended(task_id)
            assert result_of(ended)["status"] == "completed"
            assert await decided(studio, task_id) == [("approve", "elicited", "well done")]


async def test_the_humans_choice_counts(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id, (key,) = await asked(taker, "gated")
            await taker.update(task_id, **{key: accept("reject")})
            assert result_of(await taker.ended(task_id))["status"] == "failed"


async def test_declining_rejects(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id, (key,) = await asked(taker, "gated")
            await taker.update(task_id, **{key: {"action": "decline"}})
            assert result_of(await taker.ended(task_id))["status"] == "failed"
            assert await decided(studio, task_id) == [("reject", "elicited", None)]


@pytest.mark.parametrize(
    ("workflow", "reply"),
    [("gated", {"action": "cancel"}), ("gated-without-refusal", {"action": "decline"})],
    ids=["closed", "declined without a refusal"],
)
async def test_a_form_that_decides_nothing_leaves_the_gate_open(
    studio: Studio, workflow: str, reply: dict[str, Any]
) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id, (key,) = await asked(taker, workflow)
            await taker.update(task_id, **{key: reply})
            task = await taker.get(task_id)
            assert task["status"] == "working"
            assert "omium approve apr_" in task["statusMessage"]
            assert await decided(studio, task_id) == [(None, None, None)]
            # The key was answered: it decides nothing any more.
            await taker.update(task_id, **{key: accept("approve" if workflow == "gated" else "left")})
            assert await decided(studio, task_id) == [(None, None, None)]
            (view,) = await studio.core.list_approvals(ADA)
            await studio.core.decide(ADA, view.id, view.options[0], assurance="out_of_band")
            assert result_of(await taker.ended(task_id))["status"] == "completed"


async def test_a_gate_that_wants_more_than_a_form_asks_nobody_here(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="gated-strongly")
            task = await taker.ended(task_id)
            (view,) = await studio.core.list_approvals(ADA)
            assert task["status"] == "completed"
            assert result_of(task)["status"] == "waiting_approval"
            assert "Delete it?" in task["statusMessage"]
            assert f"omium approve {view.id}" in task["statusMessage"]
            await taker.update(task_id, **{"input-1": accept(), view.id: accept()})
            assert await decided(studio, task_id) == [(None, None, None)]


@pytest.mark.parametrize("awaits", [False, True], ids=["starts", "awaits"])
async def test_a_client_without_forms_gets_the_answer_of_a_bounded_wait(studio: Studio, awaits: bool) -> None:
    async with taking(studio.core, forms=False) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="gated-late")
            row = await studio.store.task(task_id)
            assert row is not None
            if awaits:
                task_id = await taker.task("get_run", run_id=row.run_id, wait_seconds=30)
            studio.release.set()
            task = await taker.ended(task_id)
            assert task["status"] == "completed"
            (view,) = await studio.core.list_approvals(ADA)
            assert f"omium approve {view.id}" in task["statusMessage"]
            answer = result_of(task)
            assert answer["status"] == "waiting_approval"
            assert view.id in answer["next"]
            plain = await taker.plain("get_run", run_id=row.run_id, wait_seconds=1)
            assert {name: plain[name] for name in answer} == answer
            # An end is for ever; the run goes on.
            await studio.core.decide(ADA, view.id, "approve", assurance="out_of_band")
            await studio.core.wait(ADA, row.run_id, 10)
            assert (await taker.get(task_id))["status"] == "completed"
            assert (await taker.plain("get_run", run_id=row.run_id, wait_seconds=1))["status"] == "completed"


async def test_a_viewer_who_awaits_gets_the_answer_of_a_bounded_wait(studio: Studio) -> None:
    async with taking(studio.core) as starter, taking(studio.core, caller=replace(ADA, role="viewer")) as taker:
        with anyio.fail_after(20):
            started = await starter.task("run_workflow", workflow="gated-late")
            row = await studio.store.task(started)
            assert row is not None
            awaiting = await taker.task("get_run", run_id=row.run_id, wait_seconds=30)
            studio.release.set()
            assert result_of(await taker.ended(awaiting))["status"] == "waiting_approval"
            assert (await starter.get(started))["status"] == "input_required"


@pytest.mark.parametrize("role", ["viewer", "no forms"])
async def test_nobody_is_asked_who_cannot_decide(studio: Studio, role: str) -> None:
    caller = replace(ADA, role="viewer") if role == "viewer" else ADA
    async with taking(studio.core) as starter, taking(studio.core, caller=caller, forms=role == "viewer") as taker:
        with anyio.fail_after(20):
            task_id, (key,) = await asked(starter, "gated")
            task = await taker.get(task_id)
            assert task["status"] == "working"
            assert "Publish it?" in task["statusMessage"]
            await taker.update(task_id, **{key: accept()})
            assert await decided(studio, task_id) == [(None, None, None)]
            assert (await starter.get(task_id))["status"] == "input_required"


async def test_a_decision_made_elsewhere_ends_the_question(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id, (key,) = await asked(taker, "gated")
            (view,) = await studio.core.list_approvals(ADA)
            await studio.core.decide(ADA, view.id, "reject", assurance="elicited")
            await taker.update(task_id, **{key: accept()})
            assert result_of(await taker.ended(task_id))["status"] == "failed"
            await taker.update(task_id, **{key: accept()})
            assert (await decided(studio, task_id))[0][0] == "reject"


async def test_a_run_below_asks_through_the_task_above(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id, (key,) = await asked(taker, "outer")
            await taker.update(task_id, **{key: accept()})
            assert result_of(await taker.ended(task_id))["status"] == "completed"


# --- several ---------------------------------------------------------------------------------------------------------


async def test_some_replies_leave_the_other_questions(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="two-gates")
            while len(requests := (await taker.until(task_id, "input_required"))["inputRequests"]) < 2:
                pass
            first, second = requests
            await taker.update(task_id, **{first: accept(), "input-99": accept(), "": 1, "unknown": {"odd": True}})
            rest = await taker.get(task_id)
            assert rest["status"] == "input_required"
            assert rest["inputRequests"] == {second: requests[second]}
            await taker.update(task_id, **{first: accept("reject"), second: accept("reject")})
            assert (await taker.until(task_id, "working"))["status"] == "working"
            assert sorted(str(one[0]) for one in await decided(studio, task_id)) == ["approve", "reject"]


async def test_gates_above_and_within_a_forms_reach(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id, (key,) = await asked(taker, "mixed-gates")
            while len(await studio.core.list_approvals(ADA)) < 2:
                await anyio.lowlevel.checkpoint()
            task = await taker.get(task_id)
            assert list(task["inputRequests"]) == [key]
            assert "Weak?" in task["inputRequests"][key]["params"]["message"]
            assert "Strong?" in task["statusMessage"]
            await taker.update(task_id, **{key: accept()})
            assert result_of(await taker.ended(task_id))["status"] == "waiting_approval"


async def test_every_question_has_a_key_of_its_own(studio: Studio) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="again")
            keys: list[str] = []
            while (task := await taker.until(task_id, "input_required", "completed"))["status"] != "completed":
                fresh = [key for key in task["inputRequests"] if key not in keys]
                keys += fresh
                await taker.update(task_id, **{key: accept() for key in fresh})
    assert len(keys) == len(set(keys)) == 3


@pytest.mark.parametrize(
    "reply",
    [
        {},
        None,
        [],
        "accept",
        {"action": "perhaps"},
        {"action": "accept"},
        {"action": "accept", "content": {}},
        {"action": "accept", "content": {"decision": "delete everything"}},
        {"action": "accept", "content": {"decision": 7}},
        {"action": "accept", "content": {"decision": {"nested": True}}},
        {"action": "accept", "content": {"decision": "approve", "feedback": ["a"]}},
    ],
    ids=str,
)
async def test_a_reply_that_does_not_fit_changes_nothing(studio: Studio, reply: Any) -> None:
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="two-gates")
            while len(requests := (await taker.until(task_id, "input_required"))["inputRequests"]) < 2:
                pass
            first, second = requests
            with pytest.raises(MCPError) as refused:
                await taker.update(task_id, **{first: accept(), second: reply})
            assert refused.value.code == -32602
            assert second in refused.value.message
            assert (await taker.get(task_id))["inputRequests"] == requests
            assert {one[0] for one in await decided(studio, task_id)} == {None}


async def test_only_what_was_put_can_be_answered(studio: Studio) -> None:
    """A key that no answer has carried yet is no key, although it can be guessed."""
    async with taking(studio.core) as taker:
        with anyio.fail_after(20):
            task_id = await taker.task("run_workflow", workflow="gated")
            while not await studio.core.list_approvals(ADA):
                await anyio.lowlevel.checkpoint()
            await taker.update(task_id, **{"input-1": accept()})
            assert await decided(studio, task_id) == [(None, None, None)]
            assert list((await taker.get(task_id))["inputRequests"]) == ["input-1"]


async def test_two_clients_at_once_agree_on_the_keys(studio: Studio) -> None:
    async with taking(studio.core) as one, taking(studio.core) as other:
        with anyio.fail_after(20):
            task_id = await one.task("run_workflow", workflow="two-gates")
            while len(await studio.core.list_approvals(ADA)) < 2:
                await anyio.lowlevel.checkpoint()
            seen: list[dict[str, Any]] = []

            async def look(taker: Taker) -> None:
                seen.append((await taker.get(task_id))["inputRequests"])

            async with anyio.create_task_group() as tasks:
                for taker in (one, other, one, other):
                    tasks.start_soon(look, taker)
            assert all(requests == seen[0] for requests in seen)

            async def reply(taker: Taker, decision: str) -> None:
                await taker.update(task_id, **{key: accept(decision) for key in seen[0]})

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(reply, one, "approve")
                tasks.start_soon(reply, other, "reject")
            row = await studio.store.task(task_id)
            assert row is not None
            assert read(row.document).answered == set(seen[0])
            assert all(view[1] == "elicited" for view in await decided(studio, task_id))


async def test_anothers_reply_reaches_nothing(studio: Studio) -> None:
    eve = replace(ADA, principal=Principal("user:eve"))
    async with taking(studio.core) as taker, taking(studio.core, caller=eve) as other:
        with anyio.fail_after(20):
            task_id, (key,) = await asked(taker, "gated")
            with pytest.raises(MCPError) as refused:
                await other.update(task_id, **{key: accept()})
            assert refused.value.code == -32602
            assert await decided(studio, task_id) == [(None, None, None)]


# --- the record ------------------------------------------------------------------------------------------------------


class Form(BaseModel):
    decision: str


def question(number: int) -> Question:
    return Question(ApprovalId(f"apr_{number}"), "?", Form)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.lists(st.integers(0, 9), max_size=6, unique=True)),
        st.tuples(st.just("answer"), st.integers(1, 12)),
        st.tuples(st.just("store"), st.none()),
    ),
    max_size=40,
)


@given(STEPS)
def test_a_key_is_never_used_again(steps: list[tuple[str, Any]]) -> None:
    """Whatever is asked, answered and stored in whatever order: a key that was given out names its question for ever,
    no question has two, and what was answered is not outstanding again."""
    record = Record("run_workflow", {"answer": 1})
    given_out: dict[str, str] = {}
    answered: set[str] = set()
    for step, what in steps:
        if step == "ask":
            record = record.ask([question(number) for number in what])
            outstanding = record.outstanding([question(number) for number in what])
            assert {one.id for one in outstanding.values()} | {given_out[key] for key in answered} >= {
                f"apr_{number}" for number in what
            }
            for key, one in outstanding.items():
                assert given_out.setdefault(key, one.id) == one.id
                assert key not in answered
        elif step == "answer" and f"input-{what}" in given_out:
            record = record.answer(f"input-{what}")
            answered.add(f"input-{what}")
        elif step == "store":
            assert read(record.document()) == record
    assert len(set(record.asked.values())) == len(record.asked)
    assert {key: record.asked[key] for key in given_out} == given_out


def test_the_first_end_counts() -> None:
    record = Record("run_workflow").ended("completed", 5).ended("cancelled", 6)
    assert record.end is not None
    assert (record.end.status, record.end.at) == ("completed", 5)
    assert read(record.document()) == record
