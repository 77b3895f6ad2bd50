"""How long a run waits for its workspace when that is a clone of a repository."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import anyio

from omium.clients.workspaces import GitWorkspaces
from omium.orchestration.ids import RunId, new_id
from omium.orchestration.ports_workspace import WorkspaceSpec
from tests.bench.figures import KB, Figure, payload, percentile
from tests.bench.ours.work import Work

_GIT = ("git", "-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")


def make_repository(directory: Path, files: int, file_kb: int) -> Path:
    """A repository of so many files, a hundred to a folder, in one commit."""
    for number in range(files):
        folder = directory / f"folder-{number // 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(f"{number}\n{payload(file_kb)[: file_kb * KB]}")
    subprocess.run([*_GIT, "init", "--quiet", "-b", "main"], cwd=directory, check=True)
    subprocess.run([*_GIT, "add", "-A"], cwd=directory, check=True)
    subprocess.run([*_GIT, "commit", "--quiet", "-m", "all"], cwd=directory, check=True)
    return directory


async def checkouts(work: Work) -> list[Figure]:
    """The first workspace of a repository, which fetches it, and the median of `times` that come from the cache."""
    source = await anyio.to_thread.run_sync(make_repository, work.directory / "source", work.files, work.file_kb)
    workspaces, spec = GitWorkspaces(work.directory / "home"), WorkspaceSpec("git", str(source))
    took = []
    for _ in range(1 + work.times):
        began = time.perf_counter()
        await workspaces.open(RunId(new_id("run")), spec)
        took.append(time.perf_counter() - began)
    return [
        Figure("checkout_first", round(took[0], 3), "s"),
        Figure("checkout", round(percentile(took[1:], 50) or 0.0, 3), "s"),
    ]
