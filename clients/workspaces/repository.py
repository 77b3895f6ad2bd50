"""Workspaces that start as a clone of a git repository.

The repository is fetched into a bare cache, one per source, under a lock. A workspace gets a repository of its own that
borrows the cache's objects. Unlike a linked worktree, which shares configuration, hooks and refs with all others, it
gives the agent inside nothing that another run or this process would use; and since `.git` is then a small directory of
plain files, it is captured and restored like everything else: commits, branches, index and HEAD follow every rollback.
For the same reason objects of a cache are never collected, also when the source drops them.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import anyio

from omium.clients.workspaces.beneath import Beneath
from omium.clients.workspaces.content import quote
from omium.clients.workspaces.git import Git, redact
from omium.clients.workspaces.locks import file_lock
from omium.clients.workspaces.paths import check_ref, is_commit_id, open_beneath
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports_workspace import Commit, Head

# The borrowed objects' address belongs to this installation, not to the tree.
BORROWED = b".git/objects/info/alternates"
_FETCH_TIMEOUT_S = 600
_MOST_COMMITS = 1000
_NAMED = 10  # branches in a hint
_URL = re.compile(r"\A(https?|ssh|git|file)://[^-\s][^\s]*\Z")
_SCP = re.compile(r"\A[A-Za-z0-9_.]+@[A-Za-z0-9][A-Za-z0-9.-]*:[^-:\s][^\s]*\Z")
_RAW_BYTES = "* -text -eol -filter -ident -working-tree-encoding\n"


def check_source(source: str) -> str:
    """A repository's address: an absolute path, `https://`, `ssh://`, `git://`, `file://` or `user@host:path`.

    Refused as `invalid_argument`: everything else, such as options and `ext::` helpers, which would start programs.
    """
    printable = isinstance(source, str) and source.isprintable() and len(source) <= 2048
    if printable and (Path(source).is_absolute() or _URL.match(source) or _SCP.match(source)):
        return source
    shown = redact(source[:120]) if isinstance(source, str) else source
    raise OmiumError(
        "invalid_argument", f"{shown!r} is not the address of a repository.", "Give an absolute path or a URL."
    )


class Repositories:
    """Bare caches below `directory`, which exists."""

    def __init__(self, directory: Path, git: Git) -> None:
        self._directory = directory
        self._git = git

    async def clone(self, source: str, ref: str | None, workspace: Path) -> None:
        """Makes the empty directory `workspace` a clone of `source` with `ref` checked out, byte for byte.

        Attributes of the repository do not convert files on the way. Raises `not_found` for an unknown ref.
        """
        if ref is not None and not is_commit_id(ref):
            check_ref(ref)
        cache = await self._fetched(source)
        branch, commit = await self._resolve(cache, source, ref)
        git_dir = workspace / ".git"
        head = branch or "main"
        await self._git.run(["init", "--quiet", "--template=", f"--initial-branch={head}", str(workspace)])
        (git_dir / "objects" / "info").mkdir(exist_ok=True)
        self._borrow(cache, workspace)
        for key, value in _remote_settings(source, branch):
            await self._git.run(["config", key, value], git_dir=git_dir)
        if branch is None:
            await self._git.run(["update-ref", "--no-deref", "HEAD", commit], git_dir=git_dir)
        else:
            await self._git.run(["update-ref", f"refs/heads/{branch}", commit], git_dir=git_dir)
            await self._git.run(["update-ref", f"refs/remotes/origin/{branch}", commit], git_dir=git_dir)
        (git_dir / "info").mkdir(exist_ok=True)
        attributes = git_dir / "info" / "attributes"
        attributes.write_text(_RAW_BYTES, "ascii")
        await self._git.run(["reset", "--hard", "--quiet", commit], git_dir=git_dir, work_tree=workspace)
        attributes.unlink()

    async def lend(self, source: str, workspace: Path) -> None:
        """Lets the restored repository in `workspace` borrow the cache's objects; fetches only if there is no cache.

        Passes when the restored tree has no repository at its top any more.
        """
        cache = self._cache(source)
        if not (cache / "complete").exists():
            await self._fetched(source)
        self._borrow(cache, workspace)

    async def commits(self, source: str, workspace: Path) -> list[Commit]:
        """Commits that HEAD reaches in `workspace` and no branch or tag of the source does, oldest first (1,000)."""
        head = read_head(lambda path: read_small(workspace, path))
        cache = self._cache(source)
        if head is None or head.commit is None or not (cache / "complete").exists():
            return []
        try:
            with Beneath(workspace) as beneath:
                beneath.dir(b".git/objects")
        except OSError:
            return []  # not a directory of this workspace
        # Run in the cache, whose configuration is ours; the workspace only contributes objects.
        raw = await self._git.output(
            [
                *("log", "-z", "--reverse", f"--max-count={_MOST_COMMITS}", "--format=%H %s", "--no-color"),
                *("--no-show-signature", head.commit, "--not", "--branches", "--tags"),
            ],
            git_dir=cache,
            also_objects=quote(os.fsencode(workspace / ".git" / "objects")),
        )
        rows = [row.decode("utf-8", "replace").partition(" ") for row in raw.split(b"\0") if row]
        return [Commit(commit, subject) for commit, _, subject in rows]

    async def _fetched(self, source: str) -> Path:
        cache = self._cache(source)
        async with file_lock(cache.with_suffix(".lock")):
            # Both are repeatable: what a crash interrupted, the next one completes.
            await self._git.run(["init", "--quiet", "--bare", "--template=", str(cache)])
            try:
                with anyio.fail_after(_FETCH_TIMEOUT_S):
                    await self._git.run(
                        [
                            *("fetch", "--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--force"),
                            *("--no-auto-maintenance", "--", source),
                            *("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"),
                        ],
                        git_dir=cache,
                        network=True,
                    )
            except TimeoutError as error:
                raise OmiumError("timeout", f"{redact(source)} did not answer in {_FETCH_TIMEOUT_S} s.") from error
            (cache / "complete").touch()
        return cache

    async def _resolve(self, cache: Path, source: str, ref: str | None) -> tuple[str | None, str]:
        """The branch to be on (None: detached) and the commit."""
        if ref is None:
            ref = await self._default_branch(source)
        candidates = [(None, ref)] if is_commit_id(ref) else [(ref, f"refs/heads/{ref}"), (None, f"refs/tags/{ref}")]
        for branch, name in candidates:
            found = await self._git.run(
                ["rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"],
                git_dir=cache,
                may_fail=True,
            )
            if found is not None:
                return branch, found.decode("ascii").strip()
        raise OmiumError(
            "not_found", f"{redact(source)} has no branch, tag or commit {ref!r}.", await self._branches(cache, ref)
        )

    async def _branches(self, cache: Path, wanted: str) -> str:
        """A hint that names the branches that are meant, or those that there are."""
        raw = await self._git.output(["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads"], git_dir=cache)
        names = raw.decode("utf-8", "replace").split()
        near = difflib.get_close_matches(wanted, names, n=3)
        if near:
            return f"Did you mean {', '.join(near)}?"
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"Its branches: {', '.join(names[:_NAMED]) or 'none'}{more}."

    async def _default_branch(self, source: str) -> str:
        raw = await self._git.output(["ls-remote", "--symref", "--", source, "HEAD"], network=True)
        match = re.match(rb"ref: refs/heads/([^\t\n]+)\tHEAD\n", raw)
        if match is None:
            raise OmiumError("not_found", f"{redact(source)} names no default branch.", "Give a ref.")
        return check_ref(match[1].decode("utf-8", "replace"))

    def _borrow(self, cache: Path, workspace: Path) -> None:
        """Writes the address of the cache's objects, going through no link that a tree may contain."""
        try:
            with Beneath(workspace) as beneath:
                beneath.dir(b".git")
                info, name = beneath.parent(BORROWED, create=True)
                with contextlib.suppress(FileNotFoundError):  # the usual case
                    os.unlink(name, dir_fd=info)
                os.fchmod(info, 0o755)  # as git makes it
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(name, flags, 0o644, dir_fd=info), "wb") as file:
                    file.write(os.fsencode(cache / "objects") + b"\n")
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                raise OmiumError("workspace", f"{workspace.name}: .git cannot be written: {error.strerror}.") from error

    def _cache(self, source: str) -> Path:
        return self._directory / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:32]}.git"


