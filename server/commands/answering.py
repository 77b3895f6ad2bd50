"""How a question is answered at a terminal: the line that does it, and what was typed as an option and words."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from omium.server.commands.console import short

ANSWER = "answer"  # the only option of a question that is answered in one's own words


def in_words(options: Sequence[str]) -> bool:
    """Whether there is nothing to choose: the answer is a text of one's own."""
    return list(options) == [ANSWER]


def approve_line(approval: str, options: Sequence[str]) -> str:
    """The command that answers with the first option, as a shell takes it."""
    line = f"omium approve {short(approval)}"
    if in_words(options):
        return f"{line} --feedback TEXT"
    return line if "approve" in options or not options else f"{line} --choice {shlex.quote(options[0])}"


def typed(said: str, options: Sequence[str]) -> tuple[str, str] | None:
    """(the option, the words behind it) of a line; None if it names no option. Options may hold spaces, and one may
    begin as another does: the longest that fits is meant."""
    said = said.strip()
    for option in sorted(options, key=len, reverse=True):
        if said == option or said.startswith(f"{option} "):
            return option, said[len(option) :].strip()
    return (ANSWER, said) if in_words(options) else None
