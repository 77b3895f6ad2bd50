"""What a project leaves behind in the process of a test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _forget_the_project() -> Iterator[None]:
    """Every test has a project of its own, whose module is always called `work`."""
    path = list(sys.path)
    sys.modules.pop("work", None)
    yield
    sys.modules.pop("work", None)
    sys.path[:] = path