def read_head(read: Callable[[bytes], bytes | None]) -> Head | None:
    """Where a repository stands, from its files alone; `read` gives a file's content below the workspace, or None."""
    content = read(b".git/HEAD")
    if content is None:
        return None
    text = content.decode("utf-8", "replace").strip()
    if not text.startswith("ref: refs/heads/"):
        return Head(None, text if is_commit_id(text) else None)
    branch = text.removeprefix("ref: refs/heads/")
    try:
        check_ref(branch)
    except OmiumError:
        return Head(None, None)
    name = f"refs/heads/{branch}"
    loose = (read(os.fsencode(f".git/{name}")) or b"").decode("ascii", "replace").strip()
    if is_commit_id(loose):
        return Head(branch, loose)
    for line in (read(b".git/packed-refs") or b"").decode("utf-8", "replace").splitlines():
        commit, _, packed = line.partition(" ")
        if packed == name and is_commit_id(commit):
            return Head(branch, commit)
    return Head(branch, None)


def read_small(workspace: Path, path: bytes) -> bytes | None:
    try:
        descriptor = open_beneath(workspace, os.fsdecode(path))
    except OmiumError:
        return None
    with open(descriptor, "rb") as file:
        return file.read(16 << 20)


def _remote_settings(source: str, branch: str | None) -> list[tuple[str, str]]:
    settings = [
        # Without user and password: nothing secret is written into a workspace.
        ("remote.origin.url", redact(source)),
        ("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"),
    ]
    if branch is not None:
        settings += [(f"branch.{branch}.remote", "origin"), (f"branch.{branch}.merge", f"refs/heads/{branch}")]
    return settings
