"""Values: what a run may store, and the one canonical encoding that its digest covers.

A value is made of exactly the JSON types (None, bool, int, finite float, str, list, dict with string keys) and of four
tagged types: bytes, aware datetime, finite Decimal, and integers beyond 64 bits. Nothing else passes: a tuple that came
back as a list, or a NaN that came back as null, would make a replay differ from the run.

Encoded form, version 1: the byte 0x01, then UTF-8 JSON without spaces, keys sorted by their UTF-8 bytes. A tagged value
is `{"$omium": <tag>, "v": <text>}`; a dict of the user that has the key `$omium` itself is wrapped as
`{"$omium": "dict", "v": {...}}`, so decoding is exact whatever the keys are. `5` and `5.0`, `0.0` and `-0.0` stay
distinct. A datetime keeps its instant and its offset from UTC, not the name of its zone.
"""

from __future__ import annotations

import binascii
import hashlib
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any, Final, NoReturn, TypeAlias, Union

import orjson

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest

Value: TypeAlias = Union[bool, int, float, str, bytes, datetime, Decimal, "list[Value]", "dict[str, Value]", None]

MAX_DEPTH: Final = 64  # containers within containers; `[]` has depth 1
MAX_SIZE: Final = 64 * 1024 * 1024  # bytes of the encoded form
MAX_DIGITS: Final = 4300  # of an int or Decimal: what Python itself is willing to print

_VERSION: Final = b"\x01"
_TAG: Final = "$omium"
_MARKER: Final = b'"$omium"'  # how the tag stands in the encoded form; no character of it is ever escaped
_OPTIONS: Final = orjson.OPT_SORT_KEYS
_INT_LIMIT: Final = 10**MAX_DIGITS
_LONG_LIST: Final = 8

_Path: TypeAlias = "tuple[_Path, str | int] | None"  # linked from the leaf upwards; only an error spells it out


@dataclass(frozen=True, slots=True)
class Encoded:
    """data: the encoded form; digest: its SHA-256 in hexadecimal; size: `len(data)`."""

    data: bytes
    digest: Digest
    size: int


def encode(value: object, *, max_size: int = MAX_SIZE) -> Encoded:
    """The canonical form of `value` with its digest; equal values of equal types give equal bytes.

    Raises OmiumError("invalid_value") with `data["path"]` (such as `$.a[3].b`) for an unsupported type, NaN or
    infinity, a naive datetime, a key that is no string, a lone surrogate, nesting deeper than `MAX_DEPTH` (so also a
    structure that contains itself), a number of more than `MAX_DIGITS` digits, or a form of more than `max_size` bytes.
    """
    data = _form(value, max_size)
    return Encoded(data, Digest(hashlib.sha256(data).hexdigest()), len(data))


def size_of(value: object) -> int:
    """The size that `encode` gives; raises what `encode` raises."""
    return len(_form(value, MAX_SIZE))


def digest_of(value: object) -> Digest:
    """The digest that `encode` gives; raises what `encode` raises."""
    return Digest(hashlib.sha256(_form(value, MAX_SIZE)).hexdigest())


def decode(data: bytes) -> Value:
    """The value that `encode` turned into `data`.

    Raises OmiumError("unsupported") for the version of a newer Omium and OmiumError("integrity") for bytes that
    are no encoded value.
    """
    if data[:1] != _VERSION:
        if not data:
            raise OmiumError("integrity", "A stored value is empty.")
        raise OmiumError(
            "unsupported",
            f"A stored value has encoding version {data[0]}; this installation reads version {_VERSION[0]}.",
            "Upgrade omium-mcp to the version that wrote it.",
        )
    try:
        value: Value = orjson.loads(memoryview(data)[1:])
    except orjson.JSONDecodeError as error:
        raise OmiumError("integrity", f"A stored value is not JSON: {error}.") from error
    # One byte is searched for first because memchr is twenty times as fast as the search for the marker.
    if b"$" in data and _MARKER in data:
        return _untag(value)
    return value


