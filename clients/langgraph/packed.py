"""LangGraph's packed values as JSON and back, so that state can be kept, read and have secrets taken out as text.

A packed value is a tree of plain values and named objects. Nothing is built here: `$ext` is an object that LangGraph's
serializer named, as its code and its parts, and is packed again as it was.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any, Final

import ormsgpack

from omium.clients.agents.kept import unreadable

_MARK: Final = "$"
_OPTION: Final = ormsgpack.OPT_NON_STR_KEYS
_BIG: Final = 2**63


class _Named:
    """An extension of msgpack, by its identity: it may stand as a key."""

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code, self.data = code, data


def as_json(kind: str, data: bytes) -> dict[str, Any]:
    """A packed value as JSON."""
    if kind == "msgpack":
        return {"kind": kind, "tree": _tree(data)}
    return {"kind": kind, "data": base64.b64encode(data).decode()}


def of_json(told: Any) -> tuple[str, bytes]:
    """The packed value again. Raises `unsupported` for what is none."""
    try:
        if told["kind"] == "msgpack":
            return "msgpack", _packed(told["tree"])
        return str(told["kind"]), base64.b64decode(told["data"], validate=True)
    except (KeyError, TypeError, ValueError, IndexError, binascii.Error, ormsgpack.MsgpackEncodeError) as error:
        raise unreadable(f"a value of its state is none: {error}") from error


def _tree(data: bytes) -> Any:
    return _plain(ormsgpack.unpackb(data, ext_hook=_Named, option=_OPTION))


def _plain(value: Any) -> Any:
    if isinstance(value, _Named):
        return {"$ext": value.code, "of": _tree(value.data)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith(_MARK) for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return {"$map": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, int) and value >= _BIG:
        return {"$int": str(value)}
    return value


def _packed(tree: Any) -> bytes:
    return ormsgpack.packb(_value(tree), option=_OPTION)


def _value(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_value(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "$ext" in tree:
        return ormsgpack.Ext(int(tree["$ext"]), _packed(tree["of"]))
    if "$map" in tree:
        return {_key(_value(key)): _value(item) for key, item in tree["$map"]}
    if "$bytes" in tree:
        return base64.b64decode(tree["$bytes"], validate=True)
    if "$float" in tree:
        return float(tree["$float"])
    if "$int" in tree:
        return int(tree["$int"])
    return {key: _value(item) for key, item in tree.items()}


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
