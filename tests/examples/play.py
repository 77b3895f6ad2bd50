"""An example as its README says to use it: copied, and its commands typed in."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.cli.harness import Ended, Place
from tests.docs.snippets import command_lines, snippets, words
from tests.house.tree import ROOT

EXAMPLES = ROOT / "examples"


def lines_of(example: str) -> list[str]:
    """The commands of an example's README."""
    return [line for one in snippets(EXAMPLES / example / "README.md", "sh") for line in command_lines(one.text)]


@contextmanager
def copied(example: str, directory: Path) -> Iterator[Place]:
    """The example in a directory of its own; its background workers end with the block."""
    place = Place(directory / example)
    shutil.copytree(EXAMPLES / example, place.directory, ignore=shutil.ignore_patterns("__pycache__"))
    try:
        yield place
    finally:
        place.end_workers()


def play(
    place: Place,
    example: str,
    values: Mapping[str, str],
    codes: Mapping[str, int],
    after: Callable[[int, Ended], None] = lambda *_: None,
) -> list[Ended]:
    """Type the commands of the README. codes: expected exit codes by command, 0 unless given; values: what its
    placeholders stand for, besides `<the first run>`. after: called with the place of each command, and how it ended;
    before the next one whatever runs has settled."""
    known = dict(values)
    done: list[Ended] = []
    for number, line in enumerate(lines_of(example)):
        program, command, *arguments = words(line, known)
        assert program == "omium", line
        ended = place.omium(command, *arguments)
        assert ended.code == codes.get(command, 0), f"{line}: {ended.code} {ended.out}{ended.err}"
        if command == "run":
            known["the first run"] = ended.out.split()[0]
        place.settled()
        after(number, ended)
        done.append(ended)
    return done


def interpreter(line: str) -> list[str]:
    """The argument vector of a line that begins with `python`, under this interpreter."""
    program, *arguments = words(line)
    assert program == "python", line
    return [sys.executable, *arguments]