# --- encoding -------------------------------------------------------------------------------------------------------
#
# Two walks, one meaning. `_is_plain` only answers "certainly JSON types that orjson writes exactly", in the tightest
# Python that was found; `_tagged` is exact, builds the tagged tree and knows paths, and runs only when the first says
# no or orjson refuses (keys that are no strings, surrogates, integers beyond 64 bits).
#
# A walk is needed at all because orjson writes tuples, UUIDs, enums, dataclasses, datetimes and Fragments without
# asking, and NaN as null; its passthrough options stop only some of these. Measured alternatives: decoding again and
# comparing costs about as much and lets an IntEnum through (it equals its number); a walk by `gc.get_referents` is
# faster on large values and slower on small ones, and cannot see tags without a second pass.


def _form(value: object, max_size: int) -> bytes:
    if (type(value) is dict or type(value) is list) and _is_plain(value, MAX_DEPTH, max_size) >= 0:
        try:
            data = _VERSION + orjson.dumps(value, option=_OPTIONS)
        except TypeError:  # `_tagged` finds what it was, and either tags it or refuses it with its path
            data = _exact_form(value, max_size)
    else:
        data = _exact_form(value, max_size)
    if len(data) > max_size:
        _refuse(None, f"the value takes {len(data)} bytes, the limit is {max_size}", "Store it as an artifact instead.")
    return data


def _exact_form(value: object, max_size: int) -> bytes:
    tree, _ = _tagged(value, None, MAX_DEPTH, max_size)
    return _VERSION + orjson.dumps(tree, option=_OPTIONS)


def _is_plain(container: Any, depth: int, budget: int) -> int:
    """What is left of `budget` (a lower bound of the encoded size, in bytes), or -1 if not certainly plain.

    The budget also ends the walk of a small structure that shares its parts so often that its JSON would be endless.
    """
    budget -= len(container)
    if budget < 0 or not depth:
        return -1
    if type(container) is dict:
        if _TAG in container:
            return -1
        container = container.values()
    elif len(container) > _LONG_LIST:
        kinds = set(map(type, container))  # a long list of one type (words, an embedding) is checked at C speed
        if len(kinds) == 1:
            kind = kinds.pop()
            if kind is str:
                return int(budget - sum(map(len, container)))
            if kind is float:  # NaN and infinity survive addition; an overflow only costs the exact walk
                return budget if isfinite(sum(container)) else -1
            if kind is int:
                return budget
    for item in container:
        kind = type(item)
        if kind is str:
            budget -= len(item)
        elif kind is int or item is None or kind is bool:
            pass
        elif kind is dict or kind is list:
            budget = _is_plain(item, depth - 1, budget)
            if budget < 0:
                return -1
        elif kind is float:
            if item - item:  # 0.0 for every finite number, NaN (which is true) otherwise
                return -1
        else:
            return -1
    return budget


def _tagged(value: Any, path: _Path, depth: int, budget: int) -> tuple[Any, int]:
    """The tree that orjson writes for `value`, and what is left of `budget`; raises OmiumError("invalid_value")."""
    kind = type(value)
    budget -= 1
    if budget < 0:
        _refuse(path, "the value is larger than the limit on its encoded size", "Store it as an artifact instead.")
    if value is None or kind is bool:
        return value, budget
    if kind is str:
        return _text(value, path), budget - len(value)
    if kind is int:
        return _integer(value, path), budget
    if kind is float:
        if not isfinite(value):
            _refuse(path, f"{value!r} is not a finite number", "Use None, or a string, instead.")
        return value, budget
    if kind is dict or kind is list:
        if not depth:
            _refuse(path, f"nested deeper than {MAX_DEPTH} containers", "Flatten it; a value cannot contain itself.")
        return _tagged_dict(value, path, depth, budget) if kind is dict else _tagged_list(value, path, depth, budget)
    if kind is bytes:
        return _tag("bytes", binascii.b2a_base64(value, newline=False).decode("ascii")), budget - len(value)
    if kind is datetime:
        return _datetime(value, path), budget
    if kind is Decimal:
        return _decimal(value, path), budget
    if kind in (tuple, set, frozenset):
        _refuse(path, f"a {kind.__name__} cannot be stored", "Make it a list.")
    _refuse(
        path,
        f"{kind.__module__}.{kind.__qualname__} cannot be stored",
        "Store None, bool, int, float, str, list, dict, bytes, datetime or Decimal.",
    )


