"""Questions: nodes that ask, gates before nodes, modes of a run, and what each decision does."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.log import commands as c
from omium.orchestration.ports import Attempt, Write
from tests.integration.engine.worlds import ME, world

pytestmark = pytest.mark.anyio

ASK = """
name: ask
nodes:
- {id: draft, kind: function, use: echo, with: {value: notes}}
- id: gate
  kind: approval
  needs: draft
  approval: {prompt: "Publish ${{ nodes.draft.output }}?", show: "${{ nodes.draft.output }}", expires: 1h}
- {id: publish, kind: function, use: echo, with: {value: "${{ nodes.gate.output.decision }}"}, needs: gate}
"""


async def test_an_approval_stops_the_run_until_it_is_decided(tmp_path: Path) -> None:
    async with world(tmp_path, ASK) as w:
        run = await w.run("ask")
        await w.status(run, "waiting_approval")
        await w.idle()  # a run that waits has no owner
        (approval,) = await w.core.list_approvals(ME, run_id=run)
        assert (approval.question, approval.scope, approval.node) == ("Publish notes?", "node", "gate")
        assert approval.details == {"show": "notes"}
        await w.approve(run, feedback="fine")
        view = await w.finished(run)
        assert view.output == {"publish": "approve"}
        given = await w.core.node_output(ME, run, "gate")
        assert given == {"decision": "approve", "by": "user:me", "feedback": "fine", "approval": approval.id}


async def test_a_rejection_fails_the_node_with_who_and_why(tmp_path: Path) -> None:
    async with world(tmp_path, ASK) as w:
        run = await w.run("ask")
        await w.approve(run, "reject", feedback="not yet")
        view = await w.finished(run, "failed")
        assert view.error is not None
        assert (view.error["node"], view.error["code"], view.error["feedback"]) == (
            "gate", "approval_rejected", "not yet",
        )  # fmt: skip
        assert w.called() == ["draft"]


async def test_a_question_that_nobody_answers_expires(tmp_path: Path) -> None:
    async with world(tmp_path, ASK) as w:
        run = await w.run("ask")
        await w.status(run, "waiting_approval")
        await w.idle()
        w.advance(3599)
        await w.idle()
        assert (await w.core.get_run(ME, run)).status == "waiting_approval"
        w.advance(1)
        view = await w.finished(run, "failed")
        assert view.error is not None and view.error["code"] == "approval_expired"
        (approval,) = await w.core.list_approvals(ME, run_id=run, pending=False)
        assert (approval.status, approval.decision) == ("expired", "expired")


async def test_a_question_expires_also_while_something_else_of_the_run_goes_on(tmp_path: Path) -> None:
    flow = ASK + "- {id: long, kind: function, use: hold, with: {name: long}}\n"
    async with world(tmp_path, flow) as w:
        run = await w.run("ask")
        await w.entered("long")
        await w.until(run, lambda s: s.approvals)
        w.advance(3601)
        await w.until(run, lambda s: s.node("gate").status == "failed")
        w.let_go("long")
        await w.finished(run, "failed")


async def test_what_expired_while_nobody_was_there_stays_expired(tmp_path: Path) -> None:
    async with world(tmp_path, ASK) as w:
        run = await w.run("ask")
        await w.status(run, "waiting_approval")
        await w.idle()
        (approval,) = await w.core.list_approvals(ME, run_id=run)
        await w.crash(w.machine)
        w.clock.advance(3601)
        await w.start()
        with pytest.raises(OmiumError) as late:
            await w.core.decide(ME, approval.id, "approve", assurance="elicited")
        assert late.value.code == "already_decided"
        await w.finished(run, "failed")


async def test_options_of_ones_own_reach_the_next_node(tmp_path: Path) -> None:
    flow = """
name: pick
nodes:
- {id: gate, kind: approval, approval: {prompt: "Which?", options: [red, blue]}}
- {id: red, kind: function, use: echo, needs: {node: gate, when: "nodes.gate.output.decision == 'red'"}}
- {id: blue, kind: function, use: echo, needs: {node: gate, when: "nodes.gate.output.decision == 'blue'"}}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("pick")
        await w.status(run, "waiting_approval")
        with pytest.raises(OmiumError) as wrong:
            await w.approve(run, "green")
        assert wrong.value.code == "invalid_argument"
        await w.approve(run, "blue")
        await w.finished(run)
        assert await w.nodes(run) == {"gate": "completed", "red": "skipped", "blue": "completed"}


async def test_an_approval_is_decided_once(tmp_path: Path) -> None:
    async with world(tmp_path, ASK) as w:
        run = await w.run("ask")
        await w.status(run, "waiting_approval")
        (approval,) = await w.core.list_approvals(ME, run_id=run)
        outcomes: list[str] = []

        async def decide(decision: str) -> None:
            try:
                await w.core.decide(ME, approval.id, decision, assurance="elicited")
                outcomes.append(decision)
            except OmiumError as refused:
                assert refused.code == "already_decided"

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(decide, "approve" if number % 2 else "reject")
        assert len(outcomes) == 1
        await w.finished(run, None)


