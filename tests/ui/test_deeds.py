"""What can be done from the pages, and what cannot: deciding, steering, going back, in bulk."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest

from omium.orchestration.ids import ApprovalId, RunId
from tests.ui.house import Browser, House, form_of, open_house, words

pytestmark = pytest.mark.anyio
PATIENCE_S = 90


async def decide(browser: Browser, approval: str, decision: str, **fields: str) -> str:
    page = await browser.open(f"/approvals/{approval}")
    answer = await browser.send(page, f"/approvals/{approval}/decide", decision=decision, **fields)
    assert answer.status_code == 200, words(answer.text)
    return str(answer.text)


async def test_a_decision_on_an_open_loopback_is_elicited_and_carries_feedback(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, approval = await house.asking()
        async with house.browser() as browser:
            said = words(await decide(browser, approval, "approve", feedback="ship it"))
            assert "Your decision was recorded" in said
        run = await house.core.wait(house.owner, run_id, 60)
        assert run.status == "completed"
        view = await house.core.get_approval(house.owner, ApprovalId(approval))
        assert (view.decision, view.assurance, view.feedback) == ("approve", "elicited", "ship it")


async def test_a_form_that_is_sent_twice_decides_once(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        _, approval = await house.asking()
        async with house.browser() as browser:
            page = await browser.open(f"/approvals/{approval}")
            action = f"/approvals/{approval}/decide"
            first = await browser.send(page, action, decision="approve")
            again = await browser.send(page, action, decision="approve")
            assert (first.status_code, again.status_code) == (200, 200)
            other = await browser.send(page, action, decision="reject")  # the same form, changed
            assert other.status_code == 409


async def test_whoever_is_late_hears_who_decided(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        _, approval = await house.asking()
        async with house.browser() as browser:
            page = await browser.open(f"/approvals/{approval}")
            await house.core.decide(house.owner, ApprovalId(approval), "reject", assurance="elicited")
            late = await browser.send(page, f"/approvals/{approval}/decide", decision="approve")
            assert late.status_code == 409
            assert "already_decided" in words(late.text)
            assert "reject by user:ada" in words(await browser.open(f"/approvals/{approval}"))


async def test_a_decision_about_something_else_is_refused(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        _, one = await house.asking(version="1")
        _, two = await house.asking(version="2")
        async with house.browser() as browser:
            fields = form_of(await browser.open(f"/approvals/{one}"), f"/approvals/{one}/decide")
            answer = await browser.post(f"/approvals/{two}/decide", {**fields, "decision": "approve"})
            assert answer.status_code == 409
        assert len(await house.core.list_approvals(house.owner)) == 2


async def test_a_gate_that_wants_more_says_what_it_takes(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("strict")
        approval = run.approvals[0].id
        async with house.browser() as browser:
            page = await browser.open(f"/approvals/{approval}")
            assert "omium approve" in words(page)
            assert "/decide" not in page
            await browser.sign_in(await house.token("approver", "bo"))
            await decide(browser, approval, "approve")
        view = await house.core.get_approval(house.owner, approval)
        assert (view.decided_by, view.assurance) == ("token:bo", "out_of_band")


async def test_a_question_that_is_too_long_to_be_seen_cannot_be_decided(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("hostile", {"text": "x" * 70_000})
        async with house.browser() as browser:
            page = await browser.open(f"/approvals/{run.approvals[0].id}")
            assert "too long to be shown here" in words(page)
            assert "/decide" not in page


async def test_a_run_is_paused_resumed_and_cancelled(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.core.run_workflow(house.owner, "slow", {})
        async with house.browser() as browser:
            for action, status in (("pause", "paused"), ("resume", "executing"), ("cancel", "cancelled")):
                page = await browser.open(f"/runs/{run.id}")
                steer = f"/runs/{run.id}/steer"
                answer = await browser.send(page, steer, action=action, reason="because")
                assert answer.status_code == 200, words(answer.text)
                assert (await house.core.get_run(house.owner, run.id)).status == status
            assert "because" in words(await browser.open(f"/runs/{run.id}/audit"))


async def test_a_rollback_is_planned_then_done_once(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, approval = await house.asking(version="7")
        found = await house.core.list_checkpoints(house.owner, run_id)
        early = next(one for one in found.checkpoints if one.node == "collect")
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{run_id}/history", at=early.seq)
            plan = await browser.send(page, f"/runs/{run_id}/plan", operation="rollback", at=str(early.seq))
            said = words(plan.text)
            assert "eused" not in said  # what is kept is not "reused", and nothing is said to be lost
            assert "Nothing has happened yet" in said
            assert "write" in said
            assert (await house.core.get_run(house.owner, run_id)).status == "waiting_approval"
            done = await browser.send(plan.text, f"/runs/{run_id}/apply", reason="try again")
            assert "back at that position" in words(done.text)
            again = await browser.send(plan.text, f"/runs/{run_id}/apply", reason="try again")
            assert again.status_code == 200
            run = await house.core.get_run(house.owner, run_id)
            assert (run.status, run.generation) == ("paused", 1)
            assert (await house.core.get_approval(house.owner, ApprovalId(approval))).status == "cancelled"


async def test_a_plan_is_needed_and_its_token_cannot_be_made_up(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, _ = await house.asking()
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{run_id}/history")
            fields = {**form_of(page, f"/runs/{run_id}/plan"), "operation": "rollback", "at": "5"}
            without = await browser.post(f"/runs/{run_id}/apply", fields)
            assert "plan_required" in words(without.text)
            forged = await browser.post(f"/runs/{run_id}/apply", {**fields, "plan_token": "plan_" + "0" * 26})
            assert forged.status_code == 409
            assert "plan_expired" in words(forged.text)


async def test_a_branch_with_changes_is_planned_and_made(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, _ = await house.asking(tone="plain")
        found = await house.core.list_checkpoints(house.owner, run_id)
        early = next(one for one in found.checkpoints if one.node == "collect")
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{run_id}/history", at=early.seq)
            wish = {"operation": "branch", "at": str(early.seq), "name": "warm", "hypothesis": "<b>warmer</b>"}
            broken = await browser.send(page, f"/runs/{run_id}/plan", **wish, overrides="{not json")
            assert broken.status_code == 400
            plan = await browser.send(page, f"/runs/{run_id}/plan", **wish, overrides='{"inputs": {"tone": "warm"}}')
            made = await browser.send(plan.text, f"/runs/{run_id}/apply")
            assert "This is the new branch" in words(made.text)
            assert "&lt;b&gt;warmer&lt;/b&gt;" in made.text
            child = RunId(str(made.url).partition("/runs/")[2].partition("?")[0])
            run = await house.core.wait(house.owner, child, 60, detail=True)
            assert (run.parent_run, run.branch, run.status) == (run_id, "warm", "waiting_approval")
            assert await house.core.node_output(house.owner, child, "summarize[0]") == "Faster start in 1.4 (warm)."


async def test_a_failed_node_is_played_again(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("link-check")
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{run.id}")
            plan = await browser.send(page, f"/runs/{run.id}/plan")
            assert "visit" in words(plan.text)
            done = await browser.send(plan.text, f"/runs/{run.id}/apply")
            assert "run again" in words(done.text)
        again = await house.core.wait(house.owner, run.id, 60)
        assert (again.status, again.generation) == ("failed", 1)


async def test_a_position_gets_a_name_and_a_branch_is_closed(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, _ = await house.asking()
        made = await house.core.branch(house.owner, run_id, name="other", start=False)
        async with house.browser() as browser:
            page = await browser.open(f"/runs/{run_id}/history")
            answer = await browser.send(page, f"/runs/{run_id}/label", label="first draft", note="good")
            assert "first draft" in words(answer.text)
            page = await browser.open(f"/runs/{made.run.id}/branches")
            answer = await browser.send(page, f"/runs/{made.run.id}/close", status="abandoned", reason="no")
            assert "was abandoned" in words(answer.text)
        assert (await house.core.get_run(house.owner, made.run.id)).closed == "abandoned"


async def test_a_run_is_started_once_from_its_workflow(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with house.browser() as browser:
            page = await browser.open("/workflows/echo")
            wrong = await browser.send(page, "/workflows/echo/start", inputs="[1]")
            assert wrong.status_code == 400
            for _ in range(2):
                answer = await browser.send(page, "/workflows/echo/start", inputs='{"value": 5}', title="five")
                assert "The run was started" in words(answer.text)
        found = await house.core.list_runs(house.owner)
        assert [run.title for run in found.runs] == ["five"]


async def test_many_runs_are_cancelled_after_a_confirmation(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        drafts = [await house.core.run_workflow(house.owner, "echo", {"value": 1}, start=False) for _ in range(3)]
        other = await house.core.run_workflow(house.owner, "slow", {}, title="not this")
        await house.run("breaks", {"text": "x"})
        async with house.browser() as browser:
            page = await browser.open("/", status="draft")
            asked = await browser.send(page, "/bulk", action="cancel", all="1")
            assert "Cancel 3 runs?" in words(asked.text)
            assert (await house.core.get_run(house.owner, drafts[0].id)).status == "draft"
            ids = re.findall(r'name="run" value="(run_[^"]*)"', asked.text)
            assert set(ids) == {run.id for run in drafts}
            fields = {**form_of(asked.text, "/bulk/done"), "run": ids, "reason": "cleaning"}
            done = await browser.post("/bulk/done", fields)
            assert "Cancel: 3 done" in words(done.text)
            again = await browser.post("/bulk/done", fields)
            assert "Cancel: 3 done" in words(again.text)  # the same form again is the same deed
            none = await browser.send(page, "/bulk", action="pause", run=[drafts[0].id])
            assert "None of the 1 chosen" in words(none.text)
        assert (await house.core.get_run(house.owner, other.id)).status == "executing"


async def test_a_server_that_only_shows_takes_no_form(tmp_path: Path) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_house(tmp_path, read_only=True) as house:
            run_id, approval = await house.asking()
            async with house.browser() as browser:
                for path in (f"/runs/{run_id}", f"/runs/{run_id}/history", f"/approvals/{approval}", "/workflows/echo"):
                    page = await browser.open(path)
                    assert "look only" in words(page) or "look only" in page
                assert "/decide" not in await browser.open(f"/approvals/{approval}")
                page = await browser.open(f"/runs/{run_id}")
                answer = await browser.send(page, f"/runs/{run_id}/steer", action="pause")
                assert answer.status_code == 403
            assert (await house.core.get_run(house.owner, run_id)).status == "waiting_approval"


async def test_a_budget_is_raised_once_by_an_admin(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with guarded.browser() as browser:
            await browser.sign_in(await guarded.token("viewer", "eve"))
            assert "/budgets/raise" not in await browser.open("/budgets")
            await browser.sign_in(await guarded.token("admin", "bo"))
            page = await browser.open("/budgets")
            assert "$50.00" in words(page)
            name = (await guarded.core.budgets(guarded.owner))[0].name
            nothing = await browser.send(page, "/budgets/raise", name=name, usd="")
            assert nothing.status_code == 400
            for _ in range(2):
                answer = await browser.send(page, "/budgets/raise", name=name, usd="2.5")
                assert "The budget was raised" in words(answer.text)
            assert "$52.50" in words(await browser.open("/budgets"))
