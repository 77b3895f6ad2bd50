"""A store of its own for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from omium.orchestration.ports import Store
from tests.external.help import database


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with database(tmp_path) as opened:
        yield opened