GATED = """
name: gated
nodes:
- id: act
  kind: function
  use: echo
  with: {value: 5}
  approval: {prompt: "Act?", options: [approve, reject, skip]}
- {id: after, kind: function, use: echo, needs: {node: act, optional: true}}
"""


@pytest.mark.parametrize(
    ("decision", "status", "called"),
    [("approve", "completed", ["act", "after"]), ("reject", "failed", ["after"]), ("skip", "skipped", ["after"])],
)
async def test_a_gate_before_a_node(tmp_path: Path, decision: str, status: str, called: list[str]) -> None:
    async with world(tmp_path, GATED) as w:
        run = await w.run("gated")
        await w.status(run, "waiting_approval")
        assert w.calls == []
        await w.approve(run, decision)
        await w.finished(run)
        assert (await w.nodes(run))["act"] == status
        assert w.called() == called


async def test_a_decision_is_consumed_with_the_start_that_it_allows(tmp_path: Path) -> None:
    async with world(tmp_path, GATED) as w:
        run = await w.run("gated")
        await w.approve(run)
        await w.finished(run)
        log = await w.log(run)
        assert log[log.index("approval.consumed") + 1] == "node.started"
        events = await w.events(run)
        started = next(e for e in events if e.type == "node.started")
        asked = next(e for e in events if e.type == "approval.requested")
        assert started.data["approval"] == asked.data["approval"]


async def test_the_second_attempt_of_an_approved_node_is_not_asked_about_again(tmp_path: Path) -> None:
    flow = """
name: once
nodes:
- {id: a, kind: function, use: flaky, approval: {prompt: "ok?"}, retry: {max_attempts: 3, initial: 0}}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("once")
        await w.approve(run)
        await w.finished(run)
        assert (await w.log(run)).count("approval.requested") == 1


async def test_a_gate_before_a_group_is_asked_before_anything_in_it(tmp_path: Path) -> None:
    flow = """
name: grouped
nodes:
- id: g
  kind: group
  approval: {prompt: "all of it?"}
  nodes: [{id: a, kind: function, use: echo}]
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("grouped")
        await w.status(run, "waiting_approval")
        assert w.calls == []
        await w.approve(run)
        await w.finished(run)
        assert w.called() == ["g.a"]


async def test_a_gate_on_a_fan_out_is_asked_for_each_instance(tmp_path: Path) -> None:
    flow = """
name: each
nodes:
- {id: f, kind: function, use: echo, for_each: [1, 2, 3], with: {value: "${{ item }}"},
   approval: {prompt: "Take ${{ item }}?", options: [approve, skip]}}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("each")
        await w.status(run, "waiting_approval")
        asked = sorted(approval.question for approval in await w.core.list_approvals(ME, run_id=run))
        assert asked == ["Take 1?", "Take 2?", "Take 3?"]
        await w.approve(run, node="f[2]")
        await w.approve(run, node="f[0]")
        await w.approve(run, "skip", node="f[1]")
        view = await w.finished(run)
        assert view.output == {"f": [1, None, 3]}


async def test_a_run_may_ask_before_each_step(tmp_path: Path) -> None:
    flow = """
name: careful
approvals: before_each_step
nodes:
- {id: a, kind: function, use: echo}
- {id: g, kind: group, needs: a, nodes: [{id: b, kind: function, use: echo}]}
- {id: w, kind: wait, wait: {for: 0}, needs: g}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("careful")
        for node in ("a", "g.b"):
            await w.approve(run, node=node)
        await w.finished(run)
        assert (await w.log(run)).count("approval.requested") == 2


