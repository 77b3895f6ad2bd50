"""The budgets of a project while a process lives: read again when its file changes, for calls that are made then.

Whoever raises a budget in the file expects the run that waits for it to go on, in whichever process that runs. A file
that is broken changes nothing, and is said once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from omium.orchestration.definition.document import read_file, validate
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import BudgetRule
from omium.server.declared.budgets import budget_rules

_log = logging.getLogger(__name__)

_SETTLED_NS: Final = 2_000_000_000  # a file changed within the grain of its file system's clock may look the same


class HotBudgets:
    """Called, it gives the rules of now. rules: as `file`, a project's `omium.yaml`, was read last."""

    def __init__(self, rules: Sequence[BudgetRule], file: Path, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._rules = tuple(rules)
        self._file = file
        self._now_ns = now_ns
        self._seen, self._settled = self._look()
        self._told = ""

    def __call__(self) -> Sequence[BudgetRule]:
        seen, settled = self._look()
        if seen != self._seen or not self._settled:
            self._seen, self._settled = seen, settled
            self._read()
        return self._rules

    def _look(self) -> tuple[tuple[int, int, int] | None, bool]:
        """(what tells a changed file, whether a later change would show)."""
        try:
            found = self._file.stat()
        except OSError:
            return None, True
        return (found.st_mtime_ns, found.st_size, found.st_ino), self._now_ns() - found.st_mtime_ns > _SETTLED_NS

    def _read(self) -> None:
        from omium.server.project_file import ProjectFile

        try:
            rules = budget_rules(validate(read_file(self._file), ProjectFile).budgets)
        except OmiumError as error:
            if error.message != self._told:
                _log.error("the budgets stay as they were: %s", error.message)
            self._told = error.message
            return
        if rules != self._rules:
            _log.info("the budgets have changed: %s", ", ".join(rule.name for rule in rules) or "there are none")
        self._rules, self._told = rules, ""
