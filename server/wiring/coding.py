"""Nodes of kind `cli`: registered commands and coding CLIs, under one set of names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from omium.orchestration.ports import Attempt, Done, Executor
from omium.orchestration.values import Value

if TYPE_CHECKING:
    from omium.clients.executors import CommandExecutor
    from omium.server.project import Project


class CliExecutor:
    """Gives each name to the executor that it belongs to."""

    def __init__(self, commands: Executor, coding: Executor, names: frozenset[str]) -> None:
        self._commands = commands
        self._coding = coding
        self._names = names

    def digest(self, use: str) -> str:
        """See `ports.Executor`."""
        return self._of(use).digest(use)

    async def run(self, use: str, inputs: Value, attempt: Attempt) -> Done:
        """See `ports.Executor`."""
        return await self._of(use).run(use, inputs, attempt)

    def _of(self, use: str) -> Executor:
        return self._coding if use in self._names else self._commands


def cli_executor(project: Project, commands: CommandExecutor, home: Path) -> Executor:
    """The executor of the kind `cli`; that of the commands alone, if the project has no coding CLI."""
    if not project.coding:
        return commands
    from omium.clients.coding.executor import CodingExecutor

    coding = CodingExecutor(project.coding, home, supervision=commands.supervision, project=project.id)
    return CliExecutor(commands, coding, frozenset(project.coding))
