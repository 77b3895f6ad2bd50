"""What is told of an event. The log holds digests instead of contents, and so does what leaves the machine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from omium.orchestration.log.events import Event
    from omium.orchestration.ports import RunRow

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES: Final = frozenset({"due_at", "expires_at", "deadline_at"})
_LONGEST: Final = 4_000  # characters of one text


def document_of(event: Event, run: RunRow) -> dict[str, Any]:
    """`{type, timestamp, data: {run, event}}`: the event as it is in the log, and the run as it stands now."""
    return {
        "type": event.type.value,
        "timestamp": rfc3339(event.at),
        "data": {
            "run": {
                "id": run.id,
                "project": run.project,
                "workflow": run.workflow,
                "title": run.title,
                "status": run.status,
                "owner": run.owner,
            },
            "event": {
                "seq": event.seq,
                "position": f"{run.id}@{event.seq}",
                "actor": event.actor,
                "hash": event.hash.hex(),
                "data": _shown(event.data),
            },
        },
    }


def trial_document(endpoint: str, project: str, at: int) -> dict[str, Any]:
    """What `omium notify test` sends: a document of a type that no event has."""
    return {
        "type": "omium.test",
        "timestamp": rfc3339(at),
        "data": {"endpoint": endpoint, "project": project, "text": "A test. Nothing has happened."},
    }


def rfc3339(at: int) -> str:
    """Microseconds since the epoch as `2026-11-20T09:30:00.000000Z`."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _shown(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {str(name): _shown(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(inner) for inner in value]
    if isinstance(value, str) and len(value) > _LONGEST:
        return value[:_LONGEST] + "…"
    if key in _TIMES and isinstance(value, int):
        return rfc3339(value)
    return value
