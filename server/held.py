"""Which settings of supervision the processes of this home hold now: each that executes runs says so in a small file.

A process keeps its settings until it is told to read them anew, so the file of the project does not say what holds in
it. What cannot be written is left out: it is for people to look at, and nothing depends on it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from omium.clients.processes.identity import ProcessIdentity, is_alive, same_host, this_process
from omium.clients.workspaces.paths import make_private

if TYPE_CHECKING:
    from omium.server.config import Config
    from omium.server.declared.supervision import SupervisionFile

_log = logging.getLogger(__name__)

_SIZE: Final = 1024 * 1024  # bytes
_UNREADABLE: Final = (OSError, ValueError, TypeError, KeyError, RecursionError)


@dataclass(frozen=True, slots=True)
class Held:
    """What a living process holds. at: when it has read it, in seconds since the epoch."""

    pid: int
    at: float
    supervision: SupervisionFile


def hold(config: Config, settings: SupervisionFile) -> None:
    """Say that these settings hold in this process from now on."""
    told: dict[str, Any] = {
        "process": asdict(this_process()),
        "project": config.project.id,
        "file": str(config.start),
        "at": time.time(),
        "supervision": settings.model_dump(mode="json", exclude_unset=True),
    }
    path = _path(config)
    temporary = path.with_suffix(".tmp")
    try:
        make_private(path.parent, above=config.home)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(told, file)
        temporary.replace(path)
    except OSError as error:
        _log.warning("which settings this process holds cannot be told: %s", error)


def let_go(config: Config) -> None:
    """This process executes nothing any more."""
    try:
        _path(config).unlink(missing_ok=True)
    except OSError as error:
        _log.warning("%s stays: %s", _path(config), error)


def held_of(config: Config) -> Iterator[Held]:
    """What the living processes of this project hold. The files of those that died are removed."""
    folder = _path(config).parent
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError:  # no process has ever told
        return
    for path in names:
        try:
            with path.open("rb") as file:
                told = json.loads(file.read(_SIZE))
            process = ProcessIdentity(**told["process"])
            if not same_host(process):
                continue  # of another container, or before the machine started anew
            if not is_alive(process):
                path.unlink(missing_ok=True)
                continue
            if (told["project"], told["file"]) == (config.project.id, str(config.start)):
                yield Held(process.pid, float(told["at"]), _settings(told["supervision"]))
        except _UNREADABLE as error:
            _log.info("%s cannot be read: %r", path, error)


def _settings(document: Any) -> SupervisionFile:
    from omium.server.declared.supervision import SupervisionFile

    return SupervisionFile.model_validate(document)


def _path(config: Config) -> Path:
    own = this_process()
    name = f"{own.pid}-{own.start_time:.2f}-{config.project.id.replace('/', '%2F')}"
    return config.home / "held" / f"{name[:200]}.json"