def _tagged_dict(value: dict[Any, Any], path: _Path, depth: int, budget: int) -> tuple[dict[str, Any], int]:
    tree = {}
    for key, item in value.items():
        if type(key) is not str:
            _refuse(path, f"a key is {type(key).__qualname__}, not str", "Convert the keys to str.")
        _text(key, path)
        tree[key], budget = _tagged(item, (path, key), depth - 1, budget - len(key))
    return (_tag("dict", tree) if _TAG in tree else tree), budget


def _tagged_list(value: list[Any], path: _Path, depth: int, budget: int) -> tuple[list[Any], int]:
    tree = []
    for index, item in enumerate(value):
        child, budget = _tagged(item, (path, index), depth - 1, budget)
        tree.append(child)
    return tree, budget


def _tag(name: str, content: str | dict[str, Any]) -> dict[str, Any]:
    return {_TAG: name, "v": content}


def _text(value: str, path: _Path) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        _refuse(path, f"{_shown(value)} has a lone surrogate", "Store the bytes, or decode with errors='replace'.")
    return value


def _integer(value: int, path: _Path) -> int | dict[str, Any]:
    if -(1 << 63) <= value < 1 << 64:
        return value
    if not -_INT_LIMIT < value < _INT_LIMIT:
        _refuse(path, f"an integer of more than {MAX_DIGITS} digits", "Store it as bytes or as text.")
    return _tag("int", hex(value))  # hexadecimal: no interpreter setting limits its digits, and it takes linear time


def _datetime(value: datetime, path: _Path) -> dict[str, Any]:
    offset = value.utcoffset()
    if offset is None:
        _refuse(path, f"{value.isoformat()} has no time zone", "Use an aware datetime: datetime.now(UTC).")
    if offset.microseconds:  # Python's own parser reads an offset below one second as UTC
        _refuse(path, f"{value.isoformat()} is off UTC by a fraction of a second", "Convert it to UTC.")
    return _tag("datetime", value.isoformat())


def _decimal(value: Decimal, path: _Path) -> dict[str, Any]:
    if not value.is_finite():
        _refuse(path, "a Decimal that is not a finite number", "Use None, or a string, instead.")
    if len(value.as_tuple().digits) > MAX_DIGITS:
        _refuse(path, f"a Decimal of more than {MAX_DIGITS} digits", "Store it as text.")
    return _tag("decimal", str(value).upper())  # the thread's decimal context may write the exponent as "e"


def _refuse(path: _Path, problem: str, hint: str) -> NoReturn:
    spelled = _spelled(path)
    raise OmiumError("invalid_value", f"A value cannot be stored: at {spelled}: {problem}.", hint, path=spelled)


def _spelled(path: _Path) -> str:
    steps: list[str] = []
    while path is not None:
        path, step = path
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            steps.append(f".{step}" if step.isidentifier() and len(step) <= 40 else f"[{_shown(step)}]")
    return "$" + "".join(reversed(steps))


def _shown(text: str) -> str:
    """A short form without surrogates, for messages."""
    return ascii(text) if len(text) <= 40 else ascii(text[:37]) + "..."


# --- decoding -------------------------------------------------------------------------------------------------------


def _untag(node: Any) -> Value:
    """`node` with its tags resolved, in place where it can be. `encode` bounds the depth of what it is given."""
    if type(node) is dict:
        return _untag_items(node) if _TAG not in node else _resolve(node)
    if type(node) is list:
        for index, item in enumerate(node):
            if type(item) is dict or type(item) is list:
                node[index] = _untag(item)
    return node  # type: ignore[no-any-return]


def _untag_items(node: dict[str, Any]) -> dict[str, Value]:
    for key, item in node.items():
        if type(item) is dict or type(item) is list:
            node[key] = _untag(item)
    return node


def _resolve(node: dict[str, Any]) -> Value:
    tag, content = node[_TAG], node.get("v")
    if len(node) == 2:
        if tag == "dict" and type(content) is dict:
            return _untag_items(content)
        if type(content) is str:
            try:
                if tag == "bytes":
                    return binascii.a2b_base64(content, strict_mode=True)
                if tag == "datetime":
                    return datetime.fromisoformat(content)
                if tag == "decimal":
                    return Decimal(content)
                if tag == "int":
                    return int(content, 16)
            except (ValueError, InvalidOperation) as error:
                raise OmiumError("integrity", f"A stored value has a broken {tag} tag.") from error
    raise OmiumError("integrity", f"A stored value has an unknown or broken tag {_shown(str(tag))}.")
