"""Every command of the runbook, typed as it stands there, at a project where something is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Ended, Place
from tests.docs.snippets import Snippet, command_lines, snippets, words
from tests.house.tree import ROOT

PAGE = ROOT / "docs" / "runbook.md"
PARTS = snippets(PAGE, "sh")
APART = ("worker", "rollback", "play-from")  # they load the project's code, which differs from test to test


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A project with a run that completed, one that failed and one that asks, a token, and exported heads."""
    place = Place.make(tmp_path_factory.mktemp("runbook") / "project")
    done = {name: place.omium("run", name, *more, env={"OMIUM_DETACH": "false"}) for name, more in (
        ("hello", ["--input", "name=ada"]), ("failing", []), ("asking", []),
    )}  # fmt: skip
    assert [one.code for one in done.values()] == [0, 1, 3], done
    runs = {name: place.json("runs", "--workflow", name)["runs"][0]["id"] for name in done}
    assert place.call("token", "create", "--role", "viewer").exit_code == 0
    values = {
        "the run": runs["hello"],
        "the failed run": runs["failing"],
        "the question": place.json("approvals")[0]["id"],
        "the token": place.json("token", "list")[0]["id"],
    }
    yield place.directory, values
    place.end_workers()


@pytest.fixture
def place(troubled: tuple[Path, dict[str, str]], tmp_path: Path) -> Iterator[Place]:
    """A copy of it, so that the parts of the runbook do not depend on each other."""
    place = Place(tmp_path / "project")
    shutil.copytree(troubled[0], place.directory, ignore=shutil.ignore_patterns("home"))
    yield place
    place.end_workers()


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_the_commands_of_a_part_do_what_it_says(
    part: Snippet, place: Place, troubled: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place.directory)  # where the files go that a command names
    for line in command_lines(part.text):
        program, *arguments = words(line, troubled[1])
        assert program == "omium", line
        if arguments[0] in APART:
            ended = place.omium(*arguments, env={"OMIUM_DETACH": "false"})
        else:
            done = place.call(*arguments)
            ended = Ended(done.exit_code, done.stdout, done.stderr)
        # A finding is no failure of the command that finds it, but it says so: `doctor` and `health` end with 1.
        accepted = {0, 1} if arguments[0] in ("doctor", "health") else {0}
        assert ended.code in accepted, f"{line}: {ended.code}\n{ended.out}{ended.err}"
        assert "Traceback" not in ended.err, line


def test_every_part_of_the_runbook_has_commands() -> None:
    headings = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("## ")]
    assert len(PARTS) >= len(headings)
