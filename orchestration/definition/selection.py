"""What an expression reads, found by its tokens alone: selections such as `nodes.a.output.commits[0].title`.

This serves three things: the checks of a definition (does it read only what is upstream?), taking from a scope only
what an expression reads, and resolving an expression that is nothing but a selection without the CEL library. The
tokens are those of the CEL specification (https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

SCOPE_NAMES = (
    "inputs",  # the inputs of the run
    "nodes",  # by id: {output, state, error} of the nodes upstream
    "run",  # {id, workflow, ...} of the run
    "item",  # the item of a fan-out's instance
    "index",  # its position, from 0
    "key",  # the text of its key
    "previous",  # the output of a loop's iteration before this one; null in the first
    "iteration",  # the number of the iteration, from 0
    "input",  # what the node itself was given: in `requires` and `expects`
    "output",  # what the node itself gave: in `expects`, `until` and `choice`
    "node",  # {id, kind, use, workspace}: in `approval_conditions`
)
"""The names that the expressions of a workflow may mention. Which of them have a value depends on the place."""

_TOKEN = re.compile(
    r"""
    (?P<space>[\t\n\f\r\ ]+|//[^\n]*)
  | (?P<string>[bB]?(?:
        [rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
      | \"{3}(?:\\.|.)*?\"{3} | '{3}(?:\\.|.)*?'{3}
      | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*'))
  | (?P<number>0[xX][0-9a-fA-F]+[uU]?|(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?[uU]?)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<quoted>`[^`\n]*`)
  | (?P<mark>.)
    """,
    re.ASCII | re.VERBOSE | re.DOTALL,
)
_INDEX = re.compile(r"\A(?:0|[1-9][0-9]{0,17})\Z")
_DOTTED = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*\Z")
_MACROS = frozenset({"all", "exists", "exists_one", "existsOne", "filter", "map"})
_KEYWORDS = frozenset({"in", "true", "false", "null"})  # tokens of their own, so never the name of a field


@dataclass(frozen=True, slots=True)
class Token:
    """kind: space, string, number, name, quoted or mark (one character); start and end are positions in the source."""

    kind: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Selection:
    """A name of the scope and the steps taken from it: text for a field, a number for a position. What follows a step
    that is computed (`nodes[inputs.a]`) is not in it, so it may stand for all that is below."""

    root: str
    steps: tuple[str | int, ...]
    open: bool = False  # a computed step follows

    def __str__(self) -> str:
        text = self.root
        for step in self.steps:
            if isinstance(step, str) and step.isidentifier():
                text += f".{step}"
            else:
                text += f"[{step}]" if isinstance(step, int) else f'["{step}"]'
        return text


def tokens(source: str, start: int = 0) -> list[Token]:
    """The tokens from `start` on, spaces and comments left out."""
    found = []
    for match in _TOKEN.finditer(source, start):
        kind = match.lastgroup or "mark"
        if kind != "space":
            found.append(Token(kind, match[0], match.start(), match.end()))
    return found


def nesting(parts: Sequence[Token]) -> int:
    """How deep the brackets of an expression go."""
    depth = deepest = 0
    for part in parts:
        if part.kind == "mark":
            if part.text in "([{":
                depth += 1
                deepest = max(deepest, depth)
            elif part.text in ")]}":
                depth -= 1
    return deepest


def selections(parts: Sequence[Token], names: Sequence[str] = SCOPE_NAMES) -> list[Selection]:
    """Every selection from one of `names`; not from a variable that a macro binds (`list.map(item, item.a)`)."""
    found = []
    bound = _bindings(parts)
    for place, part in enumerate(parts):
        if part.kind != "name" or part.text not in names or _is_field(parts, place) or _mark(parts, place + 1) == "(":
            continue
        if any(name == part.text and start < place < end for name, start, end in bound):
            continue
        steps, after = _steps(parts, place + 1)
        found.append(Selection(part.text, tuple(steps), _mark(parts, after) == "["))
    return found


def plain_selection(source: str, names: Sequence[str] = SCOPE_NAMES) -> Selection | None:
    """The selection that an expression is, if it is written with names and dots alone, as most are."""
    if len(source) > 500 or not _DOTTED.match(source):
        return None
    root, *steps = source.split(".")
    return None if root not in names or _KEYWORDS.intersection(steps) else Selection(root, tuple(steps))


def whole_selection(parts: Sequence[Token], names: Sequence[str] = SCOPE_NAMES) -> Selection | None:
    """The selection that the expression is, if it is nothing else."""
    if not parts or parts[0].kind != "name" or parts[0].text not in names:
        return None
    steps, after = _steps(parts, 1)
    return Selection(parts[0].text, tuple(steps)) if after == len(parts) else None


def _steps(parts: Sequence[Token], place: int) -> tuple[list[str | int], int]:
    """(the literal steps from `place` on, the place of the token after them)."""
    steps: list[str | int] = []
    while True:
        mark = _mark(parts, place)
        if mark == "." and place + 1 < len(parts):
            name = parts[place + 1]
            if name.kind == "name" and name.text not in _KEYWORDS and _mark(parts, place + 2) != "(":
                steps.append(name.text)
                place += 2
                continue
        elif mark == "[" and _mark(parts, place + 2) == "]":
            inner = parts[place + 1]
            if inner.kind == "number" and _INDEX.match(inner.text):
                steps.append(int(inner.text))
                place += 3
                continue
            if inner.kind == "string" and inner.text[0] in "\"'" and "\\" not in inner.text:
                steps.append(inner.text[3:-3] if inner.text[:3] in ('"""', "'''") else inner.text[1:-1])
                place += 3
                continue
        return steps, place


def _bindings(parts: Sequence[Token]) -> list[tuple[str, int, int]]:
    """The variables that macros bind, each with the places of the brackets between which it is bound."""
    found = []
    for place in range(2, len(parts) - 2):
        if (
            parts[place].text in _MACROS
            and _mark(parts, place - 1) == "."
            and _mark(parts, place + 1) == "("
            and parts[place + 2].kind == "name"
            and _mark(parts, place + 3) == ","
        ):
            found.append((parts[place + 2].text, place + 1, _matching(parts, place + 1)))
    return found


def _matching(parts: Sequence[Token], place: int) -> int:
    """The place of the bracket that closes the one at `place`; past the end if nothing does."""
    depth = 0
    for at in range(place, len(parts)):
        mark = _mark(parts, at)
        if mark and mark in "([{":
            depth += 1
        elif mark and mark in ")]}":
            depth -= 1
            if depth == 0:
                return at
    return len(parts)


def _mark(parts: Sequence[Token], place: int) -> str:
    """The mark at a place; empty if something else or nothing stands there."""
    return parts[place].text if place < len(parts) and parts[place].kind == "mark" else ""


def _is_field(parts: Sequence[Token], place: int) -> bool:
    """Whether the name at `place` is selected from something: `a.item` is, the absolute `.item` is not."""
    if _mark(parts, place - 1) != "." or place < 1:
        return False
    before = parts[place - 2] if place >= 2 else None
    return before is not None and (before.kind != "mark" or before.text in ")]}")
