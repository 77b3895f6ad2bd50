"""Making a directory equal to a tree: plan, stage, apply.

Everything that has to be written is first written and verified beside the workspace; only then is the workspace
touched, by removals, renames and changes of mode. So damaged or missing content leaves it as it was, and the time in
which a crash can leave a mixture is short. The mixture is mended by doing it again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from omium.clients.workspaces.beneath import DIRECTORY, Beneath
from omium.clients.workspaces.content import Content, Item
from omium.clients.workspaces.scan import Scan, kind_and_mode
from omium.orchestration.errors import OmiumError


@dataclass(slots=True)
class Plan:
    """What has to happen, in this order. Paths are sorted, so that a directory comes before what it holds."""

    remove: list[bytes] = field(default_factory=list)  # files, links, special files
    remove_dirs: list[bytes] = field(default_factory=list)  # kept where they hold something excluded
    make_dirs: list[bytes] = field(default_factory=list)
    write: list[tuple[bytes, Item]] = field(default_factory=list)
    modes: list[tuple[bytes, int]] = field(default_factory=list)  # of files whose content is right
    dir_modes: list[tuple[bytes, int]] = field(default_factory=list)
    added: int = 0
    changed: int = 0


def plan_restore(scan: Scan, blobs: dict[bytes, str], target: Content) -> Plan:
    """How the scanned directory, whose files have these blob ids, becomes `target`."""
    plan = Plan()
    wanted_dirs = target.directories()
    # A special file that was left out of the tree was there then: it is left alone.
    special = [path for path in scan.skipped if path not in target.skipped]
    plan.remove = sorted(path for path in (*scan.files, *special) if path not in target.items)
    plan.remove_dirs = sorted(
        (path for path in scan.directories if path not in wanted_dirs), reverse=True
    )  # deepest first
    plan.make_dirs = sorted(path for path in wanted_dirs if path not in scan.directories)
    for path, item in sorted(target.items.items()):
        found = scan.files.get(path)
        if found is None:
            plan.added += 1
            plan.write.append((path, item))
        elif blobs[path] != item.blob or (found.kind == "link") != (item.kind == "link"):
            plan.changed += 1
            plan.write.append((path, item))
        elif found.mode != item.mode:
            plan.changed += 1
            # The mode belongs to the inode: with another hard link the file is made anew instead.
            if found.links > 1:
                plan.write.append((path, item))
            else:
                plan.modes.append((path, item.mode))
    for path in sorted(wanted_dirs, reverse=True):
        mode = target.dir_modes.get(path, 0o755)
        if scan.directories.get(path) != mode:
            plan.dir_modes.append((path, mode))
    return plan


def stage(directory: Path, number: int, item: Item, pieces: Iterable[bytes]) -> None:
    """Writes one file or link under its number into the staging directory."""
    place = directory / str(number)
    if item.kind == "link":
        place.symlink_to(os.fsdecode(b"".join(pieces)))
        return
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb", buffering=0) as file:
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]
        os.fchmod(descriptor, item.mode)


def apply(plan: Plan, root: Path, staged: Path) -> None:
    """Carries out a plan whose `write` list is staged by position. Raises `workspace`."""
    with Beneath(root) as beneath:
        opened: dict[bytes, int] = {}
        staged_fd = os.open(staged, DIRECTORY)
        try:
            for path in plan.remove:
                _remove(beneath, path, opened)
            for path in plan.remove_dirs:
                _remove_dir(beneath, path, opened)
            beneath.forget()
            for path in plan.make_dirs:
                _writable(beneath, path, opened)
                beneath.dir(path, create=True)
            for number, (path, _) in enumerate(plan.write):
                _place(beneath, path, staged_fd, number, opened)
            for path, mode in plan.modes:
                _set_mode(beneath, path, mode)
            _set_dir_modes(beneath, plan, opened)
        except OSError as error:
            raise OmiumError(
                "workspace",
                f"The workspace cannot be restored: {error.strerror} ({os.fsdecode(error.filename or b'')[:200]!r}).",
                "Stop what still writes to it, then restore again.",
            ) from error
        finally:
            os.close(staged_fd)


def _writable(beneath: Beneath, path: bytes, opened: dict[bytes, int]) -> tuple[int, bytes]:
    """The directory that holds `path`, made writable for us if it was not; `opened` remembers the mode it had."""
    parent, name = beneath.parent(path)
    mode = stat.S_IMODE(os.fstat(parent).st_mode)
    if mode & 0o700 != 0o700:
        opened.setdefault(path.rpartition(b"/")[0], mode)
        os.fchmod(parent, mode | 0o700)
    return parent, name


def _remove(beneath: Beneath, path: bytes, opened: dict[bytes, int]) -> None:
    with contextlib.suppress(FileNotFoundError):  # gone already: that is what was wanted
        parent, name = _writable(beneath, path, opened)
        os.unlink(name, dir_fd=parent)


def _remove_dir(beneath: Beneath, path: bytes, opened: dict[bytes, int]) -> None:
    try:
        parent, name = _writable(beneath, path, opened)
        os.rmdir(name, dir_fd=parent)
        opened.pop(path, None)
    except FileNotFoundError:
        pass
    except OSError as error:
        # It still holds something excluded, which nothing could bring back: it stays.
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise


def _place(beneath: Beneath, path: bytes, staged: int, number: int, opened: dict[bytes, int]) -> None:
    """Moves a staged file into place; what was there under that name, link or file, is replaced, never written to."""
    parent, name = _writable(beneath, path, opened)
    os.rename(str(number), name, src_dir_fd=staged, dst_dir_fd=parent)


def _set_mode(beneath: Beneath, path: bytes, mode: int) -> None:
    parent, name = beneath.parent(path)
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        if kind_and_mode(os.fstat(descriptor)) is not None:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _set_dir_modes(beneath: Beneath, plan: Plan, opened: dict[bytes, int]) -> None:
    """Modes of directories, deepest first: one that forbids entering would shut us out of those below."""
    final = opened | dict(plan.dir_modes)
    for path in sorted(final, reverse=True):
        os.fchmod(beneath.dir(path), final[path])
