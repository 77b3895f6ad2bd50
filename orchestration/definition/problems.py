"""What is wrong with a definition, collected: all problems are reported at once, each with where it is.

A problem's path is in terms of the document (`nodes[2].needs[0]`), whoever finds it; the loader adds file and line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from omium.orchestration.errors import OmiumError

MAX_REPORTED = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """path: where in the document; expected: what would be right there (may be empty); line: from 1, or None."""

    path: str
    message: str
    expected: str = ""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        position = f"{self.file}:{self.line}: " if self.file and self.line else f"{self.file}: " if self.file else ""
        where = f"{self.path[:200]}: " if self.path else ""
        expected = f"; expected {self.expected}" if self.expected else ""
        return visible(f"{position}{where}{self.message}{expected}")

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "line": self.line,
            "path": self.path,
            "message": self.message,
            "expected": self.expected,
        }


def visible(text: str) -> str:
    """The text with control, bidirectional and other invisible characters escaped: it is going to a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode() for one in text)


def invalid_definition(problems: Sequence[Problem]) -> OmiumError:
    """The error for these problems (at least one): `data["problems"]` lists them, the message reads a line for each."""
    shown = [str(problem) for problem in problems[:MAX_REPORTED]]
    more = len(problems) - len(shown)
    message = "\n".join(shown) + (f"\nand {more} more problems" if more else "")
    return OmiumError(
        "invalid_definition",
        message,
        problems=[problem.as_dict() for problem in problems[:MAX_REPORTED]],
        count=len(problems),
    )


def located(
    problems: Sequence[Problem], source: str | None, line_of: Callable[[str], int | None] | None
) -> list[Problem]:
    """The same problems with file and line, where they have none yet, in the order of the file."""
    found = [
        Problem(
            problem.path,
            problem.message,
            problem.expected,
            problem.file or source,
            problem.line or (line_of(problem.path) if line_of else None),
        )
        for problem in problems
    ]
    return sorted(found, key=lambda problem: problem.line or 0)
