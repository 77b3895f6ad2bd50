"""The served studio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.http.served import Served, serve_studio


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server on loopback that takes tokens, and its user without one."""
    async with serve_studio(tmp_path) as running:
        yield running
