"""The pages in a real browser: by mouse, by keyboard, live."""

from __future__ import annotations

import re

import anyio
import pytest
from playwright.async_api import expect

from omium.orchestration.ids import ApprovalId
from tests.ui.eyes import barriers, open_eyes
from tests.ui.house import HOSTILE, House

pytestmark = pytest.mark.anyio
PATIENCE_S = 150
expect.set_options(timeout=30_000)  # a busy machine is no fault of the page


async def test_a_run_is_followed_live_paused_and_gone_on_with(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.core.run_workflow(house.owner, "slow", {}, title="Import")
        async with open_eyes(house) as eyes, eyes.looking(f"/runs/{run.id}/events") as page:
            await expect(page.locator("#feed-state")).to_have_text("Live")
            await page.get_by_role("button", name="Pause p").click()  # of the feed, not of the run
            await expect(page.locator("#feed-state")).to_have_text("Paused")
            await house.core.signal(house.owner, run.id, "hello")
            await expect(page.locator("#feed-held")).to_have_text("Paused, 1 new")
            assert await page.locator("#events b", has_text="signal.received").count() == 0
            await page.keyboard.press("p")
            await expect(page.locator("#events li").first).to_contain_text("signal.received")
            house.release()
            await expect(page.locator("#runhead .pill")).to_have_text("done")
            await expect(page.locator("#feed-state")).to_have_text("Ended")
            assert await page.locator("#events li").count() == (await house.core.row(house.owner, run.id)).seq
            assert eyes.problems == []


async def test_a_lost_connection_goes_on_behind_the_last_event(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.core.run_workflow(house.owner, "slow", {})
        async with open_eyes(house) as eyes, eyes.looking(f"/runs/{run.id}/events") as page:
            await expect(page.locator("#feed-state")).to_have_text("Live")
            await page.context.set_offline(True)
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            await page.route("**/api/v1/runs/**", lambda route: route.abort())
            for name in ("one", "two"):
                await house.core.signal(house.owner, run.id, name)
            await page.unroute("**/api/v1/runs/**")
            await page.context.set_offline(False)
            await expect(page.locator("#events b", has_text="signal.received")).to_have_count(2)
            numbers = [int(one) for one in await page.locator("#events .seq").all_inner_texts()]
            assert numbers == sorted(set(numbers), reverse=True)
            house.release()


async def test_a_question_is_decided_with_the_keyboard(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        _, approval = await house.asking()
        async with open_eyes(house) as eyes, eyes.looking("/") as page:
            await page.keyboard.press("g")
            await page.keyboard.press("i")
            await expect(page).to_have_title(re.compile("Inbox"))
            await page.keyboard.press("f")
            await page.keyboard.type("approve it, r is only a letter here")
            await page.keyboard.press("Escape")
            await page.keyboard.press("r")
            await expect(page.get_by_role("button", name="Reject")).to_be_focused()
            await page.keyboard.press("a")
            await expect(page.get_by_role("button", name="Approve")).to_be_focused()
            assert (await house.core.get_approval(house.owner, ApprovalId(approval))).status == "pending"
            await page.keyboard.press("Enter")
            await expect(page.locator(".said")).to_contain_text("recorded")
            await expect(page.locator("#runhead .pill")).to_have_text("done")
            assert eyes.problems == []
        view = await house.core.get_approval(house.owner, ApprovalId(approval))
        assert (view.decision, view.feedback) == ("approve", "approve it, r is only a letter here")


async def test_a_question_appears_in_the_open_inbox_and_is_decided_by_mouse(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_eyes(house) as eyes, eyes.looking("/approvals", "phone", "dark") as page:
            await expect(page.locator("#feed-state")).to_have_text("Live")
            _, approval = await house.asking()
            await page.get_by_role("link", name=re.compile("Publish the notes")).click()
            await page.get_by_label("Feedback").fill("no")
            await page.get_by_role("button", name="Reject").click()
            await expect(page.locator(".said")).to_contain_text("recorded")
            assert eyes.problems == []
        assert (await house.core.get_approval(house.owner, ApprovalId(approval))).decision == "reject"


async def test_the_list_is_walked_searched_and_ticked_with_keys(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        for number in range(3):
            await house.core.run_workflow(house.owner, "echo", {"value": 1}, title=f"draft {number}", start=False)
        titles = [run.title for run in (await house.core.list_runs(house.owner)).runs]
        async with open_eyes(house) as eyes, eyes.looking("/") as page:
            await expect(page.locator("#feed-state")).to_have_text("Live")
            await page.keyboard.press("j")
            await page.keyboard.press("j")
            await page.keyboard.press("x")
            await expect(page.locator("#ticked")).to_have_text("(1)")
            await page.keyboard.press("k")
            await page.keyboard.press("Enter")
            await expect(page.locator("h1")).to_have_text(titles[0])
            await page.keyboard.press("3")
            await expect(page.locator(".tabs [aria-current]")).to_have_text("Checkpoints")
            await page.keyboard.press("g")
            await page.keyboard.press("r")
            await expect(page).to_have_url(re.compile(r"/$"))
            await page.keyboard.press("/")
            await page.keyboard.type("draft 1")
            await page.keyboard.press("Enter")
            await expect(page.locator("[data-row]")).to_have_count(1)
            assert "q=draft+1" in page.url
            await page.keyboard.press("Escape")
            await page.keyboard.press("?")
            await expect(page.get_by_role("dialog")).to_be_visible()
            await page.get_by_label("Single-letter keys are off").check()
            await page.keyboard.press("Escape")
            await page.keyboard.press("j")
            assert await page.locator("[data-row].at").count() == 0
            assert eyes.problems == []


async def test_the_graph_is_walked_and_a_node_opened_beside_it(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, _ = await house.asking()
        async with open_eyes(house) as eyes, eyes.looking(f"/runs/{run_id}") as page:
            await page.locator('[data-node="collect"]').focus()
            await page.keyboard.press("ArrowDown")
            await expect(page.locator('[data-node="summarize"]')).to_be_focused()
            await page.keyboard.press("ArrowDown")
            await page.keyboard.press("ArrowRight")
            await page.keyboard.press("Enter")
            await expect(page.locator("#panel h2")).to_have_text("summarize[2]")
            assert "node=summarize" in page.url
            await page.keyboard.press("Escape")
            await expect(page.locator("#panel")).to_have_count(0)
            await page.locator('[data-node="write"]').click()
            await expect(page.locator("#panel")).to_contain_text("reading the last notes")
            await page.go_back()
            await expect(page.locator("#panel")).to_have_count(0)
            before = await page.locator("#graph > svg").get_attribute("width")
            await page.keyboard.press("+")
            assert await page.locator("#graph > svg").get_attribute("width") != before
            await page.get_by_role("button", name="All").click()
            assert eyes.problems == []


async def test_checkpoints_are_walked_and_gone_back_to(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, _ = await house.asking()
        async with open_eyes(house) as eyes, eyes.looking(f"/runs/{run_id}/history") as page:
            await expect(page.locator("#stand h2")).to_contain_text("@")
            first = await page.locator("#stand h2").inner_text()
            await page.keyboard.press("ArrowLeft")
            await expect(page.locator("#stand h2")).not_to_have_text(first)
            await page.keyboard.press("ArrowRight")
            await expect(page.locator("#stand h2")).to_have_text(first)
            await page.get_by_role("link", name=re.compile("collect")).click()
            await page.get_by_role("button", name="Roll back to here…").click()
            await expect(page.locator(".plan")).to_contain_text("Nothing has happened yet")
            assert await barriers(page) == []
            await page.locator(".confirm").get_by_label("Reason").fill("another try")
            await page.get_by_role("button", name="Roll back: do it").click()
            await expect(page.locator(".said")).to_contain_text("back at that position")
            await page.get_by_role("button", name="Resume").click()
            await expect(page.locator("#runhead .pill")).to_have_text("needs a decision")
            assert eyes.problems == []
        assert (await house.core.get_run(house.owner, run_id)).generation == 1


async def test_a_branch_is_made_by_mouse_from_a_node(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run_id, _ = await house.asking()
        async with open_eyes(house) as eyes, eyes.looking(f"/runs/{run_id}?node=summarize") as page:
            await page.get_by_text("Branch before this…").click()
            form = page.locator("form", has=page.locator('input[value="before:summarize"]'))
            await form.get_by_label("Name").fill("warm")
            await form.get_by_label("Changes").fill('{"inputs": {"tone": "warm"}}')
            await form.get_by_role("button").click()
            await page.get_by_role("button", name="Branch: do it").click()
            await expect(page.locator(".said")).to_contain_text("new branch")
            assert eyes.problems == []
        tree = await house.core.branch_tree(house.owner, run_id)
        assert [one.run.branch for one in tree.children] == ["warm"]


async def test_what_is_being_written_survives_what_happens(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.core.run_workflow(house.owner, "slow", {})
        async with open_eyes(house) as eyes, eyes.looking(f"/runs/{run.id}") as page:
            await page.get_by_text("Signal…").click()
            await page.get_by_label("Name").fill("half a na")
            house.release()
            await expect(page.locator("#runhead .pill")).to_have_text("done")
            assert await page.get_by_label("Name").input_value() == "half a na"
            assert eyes.problems == []


async def test_hostile_text_stays_text_in_live_events_too(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.core.run_workflow(house.owner, "slow", {}, title=HOSTILE)
        async with open_eyes(house) as eyes, eyes.looking(f"/runs/{run.id}/events") as page:
            await expect(page.locator("#feed-state")).to_have_text("Live")
            await house.core.pause(house.owner, run.id, reason=HOSTILE)
            row = page.locator("#events li").first
            await expect(row).to_contain_text("run.paused")
            await row.get_by_text("data").click()
            await expect(row.locator("pre")).to_contain_text("<script>alert(2)</script>")
            assert "\u202e" not in await row.inner_text()
            assert await page.locator("img").count() == 0
            assert eyes.problems == []
        house.release()


async def test_five_thousand_nodes_are_drawn_and_found(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("wide", {"items": list(range(5_000))}, title="Five thousand")
        async with open_eyes(house) as eyes, eyes.looking(f"/runs/{run.id}?open=fan") as page:
            canvas = page.locator("#graph canvas")
            await expect(canvas).to_be_visible()
            await page.wait_for_function("document.querySelector('#graph canvas').width > 600")
            await page.locator("#graph").focus()
            await page.keyboard.press("+")
            await page.keyboard.press("ArrowDown")
            took = await page.evaluate(
                "async () => { const b = performance.now(); for (let i = 0; i < 20; i++) {"
                " document.querySelector('[data-zoom=\"+\"]').click(); await new Promise(requestAnimationFrame); }"
                " return (performance.now() - b) / 20; }"
            )
            assert took < 2_000, f"a picture takes {took} ms"  # without a graphics card, on a busy machine
            await page.get_by_role("searchbox").fill("fan[4321]")
            await page.keyboard.press("Enter")
            await page.get_by_role("link", name="fan[4321]").click()
            await expect(page.locator("#panel h2")).to_have_text("fan[4321]")
            assert eyes.problems == []


async def test_without_scripts_one_reads_and_decides(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        _, approval = await house.asking()
        async with open_eyes(house) as eyes, eyes.looking("/", java_script_enabled=False) as page:
            await page.get_by_role("link", name="release-notes").first.click()
            await page.locator('[data-node="write"]').click()
            await expect(page.locator("#panel")).to_contain_text("# Version 1.4")
            await page.get_by_role("link", name="Look at it and decide").click()
            await page.get_by_role("button", name="Approve").click()
            await expect(page.locator(".said")).to_contain_text("recorded")
        assert (await house.core.get_approval(house.owner, ApprovalId(approval))).decision == "approve"


async def test_light_or_dark_is_kept(house: House) -> None:
    async with open_eyes(house) as eyes, eyes.looking("/") as page:
        await page.get_by_role("button", name="Light or dark").click()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        await page.reload()
        await expect(page.locator("html")).to_have_attribute("data-theme", "dark")


async def test_one_signs_in_and_out_with_a_browser(guarded: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        token = await guarded.token("approver", "bo")
        async with open_eyes(guarded) as eyes, eyes.looking("/approvals") as page:
            await page.get_by_label("Token").fill(token)
            await page.keyboard.press("Enter")
            await expect(page).to_have_url(re.compile("/approvals$"))
            await expect(page.locator(".me")).to_contain_text("token:bo")
            await page.get_by_role("button", name="Sign out").click()
            await expect(page.get_by_label("Token")).to_be_visible()


async def test_a_failed_run_is_read_on_a_telephone(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("link-check", title="Nightly link check")
        wide = await house.run("wide", {"items": list(range(60))})
        async with open_eyes(house) as eyes:
            async with eyes.looking(f"/runs/{run.id}/audit", "phone") as page:
                tab = page.locator(".tabs [aria-current]")
                await expect(tab).to_have_text("Who did what")
                await expect(tab).to_be_in_viewport(ratio=0.95)
                await expect(page.locator("#failure")).to_contain_text("404 https://example.org/gone")
                top = await page.locator("#view").evaluate("one => one.getBoundingClientRect().top")
                assert top < 700, "choosing a tab must show what it holds, not the failure alone"
            async with eyes.looking(f"/runs/{wide.id}", "phone") as page:
                heights = await page.locator(".zoom button").evaluate_all("all => all.map((one) => one.offsetHeight)")
                assert len(set(heights)) == 1 and heights[0] < 35, "a button breaks in its word"
            assert eyes.problems == []


async def test_words_in_tables_are_whole(house: House) -> None:
    with anyio.fail_after(PATIENCE_S):
        run = await house.run("link-check", title="Nightly link check")
        nodes, audit = f"/runs/{run.id}?node=visit", f"/runs/{run.id}/audit"
        async with open_eyes(house) as eyes:
            for path, cells in ((nodes, "#nodelist .whole"), (audit, "#audit .whole, #audit .when")):
                async with eyes.looking(path) as page:
                    await page.set_viewport_size({"width": 1280, "height": 900})
                    high = await page.locator(cells).evaluate_all("all => all.map((one) => one.offsetHeight)")
                    assert high and max(high) < 45, f"{path}: a word is broken"
            assert eyes.problems == []
