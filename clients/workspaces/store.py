"""The one repository that holds every captured tree of an installation.

git never looks at a workspace: contents go in as a stream (`git fast-import`) and come out as a stream (`git cat-file
--batch`), so nothing in a workspace is configuration, attribute or ignore rule to it. Each run has one ref whose
history is its captures; a tree is pinned when that history reaches it. Objects are shared by all runs.

Reading and adding hold `store.lock` shared; what deletes objects holds it alone, so that nothing is collected between
being found present and being pinned.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import IO

import anyio

from omium.clients.workspaces.content import (
    FILES,
    GIT_MODES,
    KINDS,
    Content,
    Kind,
    decode,
    encode_manifest,
    escape,
    quote,
    unescape,
)
from omium.clients.workspaces.git import Git
from omium.clients.workspaces.locks import file_lock
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import Tree

CHUNK = 1 << 20
_REFS = "refs/omium/"
_COMING = "refs/coming/"  # what a bundle pins, until it has been joined with what is here
_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # git knows it without having it
_LISTINGS = 8
_MANY_PACKS = 50

Send = Callable[[IO[bytes], threading.Event], Content]
Receive = Callable[[str, Iterable[bytes]], None]  # blob id, its content in pieces


class Store:
    """Captured trees in `<directory>/store.git`."""

    def __init__(self, directory: Path, git: Git) -> None:
        self._directory = directory
        self._path = directory / "store.git"
        self._git = git
        self._listings: OrderedDict[Tree, tuple[Content, dict[bytes, int]]] = OrderedDict()

    def using(self) -> AbstractAsyncContextManager[None]:
        """Objects that are present stay present within this block."""
        return file_lock(self._directory / "store.lock", shared=True)

    async def ensure(self) -> None:
        """Makes the repository if it is missing."""
        if self._path.is_dir():
            return
        async with file_lock(self._directory / "store.lock"):
            if self._path.is_dir():
                return
            fresh = self._directory / "store.new"  # init completes what a crash left there
            await self._git.run(["init", "--quiet", "--bare", "--template=", "--object-format=sha1", str(fresh)])
            await anyio.Path(fresh).rename(self._path)

    async def add(self, name: str, label: str, level: int, send: Send, *, keep_history: bool = True) -> Tree:
        """Stores a tree and pins it under the ref of `name`; durable when this returns.

        `send(stream, stop)` writes blobs with `send_blob` and gives the content, which may also name blobs that the
        store already has. level: zlib's. keep_history: whether earlier trees of this ref stay pinned.
        """

        def work(to_git: IO[bytes], from_git: IO[bytes], stop: threading.Event) -> Tree:
            content = send(to_git, stop)
            _send_commit(to_git, ref, parent, label, content)
            to_git.close()
            return _tree_from(from_git.read())

        ref = self._ref(name)
        parent = await self._tip(ref) if keep_history else None
        return await self._git.converse(
            [
                *("-c", f"core.compression={level}", "-c", f"pack.compression={level}"),
                *("fast-import", "--quiet", "--done", "--depth=0", "--date-format=raw"),
                # Without history the new commit does not descend from the old one, which needs saying.
                *(() if keep_history else ("--force",)),
            ],
            work,
            git_dir=self._path,
        )

    def _ref(self, name: str) -> str:
        """The ref that pins the trees of `name`, whose lock the caller holds: what git itself left locked there belongs
        to nobody, because git holds the caller's lock as well for as long as it lives."""
        (self._path / _REFS / f"{name}.lock").unlink(missing_ok=True)
        return _REFS + name

    async def pin(self, name: str, tree: Tree, label: str) -> None:
        """Makes the ref of `name` reach `tree`. Raises `not_found`."""

        def work(to_git: IO[bytes], from_git: IO[bytes], stop: threading.Event) -> Tree:
            header = _commit_header(ref, parent, label)
            write_all(to_git, header + b'M 040000 %s ""\ndone\n' % tree.encode("ascii"))
            to_git.close()
            return tree

        if await self._git.run(["cat-file", "-e", f"{tree}^{{tree}}"], git_dir=self._path, may_fail=True) is None:
            raise OmiumError(
                "not_found", f"There is no captured tree {tree}.", "It may have been dropped by retention."
            )
        ref = self._ref(name)
        parent = await self._tip(ref)
        await self._git.converse(["fast-import", "--quiet", "--done", "--date-format=raw"], work, git_dir=self._path)

    async def content(self, tree: Tree) -> Content:
        """What a captured tree says. Raises `not_found`, `integrity`."""
        return (await self._listing(tree))[0]

    async def sizes(self, tree: Tree) -> dict[bytes, int]:
        """The size in bytes of each file and link of a captured tree."""
        return (await self._listing(tree))[1]

    async def fetch(self, blobs: Sequence[str], receive: Receive) -> None:
        """Hands `receive(blob, pieces)`, in a thread, each blob in this order. It must take all pieces.

        The pieces raise `integrity` after the last one if they do not hash to the blob's id, and at once if the blob
        is missing.
        """

        def work(to_git: IO[bytes], from_git: IO[bytes], stop: threading.Event) -> int:
            for blob in blobs:
                receive(blob, _pieces(blob, from_git, stop))
            return len(blobs)

        if not blobs:
            return
        with tempfile.TemporaryFile() as requests:
            requests.write("".join(f"{blob}\n" for blob in blobs).encode("ascii"))
            requests.seek(0)
            await self._git.converse(["cat-file", "--batch", "--buffer"], work, git_dir=self._path, stdin=requests)

    async def read(self, blob: str) -> bytes:
        """One blob's content. Raises `integrity`."""
        parts: list[bytes] = []
        await self.fetch([blob], lambda _, pieces: parts.extend(pieces))
        return b"".join(parts)

    async def patches(self, a: Tree, b: Tree, *, largest: int) -> bytes:
        """git's patches from `a` to `b`, by stored path; files over `largest` bytes count as binary."""
        sides: list[str] = []
        for tree in (a, b):
            items = (await self.content(tree)).items
            sides.append(f"{tree}:{FILES.decode()[:-1]}" if items else _EMPTY_TREE)
        return await self._git.output(
            [
                *("-c", f"core.bigFileThreshold={largest}", "diff-tree", "-r", "-p", "--no-renames", "--no-color"),
                *("--no-ext-diff", "--no-textconv", *sides),
            ],
            git_dir=self._path,
        )

    async def bundle(self, names: Iterable[str], target: Path) -> list[str]:
        """Writes what these refs pin, with its history, to one new file; of which of them there was something. No file
        when there was nothing. Raises `integrity` when what is pinned cannot be read."""
        if not self._path.is_dir():
            return []
        held = sorted(set(names) & set(await self._tips(_REFS)))
        if held:
            asked = "".join(f"{_REFS}{name}\n" for name in held).encode("ascii")
            try:
                await self._git.run(
                    ["bundle", "create", "--quiet", str(target), "--stdin"], git_dir=self._path, input=asked
                )
                await self._git.run(["bundle", "verify", "--quiet", str(target)], git_dir=self._path)
            except OmiumError as error:
                raise OmiumError("integrity", f"the captured files cannot be copied: {error.message}") from error
        return held

    async def receive(self, source: Path) -> dict[str, str]:
        """Takes in the objects of a file that `bundle` wrote, and what each of its refs says: name -> commit. They are
        kept until `settled`. Raises `integrity` when the file is damaged."""
        await self.settled()
        try:
            await self._git.run(
                [
                    *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"),
                    *(str(source), f"+{_REFS}*:{_COMING}*"),
                ],
                git_dir=self._path,
            )
        except OmiumError as error:
            raise OmiumError(
                "integrity",
                f"the captured files in {source.name} are damaged: {error.message}",
                "Restore an older one.",
            ) from error
        return await self._tips(_COMING)

    async def add_new(self, coming: Mapping[str, str]) -> None:
        """Pins received commits under the refs that are not here yet, all at once."""
        here = await self._tips(_REFS)
        commands = b"".join(
            b"create %s%s\0%s\0" % (_REFS.encode(), name.encode("ascii"), tip.encode("ascii"))
            for name, tip in coming.items()
            if name not in here
        )
        if commands:  # may be refused because somebody was quicker: then `join` has it one by one
            asked = ["update-ref", "--no-deref", "--stdin", "-z"]
            await self._git.run(asked, git_dir=self._path, input=commands, may_fail=True)

    async def unjoined(self, coming: Mapping[str, str]) -> list[str]:
        """Those whose ref says something else than what was received."""
        here = await self._tips(_REFS)
        return [name for name, tip in coming.items() if here.get(name) != tip]

    async def join(self, name: str, tip: str) -> None:
        """Has the ref of `name`, whose lock the caller holds, reach a received commit beside what it reaches now."""
        ref = self._ref(name)
        here = await self._tip(ref)
        if here is not None and await self._reaches(here, tip):
            return
        if here is not None and not await self._reaches(tip, here):  # both went on since: both stay pinned
            parents = ["-p", here, "-p", tip]
            who = ["-c", "user.name=Omium", "-c", "user.email=omium@localhost"]
            made = await self._git.output(
                [*who, "commit-tree", *parents, "-m", "restored", f"{here}^{{tree}}"], git_dir=self._path
            )
            tip = made.decode("ascii").strip()
        await self._git.run(["update-ref", "--no-deref", ref, tip], git_dir=self._path)

    async def settled(self) -> None:
        """Forgets what was received and is joined by now."""
        coming = await self._tips(_COMING)
        commands = b"".join(b"delete %s%s\0\0" % (_COMING.encode(), name.encode("ascii")) for name in coming)
        if commands:
            await self._git.run(["update-ref", "--no-deref", "--stdin", "-z"], git_dir=self._path, input=commands)

    async def _tips(self, below: str) -> dict[str, str]:
        said = await self._git.output(["for-each-ref", "--format=%(refname) %(objectname)", below], git_dir=self._path)
        pairs = (line.split(" ") for line in said.decode("ascii", "replace").splitlines())
        return {ref.removeprefix(below): commit for ref, commit in pairs}

    async def _reaches(self, commit: str, other: str) -> bool:
        asked = ["merge-base", "--is-ancestor", other, commit]
        return await self._git.run(asked, git_dir=self._path, may_fail=True) is not None

    async def drop(self, names: Sequence[str]) -> None:
        """Unpins what these refs hold and collects what no other ref reaches."""
        if not self._path.is_dir():
            return
        commands = b"".join(b"delete %s%s\0\0" % (_REFS.encode(), name.encode("ascii")) for name in names)
        if commands:
            await self._git.run(["update-ref", "--no-deref", "--stdin", "-z"], git_dir=self._path, input=commands)
        async with self._alone(wait_s=10) as held:
            if held:
                self._listings.clear()
                self._forget_marks()
                await self._git.run(["repack", "-a", "-d", "-q", "--no-write-bitmap-index"], git_dir=self._path)
                await self._git.run(["prune", "--expire=now"], git_dir=self._path)
                await self._git.run(["pack-refs", "--all"], git_dir=self._path)

    def _forget_marks(self) -> None:
        """Remove the marks of a killed git from its packs, which would never be joined; nobody else is at work."""
        for mark in (self._path / "objects" / "pack").glob("*.keep"):
            mark.unlink(missing_ok=True)

    async def tidy(self) -> None:
        """Joins packs when there are many. Deletes no object; passes when the store is in use."""
        packs = self._path / "objects" / "pack"
        if not packs.is_dir() or sum(1 for pack in packs.glob("*.pack")) <= _MANY_PACKS:
            return
        async with self._alone(wait_s=0) as held:
            if held:
                self._forget_marks()
                await self._git.run(["repack", "-d", "-q", "--geometric=2"], git_dir=self._path)
                for report in self._path.glob("fast_import_crash_*"):
                    report.unlink(missing_ok=True)

    @asynccontextmanager
    async def _alone(self, *, wait_s: float) -> AsyncIterator[bool]:
        """Holds the store alone, or gives False when it stays in use for `wait_s`."""
        try:
            lock = file_lock(self._directory / "store.lock", wait_s=wait_s)
            await lock.__aenter__()
        except OmiumError as error:
            if error.code != "timeout":
                raise
            yield False
            return
        try:
            yield True
        finally:
            await lock.__aexit__(None, None, None)

    async def _tip(self, ref: str) -> str | None:
        found = await self._git.run(["rev-parse", "--verify", "-q", ref], git_dir=self._path, may_fail=True)
        return None if found is None else found.decode("ascii").strip()

    async def _listing(self, tree: Tree) -> tuple[Content, dict[bytes, int]]:
        known = self._listings.get(tree)
        if known is not None:
            self._listings.move_to_end(tree)
            return known
        raw = None
        if self._path.is_dir():
            raw = await self._git.run(["ls-tree", "-r", "-z", "-l", tree], git_dir=self._path, may_fail=True)
        if raw is None:
            raise OmiumError(
                "not_found", f"There is no captured tree {tree}.", "It may have been dropped by retention."
            )
        files: dict[bytes, tuple[Kind, str]] = {}
        sizes: dict[bytes, int] = {}
        manifest: str | None = None
        for row in raw.split(b"\0")[:-1]:
            about, _, stored = row.partition(b"\t")
            mode, _, blob, size = about.split()
            if stored == b"manifest":
                manifest = blob.decode("ascii")
            elif stored.startswith(FILES) and mode in KINDS:
                path = unescape(stored.removeprefix(FILES))
                files[path] = (KINDS[mode], blob.decode("ascii"))
                sizes[path] = int(size)
        if manifest is None:
            raise OmiumError("not_found", f"{tree} is not a captured tree.")
        listing = decode(files, await self.read(manifest)), sizes
        self._listings[tree] = listing
        while len(self._listings) > _LISTINGS:
            self._listings.popitem(last=False)
        return listing


