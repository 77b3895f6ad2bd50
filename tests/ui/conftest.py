"""The house, empty or furnished, and which of these tests this machine can run."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.ui.house import House, open_house

# What shows pages to eyes needs a browser, which no wheel brings: `apt-get install chromium`.
collect_ignore = [] if shutil.which("chromium") else ["test_browser.py", "test_screens.py"]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as opened:
        yield opened
        opened.release()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[House]:
    """A house that nobody enters without a credential."""
    async with open_house(tmp_path, open_to=False) as opened:
        yield opened
        opened.release()
