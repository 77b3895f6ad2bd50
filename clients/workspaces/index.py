"""What is remembered of a run's directory between two looks: blob ids by file status, and which trees are pinned.

It only saves work. Whatever is wrong with it (missing, torn, of another boot) counts as knowing nothing, and every
file is read again. After a power cut files may have lost content that their status still claims; hence the boot.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from omium.clients.workspaces.content import Content, Item, encode_manifest
from omium.clients.workspaces.scan import Found, Scan
from omium.orchestration.ports_workspace import Tree

_VERSION = 1


@dataclass(slots=True)
class Index:
    """files: path -> (status, blob id, whether that status proves the content); pinned: trees under the run's ref.

    tree, manifest: the last captured or restored tree, and its manifest.
    """

    files: dict[bytes, tuple[Found, str, bool]] = field(default_factory=dict)
    tree: Tree | None = None
    manifest: bytes = b""
    pinned: list[Tree] = field(default_factory=list)

    def blob(self, path: bytes, found: Found) -> str | None:
        """The blob id of a file that provably did not change, or None."""
        known = self.files.get(path)
        return known[1] if known is not None and known[2] and known[0].same_as(found) else None

    def likely_blob(self, path: bytes, found: Found) -> str | None:
        """The blob id that this file had when last read, if kind and size still agree: worth comparing."""
        known = self.files.get(path)
        return known[1] if known is not None and (known[0].kind, known[0].size) == (found.kind, found.size) else None

    def describes(self, content: Content, manifest: bytes) -> bool:
        """Whether the remembered tree has exactly this content."""
        return (
            self.tree is not None
            and self.manifest == manifest
            and len(self.files) == len(content.items)
            and all(
                (known := self.files.get(path)) is not None and (known[0].kind, known[1]) == (item.kind, item.blob)
                for path, item in content.items.items()
            )
        )


def content_of(scan: Scan, blobs: dict[bytes, str]) -> Content:
    """A scanned directory as a tree's content; `blobs` has the id of every file."""
    content = Content(
        {path: Item(found.kind, blobs[path], found.mode) for path, found in scan.files.items()},
        frozenset(scan.empty),
        skipped=dict(scan.skipped),
    )
    kept = content.directories()
    content.dir_modes.update({path: mode for path, mode in scan.directories.items() if mode != 0o755 and path in kept})
    return content


def index_of(scan: Scan, content: Content, tree: Tree, pinned: list[Tree]) -> Index:
    """What to remember after a look at a directory that now has this content."""
    files = {path: (found, content.items[path].blob, scan.settled(found)) for path, found in scan.files.items()}
    return Index(files, tree, encode_manifest(content), pinned)


def load_index(path: Path) -> Index:
    """The index in a file; an empty one when there is none that can be used."""
    try:
        said: dict[str, Any] = orjson.loads(path.read_bytes())
        if said["version"] != _VERSION or said["boot"] != _boot():
            return Index(pinned=[Tree(tree) for tree in said["pinned"]])
        files = {
            name.encode("latin-1"): (Found(*status), str(blob), bool(settled))
            for name, (status, blob, settled) in said["files"].items()
        }
        tree = None if said["tree"] is None else Tree(said["tree"])
        return Index(files, tree, said["manifest"].encode("latin-1"), [Tree(known) for known in said["pinned"]])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Index()


def save_index(path: Path, index: Index) -> None:
    """Replaces the file in one step."""
    files = {
        name.decode("latin-1"): (
            (known.kind, known.mode, known.size, known.mtime_ns, known.ctime_ns, known.inode, known.links),
            blob,
            settled,
        )
        for name, (known, blob, settled) in index.files.items()
    }
    temporary = path.with_suffix(".new")
    temporary.write_bytes(
        orjson.dumps(
            {
                "version": _VERSION,
                "boot": _boot(),
                "tree": index.tree,
                "manifest": index.manifest.decode("latin-1"),
                "pinned": index.pinned,
                "files": files,
            }
        )
    )
    temporary.replace(path)


def _boot() -> str:
    """An id of this start of the machine; where there is none, of this process, so that nothing is trusted."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return f"process {os.getpid()}"
