"""JSON as a text that somebody else owns: members are found, set and removed in place, and every other byte stays.

Reading it into objects and writing those back would lose comments, the order of digits, indentation and line ends. So
this parser keeps where everything stands, and changes are edits of the text. JSON is that of RFC 8259; with `comments`
also `//` and `/* */` and a comma behind the last member, as editors and some clients allow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]  # the standard library's own, with its position
from typing import Any

from omium.orchestration.errors import OmiumError

_SPACE = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None}
_DEPTH = 200


def not_json(problem: str, at: int) -> OmiumError:
    """The error for a text that is not JSON, or not as it has to be. `data["at"]`: the index of the character."""
    return OmiumError("invalid_argument", problem, at=at)


@dataclass(frozen=True, slots=True)
class Member:
    key: str
    start: int
    value: Node


@dataclass(frozen=True, slots=True)
class Node:
    """A value and where it stands: `text[start:end]`. `members`: those of an object, None for anything else."""

    value: Any
    start: int
    end: int
    members: Sequence[Member] | None = None

    def member(self, key: str) -> Member | None:
        """Raises `not_json` when the object has the key twice: which one counts depends on who reads."""
        found = [one for one in self.members or () if one.key == key]
        if len(found) > 1:
            raise not_json(f"the key {json.dumps(key)} stands here a second time", found[1].start)
        return found[0] if found else None


def parse(text: str, *, comments: bool = False) -> Node:
    """The value that the whole text is. Raises `not_json`."""
    reader = _Reader(text, comments)
    node = reader.value(reader.skip(1 if text.startswith("\ufeff") else 0), 0)
    end = reader.skip(node.end)
    if end < len(text):
        raise not_json("there is something behind the end", end)
    return node


class _Reader:
    def __init__(self, text: str, comments: bool) -> None:
        self.text = text
        self.comments = comments

    def skip(self, at: int) -> int:
        """Behind white space and comments."""
        while True:
            match = _SPACE.match(self.text, at)
            assert match is not None
            at = match.end()
            comment = _COMMENT.match(self.text, at) if self.comments else None
            if comment is None:
                return at
            at = comment.end()

    def value(self, at: int, depth: int) -> Node:
        if depth > _DEPTH:
            raise not_json("it is nested too deeply", at)
        first = self.text[at : at + 1]
        if first == "{":
            return self._object(at, depth)
        if first == "[":
            return self._array(at, depth)
        if first == '"':
            text, end = self._string(at)
            return Node(text, at, end)
        number = _NUMBER.match(self.text, at)
        if number is not None:
            return Node(json.loads(number.group()), at, number.end())
        for word, meaning in _WORDS.items():
            if self.text.startswith(word, at):
                return Node(meaning, at, at + len(word))
        raise not_json("a value is expected" if first else "it ends too early", at)

    def _string(self, at: int) -> tuple[str, int]:
        try:
            text, end = scanstring(self.text, at + 1, True)
        except json.JSONDecodeError as error:
            raise not_json(error.msg.lower(), error.pos) from None
        return text, end

    def _object(self, start: int, depth: int) -> Node:
        members: list[Member] = []
        at = self.skip(start + 1)
        while self.text[at : at + 1] != "}":
            if self.text[at : at + 1] != '"':
                raise not_json("a key in quotes is expected", at)
            key, colon = self._string(at)
            colon = self.skip(colon)
            if self.text[colon : colon + 1] != ":":
                raise not_json("a colon is expected", colon)
            node = self.value(self.skip(colon + 1), depth + 1)
            members.append(Member(key, at, node))
            at = self._next(node.end, "}")
        return Node({one.key: one.value.value for one in members}, start, at + 1, tuple(members))

    def _array(self, start: int, depth: int) -> Node:
        items: list[Any] = []
        at = self.skip(start + 1)
        while self.text[at : at + 1] != "]":
            node = self.value(at, depth + 1)
            items.append(node.value)
            at = self._next(node.end, "]")
        return Node(items, start, at + 1)

    def _next(self, end: int, closing: str) -> int:
        """Where the next item stands, or the closing bracket."""
        at = self.skip(end)
        if self.text[at : at + 1] == closing:
            return at
        if self.text[at : at + 1] != ",":
            raise not_json(f"a comma or {closing} is expected", at)
        following = self.skip(at + 1)
        if self.text[following : following + 1] == closing and not self.comments:
            raise not_json("a value is expected behind the comma", following)
        return following


# --- edits -----------------------------------------------------------------------------------------------------------


def set_member(text: str, path: Sequence[str], value: Any, *, comments: bool = False) -> str:
    """The text with `value` at this path of keys; objects on the way are made. Raises `not_json`, also when something
    on the way is no object."""
    if not text.strip():
        return _written(_nested(path, value), "", _Style("  ", "\n", True)) + "\n"
    root = parse(text, comments=comments)
    style = _style(text, root)
    node = root
    place: Node | Member = root
    for depth, key in enumerate(path):
        if node.members is None:
            raise not_json("an object is expected", node.start)
        member = node.member(key)
        if member is None:
            return _inserted(text, node, key, _nested(path[depth + 1 :], value), style, comments)
        node, place = member.value, member
    shown = _written(value, _indent_at(text, place.start), style)
    return text[: node.start] + shown + text[node.end :]


def remove_member(text: str, path: Sequence[str], *, comments: bool = False) -> str:
    """The text without what stands at this path; the same text when nothing does. Raises `not_json`."""
    if not text.strip():
        return text
    node = parse(text, comments=comments)
    for key in path[:-1]:
        member = node.member(key)
        if member is None:
            return text
        node = member.value
    gone = node.member(path[-1])
    if gone is None:
        return text
    if node.members is not None and len(node.members) == 1:
        rest = text[node.start + 1 : gone.start] + text[gone.value.end : node.end - 1]
        if not rest.replace(",", "").strip():
            return f"{text[: node.start]}{{}}{text[node.end :]}"
    reader = _Reader(text, comments)
    comma = reader.skip(gone.value.end)
    if text[comma] == ",":
        after = comma + 1
        kept = text[gone.value.end : comma]  # a comment between the value and its comma
        return _cut(text, gone.start, after, kept)
    assert node.members is not None
    place = node.members.index(gone)
    if place == 0:
        return _cut(text, gone.start, gone.value.end, "")
    before = reader.skip(node.members[place - 1].value.end)  # the comma that is too much now
    shorter = _cut(text, gone.start, gone.value.end, "")
    return shorter[:before] + shorter[before + 1 :]


@dataclass(frozen=True, slots=True)
class _Style:
    """How the file is written: the indentation of one level, the end of a line, and whether it has lines at all."""

    unit: str
    newline: str
    lines: bool


def _style(text: str, root: Node) -> _Style:
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = _indent_at(text, root.members[0].start) if root.members else ""
    return _Style(indent or "  ", newline, "\n" in text.strip() or not root.members)


def _indent_at(text: str, at: int) -> str:
    """The white space that the line of this place begins with."""
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]


def _inserted(text: str, node: Node, key: str, value: Any, style: _Style, comments: bool) -> str:
    """The text with one more member behind the others of an object."""
    assert node.members is not None
    name = json.dumps(key, ensure_ascii=False)
    own_lines = style.lines and ("\n" in text[node.start : node.end] or not node.members)
    outer = _indent_at(text, node.start)
    indent = _indent_at(text, node.members[-1].start) if node.members and own_lines else outer + style.unit
    inline = _Style(style.unit, style.newline, own_lines)
    new = f"{name}: {_written(value, indent, inline)}"
    closing = node.end - 1
    inside = text[node.start + 1 : closing].rstrip(" \t\r\n")
    behind = node.start + 1 + len(inside)  # the end of the last member, comma or comment
    if node.members:
        last = node.members[-1].value.end
        comma = "" if text[_Reader(text, comments).skip(last)] == "," else ","
        inside = text[node.start + 1 : last] + comma + text[last:behind]
    if own_lines:
        return f"{text[: node.start + 1]}{inside}{style.newline}{indent}{new}{style.newline}{outer}{text[closing:]}"
    space = " " if node.members else ""
    return f"{text[: node.start + 1]}{inside}{space}{new}{text[behind:]}"


def _nested(path: Sequence[str], value: Any) -> Any:
    for key in reversed(path):
        value = {key: value}
    return value


def _written(value: Any, indent: str, style: _Style) -> str:
    if not style.lines:
        return json.dumps(value, ensure_ascii=False)
    shown = json.dumps(value, ensure_ascii=False, indent=style.unit)
    return shown.replace("\n", f"{style.newline}{indent}")


def _cut(text: str, start: int, end: int, kept: str) -> str:
    """The text without this range, and without the line when nothing else is on it."""
    line = text.rfind("\n", 0, start) + 1
    found = re.compile(r"[ \t]*\r?\n").match(text, end)
    if not kept.strip() and not text[line:start].strip() and found is not None:
        return text[:line] + text[found.end() :]
    if not kept.strip():
        end = _SPACE.match(text, end).end() if text[start - 1] in " {" else end  # type: ignore[union-attr]
    return text[:start] + kept + text[end:]


def position(text: str, at: int) -> tuple[int, int]:
    """Line and column, from 1."""
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def entries(node: Node, key: str) -> Mapping[str, Any]:
    """The object below this key of the root; empty when there is none. Raises `not_json` when it is none."""
    if node.members is None:
        raise not_json("an object is expected", node.start)
    member = node.member(key)
    if member is None:
        return {}
    if member.value.members is None:
        raise not_json(f"{key} is to be an object", member.value.start)
    found: Mapping[str, Any] = member.value.value
    return found
