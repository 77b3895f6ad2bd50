"""The one expression language: CEL, as conditions and inside `${{ ... }}` of templates.

Everything that a definition computes goes through here, and nothing else imports the CEL library, of which one must
know that it returns errors as values, checks no field of a dynamic value, takes texts and bytes to end at their first
NUL, and ends the process on very deep nesting.

Types: an expression sees JSON values; of the other values that Omium stores it sees a datetime as RFC 3339 text and a
decimal as text (`timestamp(...)` and `double(...)` convert). What it gives comes back as None, bool, int, finite float,
str, bytes, list, dict with text keys, and datetime (UTC) for timestamps; a duration becomes its seconds as a float.

An expression that is nothing but a selection (`nodes.a.output.commits[0].title`) is resolved in Python, with the same
result and errors in the same cases; it also passes through, untouched, values that CEL cannot hold (integers over 64
bits, datetimes, decimals). Only mappings and lists are ever looked into, never attributes of objects.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import orjson

from omium.orchestration.definition.model import MAX_DEPTH
from omium.orchestration.definition.selection import (
    SCOPE_NAMES,
    Selection,
    Token,
    nesting,
    plain_selection,
    selections,
    tokens,
    whole_selection,
)
from omium.orchestration.errors import OmiumError

MAX_SOURCE_BYTES = 4096
MAX_NESTING = 64
MAX_TEXT = 16 * 1024 * 1024
"""Characters that a text with expressions in it may come to."""

_OPEN = "${{"
_ESCAPED = "$${{"
_CEL_ERROR = re.compile(r"ERROR: <input>:-?\d+:-?\d+: (.*)")
_STATUS = re.compile(r"\A[A-Z_]+: ")
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

# Which parts of the scope an expression reads: field -> what below it, None for everything.
_Wanted = dict[str, "_Wanted | None"]


class Expression:
    """A compiled expression; get one from `compile_expression`.

    selections: what it reads; returns: `bool`, another CEL type's name in lower case, or `dyn` if only evaluating
    shows.
    """

    __slots__ = ("_program", "_selection", "_wanted", "returns", "selections", "source")

    def __init__(self, source: str, names: tuple[str, ...]) -> None:
        self.source = source
        self._selection = plain_selection(source, names)
        if self._selection is not None:
            self.selections: tuple[Selection, ...] = (self._selection,)
        else:
            parts = _checked_tokens(source)
            self.selections = tuple(selections(parts, names))
            self._selection = whole_selection(parts, names)
        self._wanted = _wanted(self.selections)
        self._program: Any = None
        self.returns = "dyn"
        if self._selection is None:
            self._program = _compile(source, names)
            self.returns = self._program.return_type().name().lower()

    def evaluate(self, scope: Mapping[str, Any]) -> Any:
        """The value over `scope` (name -> value). Must not be changed: it may be part of the scope itself."""
        if self._selection is not None:
            return _select(self._selection, scope, self.source)
        data = {name: _take(scope[name], below, self.source) for name, below in self._wanted.items() if name in scope}
        try:
            result = self._program.eval(data=data)
            kind, plain = result.type().name(), result.plain_value()
        except RuntimeError as error:  # the iteration budget, for example
            raise _failed(self.source, _first_line(error)) from error
        if kind in ("ERROR", "UNKNOWN"):
            raise _failed(self.source, _STATUS.sub("", str(plain)))
        nones = [0]
        try:
            return _from_cel(plain, nones, self.source)
        finally:
            _return_nones(nones[0])


@lru_cache(maxsize=8192)
def compile_expression(source: str, names: tuple[str, ...] = SCOPE_NAMES) -> Expression:
    """Compile CEL over the variables `names` (the scope of workflows, unless given); cached.

    OmiumError("expression_error") for what is too long (4 KB), too deep (64), or not valid, undeclared names included.
    """
    return Expression(source, names)


def evaluate(source: str, scope: Mapping[str, Any]) -> Any:
    """Compile and evaluate; see `Expression.evaluate`."""
    return compile_expression(source).evaluate(scope)


def holds(source: str, scope: Mapping[str, Any]) -> bool:
    """Whether a condition holds: only the boolean true does, and anything but a boolean is an error, since a condition
    that gives text or a number is a mistake and must not decide either way."""
    value = compile_expression(source).evaluate(scope)
    if value is True or value is False:
        return bool(value)
    raise _failed(source, f"a condition must give true or false, not {_type_name(value)}")


def render(template: Any, scope: Mapping[str, Any]) -> Any:
    """The value of a template: every text in it that holds `${{ expression }}` is replaced, at any depth.

    A text that is one expression and nothing else becomes its value, type kept; otherwise each is put in as text:
    strings, datetimes and decimals as they read, anything else as compact JSON. `$${{` stands for the characters `${{`.
    Values that come in are data: what they contain is never evaluated. The result, at most 64 deep, shares parts with
    `scope` and must not be changed.
    """
    value = _render(template, scope, 0)
    _check_depth(value)
    return value


def references(template: Any) -> set[str]:
    """What a template mentions: `nodes.<id>`, `inputs.<name>`, and the bare names of the scope otherwise (`item`,
    `previous`; `nodes` and `inputs` themselves where no id or name follows)."""
    found = set()
    for _, expression in template_expressions(template):
        for selection in expression.selections:
            if selection.root in ("nodes", "inputs") and selection.steps and isinstance(selection.steps[0], str):
                found.add(f"{selection.root}.{selection.steps[0]}")
            else:
                found.add(selection.root)
    return found


def template_expressions(template: Any, path: str = "") -> Iterator[tuple[str, Expression]]:
    """Every expression of a template with the path of its text below `path`; OmiumError where one does not compile."""
    for where, text in template_texts(template, path):
        for part in _parts(text):
            if isinstance(part, Expression):
                yield where, part


def template_texts(template: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a template that hold expressions, each with its path below `path`."""
    if isinstance(template, str):
        if _OPEN in template:
            yield path, template
    elif isinstance(template, Mapping):
        for key, value in template.items():
            yield from template_texts(value, f"{path}.{key}" if path else str(key))
    elif isinstance(template, list | tuple):
        for index, value in enumerate(template):
            yield from template_texts(value, f"{path}[{index}]")


