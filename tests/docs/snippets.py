"""The code in Markdown files, and `omium` commands as they stand there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.house.tree import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"\A# ([\w./-]+\.\w+)\n")
_PLACEHOLDER = re.compile(r"<([a-z ]+)>")


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block: the page, the line of its first line, the language, the text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str | None:
        """The file that it is, if its first line is a comment with nothing but a name."""
        match = _NAME.match(self.text)
        return None if match is None else match[1]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets(page: Path, *languages: str) -> list[Snippet]:
    """The fenced blocks of a page, in order; all, or those in one of `languages`."""
    text = page.read_text("utf-8")
    found = [
        Snippet(page, text.count("\n", 0, match.start()) + 2, match[1], match[2]) for match in _FENCE.finditer(text)
    ]
    return [one for one in found if not languages or one.language in languages]


def command_lines(shell: str) -> list[str]:
    """The lines of a shell snippet without comments, continued lines joined, and split at `&&`."""
    joined = shell.replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [part.strip() for line in lines if line for part in line.split("&&")]


def words(line: str, values: dict[str, str] | None = None) -> list[str]:
    """A command line as an argument vector. A placeholder such as `<the first run>` gets its value, or stays one
    word that stands for something."""

    def fill(match: re.Match[str]) -> str:
        return shlex.quote((values or {}).get(match[1], match[1].replace(" ", "-")))

    return shlex.split(_PLACEHOLDER.sub(fill, line))
