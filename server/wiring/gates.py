"""The gates of a process that executes runs: its policies, who is asked beside them, and its budgets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine
    from omium.orchestration.gates.policy import PolicySource
    from omium.server.project import Project


def policies_of(project: Project) -> PolicySource | None:
    """Where the core gets the policy that a new run keeps; None where the project declares none. Raises `not_found` and
    `invalid_definition`."""
    declared = project.policy
    return None if declared.policy is None and declared.shadow is None else declared.source()


@asynccontextmanager
async def gated(engine: Engine, project: Project, source: PolicySource | None) -> AsyncIterator[None]:
    """Give the engine its gates, for the length of the block, which begins before it claims anything."""
    from omium.clients.external.redact import Redactor
    from omium.orchestration.gates.deciding import Policies

    agent = project.policy.policy_agent()
    engine.policies = Policies(engine.values.load, source, None if agent is None else agent.tighten)
    engine.budgets = project.budgets
    engine.redact = Redactor(kinds=("secrets",)).shown  # of what is stored and shown of a call
    try:
        yield
    finally:
        if agent is not None:
            await agent.aclose()
