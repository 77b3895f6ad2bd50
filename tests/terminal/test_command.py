"""`omium top` as it is typed: at a real terminal, without the extra, and where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from omium.server.commands.top import is_dark
from tests.cli.harness import Place, Terminal, place


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Place]:
    path = list(sys.path)
    with place(tmp_path / "project") as made:
        yield made
    sys.modules.pop("steps", None)
    sys.path[:] = path


def test_a_decision_at_a_terminal_has_the_run_go_on(project: Place) -> None:
    assert project.omium("run", "asking").code == 3
    project.end_workers()
    terminal = Terminal(project, "top", env={"LINES": "24", "COLUMNS": "80"})
    terminal.until("Publish hello ada?")
    terminal.until("needs elicited")  # the question in full: what is not shown yet cannot be decided
    terminal.type("a")
    terminal.until("Enter: approve")
    terminal.type("\r")
    terminal.until("decided: approve")
    assert project.settled()["status"] == "completed"
    terminal.type("q")
    assert terminal.end().code == 0


def test_without_the_extra_it_says_what_to_install(project: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [one for one in sys.modules if one.startswith(("textual", "omium.server.terminal"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "textual", None)
    done = project.call("top")
    assert done.exit_code == 1
    assert "pip install 'omium-mcp[tui]'" in done.stderr


def test_in_a_pipe_it_names_the_other_commands(project: Place) -> None:
    for arguments in ((), ("--json",)):
        done = project.call("top", *arguments)
        assert done.exit_code == 1
        assert "omium approvals" in done.stderr


@pytest.mark.parametrize(
    ("theme", "said", "dark"),
    [
        ("dark", "0;15", True),
        ("light", "15;0", False),
        ("auto", "0;15", False),
        ("auto", "0;default;7", False),
        ("auto", "15;0", True),
        ("auto", "15;8", True),
        ("auto", "15;\u00b2", True),
        ("auto", "nonsense", True),
        ("auto", "", True),
    ],
)
def test_the_background_is_guessed(theme: str, said: str, dark: bool) -> None:
    assert is_dark(theme, {"COLORFGBG": said}) is dark
