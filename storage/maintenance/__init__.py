"""What keeps a database sound, small and recoverable. Each function takes a `Keeper`, which `keeper(store)` gives."""

from __future__ import annotations

from typing import Any

from omium.storage.maintenance.backup import DISOWN, Backup, backup, restore
from omium.storage.maintenance.contents import quarantine, runs_needing
from omium.storage.maintenance.erasing import Beside, Erased, erase
from omium.storage.maintenance.evidence import Evidence, evidence
from omium.storage.maintenance.logs import append_project_event, export_heads, record_heads
from omium.storage.maintenance.projections import Rebuilt, rebuild
from omium.storage.maintenance.retention import Policy, Retained, forget, retain
from omium.storage.maintenance.sweep import Swept, sweep
from omium.storage.maintenance.tables import Keeper, SqliteKeeper, Tables
from omium.storage.maintenance.verify import nearest_valid_checkpoint, verify
from omium.storage.sqlite.store import SqliteStore


def keeper(store: Any) -> Keeper:
    """How maintenance reaches the database of an open store."""
    if isinstance(store, SqliteStore):
        return SqliteKeeper(store)
    if type(store).__name__ == "PostgresStore":  # its driver is an extra: whoever has such a store has that too
        from omium.storage.maintenance.postgres import PostgresKeeper

        return PostgresKeeper(store)
    raise TypeError(f"{type(store).__name__} is no store of this package")


__all__ = [
    "DISOWN",
    "Backup",
    "Beside",
    "Erased",
    "Evidence",
    "Keeper",
    "Policy",
    "Rebuilt",
    "Retained",
    "SqliteKeeper",
    "Swept",
    "Tables",
    "append_project_event",
    "backup",
    "erase",
    "evidence",
    "export_heads",
    "forget",
    "keeper",
    "nearest_valid_checkpoint",
    "quarantine",
    "rebuild",
    "record_heads",
    "restore",
    "retain",
    "runs_needing",
    "sweep",
    "verify",
]
