"""The budgets of a project while a process lives: read again when its file changes, for calls that are made then.

Whoever raises a budget in the file expects the run that waits for it to go on, in whichever process that runs. A file
that is broken changes nothing, and is said once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from omium.orchestration.definition.document import read_file, validate
from omium.orchestration.errors import OmiumError
from omium.orchestration.gates.budgets import BudgetRule
from omium.orchestration.stamps import look
from omium.server.declared.budgets import budget_rules

_log = logging.getLogger(__name__)


class HotBudgets:
    """Called, it gives the rules of now. rules: as `file`, a project's `omium.yaml`, was read last."""

    def __init__(self, rules: Sequence[BudgetRule], file: Path, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._rules = tuple(rules)
        self._file = file
        self._now_ns = now_ns
        self._stamps, self._settled = look([file], now_ns())
        self._told = ""

    def __call__(self) -> Sequence[BudgetRule]:
        stamps, settled = look([self._file], self._now_ns())
        if stamps != self._stamps or not self._settled:
            self._stamps, self._settled = stamps, settled
            self._read()
        return self._rules

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
