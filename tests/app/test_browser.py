"""The view in a real browser, in a host that plays the protocol, over a real server."""

from __future__ import annotations

import anyio
import pytest
from playwright.async_api import expect

from omium.orchestration.ids import ApprovalId
from tests.app.host import open_host
from tests.interaction.studio import ADA, MODES, Mode, Studio

pytestmark = pytest.mark.anyio

PATIENCE_S = 120
expect.set_options(timeout=30_000)  # a busy machine is no fault of the view
SCRIPT = "<img src=x onerror=alert(1)><script>alert(2)</script> ${{ 1 }} \u202egnihtyreve \x1b[2J"


@pytest.mark.parametrize("mode", MODES)
async def test_a_run_is_drawn_asks_and_goes_on(studio: Studio, mode: Mode) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio, mode=mode) as host:
            run = await host.use("run_workflow", workflow="gated", title="The title", wait_seconds=20)
            view = host.frame
            await expect(view.locator("h1")).to_have_text("The title (gated)")
            await expect(view.locator("#status")).to_have_text("needs a decision")
            await expect(view.get_by_role("button", name="draft, function, done")).to_be_visible()
            await expect(view.get_by_role("button", name="ask, approval, needs a decision")).to_be_visible()
            await expect(view.get_by_role("button", name="publish, function, pending")).to_be_visible()
            await expect(view.locator("#asks")).to_have_text("Publish it?")
            await expect(view.locator("#details")).to_have_text('{\n  "show": "the draft"\n}')
            await view.get_by_label("Feedback").fill("looks good")
            await view.get_by_role("button", name="Approve").click()  # waits until it is enabled
            await expect(view.locator("#status")).to_have_text("done")
            await expect(view.locator("#gate")).to_be_hidden()
            await expect(view.get_by_role("button", name="publish, function, done")).to_be_visible()
            approvals = await studio.core.list_approvals(ADA, run_id=run["run_id"], pending=False)
            assert [(one.decision, one.assurance, one.feedback) for one in approvals] == [
                ("approve", "elicited", "looks good")
            ]
            first = (await host.page.evaluate("window.log"))[0]
            assert first["method"] == "ui/initialize"
            assert first["params"]["protocolVersion"] == "2026-01-26"
            assert (await host.log("ui/notifications/size-changed"))[-1]["params"]["height"] > 300
            assert host.visible.isdisjoint(call["name"] for call in host.calls if call["name"].endswith("_in_view"))
            assert host.problems == []


async def test_everything_can_be_done_with_the_keyboard(studio: Studio) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio, theme="dark") as host:
            run = await host.use("run_workflow", workflow="gated", wait_seconds=20)
            view, keys = host.frame, host.page.keyboard
            assert await view.locator("html").get_attribute("data-theme") == "dark"
            await expect(view.get_by_role("button", name="Reject")).to_be_enabled()
            await view.locator('[data-node="draft"]').focus()
            await keys.press("ArrowDown")
            await expect(view.locator('[data-node="ask"]')).to_be_focused()
            await keys.press("ArrowUp")
            await keys.press("Enter")
            await expect(view.locator("#panel")).to_contain_text("function: echo")
            await view.get_by_role("button", name="Show its output").press("Enter")
            await expect(view.locator("#panel pre")).to_have_text('"the draft"')
            await view.get_by_label("Feedback").focus()
            await keys.type("no, r is not a key here")
            await keys.press("Tab")
            await keys.press("Tab")
            await expect(view.get_by_role("button", name="Reject")).to_be_focused()
            await keys.press("Enter")
            await expect(view.locator("#status")).to_have_text("failed")
            decided = (await studio.core.list_approvals(ADA, run_id=run["run_id"], pending=False))[0]
            assert (decided.decision, decided.feedback) == ("reject", "no, r is not a key here")
            assert host.problems == []


async def test_nothing_from_a_run_becomes_an_element(studio: Studio) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio) as host:
            await host.use(
                "run_workflow", workflow="gated-hostilely", inputs={"text": SCRIPT}, title=SCRIPT, wait_seconds=20
            )
            view = host.frame
            await expect(view.locator("#asks")).to_contain_text("<img src=x onerror=alert(1)>")
            await expect(view.locator("h1")).to_contain_text("<script>alert(2)</script>")
            await expect(view.locator("#details")).to_contain_text("\\u202e")
            assert await view.locator("img").count() == 0
            assert await view.locator("script").count() == 1
            assert host.problems == []


async def test_a_gate_that_is_decided_elsewhere_cannot_be_decided_again(studio: Studio) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio) as host:
            run = await host.use("run_workflow", workflow="gated", wait_seconds=20)
            view = host.frame
            await expect(view.get_by_role("button", name="Approve")).to_be_enabled()
            approval = ApprovalId(run["approvals"][0]["approval_id"])
            await studio.core.decide(ADA, approval, "reject", assurance="elicited")
            await view.get_by_role("button", name="Approve").click()
            await expect(view.locator("#error")).to_contain_text("Nothing was decided here")
            await expect(view.locator("#gate")).to_be_hidden()
            await expect(view.locator("#status")).to_have_text("failed")


async def test_a_gate_that_wants_more_shows_no_button(studio: Studio) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio) as host:
            await host.use("run_workflow", workflow="gated-strongly", wait_seconds=20)
            await expect(host.frame.locator("#undecidable")).to_contain_text("omium approve apr_")
            await expect(host.frame.get_by_role("button", name="Approve")).to_be_hidden()


async def test_a_run_is_followed_until_it_ends_and_no_longer(studio: Studio) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio) as host:
            await host.use("run_workflow", workflow="held", wait_seconds=0)
            view = host.frame
            await expect(view.get_by_role("button", name="second, function, running")).to_be_visible()
            studio.release.set()
            await expect(view.locator("#status")).to_have_text("done")
            asked = len(host.calls)
            assert await view.get_by_role("button", name="Refresh").is_hidden()
            await host.page.wait_for_timeout(4_000)  # real time: longer than it waits between two questions
            assert len(host.calls) == asked


async def test_a_view_that_is_taken_down_asks_nothing_more(studio: Studio) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio) as host:
            await host.use("run_workflow", workflow="held", wait_seconds=0)
            await expect(host.frame.get_by_role("button", name="second, function, running")).to_be_visible()
            await host.page.evaluate("window.send({id: 7, method: 'ui/resource-teardown', params: {}})")
            await host.page.wait_for_function("window.log.some((one) => one.id === 7 && one.result)")
            asked = len(host.calls)
            await host.page.wait_for_timeout(4_000)  # real time: longer than it waits between two questions
            assert len(host.calls) == asked


async def test_a_host_that_lets_views_call_nothing_still_shows_what_the_tool_gave(studio: Studio) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio, tools=False) as host:
            await host.use("run_workflow", workflow="gated", wait_seconds=20)
            await expect(host.frame.locator("#status")).to_have_text("needs a decision")
            await expect(host.frame.locator("#note")).to_contain_text("shows what the call gave")
            await expect(host.frame.get_by_role("button", name="Approve")).to_be_hidden()
            assert host.calls == []


async def test_many_nodes_are_drawn_together_with_their_container(studio: Studio) -> None:
    with anyio.fail_after(PATIENCE_S):
        async with open_host(studio) as host:
            await host.use("run_workflow", workflow="wide", inputs={"count": 150}, wait_seconds=20)
            await expect(host.frame.get_by_role("button", name="fan, function, done, 150/150")).to_be_visible()
            assert await host.frame.locator(".node").count() == 2
            assert host.problems == []
