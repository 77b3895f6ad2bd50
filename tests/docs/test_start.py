"""The first pages of the documentation, typed in as they stand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Ended, Place
from tests.docs.snippets import Snippet, command_lines, snippets, words
from tests.house.tree import ROOT

START = ROOT / "docs" / "start.md"
MIGRATION = ROOT / "docs" / "from-langgraph.md"
APART = ("run", "approve", "rollback", "branch")  # they execute the project's code, so they get a process of their own


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """An empty directory, in which one is, with a home of its own."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    place = Place(tmp_path / "project")
    place.environment["HOME"] = str(tmp_path)
    yield place
    place.end_workers()


def typed(place: Place, parts: list[Snippet], codes: dict[str, int]) -> dict[str, list[Ended]]:
    """Type every command, the run's id filled in where the page leaves it out; how each ended, by its name."""
    values: dict[str, str] = {}
    ended: dict[str, list[Ended]] = {}
    for line in (line for part in parts for line in command_lines(part.text)):
        program, command, *arguments = words(line, values)
        assert program == "omium", line
        if command in APART:
            one = place.omium(command, *arguments)
        else:
            done = place.call(command, *arguments)
            one = Ended(done.exit_code, done.stdout, done.stderr)
        assert one.code == codes.get(command, 0), f"{line}: {one}"
        if command == "run":
            values["the first run"] = one.out.split()[0]
        if command == "branch":  # its question is there before it is answered
            assert place.settled()["status"] == "waiting_approval"
        ended.setdefault(command, []).append(one)
    return ended


def test_the_five_minutes_are_as_they_stand(place: Place) -> None:
    install, *parts = snippets(START, "sh")
    assert install.text.startswith("python3 -m venv")
    ended = typed(place, parts, {"run": 3})
    assert "publish" in ended["simulate"][0].out
    assert [one.out.count("status\tcompleted") for one in ended["show"]] == [1, 1]
    assert "retract" in ended["rollback"][0].out
    assert "rolled_back" in ended["events"][0].out
    assert (place.directory / "published.txt").read_text().split() == [
        "published", "1.0", "retracted", "1.0", "published", "2.0.0",
    ]  # fmt: skip
    assert '"serve"' in ended["mcp"][0].out and "nothing was written" in ended["mcp"][0].err
    assert not (place.directory.parent / ".claude.json").exists()  # it was a dry run


def test_the_graph_that_was_moved_works(place: Place) -> None:
    for snippet in snippets(MIGRATION, "yaml", "python"):
        assert snippet.name is not None, snippet
        (place.directory / snippet.name).write_text(snippet.text)
    ended = typed(place, snippets(MIGRATION, "sh"), {"run": 3})
    assert "Why? a page about Why? (in other words)" in ended["show"][0].out
    whole = place.omium("run", "whole", "--input", "question=Who?")
    assert whole.code == 0, whole
    assert place.settled()["output"] == {"answer": "Who? a page about Who?"}
