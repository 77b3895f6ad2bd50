"""Commands and their supervision in a process that executes runs."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from omium.orchestration.errors import OmiumError
from omium.server.config import Config, load_config

if TYPE_CHECKING:
    from omium.clients.executors import CommandExecutor
    from omium.clients.processes.event_log import EventLog
    from omium.clients.processes.liveness import HostProcesses
    from omium.clients.processes.orphans import Reconciler
    from omium.clients.processes.register import Register
    from omium.server.declared.supervision import SupervisionFile

_log = logging.getLogger(__name__)


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


class LiveSupervision:
    """`supervision:` as it holds in this process. `reload` reads it anew; until then it is as the process began.

    Commands that run keep the limits that they were started with: what somebody relies on is not taken away half-way.
    What becomes of orphans, and what is written about all commands, is as it is said last.
    """

    def __init__(self, config: Config) -> None:
        self.settings = settings_of(config)
        self.reconciler = reconciler_of(config)
        self.reloads = config.start is not None and config.start.is_file()  # is there anything to read anew?
        self._config = config
        self._executor: CommandExecutor | None = None
        self._events: EventLog | None = None

    def processes(self) -> HostProcesses:
        """What the engine knows of workers: those of a dead one that are to live on, or to have a grace, are spared."""
        from omium.clients.processes.liveness import HostProcesses

        return HostProcesses(self.reconciler.spared)

    async def reload(self) -> bool:
        """Read the project's file again and have its `supervision`, with what variables say, hold from now on. False,
        and a line in the log, for a file with which no process could start: everything stays as it is."""
        try:
            settings = await anyio.to_thread.run_sync(self._read)
        except Exception as error:  # boundary: whatever is wrong with the file, this process goes on
            problem = error if isinstance(error, OmiumError) else repr(error)
            _log.error("the settings of supervision stay as they are: %s", problem)
            return False
        before, self.settings = self.settings, settings
        self._apply()
        changed = ", ".join(_differences(before, settings))
        _log.info("the settings of supervision were read anew: %s", changed or "nothing has changed")
        return True

    def _read(self) -> SupervisionFile:
        found = load_config(self._config.start)
        mine = self._config.project.id
        if found.project.id != mine:
            said = f"{found.start} is of the project {found.project.id!r} now, and this process serves {mine!r}."
            raise OmiumError("conflict", said, "Start a process for it.")
        return settings_of(found)

    def _apply(self) -> None:
        from omium.server.declared.supervision import supervised
        from omium.server.held import hold

        settings, project = self.settings, self._config.project
        if self._executor is not None and self._events is not None:
            self._executor.change(supervised(settings, project.commands, project.stated))
            self._events.change(**_of_events(settings))
            kept = settings.reconciliation
            self.reconciler.change(orphans=kept.orphans, grace_s=kept.grace, every_s=kept.every)
            hold(self._config, settings)

    @asynccontextmanager
    async def commands(self) -> AsyncIterator[CommandExecutor]:
        """The executor of commands; for the length of the block, programs that lost their supervisor are looked
        after."""
        from omium.clients.executors import CommandExecutor
        from omium.clients.processes.event_log import EventLog
        from omium.clients.watched import Supervision
        from omium.server.declared.supervision import supervised
        from omium.server.held import hold, let_go
        from omium.server.logs import hidden

        settings, project = self.settings, self._config.project
        path = self._config.home / "logs" / "commands.jsonl"
        self._events = EventLog(path, hide=hidden, **_of_events(settings))
        self._executor = CommandExecutor(
            supervised(settings, project.commands, project.stated),
            project.commands_on_unknown,
            Supervision(register_of(self._config), self._events, self.reconciler),
        )
        hold(self._config, settings)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.reconciler.run, settings.reconciliation.every)
                yield self._executor
                tasks.cancel_scope.cancel()
        finally:
            self._executor = None
            self._events.close()
            let_go(self._config)


def _of_events(settings: SupervisionFile) -> dict[str, Any]:
    said = settings.logging
    return {"max_bytes": said.max_size, "keep": said.keep, "output": said.output, "enabled": said.enabled}


def _differences(before: SupervisionFile, after: SupervisionFile) -> list[str]:
    """`timeouts.hard 1800.0 -> 60.0` for each key that differs."""
    old, new = _flat(before.model_dump()), _flat(after.model_dump())
    return [f"{key} {old.get(key)} -> {new.get(key)}" for key in sorted(old | new) if old.get(key) != new.get(key)]


def _flat(document: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in document.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found
