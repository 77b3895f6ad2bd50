"""Commands and their supervision in a process that executes runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from omium.server.config import Config

if TYPE_CHECKING:
    from omium.clients.executors import CommandExecutor
    from omium.clients.processes.liveness import HostProcesses
    from omium.clients.processes.orphans import Reconciler
    from omium.clients.processes.register import Register
    from omium.server.declared.supervision import SupervisionFile


def register_of(config: Config) -> Register:
    """Where supervised programs are registered: one directory for all processes of this home."""
    from omium.clients.processes.register import Register

    return Register(config.home / "processes")


def settings_of(config: Config) -> SupervisionFile:
    from omium.server.declared.supervision import SupervisionFile

    return config.supervision or SupervisionFile()


def reconciler_of(config: Config) -> Reconciler:
    from omium.clients.processes.orphans import Reconciler

    said = settings_of(config).reconciliation
    return Reconciler(register_of(config), orphans=said.orphans, grace_s=said.grace)


def processes_of(config: Config) -> HostProcesses:
    """What the engine knows of workers: those of a dead one that are to live on, or to have a grace, are spared."""
    from omium.clients.processes.liveness import HostProcesses

    return HostProcesses(reconciler_of(config).spared)


@asynccontextmanager
async def supervised_commands(config: Config) -> AsyncIterator[CommandExecutor]:
    """The executor of commands; for the length of the block, programs that lost their supervisor are looked after."""
    from omium.clients.executors import CommandExecutor
    from omium.clients.processes.event_log import EventLog
    from omium.clients.watched import Supervision
    from omium.server.declared.supervision import supervised
    from omium.server.logs import hidden

    settings, project = settings_of(config), config.project
    reconciler, logging = reconciler_of(config), settings.logging
    events = None
    if logging.enabled:
        path = config.home / "logs" / "commands.jsonl"
        events = EventLog(path, max_bytes=logging.max_size, keep=logging.keep, output=logging.output, hide=hidden)
    executor = CommandExecutor(
        supervised(settings, project.commands, project.stated),
        project.commands_on_unknown,
        Supervision(register_of(config), events, reconciler),
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reconciler.run, settings.reconciliation.every)
            yield executor
            tasks.cancel_scope.cancel()
    finally:
        if events is not None:
            events.close()
