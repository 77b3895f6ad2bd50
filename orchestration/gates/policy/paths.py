"""Paths in arguments, compared by their text alone, as whoever gets them may be on another machine.

A path lies under a root when its segments begin with the root's. Of what could mean something else to whoever opens it,
nothing can be told: a segment `..`, `~` at the beginning, a drive, a UNC path, a backslash, a URL, characters that
cannot be seen or that Unicode's NFKC makes into such marks, and percent-encoded dots and slashes. Symbolic links are
for whoever opens the path to refuse.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

from omium.orchestration.gates.policy.fields import Unclear
from omium.orchestration.gates.policy.names import loose, seen

MAX_PATH: Final = 4096
_DRIVE: Final = re.compile(r"\A[A-Za-z]:")
_SCHEME: Final = re.compile(r"\A[A-Za-z][A-Za-z0-9+.-]*:")
_ENCODED: Final = re.compile(r"%(?:2e|2f|5c|00|25)", re.IGNORECASE)
_MARKS: Final = "./\\~:%"

Segments = tuple[str, ...]


def root_problem(text: str) -> str:
    """What is wrong with a root; empty if nothing is."""
    try:
        segments(text)
    except Unclear as unclear:
        return f"{text!r:.80} is no root: {unclear}; expected a path such as /srv/data or reports"
    return ""


def segments(text: Any) -> tuple[bool, Segments]:
    """(whether it is absolute, its segments). Raises Unclear for what may not be what it looks like."""
    if type(text) is not str:
        raise Unclear(f"a path of type {'null' if text is None else type(text).__name__}")
    if not text or len(text) > MAX_PATH:
        raise Unclear("an empty path" if not text else f"a path of more than {MAX_PATH} characters")
    if not seen(text):
        raise Unclear("a path with characters that cannot be seen")
    if not text.isascii():
        normal = unicodedata.normalize("NFKC", text)
        if any(normal.count(mark) != text.count(mark) for mark in _MARKS):
            raise Unclear("a path with characters that stand for dots or slashes")
    if "\\" in text:
        raise Unclear("a path with a backslash")
    if text[0] == "~":
        raise Unclear("a path that begins with ~")
    if text.startswith("//"):
        raise Unclear("a path that begins with two slashes")
    if _DRIVE.match(text) or _SCHEME.match(text):
        raise Unclear("a path with a drive, or a URL")
    if "%" in text and _ENCODED.search(text):
        raise Unclear("a path with encoded dots or slashes")
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if any(not part.strip(" .") for part in parts):
        raise Unclear("a path with a segment ..")
    return text[0] == "/", parts


def path_under(roots: Sequence[str], *, folded: bool) -> Any:
    """A condition: the value is a path under one of the roots, or the root itself. A relative path lies under relative
    roots only (`.` is all of them). folded: without regard to case, for file systems that have none."""
    known = [_folded(segments(root)) if folded else segments(root) for root in roots]

    def holds(value: Any) -> bool:
        absolute, parts = _folded(segments(value)) if folded else segments(value)
        return any(absolute == one and parts[: len(root)] == root for one, root in known)

    return holds


def _folded(path: tuple[bool, Segments]) -> tuple[bool, Segments]:
    return path[0], tuple(map(loose, path[1]))
