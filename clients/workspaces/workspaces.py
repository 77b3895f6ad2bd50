"""The directories of runs, over one store of captured trees.

Below `<home>/workspaces`: `trees/<run>` (what a run's nodes see), `state/<run>` (what is remembered of it), `store.git`
(captured trees), `cache` (cloned repositories), `locks`, `trash`. POSIX only.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from omium.clients.workspaces import paths
from omium.clients.workspaces.changes import changes
from omium.clients.workspaces.checkout import Place, capture_place, restore_place
from omium.clients.workspaces.content import check_tree
from omium.clients.workspaces.deleting import empty_directory, remove_directory
from omium.clients.workspaces.git import Git
from omium.clients.workspaces.locks import file_lock
from omium.clients.workspaces.paths import check_run_id, make_private
from omium.clients.workspaces.reading import Limits
from omium.clients.workspaces.repository import BORROWED, Repositories, check_source, read_head
from omium.clients.workspaces.scan import compile_excludes
from omium.clients.workspaces.store import Store
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import NodeId, RunId
from omium.orchestration.ports_workspace import (
    Commit,
    FileChange,
    FileEntry,
    Head,
    RestoreReport,
    Tree,
    WorkspaceSpec,
)

T = TypeVar("T")
_log = logging.getLogger(__name__)
_TRASH_AGE_S = 3600


class GitWorkspaces:
    """`omium.orchestration.ports_workspace.Workspaces` on this machine. Makes nothing before its first use.

    home: Omium's directory; git: for another binary; limits: of one workspace; now: seconds since the epoch.
    """

    def __init__(
        self,
        home: Path,
        *,
        git: Git | None = None,
        limits: Limits | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._home = home.absolute()
        self._root = self._home / "workspaces"
        self._git = git or Git()
        self._store = Store(self._root, self._git)
        self._repositories = Repositories(self._root / "cache", self._git)
        self._limits = limits or Limits()
        self._now = now

    async def open(self, run_id: RunId, spec: WorkspaceSpec, at: Tree | None = None) -> Path:
        """See Workspaces.open."""
        check_run_id(run_id)
        _check_spec(spec)
        if at is not None:
            check_tree(at)
        await self._prepare()
        async with self._lock(run_id):
            place = self._place(run_id, spec)
            if _read_spec(place.state) is not None and place.root.is_dir():
                return place.root
            # A directory without a recorded spec was not finished: nobody was told of it.
            await _in_thread(self._clear, run_id)
            make_private(place.root, above=self._home)
            make_private(place.state, above=self._home)
            if at is not None:
                await self._restore(place, spec, at)
            elif spec.kind == "git":
                await self._repositories.clone(_source(spec), spec.ref, place.root)
            elif spec.source is not None:
                await self._restore(place, spec, await self._capture_source(spec))
            _write_spec(place.state, spec)
            return place.root

    async def capture(self, run_id: RunId, label: str) -> Tree:
        """See Workspaces.capture."""
        check_run_id(run_id)
        async with self._lock(run_id), self._store.using():
            place, _ = self._opened(run_id)
            tree, skipped = await capture_place(self._store, place, label)
        if skipped:
            _log.warning("%s: %d sockets, pipes or devices are not in tree %s", run_id, skipped, tree)
        return tree

    async def restore(self, run_id: RunId, tree: Tree) -> RestoreReport:
        """See Workspaces.restore."""
        check_run_id(run_id)
        check_tree(tree)
        async with self._lock(run_id):
            place, spec = self._opened(run_id)
            return await self._restore(place, spec, tree)

    async def diff(self, a: Tree, b: Tree, *, patch_limit: int = 0) -> list[FileChange]:
        """See Workspaces.diff."""
        check_tree(a)
        check_tree(b)
        await self._prepare()
        async with self._store.using():
            return await changes(self._store, a, b, patch_limit)

    async def files(self, tree: Tree) -> list[FileEntry]:
        """See Workspaces.files."""
        check_tree(tree)
        await self._prepare()
        async with self._store.using():
            content, sizes = await self._store.content(tree), await self._store.sizes(tree)
        return [
            FileEntry(os.fsdecode(path), sizes[path], item.blob, item.kind)
            for path, item in sorted(content.items.items())
        ]

    async def read(self, tree: Tree, path: str) -> bytes:
        """See Workspaces.read."""
        check_tree(tree)
        await self._prepare()
        async with self._store.using():
            item = (await self._store.content(tree)).items.get(os.fsencode(path))
            if item is None:
                raise OmiumError("not_found", f"The tree {tree} has no file {path[:200]!r}.")
            return await self._store.read(item.blob)

    async def head(self, tree: Tree) -> Head | None:
        """See Workspaces.head."""
        check_tree(tree)
        await self._prepare()
        async with self._store.using():
            items = (await self._store.content(tree)).items
            told = [p for p in items if p in {b".git/HEAD", b".git/packed-refs"} or p.startswith(b".git/refs/heads/")]
            blobs: dict[bytes, bytes] = {}
            await self._store.fetch(
                [items[path].blob for path in told],
                lambda blob, pieces: blobs.__setitem__(blob.encode("ascii"), b"".join(pieces)),
            )
        return read_head(lambda path: blobs.get(items[path].blob.encode("ascii")) if path in items else None)

    async def commits(self, run_id: RunId) -> list[Commit]:
        """See Workspaces.commits."""
        check_run_id(run_id)
        async with self._lock(run_id):
            place, spec = self._opened(run_id)
            return await self._repositories.commits(_source(spec), place.root) if spec.kind == "git" else []

    async def path(self, run_id: RunId) -> Path | None:
        """See Workspaces.path."""
        check_run_id(run_id)
        root = self._root / "trees" / run_id
        return root if _read_spec(self._root / "state" / run_id) is not None and root.is_dir() else None

    async def release(self, run_id: RunId) -> None:
        """See Workspaces.release."""
        check_run_id(run_id)
        await self._prepare()
        async with self._lock(run_id):
            await _in_thread(self._clear, run_id)
        await self._store.tidy()

    async def drop(self, run_ids: Sequence[RunId]) -> None:
        """See Workspaces.drop. Collecting takes time in proportion to the store: call it for many runs at once."""
        for run_id in run_ids:
            check_run_id(run_id)
        await self._prepare()
        for run_id in run_ids:
            async with self._lock(run_id):
                await _in_thread(self._clear, run_id)
                self._lock_path(run_id).unlink(missing_ok=True)
        await self._store.drop(run_ids)

    async def sweep(self, live: set[RunId]) -> list[str]:
        """See Workspaces.sweep."""
        await self._prepare()
        found = {entry.name for kind in ("trees", "state") for entry in os.scandir(self._root / kind)}
        removed: list[str] = []
        for name in sorted(found - live):
            if not _is_run(name):
                continue
            try:
                async with file_lock(self._lock_path(name), wait_s=0):
                    await _in_thread(self._clear, name)
                    removed.append(name)
            except OmiumError as error:
                if error.code != "timeout":
                    raise
        await _in_thread(self._empty_trash)
        await self._store.tidy()
        return removed

    async def export(self, run_ids: Sequence[RunId], target: Path) -> int:
        """Write every captured tree of these runs to one new file, for another machine or another day; of how many runs
        there were any. No file when there are none. Files that were changed since are not in it. Raises `integrity`."""
        for run_id in run_ids:
            check_run_id(run_id)
        if not self._root.is_dir():
            return 0
        async with self._store.using():
            held = await self._store.bundle(run_ids, target)
        if held:
            await _in_thread(_secure, target)
        return len(held)

    async def take_in(self, source: Path) -> int:
        """Have the captured trees of a file that `export` wrote here, beside those that are here; of how many runs.
        Directories are not touched: they are made of them when they are needed. Raises `integrity`."""
        await self._prepare()
        async with file_lock(self._root / "coming.lock"), self._store.using():
            coming = {name: tip for name, tip in (await self._store.receive(source)).items() if _is_run(name)}
            await self._store.add_new(coming)
            for name in await self._store.unjoined(coming):
                async with self._lock(name):
                    await self._store.join(name, coming[name])
            await self._store.settled()
        return len(coming)

    def node_dir(self, run_id: RunId, node_id: NodeId, attempt: int) -> Path:
        """See Workspaces.node_dir."""
        return paths.node_dir(self._home, run_id, node_id, attempt)

    async def _prepare(self) -> None:
        for name in ("trees", "state", "locks", "trash", "cache"):
            make_private(self._root / name, above=self._home)
        await self._store.ensure()

    def _lock(self, name: str) -> AbstractAsyncContextManager[None]:
        return file_lock(self._lock_path(name))

    def _lock_path(self, name: str) -> Path:
        return self._root / "locks" / f"{name}.lock"

    def _place(self, name: str, spec: WorkspaceSpec) -> Place:
        borrowed = (BORROWED,) if spec.kind == "git" else ()
        root = self._root / "trees" / name
        return Place(name, root, self._root / "state" / name, compile_excludes(spec.exclude, borrowed), self._limits)

    def _opened(self, run_id: RunId) -> tuple[Place, WorkspaceSpec]:
        spec = _read_spec(self._root / "state" / run_id)
        place = None if spec is None else self._place(run_id, spec)
        if spec is None or place is None or place.root.is_symlink() or not place.root.is_dir():
            raise OmiumError("not_found", f"{run_id} has no open workspace.", "Open it first.")
        return place, spec

    async def _restore(self, place: Place, spec: WorkspaceSpec, tree: Tree) -> RestoreReport:
        async with self._store.using():
            report = await restore_place(self._store, place, tree)
        if spec.kind == "git":
            await self._repositories.lend(_source(spec), place.root)
        return report

    async def _capture_source(self, spec: WorkspaceSpec) -> Tree:
        """The tree of a declared directory. Remembered: the next run that starts from it only checks it out."""
        source = await _in_thread(Path(_source(spec)).resolve)
        if not source.is_dir():
            raise OmiumError("not_found", f"There is no directory {str(source)!r} to start a workspace from.")
        home = await _in_thread(self._home.resolve)
        if source.is_relative_to(home):
            raise OmiumError("invalid_argument", f"{str(source)!r} is inside Omium's own directory.")
        # Omium's directory is often inside the project that is copied.
        own = (os.fsencode(home.relative_to(source)),) if home.is_relative_to(source) else ()
        key = hashlib.sha256(json.dumps([str(source), list(spec.exclude)]).encode()).hexdigest()[:32]
        name = f"source_{key}"
        state = self._root / "state" / name
        make_private(state, above=self._home)
        place = Place(name, source, state, compile_excludes(spec.exclude, own), self._limits)
        async with self._lock(name), self._store.using():
            return (await capture_place(self._store, place, "source", keep_history=False))[0]

    def _clear(self, name: str) -> None:
        # The spec goes first: without it the directory counts as unfinished.
        (self._root / "state" / name / "spec.json").unlink(missing_ok=True)
        for kind in ("trees", "state"):
            remove_directory(self._root / kind / name, self._root / "trash")

    def _empty_trash(self) -> None:
        """Only what is old: another process may be deleting the rest at this moment."""
        for entry in list(os.scandir(self._root / "trash")):
            if self._now() - entry.stat(follow_symlinks=False).st_mtime > _TRASH_AGE_S:
                empty_directory(Path(entry.path))
                Path(entry.path).rmdir()


async def _in_thread(function: Callable[..., T], *args: object) -> T:
    try:
        return await anyio.to_thread.run_sync(functools.partial(function, *args))
    except OSError as error:
        raise OmiumError("workspace", f"A workspace's directory cannot be changed: {error}.") from error


def _secure(path: Path) -> None:
    """A file that git wrote: its owner's alone, and on the disk."""
    with path.open("rb") as file:
        os.fchmod(file.fileno(), 0o600)
        os.fsync(file.fileno())


