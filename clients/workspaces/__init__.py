"""The directories of runs: captured, compared and restored through git's object store."""

from __future__ import annotations

from omium.clients.workspaces.paths import check_ref, confine, node_dir, open_beneath, path_parts
from omium.clients.workspaces.reading import Limits
from omium.clients.workspaces.workspaces import GitWorkspaces

__all__ = ["GitWorkspaces", "Limits", "check_ref", "confine", "node_dir", "open_beneath", "path_parts"]