def _render(template: Any, scope: Mapping[str, Any], depth: int) -> Any:
    if isinstance(template, str):
        return _render_text(template, scope) if _OPEN in template else template
    if isinstance(template, dict | list) and depth >= MAX_DEPTH:
        raise OmiumError("expression_error", f"The template is nested deeper than {MAX_DEPTH}.")
    if isinstance(template, dict):
        return {key: _render(value, scope, depth + 1) for key, value in template.items()}
    if isinstance(template, list):
        return [_render(value, scope, depth + 1) for value in template]
    return template


def _render_text(text: str, scope: Mapping[str, Any]) -> Any:
    parts = _parts(text)
    if len(parts) == 1 and isinstance(parts[0], Expression):
        return parts[0].evaluate(scope)
    pieces = [part if isinstance(part, str) else _as_text(part.evaluate(scope), part.source) for part in parts]
    if sum(map(len, pieces)) > MAX_TEXT:
        raise OmiumError("expression_error", f"The text {text[:80]!r} comes to more than {MAX_TEXT:,} characters.")
    return "".join(pieces)


@lru_cache(maxsize=8192)
def _parts(text: str) -> tuple[str | Expression, ...]:
    """A text cut into what is verbatim and its expressions, which are compiled."""
    parts: list[str | Expression] = []
    literal = ""
    at = 0
    while (start := text.find(_OPEN, at)) >= 0:
        if start > at and text[start - 1] == "$":
            literal += text[at : start - 1] + _OPEN
            at = start + len(_OPEN)
            continue
        literal += text[at:start]
        # Most expressions hold no brace, and the first two that follow end them.
        end = text.find("}}", start)
        if end < 0 or "{" in text[start + 3 : end] or '"' in text[start:end] or "'" in text[start:end]:
            end = _closing(text, start + len(_OPEN))
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(compile_expression(text[start + len(_OPEN) : end].strip()))
        at = end + 2
    literal += text[at:]
    if literal or not parts:
        parts.append(literal)
    return tuple(parts)


