"""What was committed inside a workspace, told by its files alone: nothing that stands in it is executed or obeyed."""

from __future__ import annotations

import os
from pathlib import Path

from omium.clients.workspaces.beneath import Beneath
from omium.clients.workspaces.content import quote
from omium.clients.workspaces.git import Git
from omium.clients.workspaces.paths import is_commit_id
from omium.clients.workspaces.repository import read_head, read_small
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import Commit

_MOST = 1_000


def head_of(workspace: Path) -> str | None:
    """The commit that the repository at the top of a workspace stands at; None without one."""
    head = read_head(lambda path: read_small(workspace, path))
    return None if head is None else head.commit


async def commits_since(workspace: Path, since: str | None, scratch: Path, git: Git | None = None) -> list[Commit]:
    """Commits that HEAD reaches and `since` (an earlier HEAD) does not, oldest first (1,000). scratch: a directory of
    ours. A repository that cannot be read gives none: whoever wrote it only deprives themselves of the report.
    """
    head = head_of(workspace)
    if head is None or head == since or (since is not None and not is_commit_id(since)):
        return []
    try:
        with Beneath(workspace) as beneath:
            beneath.dir(b".git/objects")
    except OSError:
        return []  # not a directory of this workspace
    runner, own = git or Git(), scratch / "commits.git"
    await runner.run(["init", "--quiet", "--bare", "--template=", str(own)])
    # In a repository of ours, whose configuration is ours; the workspace only contributes objects.
    try:
        raw = await runner.output(
            [
                *("log", "-z", "--reverse", f"--max-count={_MOST}", "--format=%H %s", "--no-color"),
                *("--no-show-signature", head, *(("--not", since) if since is not None else ())),
            ],
            git_dir=own,
            also_objects=quote(os.fsencode(workspace / ".git" / "objects")),
        )
    except OmiumError:
        return []
    rows = [row.decode("utf-8", "replace").partition(" ") for row in raw.split(b"\0") if row]
    return [Commit(commit, subject) for commit, _, subject in rows]
