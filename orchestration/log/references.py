"""Which blobs an event names: what the sweep must leave, and what a damaged blob would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omium.orchestration.ids import Digest

DIGEST_FIELDS = frozenset(
    {
        "definition",
        "policy",
        "agents",
        "inputs",
        "input",
        "reset",
        "output",
        "outputs",
        "state",
        "nodes",
        "items",
        "plan",
        "payload",
        "digest",
        "result",
        "arguments",
    }
)
_SHOWN = frozenset({"details", "detail"})  # what a question is about; what was sent in a call


def references(data: Mapping[str, Any]) -> list[Digest]:
    """The digests that an event's data names."""
    found: list[Digest] = []
    if not DIGEST_FIELDS.isdisjoint(data):  # many events name none
        found += [Digest(value) for name, value in data.items() if name in DIGEST_FIELDS and isinstance(value, str)]
    if not _SHOWN.isdisjoint(data):
        for part in _SHOWN:
            shown = data.get(part)
            if isinstance(shown, Mapping) and isinstance(shown.get("arguments"), str):
                found.append(Digest(shown["arguments"]))
    return found
