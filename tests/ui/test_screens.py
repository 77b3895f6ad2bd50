"""Every screen in a real browser: nothing breaks or overflows, nothing is asked elsewhere, no barrier (WCAG AA)."""

from __future__ import annotations

import anyio
import pytest

from tests.ui.eyes import barriers, open_eyes, screens
from tests.ui.house import House, furnish

pytestmark = pytest.mark.anyio


async def test_every_screen_is_whole_and_without_barriers(house: House) -> None:
    with anyio.fail_after(300):
        ids = await furnish(house)
        found: list[str] = []
        async with open_eyes(house) as eyes:
            for name, (path, size, theme) in screens(ids).items():
                async with eyes.looking(path, size, theme) as page:
                    await page.wait_for_function("document.readyState === 'complete'")
                    across = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    found += [f"{name} is {across} pixels too wide"] if across > 0 else []
                    found += [f"{name}: {one}" for one in await barriers(page)]
            assert eyes.problems == []
        assert found == [], "\n".join(found)