def _closing(text: str, start: int) -> int:
    """Where the `}}` stands that ends an expression beginning at `start`: not one in a string or closing two maps."""
    depth = 0
    for part in tokens(text[: start + MAX_SOURCE_BYTES + 2], start):
        if part.kind == "mark" and part.text in "([{":
            depth += 1
        elif part.kind == "mark" and part.text in ")]}":
            if depth == 0 and text.startswith("}}", part.start):
                return part.start
            depth -= 1
    raise OmiumError("expression_error", f"The expression in {text[:80]!r} does not end.", "Close it with }}.")


def _checked_tokens(source: str) -> list[Token]:
    try:
        size = len(source.encode())
    except UnicodeEncodeError as error:
        raise _failed(source, "it has a lone surrogate") from error
    if not source.strip():
        raise OmiumError("expression_error", "The expression is empty.")
    if size > MAX_SOURCE_BYTES:
        raise _failed(source, f"it is {size:,} bytes long; at most {MAX_SOURCE_BYTES:,} are allowed")
    if "\0" in source:
        raise _failed(source, "it has a NUL character")
    parts = tokens(source)
    if nesting(parts) > MAX_NESTING:
        raise _failed(source, f"it is nested deeper than {MAX_NESTING}")
    return parts


@lru_cache(maxsize=16)
def _environment(names: tuple[str, ...]) -> Any:
    # 14 MB of native code: only when something is computed.
    from cel_expr_python import cel  # type: ignore[import-untyped]

    return cel.NewEnv(variables=dict.fromkeys(names, cel.Type.DYN))


def _compile(source: str, names: tuple[str, ...]) -> Any:
    try:
        return _environment(names).compile(source)
    except RuntimeError as error:
        raise _failed(source, _first_line(error)) from error


def _first_line(error: RuntimeError) -> str:
    text = str(error)
    match = _CEL_ERROR.search(text)
    return (match[1] if match else text.splitlines()[0]).split(" expecting {")[0]


def _failed(source: str, reason: str) -> OmiumError:
    shown = source if len(source) <= 200 else f"{source[:200]}..."
    return OmiumError("expression_error", f"Expression {shown!r}: {reason}.", expression=source[:MAX_SOURCE_BYTES])


def _select(selection: Selection, scope: Mapping[str, Any], source: str) -> Any:
    """Walk a selection through mappings and lists; nothing else has fields."""
    if selection.root not in scope:
        raise _failed(source, f"{selection.root!r} has no value here")
    value = scope[selection.root]
    for step in selection.steps:
        if isinstance(value, dict):
            if step not in value:
                raise _failed(source, f"there is no {step!r}{_among(value)}")
            value = value[step]
        elif type(step) is int and isinstance(value, list):
            if step >= len(value):
                raise _failed(source, f"there is no item {step} in a list of {len(value)}")
            value = value[step]
        elif isinstance(value, Mapping):
            try:
                value = value[step]
            except KeyError:
                raise _failed(source, f"there is no {step!r}") from None
        else:
            raise _failed(source, f"{step!r} cannot be selected from {_type_name(value)}")
    return value


def _among(value: Mapping[Any, Any]) -> str:
    keys = sorted(map(repr, value))
    return f" among {', '.join(keys[:8])}{' and more' if len(keys) > 8 else ''}" if keys else ""


