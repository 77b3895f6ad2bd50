"""Locks between tasks and processes: flock on a file, released by the kernel when its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path

import anyio

from omium.orchestration.errors import OmiumError

_held: ContextVar[tuple[int, ...]] = ContextVar("omium_held_locks", default=())
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05


@asynccontextmanager
async def file_lock(path: Path, *, shared: bool = False, wait_s: float | None = None) -> AsyncIterator[None]:
    """Holds the lock for the length of the block; waits at most `wait_s` seconds (None: as long as it takes).

    Each entry opens the file anew, so tasks of one process exclude each other as well. Waiting can be cancelled. Who
    holds it alone may delete the file.
    Raises `timeout`.
    """
    deadline = None if wait_s is None else anyio.current_time() + wait_s
    pause = _FIRST_PAUSE_S
    while (descriptor := _try(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)) is None:
        if deadline is not None and anyio.current_time() >= deadline:
            raise OmiumError("timeout", f"{path.name} is in use by another operation.")
        await anyio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)
    outer = _held.get()
    _held.set((*outer, descriptor))
    try:
        yield
    finally:
        _held.set(outer)
        os.close(descriptor)


def held() -> tuple[int, ...]:
    """The descriptors of the locks that this task holds. A program that inherits them keeps the locks until it ends:
    when this process is killed, nobody takes over what the program is still changing."""
    return _held.get()


def _try(path: Path, kind: int) -> int | None:
    """The descriptor that holds the lock, or None while somebody else does."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        # A holder may have deleted the file meanwhile: then this is a lock that nobody else will look at.
        if os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
