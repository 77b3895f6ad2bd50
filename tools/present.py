"""How text and values from anywhere are shown: harmless, bounded, and saying what was left out.

Titles, questions, node outputs and error messages come from people, agents and programs that nobody vouches for. A
terminal must not obey them, a line must not pretend to be two, and what a reader sees must be what is there. So every
character that is no visible text is replaced by its visible escape (`\\x1b`, `\\u202e`). Values keep their exact
meaning: they are shown as JSON text in which the same characters stand as JSON escapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel

from omium.orchestration.values import Value, encode

LINE = 240  # characters of what stands in a line: names, titles, reasons
TEXT = 1_200  # characters of what is read as a text: questions, errors, feedback
LIST_ROOM = 6_000  # characters of JSON that the items of one list may take
VALUE_INLINE = 2_000  # a value up to this size is shown where it occurs
VALUE_PAGE = 6_000  # a value that was asked for is given in pieces of this size
ANSWER = 19_500  # characters of a whole answer, text and structured content together

# Every character of the categories Cc, Cf, Cs, Co, Zl and Zp, and the variation selectors that can carry hidden text.
# A space, a tab and a line feed are text; the callers decide about the last two.
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ue000-\uf8ff\ufe00-\ufe0d\ufeff\ufff0-\uffff\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
_IN_LINES = re.compile(f"{_HOSTILE.pattern}|[\t\n]")
_ESCAPED_CONTROL = re.compile(r"\\(?:u00[01]|u007f|[bfr])")  # as the canonical JSON writes control characters

Item = TypeVar("Item", bound=BaseModel)


def line(text: str, limit: int = LINE) -> str:
    """One harmless line of at most `limit` characters and a note of what was cut."""
    return _cut(_IN_LINES.sub(_visible, text[: limit + 1]), limit, len(text))


def paragraph(text: str, limit: int = TEXT) -> str:
    """A harmless text that may have several lines."""
    return _cut(_HOSTILE.sub(_visible, text[: limit + 1]), limit, len(text))


def _cut(shown: str, limit: int, length: int) -> str:
    return shown if length <= limit and len(shown) <= 2 * limit else f"{shown[:limit]}... [cut, {length} characters]"


def _visible(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code == 9:
        return "\\t"
    if code == 10:
        return "\\n"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def harmless(tree: Any) -> Any:
    """The same JSON tree with all its strings, keys included, made harmless and short."""
    if isinstance(tree, str):
        return paragraph(tree)
    if isinstance(tree, dict):
        return {line(str(key)): harmless(item) for key, item in tree.items()}
    if isinstance(tree, list | tuple):
        return [harmless(item) for item in tree]
    return tree if tree is None or isinstance(tree, bool | int | float) else paragraph(str(tree))


def value_text(value: Value) -> str:
    """The value as one line of JSON, tags included, whose every character is visible text."""
    canonical = encode(value).data[1:].decode()
    return _HOSTILE.sub(_json_escape, canonical)


def json_text(tree: Any) -> str:
    """A tree of JSON values, and `orjson.Fragment`s of such text, as JSON whose every character is visible text."""
    return _HOSTILE.sub(_json_escape, orjson.dumps(tree).decode())


def _json_escape(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def plain_value(text: str) -> Any | None:
    """The JSON value that `value_text` wrote, when no string in it needs an escape; otherwise, and for null, None."""
    if _ESCAPED_CONTROL.search(text) or "\\u" in text:
        return None
    return orjson.loads(text)


def when(microseconds: int | None) -> str | None:
    """An instant as ISO 8601 in UTC, to the second."""
    if microseconds is None:
        return None
    return datetime.fromtimestamp(microseconds // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fit(items: Iterable[Item], room: int = LIST_ROOM) -> list[Item]:
    """As many of the items, from the first, as `room` characters of JSON hold; at least one."""
    fitting: list[Item] = []
    for item in items:
        room -= len(item.model_dump_json(exclude_none=True)) + 1
        if room < 0 and fitting:
            break
        fitting.append(item)
    return fitting


def some(names: Sequence[str], room: int = 1_000, *, shown_as: Callable[[str], str] = line) -> list[str]:
    """The first names, as many as fit; the last element says how many there are when some are left out."""
    shown: list[str] = []
    for name in names:
        room -= len(name) + 3
        if room < 0:
            return [*shown, f"... {len(names)} in all"]
        shown.append(shown_as(name))
    return shown


# --- text ------------------------------------------------------------------------------------------------------------


def as_text(data: dict[str, Any]) -> str:
    """The same content as text for readers that see no structured content: `key: value` lines, a line for each item
    of a list, and the lines of a longer text behind `|`, so that none of them can pass for a line of ours."""
    return "\n".join(_lines(data, ""))


def _lines(data: dict[str, Any], indent: str) -> Iterable[str]:
    for key, item in data.items():
        if isinstance(item, dict) and key != "value":
            yield f"{indent}{key}:"
            yield from _lines(item, indent + "  ")
        elif isinstance(item, list) and any(isinstance(one, dict) for one in item):
            yield f"{indent}{key}:"
            yield from (f"{indent}- {_inline(one)}" for one in item)
        elif isinstance(item, str) and "\n" in item:
            yield f"{indent}{key}:"
            yield from (f"{indent}  | {part}" for part in item.split("\n"))
        else:
            yield f"{indent}{key}: {_scalar(item)}"


def _inline(item: Any) -> str:
    if not isinstance(item, dict):
        return _scalar(item)
    return ", ".join(f"{key}: {_scalar(part)}" for key, part in item.items())


def _scalar(item: Any) -> str:
    if isinstance(item, str):
        return item if "\n" not in item else _json(item)
    if isinstance(item, list) and all(isinstance(one, str) for one in item):
        return ", ".join(item) if item else "none"
    return _json(item)


_json: Callable[[Any], str] = lambda item: orjson.dumps(item).decode()  # noqa: E731
