"""Changing a file that belongs to another program: read, backed up, written beside, and put in its place at once."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omium.orchestration.errors import OmiumError

_MAX = 64 * 1024 * 1024  # bytes; a client's state is a few megabytes at most
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Change:
    """What became, or would become, of a file. `file` is where the path led, links followed."""

    file: Path
    before: str | None  # None: there was no file
    after: str
    backup: Path | None = None

    @property
    def changes(self) -> bool:
        return self.after != (self.before or "")


def planned(path: Path, edit: Callable[[str], str]) -> Change:
    """The change that `edit` makes of the file's text (empty if there is none), without making it.

    Raises `forbidden` and `invalid_argument` for a file that cannot be read as text, and what `edit` raises."""
    file = _real(path)
    before = _read(file)
    return Change(file, before, edit(before or ""))


def changed(path: Path, edit: Callable[[str], str], *, private: bool) -> Change:
    """Make the change: a backup beside the file, then the new text in one step, with the file's mode and owner. The
    file is not touched when nothing changes. private: whether a new file is for its owner only.

    Raises what `planned` raises; `forbidden` when the directory cannot be written; `conflict` when another program
    keeps writing the file meanwhile. The file is whole in every case."""
    for _ in range(_TRIES):
        change = planned(path, edit)
        if not change.changes:
            return change
        try:
            change.file.parent.mkdir(parents=True, exist_ok=True)
            backup = None if change.before is None else _backed_up(change.file, change.before)
            if _replaced(change, private=private):
                return Change(change.file, change.before, change.after, backup)
            if backup is not None:
                backup.unlink()
        except OSError as error:
            raise _refused(change.file, error) from error
    raise OmiumError("conflict", f"{path} is being written by another program.", "End that client, then try again.")


def _real(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path, strict=False))
    except OSError as error:
        raise _refused(path, error) from error


def _read(file: Path) -> str | None:
    """The text, its line ends as they are; None when there is no file."""
    try:
        with open(file, "rb", opener=_without_waiting) as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX:
                raise OmiumError("invalid_argument", f"{file} is no configuration file.")
            return opened.read().decode("utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise OmiumError("invalid_argument", f"{file} is not UTF-8 text (byte {error.start}).") from error
    except OSError as error:
        raise _refused(file, error) from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe in the file's place would wait for a writer


def _backed_up(file: Path, text: str) -> Path:
    """A copy under a name with the time in UTC, with the file's mode: what is secret in it stays so."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    mode = stat.S_IMODE(file.stat().st_mode)
    for number in range(1, 100):
        backup = file.with_name(f"{file.name}.{stamp}{'' if number == 1 else f'-{number}'}.bak")
        try:
            descriptor = os.open(backup, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            continue
        with open(descriptor, "wb") as copy:
            _fill(copy.fileno(), text, mode, file.stat())
        return backup
    raise OmiumError("conflict", f"there are too many backups of {file} from this second.")


def _replaced(change: Change, *, private: bool) -> bool:
    """Put the new text in the file's place; False when the file is not what the change was made from."""
    found = change.file.stat() if change.before is not None else None
    descriptor, name = tempfile.mkstemp(prefix=f".{change.file.name}.", dir=change.file.parent)
    try:
        with open(descriptor, "wb") as new:
            mode = stat.S_IMODE(found.st_mode) if found is not None else 0o600 if private else 0o666 & ~_umask()
            _fill(new.fileno(), change.after, mode, found)
        if _read(change.file) != change.before:
            return False
        Path(name).replace(change.file)
        name = ""
    finally:
        if name:
            Path(name).unlink()
    directory = os.open(change.file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True


def _fill(descriptor: int, text: str, mode: int, like: os.stat_result | None) -> None:
    _write(descriptor, text.encode())
    if like is not None and like.st_uid != os.geteuid() and os.geteuid() == 0:
        os.fchown(descriptor, like.st_uid, like.st_gid)  # root must not take a user's file from them
    os.fchmod(descriptor, mode)
    os.fsync(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _refused(file: Path, error: OSError) -> OmiumError:
    """The error for what the system refuses."""
    at = error.filename if isinstance(error.filename, str) else str(file)
    what = f"{at}: {(error.strerror or str(error)).lower()}. Nothing was changed."
    return OmiumError(
        "forbidden", what, "The user who runs this command has to be able to write there.", file=str(file)
    )
