"""Large blobs as files: `<root>/ab/cd/<digest>`, complete or absent, whatever happens while they are written.

All methods are synchronous and safe in several threads and processes at once; call them in worker threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

from omium.orchestration.crashpoints import crash_point
from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import Digest

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
_TEMPORARY: Final = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{16}\.(tmp|bad)")
_LOCK: Final = ".lock"


class BlobFiles:
    """The blobs below one directory, which is created (mode 0700) by the first put.

    Every method raises OmiumError("invalid_argument") for a digest that is not 64 lower-case hexadecimal digits (so no
    argument leads outside the directory) and OmiumError("storage_unavailable") when the file system refuses: disk full,
    permission, read-only, gone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable: set[Path] = set()  # directories whose entries in their parents are known to be on disk

    def put(self, digest: Digest, data: bytes) -> bool:
        """Stores `data`, the packed form of the content with this digest; on return it survives a power cut.

        A file of the same size that is already there is kept and its time of modification refreshed, which protects it
        from `delete(..., untouched_since=...)`; one of another size (damaged, or packed otherwise) is replaced. Returns
        whether a file was written: then the caller's record of the packing must be that of this call.
        """
        path = self._path(digest)
        try:
            self._make_shard(path.parent)
            if self._refresh(path, len(data)):
                _sync_directory(path.parent)  # whoever wrote it may not have come this far yet
                return False
            self._write(path, data)
        except OSError as error:
            _unavailable(error, f"Blob {digest} cannot be written")
        return True

    def get(self, digest: Digest) -> bytes:
        """The bytes that `put` was given, unverified. Raises OmiumError("not_found") when there is no such file."""
        path = self._path(digest)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                return file.read()
        except FileNotFoundError:
            raise OmiumError("not_found", f"There is no file of blob {digest}.", digest=digest) from None
        except OSError as error:
            _unavailable(error, f"Blob {digest} cannot be read")

    def size(self, digest: Digest) -> int:
        """Bytes of the file; 0 when there is none."""
        try:
            return self._path(digest).lstat().st_size
        except FileNotFoundError:
            return 0
        except OSError as error:
            _unavailable(error, f"Blob {digest} cannot be read")

    def delete(self, digest: Digest, *, untouched_since: float | None = None) -> bool:
        """Removes the file; False when there is none, or when it was put at or after `untouched_since`.

        `untouched_since` is in seconds since the epoch. A sweep must give it: a put that has found the file, and whose
        transaction is still to come, relies on it. After a power cut a removed file may be back.
        """
        path = self._path(digest)
        try:
            with self._locked():
                if untouched_since is not None and path.lstat().st_mtime >= untouched_since:
                    return False
                path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            _unavailable(error, f"Blob {digest} cannot be deleted")
        return True

    def set_aside(self, digest: Digest) -> bool:
        """Renames a damaged file, so that the next put writes a new one; False when there is none.

        What was set aside is for a human who wants to save what can be saved; `sweep_temporaries` removes it.
        """
        path = self._path(digest)
        try:
            with self._locked():
                path.rename(path.with_name(f".{digest}.{secrets.token_hex(8)}.bad"))
        except FileNotFoundError:
            return False
        except OSError as error:
            _unavailable(error, f"Blob {digest} cannot be set aside")
        return True

    def list(self) -> Iterator[Digest]:
        """The digests of all complete files, in order. Files that come or go meanwhile may or may not be among them."""
        for path in self._files():
            if _DIGEST.fullmatch(path.name):
                yield Digest(path.name)

    def sweep_temporaries(self, older_than_s: float, now: float) -> int:
        """Removes what interrupted puts left, and what was set aside: files last written before `now - older_than_s`.

        `now` is in seconds since the epoch; `older_than_s` must exceed the longest put. Returns how many were removed.
        """
        removed = 0
        for path in self._files():
            if _TEMPORARY.fullmatch(path.name):
                try:
                    if path.stat().st_mtime < now - older_than_s:
                        path.unlink()
                        removed += 1
                except FileNotFoundError:
                    continue  # its writer finished, or another sweep was faster
                except OSError as error:
                    _unavailable(error, "A temporary file cannot be removed")
        return removed

    # --- the parts ---------------------------------------------------------------------------------------------------

    def _path(self, digest: Digest) -> Path:
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise OmiumError("invalid_argument", f"{digest!r:.100} is not a digest.", "Give 64 hexadecimal digits.")
        return self._root / digest[:2] / digest[2:4] / digest

    def _make_shard(self, shard: Path) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self._root, shard.parent, shard):
            directory.mkdir(mode=0o700, exist_ok=True)
            # Another process may have made it a moment ago, so that it exists says nothing about the disk.
            if directory not in self._durable:
                _sync_directory(directory.parent)
                self._durable.add(directory)

    def _refresh(self, path: Path, size: int) -> bool:
        """Whether a file of this size is there; its time of modification is now the present."""
        with self._locked():
            try:
                if path.lstat().st_size != size:
                    return False
                os.utime(path, follow_symlinks=False)
            except FileNotFoundError:
                return False
        return True

    def _write(self, path: Path, data: bytes) -> None:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(temporary, flags, 0o600), "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:  # the kernel may take less than it was offered
                    rest = rest[file.write(rest) :]
                crash_point("blob.file.written")
                os.fsync(file.fileno())
            crash_point("blob.file.synced")
            with self._locked():
                temporary.replace(path)
            crash_point("blob.file.renamed")
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Excludes the other threads and processes for a moment; the lock of a process that dies is released.

        Without it a delete could look at a file's age, a put refresh and rely on the file, and the delete remove it.
        """
        descriptor = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _files(self) -> Iterator[Path]:
        for first in _entries(self._root):
            if _SHARD.fullmatch(first.name):
                for second in _entries(first):
                    if _SHARD.fullmatch(second.name):
                        yield from _entries(second)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        _unavailable(error, "The directory of the blobs cannot be read")


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unavailable(error: OSError, what: str) -> NoReturn:
    name = errno.errorcode.get(error.errno or 0, "unknown")
    raise OmiumError(
        "storage_unavailable",
        f"{what}: {error.strerror}.",
        "Look at the free space and the permissions of the directory of the blobs.",
        errno=name,
    ) from error
