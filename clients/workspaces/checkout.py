"""Capturing and restoring one directory. The caller holds its lock and keeps the store's objects from collection."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import anyio
import anyio.to_thread

from omium.clients.workspaces.beneath import Beneath
from omium.clients.workspaces.content import Content, encode_manifest, without
from omium.clients.workspaces.deleting import empty_directory
from omium.clients.workspaces.index import Index, content_of, index_of, load_index, save_index
from omium.clients.workspaces.reading import Limits, Look, compression_for, hash_file, look, send_file
from omium.clients.workspaces.restore import Plan, apply, plan_restore, stage
from omium.clients.workspaces.scan import Excluded, Found, clock, scan
from omium.clients.workspaces.store import Store
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import RestoreReport, Tree

T = TypeVar("T")
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A directory and where is remembered what is known of it. name: of its lock, its state and its ref."""

    name: str
    root: Path
    state: Path
    excluded: Excluded
    limits: Limits

    @property
    def marker(self) -> Path:
        """A file whose time of change is the file system's clock."""
        return self.state / "clock"

    @property
    def index(self) -> Path:
        """What `load_index` reads."""
        return self.state / "index.json"


async def capture_place(store: Store, place: Place, label: str, *, keep_history: bool = True) -> tuple[Tree, int]:
    """The tree of what is there now, pinned, and how many special files it leaves out.

    A file that changes while it is read makes it start again, three times at most; then it raises `workspace`.
    """
    index = await _in_thread(load_index, place.index)
    for tries_left in reversed(range(_TRIES)):
        try:
            seen = await _in_thread(look, place.root, place.excluded, place.marker, index, place.limits)
            if not seen.unread:
                content = content_of(seen.scan, seen.blobs)
                if index.tree is not None and index.describes(content, encode_manifest(content)):
                    break
            index.tree = await _add(store, place, label, seen, keep_history)
            break
        except OmiumError as error:
            if not error.data.get("changing") or not tries_left:
                raise
    assert index.tree is not None  # both ways out of the loop have set it
    pinned = [*(known for known in index.pinned if known != index.tree), index.tree] if keep_history else [index.tree]
    now_known = index_of(seen.scan, content_of(seen.scan, seen.blobs), index.tree, pinned)
    if now_known != index:
        await _in_thread(save_index, place.index, now_known)
    return index.tree, len(seen.scan.skipped)


async def restore_place(store: Store, place: Place, tree: Tree) -> RestoreReport:
    """Makes the directory equal to `tree` and pins that under this place's ref."""
    target = without(await store.content(tree), place.excluded)
    index = await _in_thread(load_index, place.index)
    if tree not in index.pinned:
        # First: from here on this run's directory depends on it, whoever else drops it.
        await store.pin(place.name, tree, "restored")
        index.pinned.append(tree)
    seen = await _in_thread(look, place.root, place.excluded, place.marker, index, place.limits)
    await _in_thread(_read_all, place.root, seen)
    plan = plan_restore(seen.scan, seen.blobs, target)
    staged = place.state / "stage"
    await _in_thread(_fresh, staged)
    numbers = iter(range(len(plan.write)))

    def receive(_: str, pieces: Iterable[bytes]) -> None:
        number = next(numbers)
        stage(staged, number, plan.write[number][1], pieces)

    await _reporting(store.fetch([item.blob for _, item in plan.write], receive))
    now_known = await _in_thread(_apply, place, plan, staged, seen, target, tree, index)
    await _in_thread(save_index, place.index, now_known)
    return RestoreReport(plan.changed, len(plan.remove), plan.added)


async def _add(store: Store, place: Place, label: str, seen: Look, keep_history: bool) -> Tree:
    def send(to_git: IO[bytes], stop: threading.Event) -> Content:
        with Beneath(place.root) as beneath:
            for path in seen.unread:
                seen.blobs[path] = send_file(beneath, path, seen.scan.files[path], to_git, stop)
        return content_of(seen.scan, seen.blobs)

    level = await _in_thread(compression_for, place.root, seen)
    return await _reporting(store.add(place.name, label, level, send, keep_history=keep_history))


def _read_all(root: Path, seen: Look) -> None:
    """Fills in the ids of unread files. What cannot be read gets none, so it counts as different and is replaced."""
    with Beneath(root) as beneath:
        for path in seen.unread:
            try:
                seen.blobs[path] = hash_file(beneath, path, seen.scan.files[path])
            except OmiumError:
                seen.blobs[path] = ""


def _fresh(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    empty_directory(directory)


def _apply(place: Place, plan: Plan, staged: Path, seen: Look, target: Content, tree: Tree, index: Index) -> Index:
    """Applies a staged plan; gives what is now known of the directory."""
    written = {path: (staged / str(number)).lstat() for number, (path, _) in enumerate(plan.write)}
    # A staged file is out of others' reach until it is moved into place: what they do to it shows in its time of
    # change if that was old by then.
    shows_before_ns = clock(place.marker)
    apply(plan, place.root, staged)
    after = scan(place.root, place.excluded, place.marker, max_files=place.limits.files)
    files: dict[bytes, tuple[Found, str, bool]] = {}
    for path, found in after.files.items():
        status, before = written.get(path), seen.scan.files.get(path)
        if status is not None:
            ours = (found.inode, found.mtime_ns, found.size) == (status.st_ino, status.st_mtime_ns, status.st_size)
            files[path] = (found, target.items[path].blob, ours and found.mtime_ns < shows_before_ns)
        elif before is not None:
            files[path] = (found, seen.blobs[path], found.same_as(before) and seen.scan.settled(found))
    return Index(files, tree, encode_manifest(target), index.pinned)


async def _in_thread(function: Callable[..., T], *args: object, **more: object) -> T:
    return await _reporting(anyio.to_thread.run_sync(functools.partial(function, *args, **more)))


async def _reporting(work: Awaitable[T]) -> T:
    """The result, with what the operating system refuses (a full disk, a missing permission) as `workspace`."""
    try:
        return await work
    except OSError as error:
        name = os.fsdecode(error.filename)[-200:] if isinstance(error.filename, str | bytes) else ""
        raise OmiumError("workspace", f"The operating system refused: {error.strerror} {name!r}.") from error
