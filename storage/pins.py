"""Pins of the tools of external servers, on either database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import orjson
from sqlalchemy import Select, select

from omium.orchestration.ids import ProjectId
from omium.orchestration.ports_gates import PinRow
from omium.storage import schema as t

if TYPE_CHECKING:
    from omium.storage.maintenance.tables import Tables

_NAMES: Final = tuple(column.name for column in t.pins.c)
_PUT: Final = (
    "INSERT INTO pins (project, server, tool, digest, document, status, approved_by, at)"
    " VALUES (:project, :server, :tool, :digest, :document, :status, :approved_by, :at) ON CONFLICT DO NOTHING"
)
_CHANGE: Final = (
    "UPDATE pins SET digest = :digest, document = :document, status = :status, approved_by = :approved_by, at = :at"
    " WHERE project = :project AND server = :server AND tool = :tool"
    " AND digest = :old_digest AND document = :old_document AND status = :old_status AND at = :old_at"
)


def put(tables: Tables, pin: PinRow, before: PinRow | None) -> bool:
    """Store a pin in the place of `before`; whether that was still the present one."""
    values = {**asdict(pin), "document": _as_bytes(pin.document)}
    if before is None:
        return tables.run(_PUT, **values) > 0
    old = {
        "old_digest": before.digest,
        "old_document": _as_bytes(before.document),
        "old_status": before.status,
        "old_at": before.at,
    }
    return tables.run(_CHANGE, **values, **old) > 0


def told(pin: PinRow, before: PinRow | None) -> dict[str, Any]:
    """What the project's log says of a change."""
    said = {"server": pin.server, "tool": pin.tool, "digest": pin.digest, "approved_by": pin.approved_by}
    proposed = pin.document.get("proposed")
    if isinstance(proposed, Mapping):
        said["proposed"] = proposed.get("digest")
    return said if before is None else {**said, "before": before.digest}


def chosen(project: ProjectId, server: str | None) -> Select[Any]:
    """The rows of a project, or of one of its servers, by name."""
    c = t.pins.c
    found = select(t.pins).where(c.project == project).order_by(c.server, c.tool)
    return found if server is None else found.where(c.server == server)


def pin_row(row: Sequence[Any]) -> PinRow:
    values = dict(zip(_NAMES, row, strict=True))
    return PinRow(**{**values, "document": orjson.loads(values["document"])})


def _as_bytes(document: Mapping[str, Any]) -> bytes:
    """Equal documents have one form, by which a row is compared."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
