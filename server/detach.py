"""Walking away: a background worker goes on with the runs that a process leaves behind.

There is one such worker for each database and project on a machine: it holds a lock for as long as it serves. Whoever
leaves frees its runs first and looks at the lock then; the worker gives the lock up first and looks for runs then. So
either it finds them, or the one who leaves starts another.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omium.clients.processes.detached import start_detached
from omium.clients.processes.identity import ProcessIdentity
from omium.clients.processes.liveness import unmarked
from omium.clients.workspaces.locks import file_lock
from omium.clients.workspaces.paths import make_private
from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import RunQuery, Store, SystemClock
from omium.server.config import Config

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine

_log = logging.getLogger(__name__)

IDLE_S: Final = 60.0
HORIZON_S: Final = 24 * 3600.0
"""How far ahead a timer may be due for a background worker to stay for it."""

_LOG_LIMIT: Final = 10 * 1024 * 1024


async def has_work(config: Config, store: Store, within_s: float) -> bool:
    """Whether a free run of this project is due, or has a timer that will be within so many seconds. A question that
    waits for its answer is no work: whoever answers it starts a worker, and one that has expired stays expired."""
    projects = (config.project.id,)
    due, now = await store.next_wake(projects), SystemClock().now_us()
    if due is None or due > now + int(within_s * 1e6):
        return False
    if due <= now + int(IDLE_S * 1e6):
        return True
    return bool(await store.runs(RunQuery(projects=projects, statuses=("executing", "planning"), limit=1)))


class Departure:
    """A process leaves, and its runs shall go on. Whatever prevents that is logged, and the runs stay parked."""

    def __init__(self, config: Config, store: Store) -> None:
        self._config = config
        self._store = store
        self._started: ProcessIdentity | None = None

    async def begins(self, engine: Engine) -> None:
        """Runs are still executed here: have their next worker start up meanwhile, and be there should this process be
        killed before it has given them up."""
        if engine.is_executing:
            await self._start()

    async def runs_are_free(self) -> None:
        """This process's runs are free: have a worker there if one is needed. One that was started above is; one that
        held the lock then may have ended since."""
        try:
            if self._started is None and await has_work(self._config, self._store, HORIZON_S):
                await self._start()
        except OmiumError as error:
            _log.warning("whether runs are left cannot be seen: %s", error)

    async def _start(self) -> None:
        try:
            self._started = await start_worker(self._config)
        except OmiumError as error:
            _log.warning("no background worker could be started, runs wait for the next process: %s", error)


async def start_worker(config: Config, *, idle_s: float = IDLE_S) -> ProcessIdentity | None:
    """Start the background worker of this database and project; None when one is there already.

    Raises `unsupported` for a project that no other process can load, `process_failed` when it cannot be started.
    """
    if config.start is None:
        raise OmiumError(
            "unsupported",
            f"the project {config.project.id!r} was put together in Python, so no other process can execute it.",
            "Declare it in an omium.yaml, or keep this process running.",
        )
    lock = lock_path(config)
    make_private(lock.parent, above=lock.parent)
    try:
        async with file_lock(lock, wait_s=0):
            pass
    except OmiumError as error:
        if error.code == "timeout":
            return None
        raise
    log = log_path(config)
    # -P: the project's directory, in which it starts, must not shadow modules.
    argv = [sys.executable, "-P", "-m", "omium.server.worker", "--detached", "--idle", f"{idle_s:g}"]
    started = start_detached(argv, cwd=config.project.directory, log=log, env={**config.environment(), **unmarked()})
    _log.info("a background worker goes on with the runs: pid %s, log %s", started.pid, log)
    return started


def lock_path(config: Config) -> Path:
    """The file that the background worker locks: beside an SQLite database, in Omium's directory for another one."""
    name = _slug(config)
    if "://" not in config.database:
        return Path(f"{config.database}-{name}.worker")
    folder = config.home / "workers"
    make_private(folder, above=config.home)
    return folder / f"{name}-{hashlib.sha256(config.database.encode()).hexdigest()[:16]}.worker"


def log_path(config: Config) -> Path:
    """The log of the background worker. The one before it is kept when it has grown large."""
    folder = config.home / "logs"
    make_private(folder, above=config.home)
    path = folder / f"worker-{_slug(config)}.log"
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        os.replace(path, path.with_suffix(".log.1"))  # noqa: PTH105 - atomic, and no matter what is there
    return path


def _slug(config: Config) -> str:
    """The project's name as part of a file's name; a digest keeps different names apart."""
    name = config.project.id
    plain = "".join(char if char.isalnum() else "_" for char in name)[:40]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
