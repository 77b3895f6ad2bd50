"""The studio, and which of these tests this machine can run."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.interaction.studio import Studio, open_studio

# What shows the view to eyes needs a browser, which no wheel brings: `apt-get install chromium`.
collect_ignore = [] if shutil.which("chromium") else ["test_browser.py"]


@pytest.fixture
async def studio(tmp_path: Path) -> AsyncIterator[Studio]:
    async with open_studio(tmp_path) as opened:
        yield opened
