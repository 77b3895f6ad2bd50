"""Which texts may name things, and which may be shown to people.

Names are compared, logged, shown in terminals and put into paths, so two names that look alike must be alike: they are
plain ASCII. Prose may be in any script but carries nothing that steers a terminal or reorders what is read.
"""

from __future__ import annotations

import re
import unicodedata

from omium.orchestration.definition.address import is_node_id

_NAME = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.:@/-]{0,255}\Z")
_TOOL = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,127}/[A-Za-z0-9_][A-Za-z0-9_.:@/-]{0,127}\Z")
_DIGITS = re.compile(r"\A[0-9]{1,18}\Z")
_PLACES = ("start", "head", "last")
_LAYOUT = frozenset("\n\r\t")
# Joiners and selectors belong to scripts and emoji; alone among format characters they reorder and hide nothing.
_JOINERS = frozenset("\u200c\u200d")


def id_problem(text: str) -> str:
    """Why `text` cannot be the id of a node; empty if it can."""
    if is_node_id(text):
        return ""
    return f"{text[:80]!r} is not an id; expected a letter or _, then at most 63 of A-Z a-z 0-9 _ -"


def name_problem(text: str) -> str:
    """Why `text` cannot be a name of something registered, a resource, a signal or a workflow; empty if it can."""
    if _NAME.match(text) and ".." not in text:
        return ""
    return f"{text[:80]!r} is not a name; expected at most 256 of A-Z a-z 0-9 _ . : @ / -, not beginning with a mark"


def tool_problem(text: str) -> str:
    """Why `text` cannot be a tool's name; empty if it can."""
    if _TOOL.match(text) and ".." not in text:
        return ""
    return f"{text[:80]!r} is not the name of a tool; expected server/tool"


def prose_problem(text: str) -> str:
    """Why `text` cannot be shown to people: control characters (ANSI sequences among them), characters that reorder or
    hide what is around them. Empty if it can."""
    if text.isprintable():
        return ""
    for one in text:
        category = unicodedata.category(one)
        if (category == "Cc" and one not in _LAYOUT) or (category in ("Cf", "Cs") and one not in _JOINERS):
            return f"holds the character U+{ord(one):04X}; expected text without control and invisible characters"
    return ""


def label_problem(text: str) -> str:
    """Why `text` cannot be an option that is chosen by its text; empty if it can. As prose, on one line, at most 100
    characters, without anything invisible, and the same after Unicode's compatibility composition (NFKC)."""
    if text and len(text) <= 100 and text.isprintable() and unicodedata.normalize("NFKC", text) == text.strip():
        return ""
    return f"{text[:80]!r} is not an option; expected at most 100 visible characters on one line"


def place_problem(text: str) -> str:
    """Why `text` cannot be the label of a checkpoint; empty if it can: it must not read as another kind of position."""
    problem = label_problem(text)
    if problem:
        return problem.replace("an option", "a label")
    if _DIGITS.match(text) or text in _PLACES or text.startswith(("node:", "before:")) or "@" in text:
        return f"{text!r} would read as another kind of position"
    return ""
