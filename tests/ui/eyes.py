"""A browser with scripts, and what looks for barriers on a page.

    python -m tests.ui.eyes [DIRECTORY]

takes the pictures of `docs/images`, or writes them elsewhere.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import anyio
from playwright.async_api import Browser, Page, async_playwright

from tests import nodejs
from tests.app.host import FLAGS
from tests.ui.house import House, furnish, open_house

AXE = Path(__file__).with_name("npm")
IMAGES = Path(__file__).parents[2] / "docs" / "images"
# WCAG 2.2, levels A and AA.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]

Theme = Literal["light", "dark"]
SIZES = {"wide": (1360, 900), "phone": (390, 844)}


@dataclass
class Eyes:
    """problems: errors and warnings that the pages gave, and requests that went elsewhere."""

    chromium: Browser
    url: str
    problems: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def looking(self, path: str, size: str = "wide", theme: Theme = "light", **more: Any) -> AsyncIterator[Page]:
        width, height = SIZES[size]
        context = await self.chromium.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, base_url=self.url, **more
        )
        page = await context.new_page()
        page.on("pageerror", lambda error: self.problems.append(f"{page.url}: {error}"))
        page.on("console", lambda said: self._heard(page, said.type, said.text))
        page.on("request", lambda asked: self._asked(asked.url))
        try:
            await page.goto(path)
            yield page
        finally:
            await context.close()

    def _heard(self, page: Page, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.problems.append(f"{page.url}: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.problems.append(f"a request to {url}")


@cache
def axe() -> str:
    return nodejs.script("axe-core", "axe.min.js", AXE).read_text("utf-8")


async def barriers(page: Page) -> list[str]:
    """What keeps somebody from using the page, as `rule: element`."""
    await page.evaluate(axe())
    options = {"runOnly": {"type": "tag", "values": RULES}, "resultTypes": ["violations"]}
    found = await page.evaluate("(options) => axe.run(document, options)", options)
    return [
        f"{one['id']}: {node['target']} {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


@asynccontextmanager
async def open_eyes(house: House) -> AsyncIterator[Eyes]:
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        try:
            yield Eyes(chromium, house.url)
        finally:
            await chromium.close()


def screens(ids: dict[str, str]) -> dict[str, tuple[str, str, Theme]]:
    """Every screen by its name: (path, size, theme)."""
    done, asking, failed = (f"/runs/{ids[name]}" for name in ("done", "asking", "failed"))
    return {
        "runs": ("/", "wide", "light"),
        "runs-dark": ("/", "wide", "dark"),
        "runs-phone": ("/", "phone", "light"),
        "run-failed": (f"{failed}?node=visit", "wide", "light"),
        "run-failed-dark": (f"{failed}?node=visit", "wide", "dark"),
        "run-node": (f"{done}?node=write", "wide", "light"),
        "run-phone": (asking, "phone", "dark"),
        "run-wide": (f"/runs/{ids['wide']}?open=fan", "wide", "dark"),
        "timeline": (f"{done}/timeline", "wide", "light"),
        "checkpoints": (f"{done}/history?at={ids['at']}", "wide", "light"),
        "checkpoints-phone": (f"{done}/history", "phone", "dark"),
        "branches": (f"/runs/{ids['branch']}/branches", "wide", "light"),
        "compare": (f"/compare?a={ids['done']}&b={ids['branch']}", "wide", "light"),
        "events": (f"/runs/{ids['slow']}/events", "wide", "dark"),
        "calls": (f"{done}/calls", "wide", "light"),
        "files": (f"{done}/files", "wide", "light"),
        "who-did-what": (f"{done}/audit", "wide", "light"),
        "inbox": (f"/approvals/{ids['approval']}", "wide", "light"),
        "inbox-dark": (f"/approvals/{ids['approval']}", "wide", "dark"),
        "inbox-phone": (f"/approvals/{ids['approval']}", "phone", "light"),
        "hostile": (f"/runs/{ids['hostile']}?node=say", "wide", "light"),
        "workflows": ("/workflows", "wide", "light"),
        "workflow": ("/workflows/release-notes", "wide", "light"),
        "sign-in": ("/sign-in", "wide", "light"),
    }


async def take(where: Path) -> None:
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        async with open_house(Path(directory)) as house, open_eyes(house) as eyes:
            ids = await furnish(house)
            for name, (path, size, theme) in screens(ids).items():
                async with eyes.looking(path, size, theme) as page:
                    await page.wait_for_load_state("load")
                    await page.wait_for_function("document.readyState === 'complete'")
                    await page.wait_for_timeout(300)
                    await page.screenshot(path=str(where / f"{name}.png"))
            house.release()
            print("\n".join(eyes.problems) or f"{len(screens(ids))} pictures in {where}")


if __name__ == "__main__":
    anyio.run(take, Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
