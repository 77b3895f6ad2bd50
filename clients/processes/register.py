"""Which supervised programs run on this machine now: one small file for each, as long as it runs.

It says where to find a process, never what became of it: that stands in the run's ledger. Whoever finds a file whose
owner is dead has found an orphan.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from omium.clients.processes.counters import counters
from omium.clients.processes.identity import ProcessIdentity
from omium.clients.processes.liveness import host_id

_log = logging.getLogger(__name__)

_TOKEN: Final = re.compile(r"\A[A-Za-z0-9_-]{1,80}\Z")
_SIZE: Final = 512 * 1024  # bytes; an argument vector may be long
_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A supervised program. leader: its process; owner: the process that supervises it. env: names only.

    Times are seconds since the epoch. hard_timeout_s: what it may take in all. adopted: its first owner has died.
    seen_at: when last_output_at, last_heartbeat_at and stalled were true; the file is not written at every line.
    """

    token: str
    run: str
    node: str
    attempt: int
    command: str
    argv: tuple[str, ...]
    cwd: str
    env: tuple[str, ...]
    leader: ProcessIdentity
    owner: ProcessIdentity
    started_at: float
    hard_timeout_s: float | None = None
    host: str = field(default_factory=host_id)
    adopted: bool = False
    last_output_at: float | None = None
    last_heartbeat_at: float | None = None
    output_bytes: int = 0
    stalled: bool = False
    seen_at: float = 0.0


class Register:
    """A directory (mode 0700) of entries. What cannot be written is logged and left out: a full disk must not end the
    program, which is still found by its marker."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, entry: Entry) -> None:
        """Write an entry, or write it anew, in one step."""
        target = self._path(entry.token)
        temporary = target.with_suffix(".tmp")
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(entry), file)
            temporary.replace(target)
        except OSError as error:
            counters.log_failures += 1
            _log.warning("the process %s is not registered: %s", entry.leader.pid, error)

    def drop(self, token: str) -> None:
        """Take an entry out, if it is there."""
        try:
            self._path(token).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("the process %s stays registered: %s", token, error)

    def entries(self) -> Iterator[Entry]:
        """Every entry that can be read; a broken one is logged and taken out, since it can never be."""
        try:
            names = sorted(os.listdir(self.directory))
        except OSError:  # nothing was ever registered, or the directory has been removed
            return
        for name in names:
            token = name.removesuffix(_SUFFIX)
            if not name.endswith(_SUFFIX) or not _TOKEN.match(token):
                continue
            try:
                with open(self.directory / name, "rb") as file:
                    text = file.read(_SIZE)
                yield _entry(token, json.loads(text))
            except FileNotFoundError:
                continue  # it has just ended
            except OSError as error:
                _log.warning("the entry %s cannot be read: %s", name, error)
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                _log.warning("the entry %s is broken and taken out: %r", name, error)
                self.drop(token)

    def _path(self, token: str) -> Path:
        if not _TOKEN.match(token):
            raise ValueError(f"{token!r} is not a token")
        return self.directory / f"{token}{_SUFFIX}"


def _entry(token: str, told: Mapping[str, Any]) -> Entry:
    if told["token"] != token:
        raise ValueError("it is of another token")
    entry = Entry(**{**told, "argv": tuple(told["argv"]), "env": tuple(told["env"])})
    return replace(entry, leader=_identity(told["leader"]), owner=_identity(told["owner"]))


def _identity(told: Mapping[str, Any]) -> ProcessIdentity:
    return ProcessIdentity(str(told["boot_id"]), int(told["pid"]), float(told["start_time"]))
