"""The gates of a process that executes runs: its policies, who is asked beside them, and its budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine
    from omium.orchestration.gates.budgets import BudgetsNow
    from omium.orchestration.gates.policy import PolicySource
    from omium.orchestration.service.core import Core
    from omium.server.config import Config
    from omium.server.project import Project


def policies_of(project: Project) -> PolicySource | None:
    """Where the core gets the policy that a new run keeps; None where the project declares none. Raises `not_found` and
    `invalid_definition`."""
    declared = project.policy
    return None if declared.policy is None and declared.shadow is None else declared.source()


def budgets_of(config: Config) -> BudgetsNow:
    """The project's budgets, as its file says at the time; as they were loaded where there is no file."""
    if config.start is None or not config.start.is_file() or config.broken:
        rules = config.project.budgets
        return lambda: rules
    from omium.server.declared.hot_budgets import HotBudgets

    return HotBudgets(config.project.budgets, config.start)


@asynccontextmanager
async def gated(engine: Engine, project: Project, core: Core) -> AsyncIterator[None]:
    """Give the engine its gates, for the length of the block, which begins before it claims anything."""
    from omium.clients.external.redact import Redactor
    from omium.orchestration.gates.deciding import Policies

    agent = project.policy.policy_agent()
    engine.policies = Policies(engine.values.load, core.policies, None if agent is None else agent.tighten)
    engine.budgets = core.budgets_now
    engine.redact = Redactor(kinds=("secrets",)).shown  # of what is stored and shown of a call
    try:
        yield
    finally:
        if agent is not None:
            await agent.aclose()
