"""AG2's events as JSON and back. The one place that touches AG2's private serialisation, which is why AG2 is pinned.

That serialisation rebuilds whatever class a document names. A kept conversation holds what models and tools said, so
only AG2's own events and their parts are rebuilt: a document that names anything else is refused before it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from omium.clients.agents.kept import unreadable

FORMAT: Final = 1

_MARKS: Final = frozenset({"__event__", "__dataclass__", "__pydantic__", "__enum__", "__exception__"})
_OURS: Final = ("ag2.events.", "ag2.config.")


def dump(events: Iterable[Any]) -> list[dict[str, Any]]:
    """Events as JSON values. Counts of tokens are left out: they are kept elsewhere."""
    from ag2.events import UsageEvent
    from ag2.events._serialization import event_to_dict, qualified_name

    return [
        {"type": qualified_name(event), "data": event_to_dict(event)}
        for event in events
        if not isinstance(event, UsageEvent)
    ]


def load(documents: Any) -> list[Any]:
    """The events again. Raises `unsupported` for what is none of AG2's, or has a form that this version cannot read."""
    from ag2.events import BaseEvent
    from ag2.events._serialization import import_event_class

    if not isinstance(documents, list):
        raise unreadable("it is no list of events")
    events = []
    for document in documents:
        name = document["type"]
        _check_class(name)
        _check(document["data"])
        kind = import_event_class(name)
        if kind is None or not issubclass(kind, BaseEvent):
            raise unreadable(f"AG2 has no event {name!r}")
        try:
            events.append(kind.from_dict(document["data"]))
        except (TypeError, ValueError, KeyError, ImportError) as error:
            raise unreadable(f"an event {name!r} does not have the form that AG2 expects: {error}") from error
    return events


def _check(value: Any) -> None:
    open_ = [value]
    while open_:
        one = open_.pop()
        if isinstance(one, list):
            open_ += one
        elif isinstance(one, dict):
            for mark in _MARKS & one.keys():
                if mark != "__exception__":  # which becomes a plain Exception, whatever it names
                    _check_class(one[mark])
            open_ += one.values()


def _check_class(name: Any) -> None:
    if not isinstance(name, str) or not name.startswith(_OURS):
        raise unreadable(f"it names {str(name)[:100]!r}, which is nothing of AG2's")
