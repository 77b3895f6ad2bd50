"""How soon people see what happened: the page of a run in Chromium, while another process writes to its log."""

from __future__ import annotations

import anyio
from playwright.async_api import expect

from omium.server.app import open_omium
from tests.bench.figures import Figure
from tests.bench.ours.work import Work, latency
from tests.ui.eyes import open_eyes
from tests.ui.house import open_house

_BETWEEN_S = 0.07  # a person sees events that come apart; not a multiple of how often the database is looked at
# The age of each event, in milliseconds, at the first frame that shows it.
_WATCH = """() => {
  window.ages = [];
  const seen = new MutationObserver((changes) => requestAnimationFrame(() => {
    for (const change of changes) for (const line of change.addedNodes) {
      const time = line.querySelector && line.querySelector("time");
      if (time) window.ages.push(Date.now() - Date.parse(time.getAttribute("datetime")));
    }
  }));
  seen.observe(document.getElementById("events"), { childList: true });
}"""


async def screens(work: Work) -> list[Figure]:
    """`times` signals, sent through a store of its own, to the line that tells of each on the page of its run."""
    async with (
        open_house(work.directory / "house") as house,
        open_omium(house.config, engine=False) as other,
        open_eyes(house) as eyes,
    ):
        run = await house.core.run_workflow(house.owner, "slow", {})
        async with eyes.looking(f"/runs/{run.id}/events") as page:
            await expect(page.locator("#feed-state")).to_have_text("Live")
            await page.evaluate(_WATCH)
            for number in range(work.times):
                await other.signal(house.owner, run.id, f"signal-{number}")
                await anyio.sleep(_BETWEEN_S)
            await page.wait_for_function(f"window.ages.length >= {work.times}")
            ages = await page.evaluate("window.ages")
        house.release()
    return [latency("event_screen_ms", [age / 1000 for age in ages])]
