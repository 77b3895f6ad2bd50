"""What is in a directory now, and which of it is known to be unchanged.

A file counts as unchanged when its size, inode, times of content and of status and its permission bits are those of
the last look, and its times were already old then: a file that was written within the clock's resolution of that look
could have changed again without showing (git's "racy" entries), so it is read again.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from omium.clients.workspaces.beneath import DIRECTORY, Beneath
from omium.clients.workspaces.content import Kind
from omium.orchestration.errors import OmiumError

MAX_DEPTH = 256
_FINE_NS = 20_000_000  # twice the slowest kernel tick: the resolution of a file's times on common systems
_COARSE_NS = 2_000_000_000  # file systems with times in whole (FAT: even) seconds

Excluded = Callable[[bytes, bytes], bool]  # (path, its last component)


@dataclass(frozen=True, slots=True)
class Found:
    """A file or link as the file system shows it."""

    kind: Kind
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    links: int

    def same_as(self, other: Found) -> bool:
        """Whether nothing shows a change. The count of hard links is no change."""
        return (self.kind, self.mode, self.size, self.mtime_ns, self.ctime_ns, self.inode) == (
            other.kind,
            other.mode,
            other.size,
            other.mtime_ns,
            other.ctime_ns,
            other.inode,
        )


@dataclass(slots=True)
class Scan:
    """A directory's present content, without what is excluded.

    settled_before_ns: a file whose times are all below it cannot change without showing.
    """

    settled_before_ns: int
    files: dict[bytes, Found] = field(default_factory=dict)
    directories: dict[bytes, int] = field(default_factory=dict)  # path -> permission bits; the root excepted
    empty: set[bytes] = field(default_factory=set)
    skipped: dict[bytes, str] = field(default_factory=dict)

    def settled(self, found: Found) -> bool:
        """Whether a later look at unchanged times will prove unchanged content."""
        return max(found.mtime_ns, found.ctime_ns) < self.settled_before_ns


def compile_excludes(patterns: tuple[str, ...], paths: tuple[bytes, ...] = ()) -> Excluded:
    """A predicate from WorkspaceSpec.exclude and from literal paths. Raises `invalid_argument`."""
    names: list[str] = []
    rooted: list[list[re.Pattern[str]]] = []
    for pattern in patterns:
        parts = pattern.strip("/").split("/") if isinstance(pattern, str) else []
        if not parts or any(part in {"", ".", ".."} for part in parts) or "\0" in pattern:
            raise OmiumError("invalid_argument", f"{pattern!r} is not a pattern for what to leave out.")
        if len(parts) == 1 and not pattern.startswith("/"):
            names.append(fnmatch.translate(parts[0]))
        else:
            rooted.append([re.compile(fnmatch.translate(part)) for part in parts])
    any_name = re.compile("|".join(names)) if names else None
    literal = frozenset(paths)

    def excluded(path: bytes, name: bytes) -> bool:
        if path in literal or (any_name is not None and any_name.match(os.fsdecode(name))):
            return True
        if not rooted:
            return False
        parts = os.fsdecode(path).split("/")
        return any(
            len(pattern) == len(parts) and all(part.match(text) for part, text in zip(pattern, parts, strict=True))
            for pattern in rooted
        )

    return excluded


def scan(root: Path, excluded: Excluded, marker: Path, *, max_files: int) -> Scan:
    """Looks at everything below `root`, following no link. Raises `workspace`.

    marker: a file on the same file system that this may rewrite; its time is that system's idea of now.
    """
    result = Scan(clock(marker))
    with Beneath(root) as beneath:
        _walk(beneath.dir(b""), b"", 0, excluded, result, max_files)
    return result


def clock(marker: Path) -> int:
    """The time, in ns, that a file changed from now on cannot show any more, by the clock of the file system."""
    marker.write_bytes(b"")
    now = marker.stat().st_mtime_ns
    return now - (_COARSE_NS if now % 1_000_000_000 == 0 else _FINE_NS)


def kind_and_mode(found: os.stat_result) -> tuple[Kind, int] | None:
    """How a tree records this file, or None for what it does not record."""
    if stat.S_ISLNK(found.st_mode):
        return "link", 0
    if not stat.S_ISREG(found.st_mode):
        return None
    mode = stat.S_IMODE(found.st_mode) & 0o777
    return ("executable" if mode & stat.S_IXUSR else "file"), mode


def found_from(status: os.stat_result, kind: Kind, mode: int) -> Found:
    """The part of a file's status that tells a change."""
    return Found(kind, mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_nlink)


def _walk(fd: int, prefix: bytes, depth: int, excluded: Excluded, result: Scan, max_files: int) -> bool:
    """Adds what is below an open directory; whether that is nothing: nothing captured and nothing excluded."""
    if depth > MAX_DEPTH:
        raise OmiumError("workspace", f"Directories are nested deeper than {MAX_DEPTH}: {_shown(prefix)}.")
    if len(result.files) > max_files:
        raise OmiumError("workspace", f"There are more than {max_files} files.", "Exclude what need not be kept.")
    with os.scandir(fd) as entries:
        named = [(entry, os.fsencode(entry.name)) for entry in entries]
    bare = True
    for entry, name in named:
        path = prefix + name
        if excluded(path, name):
            bare = False
            continue
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # deleted since the directory was read: it is not among the present files
        if stat.S_ISDIR(status.st_mode):
            _enter(fd, name, path, depth, excluded, result, max_files)
            bare = False
            continue
        recorded = kind_and_mode(status)
        if recorded is None:
            result.skipped[path] = _special(status.st_mode)
        else:
            result.files[path] = found_from(status, *recorded)
            bare = False
    return bare


def _enter(fd: int, name: bytes, path: bytes, depth: int, excluded: Excluded, result: Scan, max_files: int) -> None:
    try:
        child = os.open(name, DIRECTORY, dir_fd=fd)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OmiumError("workspace", f"The directory {_shown(path)} cannot be read: {error.strerror}.") from error
    try:
        result.directories[path] = stat.S_IMODE(os.fstat(child).st_mode) & 0o777
        if _walk(child, path + b"/", depth + 1, excluded, result, max_files):
            result.empty.add(path)
    finally:
        os.close(child)


def _special(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"), (stat.S_ISBLK, "device"), (stat.S_ISCHR, "device"))
    return next((name for test, name in kinds if test(mode)), "special")


def _shown(path: bytes) -> str:
    return repr(os.fsdecode(path)[:200])
