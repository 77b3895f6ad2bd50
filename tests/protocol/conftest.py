"""A project for real clients; what they leave running in the background ends with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.interaction.test_stdio import end_workers
from tests.protocol.project import Project, make_project


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    made = make_project(tmp_path)
    yield made
    database = tmp_path / "home" / "omium.db"
    if database.exists():
        await end_workers(database)
