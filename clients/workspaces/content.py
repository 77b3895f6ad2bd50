"""What a captured tree says: its files, and beside them what git does not record.

In the store a tree is `files/...`, plain git blobs at escaped paths, and `manifest`, a JSON object with
`empty` (directories without captured content), `modes` (permission bits other than 0644, 0755, and 0755 for
directories) and `skipped` (special files that were left out, with their kind).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import Tree

Kind = Literal["file", "executable", "link"]

GIT_MODES: dict[Kind, bytes] = {"file": b"100644", "executable": b"100755", "link": b"120000"}
KINDS: dict[bytes, Kind] = {mode: kind for kind, mode in GIT_MODES.items()}
FILES = b"files/"
_MANIFEST_VERSION = 1
_TREE = re.compile(r"\A[0-9a-f]{40}\Z")


@dataclass(frozen=True, slots=True)
class Item:
    """A file or link: its kind, blob id and permission bits (0 for a link)."""

    kind: Kind
    blob: str
    mode: int


@dataclass(frozen=True, slots=True)
class Content:
    """Everything that a captured tree says, by path (bytes, relative, as the file system spells them)."""

    items: dict[bytes, Item]
    empty: frozenset[bytes] = frozenset()
    dir_modes: dict[bytes, int] = field(default_factory=dict)  # only those that are not 0755
    skipped: dict[bytes, str] = field(default_factory=dict)

    def directories(self) -> set[bytes]:
        """Every directory that the tree implies, the root excepted."""
        found: set[bytes] = set()
        for path in (*self.items, *(directory + b"/" for directory in self.empty)):
            above = path.rpartition(b"/")[0]
            while above and above not in found:
                found.add(above)
                above = above.rpartition(b"/")[0]
        return found


def without(content: Content, excluded: Callable[[bytes, bytes], bool]) -> Content:
    """The content less what `excluded(path, name)` says of a path or of a directory above it."""
    known: dict[bytes, bool] = {b"": False}

    def out(path: bytes) -> bool:
        if path not in known:
            above, _, name = path.rpartition(b"/")
            known[path] = out(above) or excluded(path, name)
        return known[path]

    return Content(
        {path: item for path, item in content.items.items() if not out(path)},
        frozenset(path for path in content.empty if not out(path)),
        {path: mode for path, mode in content.dir_modes.items() if not out(path)},
        {path: kind for path, kind in content.skipped.items() if not out(path)},
    )


def check_tree(tree: str) -> Tree:
    """`tree` itself; raises `invalid_argument` unless it has the form of a tree's id."""
    if not isinstance(tree, str) or not _TREE.match(tree):
        raise OmiumError("invalid_argument", f"{tree!r} is not a tree's id.")
    return Tree(tree)


def default_mode(kind: Kind) -> int:
    """The permission bits that go without saying for a kind."""
    return {"file": 0o644, "executable": 0o755, "link": 0}[kind]


def escape(path: bytes) -> bytes:
    """The path in the store. A part beginning with `.git`, `git~` or `%` gets a `%` in front.

    So git sees neither a repository nor attributes, and any path that a file system holds can be stored; versions of
    git differ in which of these names they refuse.
    """
    if b".git" not in path.lower() and b"git~" not in path.lower() and b"%" not in path:
        return path
    return b"/".join(
        b"%" + part if part.lower().startswith((b".git", b"git~", b"%")) else part for part in path.split(b"/")
    )


def unescape(stored: bytes) -> bytes:
    """The inverse of `escape`. Raises `integrity` for what no capture can have written."""
    parts = [part.removeprefix(b"%") for part in stored.split(b"/")]
    if any(part in {b"", b".", b".."} for part in parts):
        raise OmiumError("integrity", f"A stored tree names the path {stored!r}.")
    return b"/".join(parts)


def encode_manifest(content: Content) -> bytes:
    """The manifest of a tree: equal contents give equal bytes."""
    modes = {path: item.mode for path, item in content.items.items() if item.mode != default_mode(item.kind)}
    return json.dumps(
        {
            "version": _MANIFEST_VERSION,
            "empty": sorted(map(os.fsdecode, content.empty)),
            "modes": {os.fsdecode(path): mode for path, mode in modes.items()},
            "dir_modes": {os.fsdecode(path): mode for path, mode in content.dir_modes.items()},
            "skipped": {os.fsdecode(path): kind for path, kind in content.skipped.items()},
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode("ascii")


def decode(files: dict[bytes, tuple[Kind, str]], manifest: bytes) -> Content:
    """The content of a tree from its files (kind, blob id) and its manifest. Raises `integrity`."""
    try:
        said = json.loads(manifest)
        if said["version"] != _MANIFEST_VERSION:
            raise OmiumError("unsupported", "This tree was captured by a newer version.", "Upgrade to read it.")
        modes = {os.fsencode(path): int(mode) & 0o777 for path, mode in said["modes"].items()}
        return Content(
            {path: Item(kind, blob, modes.get(path, default_mode(kind))) for path, (kind, blob) in files.items()},
            frozenset(_checked(os.fsencode(path)) for path in said["empty"]),
            {_checked(os.fsencode(path)): int(mode) & 0o777 for path, mode in said["dir_modes"].items()},
            {os.fsencode(path): str(kind) for path, kind in said["skipped"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OmiumError("integrity", f"A captured tree's manifest cannot be read ({error}).") from error


def quote(path: bytes) -> bytes:
    """A path in git's C style: for its import stream, and for a patch's header."""
    escaped = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"'


def _checked(path: bytes) -> bytes:
    if any(part in {b"", b".", b".."} for part in path.split(b"/")):
        raise ValueError(f"path {path!r}")
    return path