def _type_name(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a map"
        case _:
            return f"a value of type {type(value).__name__}"


def _wanted(reads: Sequence[Selection]) -> _Wanted:
    """What of a scope these selections read: below a position or a computed step, everything."""
    wanted: _Wanted = {}
    for selection in reads:
        path = [selection.root]
        for step in selection.steps:
            if not isinstance(step, str):
                break
            path.append(step)
        at = wanted
        for place, name in enumerate(path):
            if place == len(path) - 1:
                at[name] = None
                break
            below = at.setdefault(name, {})
            if below is None:
                break  # everything below is wanted already
            at = below
    return wanted


def _take(value: Any, wanted: _Wanted | None, source: str) -> Any:
    """The wanted part of a value, in the types that CEL takes. Big parts of a run's state stay where they are."""
    if wanted is None or not isinstance(value, Mapping):
        return _to_cel(value, source, 0)
    return {name: _take(value[name], below, source) for name, below in wanted.items() if name in value}


_NUL = "it computes with a value that has a NUL character"


def _whole(text: str, source: str) -> str:
    """The text. The library takes it to end at its first NUL, so what is decided about such a one would be decided
    about its beginning."""
    if "\0" in text:
        raise _failed(source, _NUL)
    return text


def _to_cel(value: Any, source: str, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return _whole(value, source)
    if kind is bool or kind is float or value is None:
        return value
    if kind is int:
        if _INT_MIN <= value <= _INT_MAX:
            return value
        raise _failed(source, f"an integer of {value.bit_length()} bits is too large to compute with")
    if depth > MAX_DEPTH + 1:
        raise _failed(source, f"it reads a value nested deeper than {MAX_DEPTH}")
    if isinstance(value, Mapping):
        return {_whole(key, source): _to_cel(one, source, depth + 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_to_cel(one, source, depth + 1) for one in value]
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        if 0 in value:
            raise _failed(source, _NUL)
        return value
    raise _failed(source, f"it reads a value of type {kind.__name__}, which is no data")


def _from_cel(value: Any, nones: list[int], source: str) -> Any:
    """A CEL result in plain types. Counts every None in `nones`, for `_return_nones`."""
    if value is None:
        nones[0] += 1
        return None
    kind = type(value)
    if kind is str or kind is bool or kind is int:
        return value
    if kind is float:
        if math.isfinite(value):
            return value
        raise _failed(source, f"it gives {value}, which is no number")
    # Convert everything before complaining about anything: the count has to be complete.
    if kind is list:
        return _all([_attempt(one, nones, source) for one in value])
    if kind is dict:
        converted = {key: _attempt(one, nones, source) for key, one in value.items()}
        _all(list(converted.values()))
        for key in converted:
            if type(key) is not str:
                raise _failed(source, f"it gives a map with the key {key!r}; keys must be text")
        return converted
    if kind is dt.datetime:
        return value
    if kind is dt.timedelta:
        return float(value.total_seconds())
    if kind is bytearray or kind is bytes:
        return bytes(value)
    raise _failed(source, "it gives a type, not a value" if kind.__name__ == "Type" else f"it gives a {kind.__name__}")


def _attempt(value: Any, nones: list[int], source: str) -> Any:
    try:
        return _from_cel(value, nones, source)
    except OmiumError as error:
        return error


def _all(values: list[Any]) -> list[Any]:
    for value in values:
        if isinstance(value, OmiumError):
            raise value
    return values


if sys.version_info >= (3, 12):

    def _return_nones(count: int) -> None:
        """Nothing to do: None is immortal."""

else:

    def _return_nones(count: int) -> None:
        """Give back the references to None that the CEL library (0.1.3) takes.

        It hands out None without counting the reference, one for each null in a result; some thousand results later
        the interpreter would end with "deallocating None". One reference too many, should it be mended, is harmless.
        """
        if count:
            import ctypes

            none = ctypes.py_object(None)
            for _ in range(count):
                ctypes.pythonapi.Py_IncRef(none)


def _as_text(value: Any, source: str) -> str:
    """A value put into a text: strings as they are, datetimes and decimals as they read, else compact JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, dt.datetime | Decimal):
        return _json_default(value)
    try:
        return orjson.dumps(value, default=_json_default, option=orjson.OPT_UTC_Z).decode()
    except TypeError:
        pass  # an integer over 64 bits, or no data
    import json

    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_json_default)
    except (TypeError, ValueError, RecursionError) as error:
        raise _failed(source, f"its value cannot be put into a text: {error}") from error


def _json_default(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _check_depth(value: Any) -> None:
    """Refuse a rendered value nested deeper than 64, level by level: no recursion, whatever comes in."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise OmiumError("expression_error", f"The rendered value is nested deeper than {MAX_DEPTH}.")
