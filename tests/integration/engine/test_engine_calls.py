"""Calls outside: policy decides each, a person where policy says so, and what was decided is used once, for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.ids import ProjectId, RunId
from omium.orchestration.ports import Attempt
from omium.orchestration.ports_calls import Allowed, Call
from omium.orchestration.ports_gates import Amounts
from tests.integration.engine.worlds import ME, World, world

pytestmark = pytest.mark.anyio

POLICY = """
apiVersion: omium.dev/policy/v1
default: deny
rules:
- {id: read, effect: allow, match: {server: db, tool: read}, trusts: [read_only]}
- {id: plain, effect: allow, match: {server: db, tool: plain}}
- {id: few, effect: allow, match: {server: db, tool: few}, limits: {rate: 2/m}}
- {id: write, effect: require_approval, match: {server: db, tool: write}, approval: {ttl: 1h}}
- {id: never, effect: deny, match: {server: db, tool: write}, when: {args.table: {eq: secrets}}}
- {id: strong, effect: require_approval, match: {server: db, tool: write}, when: {args.table: {eq: payments}},
   approval: {min_assurance: out_of_band}}
"""
FLOW = """
name: flow
nodes:
- {id: work, kind: function, use: work, with: {tool: "${{ inputs.tool }}", table: "${{ inputs.table }}"}}
inputs: {type: object, properties: {tool: {type: string}, table: {type: string}}}
"""


class Outside:
    """What the calls reach: it remembers each."""

    def __init__(self) -> None:
        self.made: list[Any] = []
        self.given: list[Allowed] = []
        self.told: list[str] = []

    async def work(self, attempt: Attempt, tool: str, table: str, key: str = "one") -> Any:
        async def action(allowed: Allowed) -> Any:
            self.made.append(allowed.arguments)
            self.given.append(allowed)
            return {"wrote": allowed.arguments}

        return await attempt.call(Call(key, "tool", tool, {"table": table}, server="db", pin="p1"), action, kind="tool")

    async def resilient(self, attempt: Attempt, tool: str, table: str) -> Any:
        """As an agent: a refusal is told, and the work goes on."""
        try:
            return await self.work(attempt, tool, table)
        except OmiumError as error:
            self.told.append(error.message)
            return error.code


async def start(w: World, tool: str, table: str = "notes") -> RunId:
    return await w.run("flow", {"tool": tool, "table": table})


async def test_a_call_that_policy_allows_is_made_and_recorded(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.work}, policy=POLICY) as w:
        run = await start(w, "read")
        assert (await w.finished(run)).output == {"work": {"wrote": {"table": "notes"}}}
        (decision,) = await w.machine.store.decisions(run_id=run)
        assert (decision.effect, decision.rule, decision.server, decision.tool) == ("allow", "read", "db", "read")
        (effect,) = await w.machine.store.effects(run)
        assert (effect.kind, effect.outcome, effect.on_unknown, effect.approval) == ("tool", "done", "rerun", None)
        assert out.given[0].idempotency_key == effect.id
        assert await w.machine.store.value(decision.input) == {
            "action": "tool", "tool": "read", "server": "db", "arguments": {"table": "notes"}, "workflow": "flow",
            "node": "work", "principal": "user:me", "project": "default",
            "at": "2027-01-15T08:00:00.000012+00:00",
        } | {"at": (await w.machine.store.value(decision.input))["at"]}  # type: ignore[index, call-overload]  # fmt: skip


async def test_what_no_rule_allows_is_refused_and_not_tried_again(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.work}, policy=POLICY) as w:
        run = await start(w, "drop")
        view = await w.finished(run, "failed")
        assert view.error is not None and (view.error["code"], view.error["category"]) == ("denied", "permission_error")
        assert out.made == [] and await w.machine.store.effects(run) == []
        (decision,) = await w.machine.store.decisions(run_id=run, effects=["deny"])
        assert decision.tool == "drop"


async def test_a_name_that_no_database_holds_is_refused_and_told(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.resilient}, policy=POLICY) as w:
        for table, tool in (("notes", "read\0"), ("notes", "\0")):
            assert (await w.finished(await start(w, tool, table))).output == {"work": "invalid_argument"}
        assert out.made == []


async def test_without_a_policy_of_its_own_a_project_is_asked(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.work}) as w:
        run = await start(w, "read")
        await w.status(run, "waiting_approval")
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        await w.core.decide(ME, asked.id, "approve", assurance="out_of_band")
        await w.finished(run)
        assert out.made == [{"table": "notes"}]


async def test_an_approved_call_is_made_once_with_what_was_shown(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.work}, policy=POLICY) as w:
        run = await start(w, "write")
        await w.status(run, "waiting_approval")
        await w.idle()
        assert out.made == []
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        assert (asked.scope, asked.arguments, asked.options) == (
            "call", {"table": "notes"}, ["approve", "reject", "modify"],
        )  # fmt: skip
        assert asked.details is not None
        assert (asked.details["rule"], asked.details["server"], asked.details["pin"]) == ("write", "db", "p1")
        assert asked.expires_at - asked.requested_at == pytest.approx(3600e6, rel=1e-6)
        await w.approve(run)
        await w.finished(run)
        assert out.made == [{"table": "notes"}] and out.given[0].approval == asked.id
        (effect,) = await w.machine.store.effects(run)
        assert effect.approval == asked.id and effect.outcome == "done"
        log = await w.log(run)
        assert log.index("approval.consumed") == log.index("effect.intended") - 1
        assert (await w.machine.store.approval(asked.id)).consumed  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["reject", "expire"])
async def test_a_refused_call_is_told_to_the_work_which_goes_on(tmp_path: Path, how: str) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.resilient}, policy=POLICY) as w:
        run = await start(w, "write")
        if how == "reject":
            await w.approve(run, "reject", feedback="use the view")
        else:
            await w.status(run, "waiting_approval")
            await w.idle()
            w.advance(3601)
        assert (await w.finished(run)).output == {"work": "denied"}
        assert out.made == []
        assert ("use the view" if how == "reject" else "expired") in out.told[0]


async def test_modified_arguments_are_what_is_sent_and_are_judged_anew(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.resilient}, policy=POLICY) as w:
        first = await start(w, "write")
        await w.approve(first, "modify", arguments={"table": "drafts"})
        await w.finished(first)
        assert out.made == [{"table": "drafts"}]
        second = await start(w, "write")
        with pytest.raises(OmiumError, match="does not allow these arguments"):
            await w.approve(second, "modify", arguments={"table": "secrets"})
        assert len(await w.core.list_approvals(ME, run_id=second)) == 1  # it stays open
        await w.approve(second, "reject")
        assert (await w.finished(second)).output == {"work": "denied"}
        third = await start(w, "write")
        await w.approve(third, "modify", arguments={"table": "payments"})  # which needs more than a form
        await w.until(third, lambda state: len(state.approvals) == 2)
        asked = (await w.core.list_approvals(ME, run_id=third))[0]
        assert (asked.min_assurance, asked.arguments) == ("out_of_band", {"table": "payments"})
        await w.core.decide(ME, asked.id, "approve", assurance="out_of_band")
        await w.finished(third)
        assert out.made == [{"table": "drafts"}, {"table": "payments"}]


async def test_modify_needs_arguments_and_nothing_else_takes_them(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.work}, policy=POLICY) as w:
        run = await start(w, "write")
        for decision, arguments in (("modify", None), ("approve", {"table": "x"}), ("modify", [1])):
            with pytest.raises(OmiumError) as caught:
                await w.approve(run, decision, arguments=arguments)
            assert caught.value.code == "invalid_argument"
        await w.approve(run)
        await w.finished(run)


async def test_arguments_that_changed_after_the_question_are_another_question(tmp_path: Path) -> None:
    out = Outside()
    tables = ["notes", "users"]

    async def shifting(attempt: Attempt, tool: str, table: str) -> Any:
        return await out.work(attempt, tool, tables[min(attempt.attempt, 2) - 1])

    async with world(tmp_path, FLOW, functions={"work": shifting}, policy=POLICY) as w:
        run = await start(w, "write")
        await w.approve(run)
        await w.until(run, lambda state: len(state.approvals) == 2)
        assert out.made == []
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        assert asked.arguments == {"table": "users"}
        await w.approve(run)
        await w.finished(run)
        assert out.made == [{"table": "users"}]


async def test_one_decision_does_not_serve_a_second_call(tmp_path: Path) -> None:
    out = Outside()

    async def twice(attempt: Attempt, tool: str, table: str) -> Any:
        await out.work(attempt, tool, table, "one")
        return await out.work(attempt, tool, table, "two")

    async with world(tmp_path, FLOW, functions={"work": twice}, policy=POLICY) as w:
        run = await start(w, "write")
        await w.approve(run)
        await w.until(run, lambda state: len(state.approvals) == 2)
        assert len(out.made) == 1
        await w.approve(run)
        await w.finished(run)
        assert len(out.made) == 2  # and the first was not made again


@pytest.mark.parametrize("happened", [False, True])
async def test_a_crash_after_the_decision_was_used_asks_whether_the_call_happened(
    tmp_path: Path, happened: bool
) -> None:
    out = Outside()

    async def dying(attempt: Attempt, tool: str, table: str) -> Any:
        async def action(allowed: Allowed) -> Any:
            if attempt.attempt == 2:  # the one that the approval started
                if happened:
                    out.made.append(allowed.arguments)
                await w.functions["hold"](attempt, "gone")
            out.made.append(allowed.arguments)
            return "fine"

        return await attempt.call(Call("one", "tool", tool, {"table": table}, server="db"), action, kind="tool")

    async with world(tmp_path, FLOW, functions={"work": dying}, policy=POLICY) as w:
        run = await start(w, "write")
        await w.approve(run)
        await w.entered("gone")
        old = w.machine
        await w.start()
        await w.crash(old)
        await w.until(run, lambda state: any(a.scope == "unknown_effect" for a in state.approvals.values()))
        assert len(out.made) == happened
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        assert asked.details is not None and asked.details["calls"] == ["db/write"]
        assert asked.arguments["arguments"] == {"table": "notes"}  # type: ignore[index, call-overload]
        await w.approve(run, "retry")  # the decision that the intent used still covers it
        await w.finished(run)
        assert len(out.made) == happened + 1
        assert len((await w.machine.store.state(run)).approvals) == 2


async def test_a_call_that_the_question_of_another_cut_off_is_asked_about_first(tmp_path: Path) -> None:
    out, under_way = Outside(), anyio.Event()

    async def both(attempt: Attempt, tool: str, table: str) -> Any:
        async def cut_off(allowed: Allowed) -> Any:
            out.made.append("plain")
            under_way.set()
            if out.made.count("plain") == 1:
                await anyio.sleep_forever()

        async def asks() -> None:
            await under_way.wait()
            await out.work(attempt, "write", table)

        async with anyio.create_task_group() as calls:
            calls.start_soon(asks)
            await attempt.call(Call("plain", "tool", "plain", {}, server="db"), cut_off, kind="tool")

    async with world(tmp_path, FLOW, functions={"work": both}, policy=POLICY) as w:
        run = await start(w, "write")
        await w.status(run, "waiting_approval")
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        assert asked.details is not None
        assert (asked.scope, asked.details["calls"]) == ("unknown_effect", ["db/plain"])
        await w.approve(run, "retry")
        await w.until(run, lambda state: len(state.approvals) == 2)
        await w.approve(run)
        await w.finished(run)
        assert out.made == ["plain", "plain", {"table": "notes"}]


async def test_what_was_lost_is_listed_and_cannot_be_decided_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.work}, policy=POLICY) as w:
        run = await start(w, "write")
        await w.status(run, "waiting_approval")
        (asked,) = await w.core.list_approvals(ME, run_id=run)

        async def damaged(digest: object) -> Any:
            raise OmiumError("integrity", "a blob is damaged.")

        with monkeypatch.context() as there:
            there.setattr(w.machine.store, "value", damaged)
            (listed,) = await w.core.list_approvals(ME, run_id=run)
            assert (listed.id, listed.arguments) == (asked.id, None)
            with pytest.raises(OmiumError, match="damaged"):
                await w.core.get_approval(ME, asked.id)
            with pytest.raises(OmiumError, match="damaged"):
                await w.core.decide(ME, asked.id, "approve", assurance="elicited")
        assert out.made == []
        await w.approve(run)
        await w.finished(run)


async def test_who_has_a_call_made_again_must_be_good_for_as_much_as_who_allowed_it(tmp_path: Path) -> None:
    async def dying(attempt: Attempt, tool: str, table: str) -> Any:
        async def action(allowed: Allowed) -> Any:
            if attempt.attempt == 2:
                await w.functions["hold"](attempt, "gone")
            return "fine"

        return await attempt.call(Call("one", "tool", tool, {"table": table}, server="db"), action, kind="tool")

    async with world(tmp_path, FLOW, functions={"work": dying}, policy=POLICY) as w:
        run = await start(w, "write", "payments")
        await w.status(run, "waiting_approval")
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        await w.core.decide(ME, asked.id, "approve", assurance="out_of_band")
        await w.entered("gone")
        old = w.machine
        await w.start()
        await w.crash(old)
        await w.until(run, lambda state: any(a.scope == "unknown_effect" for a in state.approvals.values()))
        (again,) = await w.core.list_approvals(ME, run_id=run)
        assert again.min_assurance == "out_of_band"
        with pytest.raises(OmiumError, match="out_of_band"):
            await w.approve(run, "retry")
        await w.core.decide(ME, again.id, "retry", assurance="out_of_band")
        await w.finished(run)


async def test_leave_that_was_given_stays_given(tmp_path: Path) -> None:
    seen: list[Allowed] = []

    async def work(attempt: Attempt, tool: str, table: str) -> Any:
        call = Call("edit#1", "permission", "Edit", {"path": table}, preview="- a\n+ b")
        for _ in range(2):
            seen.append(await attempt.gate(call))
        with pytest.raises(OmiumError, match="other arguments"):
            await attempt.gate(Call("edit#1", "permission", "Edit", {"path": "other"}))
        return None

    policy = POLICY + "- {id: edits, effect: require_approval, match: {action: permission, tool: Edit}}\n"
    async with world(tmp_path, FLOW, functions={"work": work}, policy=policy) as w:
        run = await start(w, "Edit")
        await w.approve(run)
        await w.finished(run)
        assert seen[0] == seen[1] and seen[0].arguments == {"path": "notes"}
        assert len((await w.machine.store.state(run)).approvals) == 1


async def test_a_question_of_the_work_itself(tmp_path: Path) -> None:
    async def work(attempt: Attempt, tool: str, table: str) -> Any:
        said = await attempt.decide("Which ${{ one }}?", ["red", "blue"], key="colour", details={"why": "paint"})
        again = await attempt.decide("Which ${{ one }}?", ["red", "blue"], key="colour", details={"why": "paint"})
        assert said == again
        return [said.decision, said.feedback, attempt.attempt, attempt.resumed]

    async with world(tmp_path, FLOW, functions={"work": work}, policy=POLICY) as w:
        run = await start(w, "x")
        await w.status(run, "waiting_approval")
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        assert (asked.question, asked.scope) == ("Which ${{ one }}?", "question")
        await w.approve(run, "blue", feedback="dark")
        assert (await w.finished(run)).output == {"work": ["blue", "dark", 2, True]}


async def test_what_is_kept_is_there_after_a_crash_and_after_a_decision(tmp_path: Path) -> None:
    found: list[Any] = []

    async def work(attempt: Attempt, tool: str, table: str) -> Any:
        found.append(await attempt.kept())
        await attempt.keep({"turn": len(found)})
        if len(found) == 1:
            await attempt.decide("Go on?", ["yes"], key="go")
        if len(found) == 2:
            return await w.functions["hold"](attempt, "middle")
        return await attempt.kept()

    async with world(tmp_path, FLOW, functions={"work": work}, policy=POLICY) as w:
        run = await start(w, "x")
        await w.approve(run, "yes")
        await w.entered("middle")
        old = w.machine
        await w.start()
        await w.crash(old)
        assert (await w.finished(run)).output == {"work": {"turn": 3}}
        assert found == [None, {"turn": 1}, {"turn": 2}]


async def test_a_session_is_used_by_one_attempt_at_a_time(tmp_path: Path) -> None:
    async def work(attempt: Attempt, tool: str, table: str) -> Any:
        async with attempt.leased(f"session:{table}"):
            return await w.functions["hold"](attempt, tool)

    async with world(tmp_path, FLOW, functions={"work": work}) as w:
        first = await w.run("flow", {"tool": "a", "table": "s"})
        await w.entered("a")
        second = await w.run("flow", {"tool": "b", "table": "s"})
        view = await w.finished(second, "failed")
        assert view.error is not None and view.error["code"] == "conflict"
        old = w.machine
        await w.start()
        await w.crash(old)  # what it held is free
        await w.until(first, lambda state: state.node("work").attempt == 2)  # type: ignore[arg-type]
        w.let_go("a")
        await w.finished(first)


# --- budgets and rates ----------------------------------------------------------------------------------------------


async def spend(attempt: Attempt, tool: str, table: str) -> Any:
    reservation = await attempt.reserve("model", tokens=int(table))
    await reservation.settle(tokens=int(table), usd=float(table) / 1000)
    return None


async def test_a_budget_stops_what_would_exceed_it_until_somebody_raises_it(tmp_path: Path) -> None:
    rules = [BudgetRule("daily", period="day", tokens=100)]
    async with world(tmp_path, FLOW, functions={"work": spend}, budgets=rules) as w:
        await w.finished(await start(w, "m", "60"))
        view = await w.finished(await start(w, "m", "60"), "failed")
        assert view.error is not None and view.error["code"] == "budget_exceeded"
        (row,) = await w.machine.store.budgets(view.project)
        assert (row.spent, row.held) == (Amounts(0.06, 60, 1), Amounts())
        await w.machine.store.raise_budget(view.project, row.name, Amounts(tokens=20), ME.principal)
        done = await w.finished(await start(w, "m", "60"))
        assert (done.tokens, done.cost_usd) == (60, pytest.approx(0.06))


async def test_a_price_that_nobody_knows_is_refused_where_money_is_counted(tmp_path: Path) -> None:
    async def unpriced(attempt: Attempt, tool: str, table: str) -> Any:
        await (await attempt.reserve("model x", tokens=1, usd=None)).settle(tokens=1, usd=None)
        return None

    flow = FLOW + "\n"
    async with world(tmp_path / "a", flow, functions={"work": unpriced}, budgets=[BudgetRule("all", usd=5)]) as w:
        view = await w.finished(await start(w, "m"), "failed")
        assert view.error is not None and view.error["code"] == "budget_exceeded"
    async with world(tmp_path / "b", flow, functions={"work": unpriced}) as w:
        view = await w.finished(await start(w, "m"))
        assert view.nodes[0].usage == {"tokens": 1, "cost_usd": 0.0, "calls": 1, "unpriced": 1}


async def test_a_nodes_own_budget(tmp_path: Path) -> None:
    flow = FLOW.replace("use: work,", "use: work, budget: {calls: 2},")

    async def three(attempt: Attempt, tool: str, table: str) -> Any:
        for _ in range(3):
            await (await attempt.reserve("model")).settle()
        return None

    async with world(tmp_path, flow, functions={"work": three}) as w:
        view = await w.finished(await start(w, "m"), "failed")
        assert view.error is not None and view.error["code"] == "budget_exceeded"


async def test_the_time_of_all_attempts_counts_against_a_nodes_budget(tmp_path: Path) -> None:
    flow = FLOW.replace("use: work,", "use: work, budget: {seconds: 10}, retry: {max_attempts: 9, initial: 0s},")

    async def slow(attempt: Attempt, tool: str, table: str) -> Any:
        w.clock.advance(6)
        raise ConnectionError("not there")

    async with world(tmp_path, flow, functions={"work": slow}) as w:
        view = await w.finished(await start(w, "m"), "failed")
        assert view.error is not None and view.error["code"] == "budget_exceeded"
        assert w.called() == ["work", "work"]  # 12 s


async def test_concurrent_calls_at_the_boundary_of_a_rate(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.resilient}, policy=POLICY) as w:
        runs = [await start(w, "few") for _ in range(6)]
        outputs = [(await w.finished(run)).output for run in runs]
        assert outputs.count({"work": "rate_limited"}) == 4 and len(out.made) == 2
        w.advance(60)
        await w.finished(await start(w, "few"))
        assert len(out.made) == 3


async def test_the_counters_of_rates_are_forgotten(tmp_path: Path) -> None:
    out = Outside()
    async with world(tmp_path, FLOW, functions={"work": out.work}, policy=POLICY) as w:
        for days in (0, 7, 9):
            w.advance(days * 86_400)
            await w.finished(await start(w, "few"))
        (row,) = await w.machine.store.budgets(ProjectId("default"))
        assert row.spent.calls == 1  # of the last window; the first had gone before


async def test_what_a_dead_worker_held_counts_as_spent(tmp_path: Path) -> None:
    async def half(attempt: Attempt, tool: str, table: str) -> Any:
        if attempt.attempt == 1:
            await attempt.reserve("model", tokens=70)
            await w.functions["hold"](attempt, "held")
        return None

    async with world(tmp_path, FLOW, functions={"work": half}, budgets=[BudgetRule("all", tokens=100)]) as w:
        run = await start(w, "m")
        await w.entered("held")
        old = w.machine
        await w.start()
        await w.crash(old)
        view = await w.finished(run)
        (row,) = await w.machine.store.budgets(view.project)
        assert (row.spent.tokens, row.held.tokens) == (70, 0)


# --- plans ----------------------------------------------------------------------------------------------------------

PLANNED = """
name: planned
approvals: after_planning
nodes:
- {id: plan, kind: function, use: plan, expands: true}
- {id: after, kind: function, use: echo, with: {value: "${{ nodes.plan.output }}"}, needs: plan}
"""


def planner(plans: list[Any]) -> Any:
    async def plan(attempt: Attempt) -> Any:
        plans.append(list(attempt.guidance.feedback))
        return {"steps": [{"id": "a", "kind": "function", "use": "echo", "with": {"value": len(plans)}}]}

    return plan


async def test_a_plan_is_shown_before_it_is_carried_out(tmp_path: Path) -> None:
    plans: list[Any] = []
    async with world(tmp_path, PLANNED, functions={"plan": planner(plans)}) as w:
        run = await w.run("planned")
        await w.status(run, "waiting_approval")
        (asked,) = await w.core.list_approvals(ME, run_id=run)
        assert asked.scope == "plan" and asked.arguments["steps"][0]["id"] == "a"  # type: ignore[index, call-overload]
        await w.approve(run, "retry", feedback="smaller steps")
        await w.until(run, lambda state: len(state.approvals) == 2)
        await w.approve(run)
        assert (await w.finished(run)).output == {"after": {"a": 2}}
        assert plans == [[], ["smaller steps"]]


async def test_a_modified_plan_is_validated_before_the_decision_counts(tmp_path: Path) -> None:
    async with world(tmp_path, PLANNED, functions={"plan": planner([])}) as w:
        run = await w.run("planned")
        await w.status(run, "waiting_approval")
        step = {"kind": "function", "use": "echo", "with": {"value": 7}}
        cycle = [{"id": "a", "needs": "b", **step}, {"id": "b", "needs": "a", **step}]
        unknown = [{"id": "a", "kind": "function", "use": "nope"}]
        for steps, code in ((cycle, "invalid_definition"), (unknown, "not_registered")):
            with pytest.raises(OmiumError) as caught:
                await w.approve(run, "modify", arguments={"steps": steps})
            assert caught.value.code == code
        assert len(await w.core.list_approvals(ME, run_id=run)) == 1
        await w.approve(run, "modify", arguments={"steps": [{"id": "b", **step}]})
        assert (await w.finished(run)).output == {"after": {"b": 7}}


async def test_a_rejected_plan_fails_its_node(tmp_path: Path) -> None:
    async with world(tmp_path, PLANNED, functions={"plan": planner([])}) as w:
        run = await w.run("planned")
        await w.approve(run, "reject")
        view = await w.finished(run, "failed")
        assert view.error is not None and view.error["code"] == "approval_rejected"
