"""What takes an environment of its own runs by its flag only."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path.name == "test_crewai.py" and not config.getoption("--crewai") else None
