"""Directories of attempts that nobody needs any more: what their programs wrote goes with their runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from omium.clients.workspaces.deleting import empty_directory, remove_directory
from omium.clients.workspaces.paths import check_run_id, make_private
from omium.orchestration.ids import RunId

_ABANDONED_S: Final = 3_600.0


def remove_scratch(home: Path, run_ids: Sequence[RunId]) -> None:
    """Remove what the attempts of these runs have left below Omium's directory: outputs, logs, temporary files.
    Raises OSError, and `invalid_argument` for what is no run's id."""
    trash = home / "runs" / ".trash"
    make_private(trash, above=home)
    for entry in list(trash.iterdir()):  # another process may be deleting the younger ones at this moment
        if time.time() - entry.lstat().st_mtime > _ABANDONED_S:
            empty_directory(entry)
            entry.rmdir()
    for run_id in run_ids:
        remove_directory(home / "runs" / check_run_id(run_id), trash)
