"""Directories below a root, opened one component at a time and never through a symbolic link.

Whoever can write below the root can swap a directory for a link at any moment; a check of the path beforehand says
nothing about the moment of use. An open directory cannot be swapped, so every operation here names a directory by its
descriptor (openat and its like).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Beneath:
    """Open directories below `root`. Raises OSError where a component is missing, a link or no directory.

    The chain to the last directory stays open, so going through sorted paths opens each directory once.
    """

    def __init__(self, root: Path) -> None:
        self._fds = [os.open(root, DIRECTORY)]
        self._names: list[bytes] = []

    def __enter__(self) -> Beneath:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep(0)
        os.close(self._fds.pop())

    def dir(self, path: bytes, *, create: bool = False) -> int:
        """The descriptor of the directory `path` (b"" is the root), valid until the next call.

        create: missing directories are made, with mode 0700 until their own mode is set.
        """
        names = path.split(b"/") if path else []
        common = 0
        while common < min(len(names), len(self._names)) and names[common] == self._names[common]:
            common += 1
        self._keep(common)
        for name in names[common:]:
            if create:
                # What is there already may be anything; the next line refuses what is no directory.
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=self._fds[-1])
            self._fds.append(os.open(name, DIRECTORY, dir_fd=self._fds[-1]))
            self._names.append(name)
        return self._fds[-1]

    def parent(self, path: bytes, *, create: bool = False) -> tuple[int, bytes]:
        """The directory that holds `path`, as `dir` gives it, and the last component."""
        above, _, name = path.rpartition(b"/")
        return self.dir(above, create=create), name

    def forget(self) -> None:
        """Must be called after directories were removed: the chain may lead to one that has no name any more."""
        self._keep(0)

    def _keep(self, count: int) -> None:
        while len(self._names) > count:
            self._names.pop()
            os.close(self._fds.pop())
