"""Globs over names: servers, tools, agents, workflows, nodes, principals, and texts in arguments.

- `*` stands for any run of characters, also none, within one part of a name; `**` also across parts; `?` for one
  character within a part; a backslash takes the next character as it is. Nothing else is special: `fan[3]` is a node.
- Parts are separated by `/`; in principals also by `:`, in nodes by `.`.
- The pattern `*` on its own stands for every name that is there. A name that is not there matches nothing.
- A glob always covers the whole name.

Which way a doubt falls depends on what follows from a match. Where a match grants something (`strict`), a name is
compared character by character, and one that is not in Unicode's NFKC form, or that holds characters which cannot be
seen, matches nothing. Where a match withholds something (`loose`), the name is folded first (NFKC, case, and without
characters that cannot be seen), so that no spelling of it escapes.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, Final

SEPARATORS: Final[Mapping[str, str]] = {"principal": "/:", "node": "/."}
DEFAULT_SEPARATORS: Final = "/"
MAX_PATTERN: Final = 512
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})

Test = Callable[[str], bool]


def seen(text: str) -> bool:
    """Whether every character of a name can be seen: no controls, no directions, nothing of zero width."""
    return text.isprintable() or not any(unicodedata.category(one) in _UNSEEN for one in text)


def strict(text: str) -> str | None:
    """The name if it is what it looks like, else None."""
    if text.isascii():
        return text if text.isprintable() else None
    return text if seen(text) and unicodedata.is_normalized("NFKC", text) else None


def loose(text: str) -> str:
    """The name without differences of case, form or invisible characters."""
    if text.isascii() and text.isprintable():
        return text.lower()
    kept = "".join(one for one in unicodedata.normalize("NFKC", text) if unicodedata.category(one) not in _UNSEEN)
    # Folding case can bring back what is not normal, and the other way round.
    return unicodedata.normalize("NFKC", kept.casefold())


def is_literal(pattern: str) -> bool:
    """Whether a glob stands for one name alone."""
    return not any(mark in pattern for mark in "*?\\")


def glob_problem(pattern: str) -> str:
    """What is wrong with a glob; empty if nothing is."""
    if not pattern:
        return "is empty; expected a name or a glob such as read_*"
    if len(pattern) > MAX_PATTERN:
        return f"is longer than {MAX_PATTERN} characters; expected a shorter glob"
    if strict(pattern) is None:
        return f"{pattern!r:.60} has characters that are not in NFKC form or cannot be seen; expected plain ones"
    if (len(pattern) - len(pattern.rstrip("\\"))) % 2:
        return f"{pattern!r:.60} ends with a backslash; expected a character after it"
    if "***" in pattern:
        return f"{pattern!r:.60} has three asterisks in a row; expected * or **"
    return ""


def glob_test(pattern: str, separators: str = DEFAULT_SEPARATORS) -> Test:
    """The test of one glob over names that are already strict, or loose: the pattern then has to be folded as well."""
    if is_literal(pattern):
        return pattern.__eq__
    if pattern in ("*", "**"):
        return _anything
    stem = pattern[:-1]
    if pattern[-1] == "*" and is_literal(stem):
        return _prefix(stem, separators)
    return _regex(pattern, separators)


def names_test(patterns: tuple[str, ...], separators: str, *, folded: bool) -> Callable[[Any], bool]:
    """Whether a name, which may be missing, matches any of the globs. folded: whether a match withholds."""
    if folded:
        patterns = tuple(dict.fromkeys(map(loose, patterns)))
    literals = frozenset(one for one in patterns if is_literal(one))
    tests = tuple(glob_test(one, separators) for one in patterns if not is_literal(one))
    normal: Callable[[str], str | None] = loose if folded else strict

    def matches(name: Any) -> bool:
        if type(name) is not str:
            return False
        text = normal(name)
        if text is None:
            return False
        return text in literals or any(test(text) for test in tests)

    return matches


def covers(wide: str, narrow: str, separators: str = DEFAULT_SEPARATORS) -> bool:
    """Whether every name that `narrow` stands for is one of `wide`. False where that is not plain to see."""
    if wide == narrow or wide in ("*", "**"):
        return True
    if is_literal(narrow):
        return glob_test(wide, separators)(narrow)
    stem = wide.rstrip("*")
    if not is_literal(stem) or stem == wide:
        return False
    fixed = narrow[: min(narrow.find(mark) for mark in "*?\\" if mark in narrow)]
    if not fixed.startswith(stem):
        return False
    rest = narrow[len(stem) :]
    return wide.endswith("**") or not ("**" in rest or any(mark in rest for mark in separators))


def _anything(text: str) -> bool:
    return True


def _prefix(stem: str, separators: str) -> Test:
    length = len(stem)

    def test(text: str) -> bool:
        return text.startswith(stem) and not any(mark in text[length:] for mark in separators)

    return test


def _regex(pattern: str, separators: str) -> Test:
    """By RE2, whose time is linear in the text whatever the pattern: texts come from attackers."""
    from omium.orchestration.gates.policy.regexes import compiled, quoted

    inside = f"[^{''.join(chr(92) + one for one in separators)}]"
    source, at = "", 0
    while at < len(pattern):
        one = pattern[at]
        if pattern.startswith("**", at):
            source += ".*"
            at += 2
            continue
        if one == "\\":
            at += 1
            source += quoted(pattern[at])
        else:
            source += f"{inside}*" if one == "*" else inside if one == "?" else quoted(one)
        at += 1
    found = compiled(rf"(?s)\A(?:{source})\z")

    def test(text: str) -> bool:
        return found(text)

    return test
