"""Workers as processes of this machine: which of them live, and the end of one that has gone silent.

A process that executes runs marks everything that it starts with a token which follows from its own pid and start time.
So whoever takes a dead worker's runs over can first end what that worker left running.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

from omium.clients.processes.identity import LINUX, ProcessIdentity, boot_id, is_alive, same_host, this_process
from omium.clients.processes.tree import MARKER, kill_members, send_signal
from omium.orchestration.ports import WorkerRow

_log = logging.getLogger(__name__)

_MACHINE_IDS: Final = ("/etc/machine-id", "/var/lib/dbus/machine-id")
_SWEEPS: Final = 20
_SILENT_US: Final = 30_000_000
_A_TIME: Final = 1_000_000_000_000_000  # smaller ones are the counts that older versions left
_SWEEP_PAUSE_S: Final = 0.005


class HostProcesses:
    """See `orchestration.ports.Processes`.

    spared: the tokens of processes that are left alone when their worker is dead, because something else looks after
    them (see `orphans`).
    """

    def __init__(self, spared: Callable[[], Collection[str]] = tuple) -> None:
        self._spared = spared

    def this(self) -> tuple[str, str, int, float]:
        """(host, boot, pid, start time) of this process."""
        own = this_process()
        return host_id(), own.boot_id, own.pid, own.start_time

    def alive(self, worker: WorkerRow) -> bool | None:
        """Whether the worker's process lives; None when it is of another host or container and cannot be asked."""
        process = _identity(worker)
        if same_host(process):
            return is_alive(process)
        if LINUX and worker.host == host_id() and _boot(worker.boot) != _boot(boot_id()):
            return False  # this machine has been started anew since
        return None

    def kill(self, worker: WorkerRow) -> None:
        """SIGKILL a worker of this host, if it still lives, and whatever it has started.

        A worker of this very process is left alone: it cannot be ended without its judge. One of another host too.
        """
        process = _identity(worker)
        if not same_host(process) or process.pid == os.getpid():
            return
        if is_alive(process):
            _log.warning("worker %s (pid %s) lives but has gone silent: it is killed", worker.id, worker.pid)
            send_signal([process], signal.SIGKILL)
        # What it started may at this moment start more.
        spared = self._spared()
        for _ in range(_SWEEPS):
            if not kill_members(_token(process), spared=spared):
                return
            time.sleep(_SWEEP_PAUSE_S)


def silent_since(worker: WorkerRow, now_us: int) -> int | None:
    """Since when nothing was heard of a worker whose process lives on this host, if that is too long ago.

    For those who look once: the clock jumps, and after a sleep of the machine everybody seems silent for a moment. So
    this is enough to warn, and to have somebody watch who judges for himself.
    """
    return worker.beat if _A_TIME < worker.beat < now_us - _SILENT_US else None


def works_on(worker: WorkerRow, database: Path) -> bool:
    """Whether the worker's process has this very file open. A worker that stands in a copy works on the original."""
    import psutil

    try:
        return any(database.samefile(one.path) for one in psutil.Process(worker.pid).open_files())
    except (psutil.Error, OSError):
        return False


@contextmanager
def marked() -> Iterator[None]:
    """Within the block, everything that this process starts carries its token.

    What must outlive this process is started without it: see `unmarked`.
    """
    outer = os.environ.get(MARKER)
    token = _token(this_process())
    if outer is not None and token in outer.split("/"):  # within another block of the same process
        yield
        return
    os.environ[MARKER] = f"{outer}/{token}" if outer else token
    try:
        yield
    finally:
        if outer is None:
            os.environ.pop(MARKER, None)
        else:
            os.environ[MARKER] = outer


def unmarked() -> dict[str, str | None]:
    """The change of environment that takes this process's own token away, and leaves those of processes around it."""
    outer = [token for token in os.environ.get(MARKER, "").split("/") if token and token != _token(this_process())]
    return {MARKER: "/".join(outer) or None}


@cache
def host_id() -> str:
    """What tells this machine from others: its name and, where there is one, the id of its installation."""
    for name in _MACHINE_IDS:
        try:
            return f"{socket.gethostname()}/{Path(name).read_text('ascii').strip()}"
        except (OSError, UnicodeDecodeError):
            continue
    return socket.gethostname()


def _identity(worker: WorkerRow) -> ProcessIdentity:
    return ProcessIdentity(worker.boot, worker.pid, worker.start_time)


def _boot(text: str) -> str:
    """The boot of the machine, without the pid namespace."""
    return text.partition("/")[0]


def _token(process: ProcessIdentity) -> str:
    return f"worker-{process.pid}-{process.start_time:.2f}"
