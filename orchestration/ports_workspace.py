"""What the core needs of a run's workspace: a directory whose contents can be captured, compared and put back.

A workspace belongs to one run. A captured tree is immutable, addressed by its content and shared by all runs of an
installation, so a branch opens its own directory at its parent's tree. A tree holds regular files, symbolic links (as
links), directories that are empty, and permission bits; it never holds times, owners, or what `exclude` names.
Sockets, pipes and devices are left out, and the tree says so.

Paths in this module are relative, use `/`, and are decoded with `os.fsdecode`: a name that is not UTF-8 contains lone
surrogates and comes back unchanged through `os.fsencode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NewType, Protocol

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId

Tree = NewType("Tree", str)  # 40 hexadecimal digits; equal trees have equal ids


@dataclass(frozen=True, slots=True)
class WorkspaceSpec:
    """How a workspace starts, as the operator declared it.

    kind `directory`: empty, or a copy of the directory `source`; `ref` must be None.
    kind `git`: a clone of the repository `source` (a path or a URL) with `ref` checked out: a branch, a tag, a full
    commit id, or None for the repository's default branch.
    exclude: what is no part of the workspace's trees, is not copied, and is left alone by a restore. A pattern without
    `/` matches a name at any depth (`node_modules`, `*.pyc`); one with `/` matches a path from the top, part by part.
    """

    kind: Literal["directory", "git"] = "directory"
    source: str | None = None
    ref: str | None = None
    exclude: tuple[str, ...] = ()


def check_source(name: str, spec: WorkspaceSpec) -> None:
    """Raises `workspace` when the directory of this machine that a workspace starts from is not there."""
    if spec.source is not None and spec.source.startswith("/") and not Path(spec.source).is_dir():
        what = "it is no directory" if Path(spec.source).exists() else "there is nothing there"
        raise OmiumError(
            "workspace",
            f"the workspace {name!r} cannot start from {spec.source!r}: {what}.",
            f"Make it, or change workspaces.{name}.source in omium.yaml.",
        )


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """How many files and links a restore replaced, deleted and created. All zero: nothing had to be done."""

    changed: int
    removed: int
    added: int


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a tree. size: bytes; digest: git's blob id of its content; a link's content is its target."""

    path: str
    size: int
    digest: str
    kind: Literal["file", "executable", "link"]


@dataclass(frozen=True, slots=True)
class FileChange:
    """A difference between two trees. Sizes are bytes, None on the side where the file does not exist.

    patch: a unified diff, or None when a side is binary, only permissions changed, or it would exceed the limit.
    """

    path: str
    status: Literal["added", "removed", "modified"]
    old_size: int | None
    new_size: int | None
    patch: str | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit that was made inside a `git` workspace."""

    id: str
    subject: str


@dataclass(frozen=True, slots=True)
class Head:
    """Where the repository inside a `git` workspace stands. branch: None when detached; commit: None when unborn."""

    branch: str | None
    commit: str | None


class Workspaces(Protocol):
    """The directories of runs. Every method may be called again with the same arguments, also after a crash.

    Raises OmiumError: `invalid_argument` (an id, path, pattern or ref of a wrong form), `not_found` (no such
    workspace, tree, file, source or ref), `integrity` (stored bytes do not match their digest; the directory was not
    touched), `workspace` (the directory cannot be read or written, or keeps changing), `unsupported` (no git).
    Operations on one run exclude each other, across processes too.
    """

    async def open(self, run_id: RunId, spec: WorkspaceSpec, at: Tree | None = None) -> Path:
        """The run's directory (mode 0700), made at tree `at`, or as `spec` says, unless it exists already.

        An existing directory is returned as it is; the spec it was made with stays in force.
        """
        ...

    async def capture(self, run_id: RunId, label: str) -> Tree:
        """The tree of the present files, durable and safe from collection when this returns.

        An unchanged directory gives the same tree. `label` (one line) says why, for whoever reads the store.
        """
        ...

    async def restore(self, run_id: RunId, tree: Tree) -> RestoreReport:
        """Makes the directory equal to `tree`, touching only what differs. Interrupted, it is simply repeated.

        Never follows a symbolic link and never changes a file that is also linked from elsewhere.
        """
        ...

    async def diff(self, a: Tree, b: Tree, *, patch_limit: int = 0) -> list[FileChange]:
        """What changed from `a` to `b`, by path; patches of at most `patch_limit` bytes are included."""
        ...

    async def files(self, tree: Tree) -> list[FileEntry]:
        """Every file and link of a tree, by path."""
        ...

    async def read(self, tree: Tree, path: str) -> bytes:
        """The content of one file of a tree (of a link: its target; links are never followed)."""
        ...

    async def head(self, tree: Tree) -> Head | None:
        """The branch and commit of the repository at the top of the tree; None when it holds none."""
        ...

    async def commits(self, run_id: RunId) -> list[Commit]:
        """Commits reachable from HEAD in a `git` workspace that its source did not have, oldest first."""
        ...

    async def path(self, run_id: RunId) -> Path | None:
        """The run's directory, or None when it is not open."""
        ...

    async def release(self, run_id: RunId) -> None:
        """Removes the run's directory. Its captured trees stay."""
        ...

    async def drop(self, run_ids: Sequence[RunId]) -> None:
        """Removes directories and captured trees of these runs; content that other runs hold stays."""
        ...

    async def sweep(self, live: set[RunId]) -> list[str]:
        """Removes directories of runs that are not in `live` and what a crash left behind; returns their names.

        Captured trees stay. A run that another process is working on is passed over.
        """
        ...

    def node_dir(self, run_id: RunId, node_id: NodeId, attempt: int) -> Path:
        """A scratch directory (0700) of one attempt, with `data`, `outputs`, `logs` and `tmp` in it."""
        ...
