"""Projects for the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Place, place


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Place]:
    """An empty project."""
    with place(tmp_path / "project") as made:
        yield made


@pytest.fixture(scope="module")
def used_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A project with three runs, oldest first: one completed, one failed, one that waits for a decision."""
    with place(tmp_path_factory.mktemp("used") / "project") as made:
        for code, arguments in (
            (0, ("run", "hello", "--input", "name=ada", "--title", "first")),
            (1, ("run", "failing")),
            (3, ("run", "asking")),
        ):
            ended = made.omium(*arguments)
            assert ended.code == code, ended.err
        made.end_workers()
        yield made


@pytest.fixture(autouse=True)
def _forget_the_project() -> Iterator[None]:
    """A project puts its own module on the path of the process that loads it."""
    path = list(sys.path)
    yield
    sys.modules.pop("steps", None)
    sys.path[:] = path
