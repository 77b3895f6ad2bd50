"""Reading a workspace's files: which blob each one is, and their content for the store.

A file counts as read only if its status is the same before and after, so a blob never mixes two versions of a file.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from omium.clients.workspaces.beneath import Beneath
from omium.clients.workspaces.index import Index
from omium.clients.workspaces.scan import Excluded, Found, Scan, found_from, kind_and_mode, scan
from omium.clients.workspaces.store import CHUNK, blob_hash, write_all
from omium.orchestration.errors import OmiumError

_SAMPLE_FILES = 8
_SAMPLE_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Limits:
    """What a workspace may hold at most, without what is excluded."""

    files: int = 200_000
    bytes: int = 20 << 30


@dataclass(slots=True)
class Look:
    """A directory as it is now. blobs: the ids that are known to be right and to be in the store; unread: the rest."""

    scan: Scan
    blobs: dict[bytes, str]
    unread: list[bytes]


def look(root: Path, excluded: Excluded, marker: Path, index: Index, limits: Limits) -> Look:
    """Scans, and reads what may have changed but probably did not. Raises `workspace`."""
    try:
        found = scan(root, excluded, marker, max_files=limits.files)
    except OSError as error:
        raise OmiumError("workspace", f"The workspace {root.name} cannot be read: {error.strerror}.") from error
    total = sum(file.size for file in found.files.values())
    if total > limits.bytes:
        raise OmiumError(
            "workspace", f"The files take {total} bytes; {limits.bytes} are allowed.", "Exclude what need not be kept."
        )
    blobs: dict[bytes, str] = {}
    unread: list[bytes] = []
    with Beneath(root) as beneath:
        for path in sorted(found.files):
            blob = index.blob(path, found.files[path])
            if blob is None:
                blob = _if_still(beneath, path, found.files[path], index.likely_blob(path, found.files[path]))
            if blob is None:
                unread.append(path)
            else:
                blobs[path] = blob
    return Look(found, blobs, unread)


def _if_still(beneath: Beneath, path: bytes, found: Found, likely: str | None) -> str | None:
    """`likely` if that is the file's blob; None also when it cannot be read now, for whoever reads it to report."""
    try:
        return likely if likely is not None and hash_file(beneath, path, found) == likely else None
    except OmiumError:
        return None


def hash_file(beneath: Beneath, path: bytes, expected: Found) -> str:
    """The blob id of a file's or a link's content. Raises `workspace`, with `changing` if it changed meanwhile."""
    hashed = blob_hash(expected.size)
    with _pieces(beneath, path, expected) as pieces:
        for piece in pieces:
            hashed.update(piece)
    return hashed.hexdigest()


def send_file(beneath: Beneath, path: bytes, expected: Found, to_git: IO[bytes], stop: threading.Event) -> str:
    """Writes a file's or a link's content as a blob into an import stream; gives its id. Raises as `hash_file`."""
    hashed = blob_hash(expected.size)
    head = b"blob\ndata %d\n" % expected.size
    with _pieces(beneath, path, expected) as pieces:
        for piece in pieces:
            if stop.is_set():
                raise BrokenPipeError
            hashed.update(piece)
            write_all(to_git, head + piece if len(piece) < CHUNK else head)
            if len(piece) >= CHUNK:
                write_all(to_git, piece)
            head = b""
    write_all(to_git, head + b"\n")
    return hashed.hexdigest()


def compression_for(root: Path, seen: Look) -> int:
    """zlib's level for the unread files: 1, or 0 where a sample does not shrink.

    On content that is compressed already level 1 more than doubles the time of a capture and saves nothing.
    """
    sample = b""
    step = max(1, len(seen.unread) // _SAMPLE_FILES)
    with Beneath(root) as beneath:
        for path in seen.unread[::step]:
            if seen.scan.files[path].kind == "link":
                continue
            with _opened(beneath, path) as file:
                sample += file.read(_SAMPLE_BYTES)
    return 1 if len(zlib.compress(sample, 1)) < 0.9 * len(sample) else 0


@contextmanager
def _pieces(beneath: Beneath, path: bytes, expected: Found) -> Iterator[Iterator[bytes]]:
    """The content in pieces that add up to `expected.size`; checks the file's status before and after."""
    if expected.kind == "link":
        parent, name = beneath.parent(path)
        try:
            target = os.readlink(name, dir_fd=parent)
        except OSError as error:
            raise _changing(path) from error
        if len(target) != expected.size:
            raise _changing(path)
        yield iter([target])
        return
    with _opened(beneath, path) as file:
        _check(file, path, expected)
        yield _read(file, path, expected.size)
        _check(file, path, expected)


def _read(file: IO[bytes], path: bytes, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = file.read(min(left, CHUNK))
        if not piece:
            raise _changing(path)
        left -= len(piece)
        yield piece


@contextmanager
def _opened(beneath: Beneath, path: bytes) -> Iterator[IO[bytes]]:
    try:
        parent, name = beneath.parent(path)
        # Not blocking: a pipe may have taken the file's place.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=parent)
    except PermissionError as error:
        shown = os.fsdecode(path)[:200]
        raise OmiumError("workspace", f"The file {shown!r} cannot be read: {error.strerror}.") from error
    except OSError as error:
        raise _changing(path) from error
    with open(descriptor, "rb", buffering=0) as file:
        yield file


def _check(file: IO[bytes], path: bytes, expected: Found) -> None:
    status = os.fstat(file.fileno())
    recorded = kind_and_mode(status)
    if recorded is None or not found_from(status, *recorded).same_as(expected):
        raise _changing(path)


def _changing(path: bytes) -> OmiumError:
    shown = os.fsdecode(path)[:200]
    return OmiumError(
        "workspace", f"The file {shown!r} changed while it was read.", "Stop what writes to it.", changing=True
    )
