"""What changed between two captured trees."""

from __future__ import annotations

import os
import re

from omium.clients.workspaces.content import GIT_MODES, Content, Item, escape, quote
from omium.clients.workspaces.store import Store
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import FileChange, Tree

_LARGEST = 1 << 20  # a file over this is not compared line by line
_MOST = 64 << 20  # nor more than this in all
_PLAIN = re.compile(rb'\A[^\x00-\x1f\x7f"\\]*\Z')


async def changes(store: Store, a: Tree, b: Tree, patch_limit: int) -> list[FileChange]:
    """By path; with patches of at most `patch_limit` bytes."""
    old, new = await store.content(a), await store.content(b)
    old_sizes, new_sizes = await store.sizes(a), await store.sizes(b)
    paths = sorted(path for path in {*old.items, *new.items} if old.items.get(path) != new.items.get(path))
    patches: dict[bytes, bytes] = {}
    if paths and patch_limit > 0:
        largest = _largest([max(old_sizes.get(path, 0), new_sizes.get(path, 0)) for path in paths])
        patches = _by_path(await store.patches(a, b, largest=largest), old, new, paths)
    found: list[FileChange] = []
    for path in paths:
        before, after = old_sizes.get(path), new_sizes.get(path)
        patch = patches.get(path)
        found.append(
            FileChange(
                os.fsdecode(path),
                "added" if before is None else "removed" if after is None else "modified",
                before,
                after,
                None if patch is None or len(patch) > patch_limit else patch.decode("utf-8", "replace"),
            )
        )
    return found


def _largest(sizes: list[int]) -> int:
    """The size over which files are not compared, so that both limits hold."""
    total = 0
    for size in sorted(sizes):
        total += size
        if size > _LARGEST or total > _MOST:
            return max(1, min(size - 1, _LARGEST))
    return _LARGEST


def _by_path(text: bytes, old: Content, new: Content, paths: list[bytes]) -> dict[bytes, bytes]:
    """git's patches, each under its path and with its path in the header in place of the escaped one.

    git writes them in the order of stored paths, one a file, and two where a file became a link or a link a file.
    """
    # Lines of content begin with a blank, a sign or a backslash, so this can only begin a patch.
    parts = re.split(rb"(?m)^diff --git ", text)[1:]
    expected: list[bytes] = []
    for path in sorted(paths, key=escape):
        before, after = _as_git(old.items.get(path)), _as_git(new.items.get(path))
        if before != after:
            became_other = (
                before is not None and after is not None and (before[0] == b"120000") != (after[0] == b"120000")
            )
            expected += [path, path] if became_other else [path]
    if len(parts) != len(expected):
        raise OmiumError("internal", f"git wrote {len(parts)} patches for {len(expected)} changed files.")
    found: dict[bytes, bytes] = {}
    for path, part in zip(expected, parts, strict=True):
        header, at, hunks = part.partition(b"\n@@ ")
        if at:
            name = path if _PLAIN.match(path) else quote(path)
            left = b"/dev/null" if b"\n--- /dev/null" in header else b"a/" + name
            right = b"/dev/null" if b"\n+++ /dev/null" in header else b"b/" + name
            found[path] = found.get(path, b"") + b"--- %b\n+++ %b\n@@ %b" % (left, right, hunks)
    return found


def _as_git(item: Item | None) -> tuple[bytes, str] | None:
    return None if item is None else (GIT_MODES[item.kind], item.blob)