def _check_spec(spec: WorkspaceSpec) -> None:
    compile_excludes(spec.exclude)
    if spec.kind == "git":
        check_source(_source(spec))
        if spec.ref is not None and not paths.is_commit_id(spec.ref):
            paths.check_ref(spec.ref)
    elif spec.kind != "directory" or spec.ref is not None:
        raise OmiumError("invalid_argument", f"A workspace of kind {spec.kind!r} cannot have ref {spec.ref!r}.")


def _source(spec: WorkspaceSpec) -> str:
    if not spec.source:
        raise OmiumError("invalid_argument", f"A workspace of kind {spec.kind!r} needs a source.")
    return spec.source


def _write_spec(state: Path, spec: WorkspaceSpec) -> None:
    temporary = state / "spec.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(asdict(spec), file)
        file.flush()
        # It decides whether the directory counts as finished, so it must survive a power cut whole.
        os.fsync(file.fileno())
    temporary.replace(state / "spec.json")


def _read_spec(state: Path) -> WorkspaceSpec | None:
    try:
        said = json.loads((state / "spec.json").read_text("utf-8"))
        return WorkspaceSpec(said["kind"], said["source"], said["ref"], tuple(said["exclude"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OmiumError("workspace", f"{state.name}: the record of its workspace cannot be read ({error}).") from error


def _is_run(name: str) -> bool:
    try:
        check_run_id(name)
    except OmiumError:
        return False
    return True