def send_blob(to_git: IO[bytes], data: bytes) -> None:
    """Writes one blob to an import stream."""
    write_all(to_git, b"blob\ndata %d\n%b\n" % (len(data), data))


def blob_hash(size: int) -> hashlib._Hash:
    """A hash that gives git's blob id after `size` bytes of content."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def write_all(stream: IO[bytes], data: bytes) -> None:
    """Writes all of it to an unbuffered stream."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def _commit_header(ref: str, parent: str | None, label: str) -> bytes:
    # A pack is named by what is in it, and git marks one that it has just written with a file of that name: two runs
    # with the same first tree, or what a killed git left, would be in each other's way if their commits were the same.
    unique = os.urandom(8).hex()
    message = f"{' '.join(label.split())[:200]}\n\nId: {unique}".encode("utf-8", "replace")
    lines = [
        b"commit %s" % ref.encode("ascii"),
        b"mark :1",
        b"committer Omium <omium@localhost> %d +0000" % int(time.time()),
        b"data %d" % len(message),
        message,
    ]
    if parent is not None:
        lines.append(b"from %s" % parent.encode("ascii"))
    return b"\n".join(lines) + b"\n"


def _send_commit(to_git: IO[bytes], ref: str, parent: str | None, label: str, content: Content) -> None:
    manifest = encode_manifest(content)
    lines = [_commit_header(ref, parent, label), b"deleteall\n"]
    lines.append(b"M 100644 inline manifest\ndata %d\n%b\n" % (len(manifest), manifest))
    for path, item in content.items.items():
        mode, blob = GIT_MODES[item.kind], item.blob.encode("ascii")
        lines.append(b"M %b %b %b\n" % (mode, blob, quote(FILES + escape(path))))
    lines.append(b'\nls :1 ""\ndone\n')
    write_all(to_git, b"".join(lines))


def _tree_from(answer: bytes) -> Tree:
    """The tree's id in fast-import's answer to `ls`."""
    words = answer.split()
    if len(words) < 3 or words[1] != b"tree":
        raise BrokenPipeError  # git gave up before it came to the question; its exit code and message say why
    return Tree(words[2].decode("ascii"))


def _pieces(blob: str, from_git: IO[bytes], stop: threading.Event) -> Iterable[bytes]:
    header = from_git.readline().split()
    if not header:
        raise BrokenPipeError
    if len(header) != 3 or header[1] != b"blob":
        raise OmiumError("integrity", f"The blob {blob} is missing from the store.", "Restore another tree.")
    left = int(header[2])
    hashed = blob_hash(left)
    while left:
        piece = from_git.read(min(left, CHUNK))
        if not piece or stop.is_set():
            raise BrokenPipeError
        left -= len(piece)
        hashed.update(piece)
        yield piece
    from_git.read(1)  # the line end that closes a blob
    if hashed.hexdigest() != blob:
        raise OmiumError("integrity", f"The blob {blob} in the store is damaged.", "Restore another tree.")
