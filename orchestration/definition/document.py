"""Reading a file that people write: YAML or JSON into plain data, strictly, with the line of everything in it.

What is ambiguous or dangerous is refused, not interpreted: aliases, anchors, tags and merge keys, duplicate keys, keys
that are not text, more than one document, NaN and infinities, integers over 128 digits, lone surrogates, NUL, more than
1 MiB, 250,000 values or 64 levels. Plain YAML scalars follow the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema), so `on`, `no` and `12:30:45` are text. `validate` holds the data against
a pydantic model. All problems that are found are reported together, in one OmiumError("invalid_definition").
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from omium.orchestration.definition.model import MAX_DEPTH
from omium.orchestration.definition.problems import Problem, invalid_definition, located
from omium.orchestration.errors import OmiumError

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

Format = Literal["yaml", "json"]

MAX_BYTES = 1024 * 1024
MAX_VALUES = 250_000
MAX_DIGITS = 128
_TOO_LARGE = 10**MAX_DIGITS
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
"""The name of a variable of the environment. What does not match is not shown: it may be what the variable holds."""

# Lines of a value and what is inside it: (its line, marks by key or position); a scalar is its line alone.
Marks = int | tuple[int, "dict[str, Marks] | list[Marks]"]

_STEP = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")


class Document:
    """Plain data and where it stood: `value`, `source` (the file's name for messages), `line_of`.

    read_marks: gives the lines of everything in it when first asked for one; None if it came from no text.
    """

    __slots__ = ("_marks", "_read_marks", "source", "value")

    def __init__(self, value: Any, source: str, read_marks: Callable[[], Marks] | None) -> None:
        self.value = value
        self.source = source
        self._read_marks = read_marks
        self._marks: Marks | None = None

    def line_of(self, path: str) -> int | None:
        """The line (from 1) of what a path such as `nodes[2].needs[0]` names, or of the nearest thing around it."""
        if self._read_marks is None:
            return None
        if self._marks is None:
            self._marks = self._read_marks()
        at: Marks = self._marks
        for index, name in _STEP.findall(path):
            below = None if isinstance(at, int) else at[1]
            step: Any = int(index) if index else name
            if isinstance(below, dict) and str(step) in below:
                at = below[str(step)]
            elif isinstance(below, list) and isinstance(step, int) and step < len(below):
                at = below[step]
            else:
                break
        return at if isinstance(at, int) else at[0]

    def error(self, problems: Iterable[Problem]) -> OmiumError:
        """The OmiumError for these problems, with file and lines."""
        return invalid_definition(located(list(problems), self.source, self.line_of))


def read_document(text: str, source: str, format: Format = "yaml") -> Document:
    """Parse text; `source` names it in messages. OmiumError("invalid_definition") with file and line otherwise."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise invalid_definition([Problem("", "has a lone surrogate", "Unicode text", source, line)]) from error
    if size > MAX_BYTES:
        raise invalid_definition([Problem("", f"is {size:,} bytes", f"at most {MAX_BYTES:,}", source)])
    document = _read_json(text, source) if format == "json" else _read_yaml(text, source)
    problems = plain_problems(document.value)
    if problems:
        raise document.error(problems)
    return document


def read_file(path: Path | str) -> Document:
    """Read a `.json` file as JSON and any other as YAML. OmiumError("not_found") if there is no such file."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise OmiumError("not_found", f"Cannot read {str(path)!r}: {error.strerror}.") from error
    if len(raw) > MAX_BYTES:
        raise invalid_definition([Problem("", f"is over {MAX_BYTES:,} bytes", f"at most {MAX_BYTES:,}", str(path))])
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise invalid_definition([Problem("", "is not UTF-8", "UTF-8 text", str(path), line)]) from error
    return read_document(text, str(path), "json" if path.suffix == ".json" else "yaml")


def plain_problems(value: Any, path: str = "", max_values: int = MAX_VALUES) -> list[Problem]:
    """What in a value is no plain data: other types than JSON's, more than 64 levels or `max_values`, and the numbers
    and texts that a document may not hold. Empty if it is fine. Needs no recursion, whatever the value."""
    problems: list[Problem] = []
    stack: list[tuple[Any, str, int]] = [(value, path, 0)]
    count = 0
    while stack and len(problems) < 100:
        item, here, depth = stack.pop()
        count += 1
        kind = type(item)
        if kind is str:
            reason = _text_problem(item)
            if reason:
                problems.append(Problem(here, reason, "text without it"))
        elif kind is dict or kind is list:
            if depth >= MAX_DEPTH:
                return [*problems, Problem(here[:200], f"is nested deeper than {MAX_DEPTH}", "less nesting")]
            if kind is list:
                stack.extend((inner, f"{here}[{index}]", depth + 1) for index, inner in enumerate(item))
                continue
            for key, inner in item.items():
                reason = _text_problem(key) if type(key) is str else f"has a key of type {type(key).__name__}"
                if reason:
                    problems.append(Problem(here, f"the key {key!r} {reason}", "text keys"))
                else:
                    stack.append((inner, f"{here}.{key}" if here else key, depth + 1))
        elif kind is float:
            if not math.isfinite(item):
                problems.append(Problem(here, f"is {item}", "a finite number"))
        elif kind is int:
            if not -_TOO_LARGE < item < _TOO_LARGE:
                problems.append(Problem(here, f"is an integer of over {MAX_DIGITS} digits", "a smaller number"))
        elif item is not None and kind is not bool:
            problems.append(Problem(here, f"is of type {kind.__name__}", "JSON values"))
        if count > max_values:
            return [Problem(path, f"holds more than {max_values:,} values", "a smaller document")]
    return problems


def validate(document: Document, model: type[Model]) -> Model:
    """The document as an instance of a pydantic model, or every problem with its line."""
    from pydantic import ValidationError

    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        raise document.error(model_problems(error, model)) from None


def model_problems(error: Any, model: type[BaseModel], under: str = "") -> list[Problem]:
    """A pydantic ValidationError in our words; `under` is the path of what was validated."""
    return [_model_problem(detail, model, under) for detail in error.errors(include_url=False)]


def path_text(location: Iterable[str | int]) -> str:
    """`("nodes", 2, "needs")` as `nodes[2].needs`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _model_problem(detail: Mapping[str, Any], model: type[BaseModel], under: str) -> Problem:
    location = detail["loc"]
    path = path_text((under, *location) if under else location)
    given = _shown(detail.get("input"))
    kind = detail["type"]
    context = detail.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(path, f"unknown key {location[-1]!r}", _known_keys(model, location))
    if kind == "missing":
        around = path_text((under, *location[:-1]) if under else location[:-1])
        return Problem(around, f"the key {location[-1]!r} is missing", f"{location[-1]}: ...")
    if kind in ("literal_error", "enum"):
        return Problem(path, f"is {given}", f"{context.get('expected', '')}")
    if kind == "string_pattern_mismatch" and context.get("pattern") == VARIABLE:  # what is there may be the key itself
        return Problem(path, "is not the name of a variable", "the name; what it holds stands in the environment only")
    if kind == "value_error":
        message, _, expected = str(context.get("error", detail["msg"])).partition("; expected ")
        return Problem(path, message, expected)
    if kind in ("too_short", "too_long"):
        bound = context.get("min_length", context.get("max_length"))
        least = "at least" if kind == "too_short" else "at most"
        return Problem(path, f"has {context.get('actual_length')} items", f"{least} {bound}")
    expected = re.sub(r"\A(Input|Value|String|List|Dictionary|Tuple) should ", "", detail["msg"])
    expected = re.sub(r"\A(be|have) (a valid )?", "", expected)
    expected = re.sub(r"\Adictionary or instance of \w+\Z", "a mapping", expected).replace(" after validation", "")
    return Problem(path, f"is {given}", expected)


def _known_keys(model: type[BaseModel], location: tuple[str | int, ...]) -> str:
    """The keys that a model takes where an unknown one stood, the nearest first if one is near."""
    import difflib
    from typing import get_args

    from pydantic import BaseModel

    def models_in(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [found for part in get_args(annotation) for found in models_in(part)]

    at: type[BaseModel] | None = model
    for step in location[:-1]:
        if isinstance(step, int) or at is None:
            continue
        field = next((one for name, one in at.model_fields.items() if step in (name, one.alias)), None)
        if field is None:  # the key of a mapping of such models
            continue
        inner = models_in(field.annotation)
        at = inner[0] if inner else None
    if at is None:
        return "a known key"
    keys = [field.alias or name for name, field in at.model_fields.items()]
    near = difflib.get_close_matches(str(location[-1]), keys, n=1)
    return f"{near[0]!r}" if near else f"one of {', '.join(keys)}"


def _shown(value: Any) -> str:
    match value:
        case None:
            return "null"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return repr(value if len(value) <= 60 else f"{value[:60]}...")
        case bool():
            return "true" if value else "false"
        case _:
            return repr(value)[:60]


def _text_problem(text: str) -> str:
    if "\0" in text:
        return "has a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "has a lone surrogate"
    return ""


# --- JSON ---


def _read_json(text: str, source: str) -> Document:
    repeated = False

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeated
        value = dict(pairs)
        repeated = repeated or len(value) != len(pairs)
        return value

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_int=_bounded_int)
    except json.JSONDecodeError as error:
        problem = Problem("", f"is not JSON: {error.msg} in column {error.colno}", "", source, error.lineno)
        raise invalid_definition([problem]) from None
    except RecursionError:
        raise invalid_definition([Problem("", f"is nested deeper than {MAX_DEPTH}", "", source)]) from None
    if repeated:
        problems = [
            Problem(path, f"the key {key[:60]!r} is already used here", "keys that differ", source, line)
            for path, key, line in _json_marks(text)[1]
        ]
        raise invalid_definition(problems)
    # NaN, infinities and numbers over the limit are in the value now, and refused by `plain_problems` with their path.
    return Document(value, source, lambda: _json_marks(text)[0])


def _bounded_int(digits: str) -> int:
    return int(digits) if len(digits) <= MAX_DIGITS + 1 else _TOO_LARGE


_JSON_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\],:]|[^\s{}\[\],:"]+')


def _json_marks(text: str) -> tuple[Marks, list[tuple[str, str, int]]]:
    """(the lines of everything in a JSON text, its duplicate keys as (path, key, line)); only needed for messages."""
    root: list[Any] = []
    duplicates: list[tuple[str, str, int]] = []
    stack: list[tuple[Any, str]] = [(root, "")]  # the container that is open and its path
    key: str | None = None
    line, counted = 1, 0
    for match in _JSON_TOKEN.finditer(text):
        line += text.count("\n", counted, match.start())
        counted = match.start()
        part = match[0]
        inside, path = stack[-1]
        if part in ",:":
            continue
        if part in "}]":
            if len(stack) > 1:
                stack.pop()
            continue
        if isinstance(inside, dict) and key is None:
            key = json.loads(part) if part[0] == '"' else part
            if key in inside:
                duplicates.append((f"{path}.{key}" if path else key, key, line))
            continue
        here = f"{path}[{len(inside)}]" if isinstance(inside, list) else f"{path}.{key}" if path else str(key)
        below: Any = {} if part == "{" else [] if part == "[" else None
        mark: Marks = line if below is None else (line, below)
        if isinstance(inside, dict):
            inside[str(key)] = mark
            key = None
        else:
            inside.append(mark)
        if below is not None:
            stack.append((below, here if inside is not root else ""))
    return (root[0] if root else 1), duplicates


# --- YAML ---


def _read_yaml(text: str, source: str) -> Document:
    from omium.orchestration.definition.yaml_reader import compose

    value, marks = compose(text, source)
    return Document(value, source, lambda: marks)
