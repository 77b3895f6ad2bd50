"""README: its two commands, its project typed in as it stands, and what it says about the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from omium.tools.toolsets import DEFAULT, TOOLSETS
from tests.cli.harness import Place
from tests.docs.snippets import command_lines, snippets, words
from tests.house.tree import ROOT

README = ROOT / "README.md"
TEXT = README.read_text("utf-8")
EXIT_CODES = {"run": 3}  # it waits for the decision


@pytest.fixture
def hello(tmp_path: Path) -> Iterator[Place]:
    """The project of the README, in a directory and with a home of its own."""
    directory = tmp_path / "hello"
    directory.mkdir()
    for snippet in snippets(README, "yaml", "python"):
        assert snippet.name is not None, snippet
        (directory / snippet.name).write_text(snippet.text)
    place = Place(directory)
    try:
        yield place
    finally:
        place.end_workers()


def commands_of_the_project() -> list[str]:
    (found,) = (one for one in snippets(README, "sh") if one.text.startswith("omium run"))
    return command_lines(found.text)


def test_the_first_screen_has_the_two_commands() -> None:
    shell = [one.text.strip() for one in snippets(README, "sh")][:2]
    assert shell == [
        "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/omium demo",
        ".venv/bin/pip install -q -e '.[dev]' && .venv/bin/python -m pytest",
    ]


def test_the_second_command_is_what_ci_types() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    install, test = command_lines(snippets(README, "sh")[1].text)
    assert install.removeprefix(".venv/bin/pip ") in script
    assert any(line.strip().startswith(f"{test} ") for line in script.splitlines())


def test_the_project_works_as_it_is_typed(hello: Place) -> None:
    values: dict[str, str] = {}
    for line in commands_of_the_project():
        _, command, *arguments = words(line, values)
        ended = hello.omium(command, *arguments)
        assert ended.code == EXIT_CODES.get(command, 0), f"{line}: {ended.err}{ended.out}"
        if command == "run":
            values["the first run"] = ended.out.split()[0]
        if command == "show":
            assert "status\tcompleted" in ended.out
            assert "Hello, Ada!" in ended.out and "Hello, Bo!" in ended.out
        if command == "branch":  # the one that is compared with the other once it waits as well
            assert hello.settled()["status"] == "waiting_approval"
        if command == "compare":
            assert "greet" in ended.out and "Dr. Lovelace" in ended.out


def test_the_tools_that_it_names_are_those_of_the_server() -> None:
    section = TEXT.partition("The tools are verbs: ")[2].partition(". ")[0]
    named = [one.strip("`") for one in section.replace("\n", " ").split(", ")]
    assert named == [spec.name for spec in TOOLSETS[DEFAULT]]
