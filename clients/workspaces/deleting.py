"""Deleting a directory that somebody else filled."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from omium.clients.workspaces.beneath import DIRECTORY

_DEEP = 64


def remove_directory(directory: Path, trash: Path) -> None:
    """Removes `directory` in one step for whoever looks for it by name: it is moved below `trash`, then deleted there.

    Both must be on one file system. What a crash leaves below `trash` goes with `empty_directory(trash)`.
    """
    if not os.path.lexists(directory):
        return
    doomed = Path(tempfile.mkdtemp(dir=trash))
    directory.rename(doomed / "x")
    empty_directory(doomed)
    doomed.rmdir()


def empty_directory(directory: Path) -> None:
    """Deletes everything below `directory`, whatever its permissions, following no link. Raises OSError."""
    top = os.open(directory, DIRECTORY)
    try:
        while _delete_below(top, top, 0):
            pass
    finally:
        os.close(top)


def _delete_below(fd: int, top: int, depth: int) -> bool:
    """Whether anything was moved up to `top`, to be deleted by another pass.

    What is deep is moved up: neither the stack nor the number of open files grows with a nesting that a program made.
    """
    os.fchmod(fd, 0o700)
    moved = False
    with os.scandir(fd) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_dir in names:
        if not is_dir:
            os.unlink(name, dir_fd=fd)
        elif depth >= _DEEP:
            os.rename(name, f"moved-{os.urandom(8).hex()}", src_dir_fd=fd, dst_dir_fd=top)
            moved = True
        else:
            child = _open_whatever_its_mode(name, fd)
            try:
                moved = _delete_below(child, top, depth + 1) or moved
            finally:
                os.close(child)
            os.rmdir(name, dir_fd=fd)
    return moved


def _open_whatever_its_mode(name: str, fd: int) -> int:
    try:
        return os.open(name, DIRECTORY, dir_fd=fd)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=fd)
        return os.open(name, DIRECTORY, dir_fd=fd)