async def test_a_run_may_ask_by_conditions_of_its_own(tmp_path: Path) -> None:
    flow = """
name: conditional
approvals: {mode: custom, when: ["node.use == 'add'", "nodes.a.output > 5"]}
nodes:
- {id: a, kind: function, use: echo, with: {value: "${{ inputs.x }}"}}
- {id: b, kind: function, use: add, needs: a}
- {id: c, kind: function, use: echo, needs: b}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("conditional", {"x": 1})
        # Before `a` has run, nothing can be said of its output: a condition that errs asks.
        await w.approve(run, node="a")
        await w.approve(run, node="b")
        await w.finished(run)
        assert w.called() == ["a", "b", "c"]
        assert (await w.log(run)).count("approval.requested") == 2


ON_ERROR = """
name: asking
approvals: on_error
nodes:
- {id: a, kind: function, use: sometimes, retry: {max_attempts: 2, initial: 0}}
- {id: b, kind: function, use: echo, needs: {node: a, optional: true}}
"""


@pytest.mark.parametrize(("decision", "status"), [("skip", "skipped"), ("abort", "failed")])
async def test_a_run_may_ask_when_something_has_failed_for_good(tmp_path: Path, decision: str, status: str) -> None:
    async def sometimes(attempt: Attempt) -> None:
        raise ConnectionError(f"refused {attempt.attempt} ${{{{ 1 }}}}")

    async with world(tmp_path, ON_ERROR, functions={"sometimes": sometimes}) as w:
        run = await w.run("asking")
        await w.status(run, "waiting_approval")
        (approval,) = await w.core.list_approvals(ME, run_id=run)
        assert approval.scope == "error" and "refused 2 ${{ 1 }}" in approval.question
        assert w.called("a") == ["a", "a"]
        await w.approve(run, decision)
        await w.finished(run)
        assert await w.nodes(run) == {"a": status, "b": "completed"}
        assert (await w.log(run, "a")).count("node.attempt_failed") == 2


async def test_a_retry_that_a_human_asks_for_is_told_the_failures_and_what_the_human_said(tmp_path: Path) -> None:
    told: list[tuple[list[str], list[str]]] = []

    async def sometimes(attempt: Attempt) -> int:
        guidance = attempt.guidance
        told.append(([str(one["message"]) for one in guidance.failures], list(guidance.feedback)))
        if attempt.attempt < 4:
            raise ConnectionError(f"no {attempt.attempt}")
        return attempt.attempt

    async with world(tmp_path, ON_ERROR, functions={"sometimes": sometimes}) as w:
        run = await w.run("asking")
        await w.approve(run, "retry", feedback="try the other door")
        await w.until(run, lambda s: s.node("a").failures == 3)
        await w.approve(run, "retry")
        await w.finished(run)
    assert told == [
        ([], []),
        (["no 1"], []),
        (["no 1", "no 2"], ["try the other door"]),
        (["no 1", "no 2", "no 3"], ["try the other door"]),
    ]


async def test_a_decision_that_comes_while_the_run_is_noted_to_stand_still_is_not_lost(tmp_path: Path) -> None:
    flow = """
name: two
nodes:
- {id: a, kind: approval, approval: {prompt: a}}
- {id: b, kind: approval, approval: {prompt: b}}
- {id: end, kind: function, use: echo, needs: [a, b]}
"""
    async with world(tmp_path, flow) as w:
        run = await w.run("two")
        await w.status(run, "waiting_approval")
        await w.idle()
        reached, on = anyio.Event(), anyio.Event()

        async def hold(write: Write) -> None:
            if any(isinstance(command, c.WaitRun) for command in write.commands) and not on.is_set():
                reached.set()
                await on.wait()

        w.machine.store.before_write = hold
        await w.approve(run, node="a")
        with anyio.fail_after(20):
            await reached.wait()
        await w.approve(run, node="b")
        view = w.core.wait(ME, run, 10)
        on.set()
        assert (await view).status == "completed"  # and not waiting_approval, with nothing to decide
        assert [one for one in await w.log(run) if one.startswith("run.")] == [
            "run.created", "run.planning", "run.started", "run.waiting", "run.resumed", "run.completed",
        ]  # fmt: skip


async def test_assurance_below_the_gates_minimum_is_refused_with_the_way_to_decide(tmp_path: Path) -> None:
    flow = "{name: strict, nodes: [{id: a, kind: approval, approval: {prompt: ok, min_assurance: out_of_band}}]}"
    async with world(tmp_path, flow) as w:
        run = await w.run("strict")
        await w.status(run, "waiting_approval")
        (approval,) = await w.core.list_approvals(ME, run_id=run)
        with pytest.raises(OmiumError) as refused:
            await w.core.decide(ME, approval.id, "approve", assurance="elicited")
        assert (refused.value.code, refused.value.data["required"]) == ("forbidden", "out_of_band")
        await w.core.decide(ME, approval.id, "approve", assurance="out_of_band")
        await w.finished(run)


async def test_a_decision_repeated_with_its_key_answers_the_same(tmp_path: Path) -> None:
    async with world(tmp_path, ASK) as w:
        run = await w.run("ask")
        await w.status(run, "waiting_approval")
        (approval,) = await w.core.list_approvals(ME, run_id=run)
        for _ in range(2):
            view = await w.core.decide(ME, approval.id, "approve", assurance="elicited", idempotency_key="once")
            assert view.decision == "approve"
        await w.finished(run)


async def test_cancelling_a_run_cancels_its_questions(tmp_path: Path) -> None:
    async with world(tmp_path, ASK) as w:
        run = await w.run("ask")
        await w.status(run, "waiting_approval")
        (approval,) = await w.core.list_approvals(ME, run_id=run)
        await w.core.cancel(ME, run)
        assert (await w.core.get_approval(ME, approval.id)).status == "cancelled"
        with pytest.raises(OmiumError) as refused:
            await w.core.decide(ME, approval.id, "approve", assurance="elicited")
        assert refused.value.code == "already_decided"


async def test_a_paused_run_can_be_decided_and_goes_on_when_it_is_resumed(tmp_path: Path) -> None:
    async with world(tmp_path, ASK) as w:
        run = await w.run("ask")
        await w.status(run, "waiting_approval")
        await w.core.pause(ME, run)
        await w.approve(run)
        assert (await w.core.get_run(ME, run)).status == "paused"
        await w.idle()
        assert w.called() == ["draft"]
        await w.core.resume(ME, run)
        await w.finished(run)
