"""Whether JSON has the shape of a view: the promise of `--json`, held against the dataclasses themselves."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

from omium.orchestration.service.views import CheckpointView, EventView, RunView
from omium.orchestration.values import Value

TIME = re.compile(r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")


def misshapen(value: Any, kind: Any, path: str = "$") -> list[str]:
    """Where a JSON value is not what the type says; empty when it is."""
    if isinstance(kind, NewType):
        return misshapen(value, kind.__supertype__, path)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        return _object(value, kind, path)
    if kind in (Any, Value):
        return []
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        tried = [misshapen(value, one, path) for one in inside]
        return [] if [] in tried else min(tried, key=len)
    if origin is Literal:
        return [] if value in inside else [f"{path} is {value!r}"]
    if origin is tuple:
        wrong = not isinstance(value, list) or len(value) != len(inside)
        return [f"{path} is no tuple"] if wrong else _all(zip(value, inside, strict=True), path)
    if origin in (list, Sequence):
        return _all(((one, inside[0]) for one in value), path) if isinstance(value, list) else [f"{path} is no list"]
    if origin in (dict, Mapping):
        return (
            _all(((one, inside[1]) for one in value.values()), path)
            if isinstance(value, dict)
            else [f"{path}: no dict"]
        )
    plain: tuple[type, ...] = (int, float) if kind is float else (kind,)
    ok = isinstance(value, plain) and (kind is bool or not isinstance(value, bool))
    return [] if ok else [f"{path} is {value!r}, not {kind.__name__}"]


def _all(pairs: Any, path: str) -> list[str]:
    return [problem for index, (one, kind) in enumerate(pairs) for problem in misshapen(one, kind, f"{path}[{index}]")]


def _object(value: Any, kind: type, path: str) -> list[str]:
    hints = get_type_hints(kind)
    names = set(hints) | ({"position"} if kind is CheckpointView else set())
    if not isinstance(value, dict) or set(value) != names:
        return [f"{path} has {sorted(value) if isinstance(value, dict) else value!r}, not {sorted(names)}"]
    problems: list[str] = []
    for name, hint in hints.items():
        one, here = value[name], f"{path}.{name}"
        if name.endswith("_at") or (name == "at" and kind in (CheckpointView, EventView)):
            if one is None:
                problems += misshapen(None, hint, here)
            elif not isinstance(one, str) or not TIME.match(one):
                problems.append(f"{here} is {one!r}, no time")
        elif not (kind is RunView and name == "output"):
            problems += misshapen(one, hint, here)
    return problems
