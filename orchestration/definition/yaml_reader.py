"""YAML text into plain data: the events of the C parser, composed here so that nothing can expand, tag or merge.

No part of PyYAML's own construction runs: there are no aliases to follow, no tags to look up, no types beyond JSON's.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from omium.orchestration.definition.document import MAX_DIGITS, MAX_VALUES
from omium.orchestration.definition.model import MAX_DEPTH
from omium.orchestration.definition.problems import Problem, invalid_definition

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_NUMBER_START = frozenset("0123456789+-.")
_INT = re.compile(r"\A[-+]?[0-9]+\Z")
_BASED = re.compile(r"\A0(?:o[0-7]+|x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"\A[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"\A(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")


class _Open:
    """A mapping or sequence that is being read. key: the key whose value comes next; None when a key comes next."""

    __slots__ = ("key", "marks", "path", "value")

    def __init__(self, value: Any, marks: Any, path: str) -> None:
        self.value = value
        self.marks = marks
        self.path = path
        self.key: str | None = None


def compose(text: str, source: str) -> tuple[Any, Any]:
    """(the data, the lines of everything in it, as `document.Marks`). OmiumError with every problem otherwise."""
    problems: list[Problem] = []
    loader = _parser()(text)
    try:
        return _compose(loader, source, problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or error.context or "cannot be read"
        line = mark.line + 1 if mark else None
        problems.append(Problem("", f"is not YAML: {what}", "", source, line))
    except yaml.YAMLError as error:
        problems.append(Problem("", f"is not YAML: {str(error).splitlines()[0]}", "", source))
    finally:
        loader.dispose()
    raise invalid_definition(problems)


def _parser() -> Any:
    """libyaml's parser; PyYAML's own where a platform's wheel lacks it (the same events, some ten times slower)."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _compose(loader: Any, source: str, problems: list[Problem]) -> tuple[Any, Any]:
    result: list[Any] = []
    lines: list[Any] = []
    root = _Open(result, lines, "")
    stack = [root]
    count = 0

    def refuse(path: str, message: str, expected: str, line: int) -> None:
        problems.append(Problem(path, message, expected, source, line))

    while loader.check_event():
        event = loader.get_event()
        kind = type(event)
        if kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            stack.pop()
            continue
        if kind is yaml.DocumentStartEvent:
            if result:
                refuse("", "is a second document", "one document", event.start_mark.line + 1)
                break
            continue
        scalar = kind is yaml.ScalarEvent
        if not scalar and kind is not yaml.MappingStartEvent and kind is not yaml.SequenceStartEvent:
            if kind is yaml.AliasEvent:
                refuse(stack[-1].path, f"uses the alias *{event.anchor[:40]}", "no aliases", event.start_mark.line + 1)
                break
            continue
        count += 1
        line = event.start_mark.line + 1
        here = stack[-1]
        path = _path(here)
        if event.anchor is not None:
            refuse(path, f"has the anchor &{event.anchor[:40]}", "no anchors", line)
        if event.tag is not None:
            refuse(path, f"has the tag {event.tag[:60]}", "no tags", line)
        if count > MAX_VALUES or len(problems) > 100:
            if count > MAX_VALUES:
                refuse("", f"holds more than {MAX_VALUES:,} values", "a smaller document", line)
            break
        if scalar:
            plain = event.style is None or event.style == ""
            if type(here.value) is dict and here.key is None:
                here.key = _key(event.value, plain, here, line, refuse)
                continue
            inside: Any = _scalar(event.value, path, line, refuse) if plain else event.value
            _put(here, inside, line)
            continue
        if type(here.value) is dict and here.key is None:
            refuse(path, "has a mapping or list as a key", "text keys", line)
            break
        if len(stack) > MAX_DEPTH:
            refuse(path[:200], f"is nested deeper than {MAX_DEPTH}", "less nesting", line)
            break
        inside = {} if kind is yaml.MappingStartEvent else []
        marks: Any = {} if kind is yaml.MappingStartEvent else []
        opened = _Open(inside, marks, path)
        _put(here, inside, (line, marks))
        stack.append(opened)
    if problems:
        raise invalid_definition(problems)
    return (result[0], lines[0]) if result else (None, 1)


def _path(here: _Open) -> str:
    if type(here.value) is dict:
        return here.path if here.key is None else f"{here.path}.{here.key}" if here.path else here.key
    return f"{here.path}[{len(here.value)}]" if here.path else ""


def _put(here: _Open, value: Any, mark: Any) -> None:
    if type(here.value) is dict:
        here.value[here.key] = value
        here.marks[here.key] = mark
        here.key = None
    else:
        here.value.append(value)
        here.marks.append(mark)


def _key(text: str, plain: bool, here: _Open, line: int, refuse: Any) -> str:
    path = f"{here.path}.{text}" if here.path else text
    if plain and text == "<<":
        refuse(path, "is a merge key", "the keys themselves", line)
    elif plain and (text in _WORDS or type(_scalar(text, path, line, refuse)) is not str):
        refuse(path, f"the key {text[:60]!r} is not text", f'text keys: write it as "{text[:60]}"', line)
    elif text in here.value:
        refuse(path, f"the key {text[:60]!r} is already used here", "keys that differ", line)
    return text


def _scalar(text: str, path: str, line: int, refuse: Any) -> Any:
    """A plain scalar by the core schema of YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _INT.match(text) or _BASED.match(text):
        if len(text) > MAX_DIGITS + 1:
            refuse(path, f"is an integer of {len(text):,} digits", f"at most {MAX_DIGITS} digits", line)
            return 0
        return int(text, 10 if _INT.match(text) else 0)
    if _FLOAT.match(text):
        value = float(text)
        if not math.isfinite(value):
            refuse(path, f"is {text[:40]}, which is too large", "a finite number", line)
        return value
    if _NOT_FINITE.match(text):
        refuse(path, f"is {text}", "a finite number, or text in quotes", line)
    return text
