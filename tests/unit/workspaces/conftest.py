"""A fresh home for workspaces, and a way to write and to see what a directory holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from omium.clients.workspaces import GitWorkspaces


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def workspaces(home: Path) -> GitWorkspaces:
    return GitWorkspaces(home)
