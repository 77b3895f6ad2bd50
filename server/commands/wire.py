"""Views as JSON: the shape that `--json` promises.

An object has the fields of the view that it shows, by their names in `orchestration.service.views`; times are RFC 3339
in UTC with microseconds, durations milliseconds, costs US dollars, sizes bytes. Values that JSON does not have (bytes,
decimals, large integers) are the tagged objects that Omium stores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from omium.orchestration.service.views import ApprovalView, CheckpointView, EventView, NodeView, RunView
from omium.orchestration.values import encode

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# `at` is a time in these views; elsewhere it is a position.
_AT_IS_TIME: Final = (CheckpointView, EventView)
# Mappings that are ours, so that what is called a time in them is one; what a user stored is left alone.
_OURS: Final = {(EventView, "data"), (NodeView, "wait"), (ApprovalView, "details")}
_UNUSUAL: Final = re.compile(r"[^\n\x20-\x7e]")
_DUE: Final = frozenset({"due_at", "expires_at", "deadline_at"})


def rfc3339(at: int) -> str:
    """Microseconds since the epoch as `2026-11-20T09:30:00.000000Z`."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def as_json(view: Any) -> Any:
    """The JSON form of a view, or of a list of them."""
    if is_dataclass(view) and not isinstance(view, type):
        shown: dict[str, Any] = {}
        for field in fields(view):
            name, value = field.name, getattr(view, field.name)
            if isinstance(view, RunView) and name == "output":
                shown[name] = value_as_json(value)
            elif value is not None and (name.endswith("_at") or (name == "at" and isinstance(view, _AT_IS_TIME))):
                shown[name] = rfc3339(value)
            elif (type(view), name) in _OURS and isinstance(value, Mapping):
                shown[name] = {
                    key: rfc3339(inner) if key in _DUE and isinstance(inner, int) else as_json(inner)
                    for key, inner in value.items()
                }
            else:
                shown[name] = as_json(value)
        if isinstance(view, CheckpointView):
            shown["position"] = view.position
        return shown
    if view is None or isinstance(view, bool | int | float | str):
        return view
    if isinstance(view, Mapping):
        return {str(key): as_json(inner) for key, inner in view.items()}
    if isinstance(view, Sequence) and not isinstance(view, bytes):
        return [as_json(inner) for inner in view]
    return value_as_json(view)


def value_as_json(value: Any) -> Any:
    """A stored value as JSON, tagged where JSON lacks its type."""
    return json.loads(encode(value).data[1:])  # behind the byte that is the encoding's version


def json_text(value: Any, *, indent: int | None = 2) -> str:
    """JSON text that is harmless on a terminal: what does not print is escaped, everything else is readable."""
    # Besides line breaks, a character that does not print can stand only inside a string, where an escape is right.
    return _UNUSUAL.sub(_escaped, json.dumps(value, ensure_ascii=False, indent=indent))


def _escaped(found: re.Match[str]) -> str:
    one = found.group()
    if one.isprintable():
        return one
    number = ord(one)
    if number < 0x10000:
        return f"\\u{number:04x}"
    high, low = divmod(number - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
