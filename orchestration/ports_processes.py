"""Port: the processes that execute runs, as the machine knows them."""

from __future__ import annotations

from typing import Protocol

from omium.orchestration.ports import WorkerRow


class Processes(Protocol):
    """What is known of processes, to tell a dead worker from a slow one."""

    def this(self) -> tuple[str, str, int, float]:
        """(host, boot, pid, start time) of this process."""

    def alive(self, worker: WorkerRow) -> bool | None:
        """Whether the worker's process lives; None when it is on another host and cannot be asked."""

    def kill(self, worker: WorkerRow) -> None:
        """SIGKILL a worker of this host, if it still lives, and whatever it has started; nothing on another host."""
