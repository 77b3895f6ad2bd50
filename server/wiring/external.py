"""The external tools of a process that executes runs, and of a command that looks after them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omium.clients.external.tools import ExternalTools
    from omium.orchestration.ports import Attempt, Clock, Executor, Store
    from omium.server.project import Project

_log = logging.getLogger(__name__)


@asynccontextmanager
async def external_tools(
    project: Project, store: Store, clock: Clock, *, warn: bool = True
) -> AsyncIterator[ExternalTools | None]:
    """The tools of the project's servers, for the length of the block; None when none is declared. A server is started
    when it is first needed, and nothing of it is left behind the block."""
    servers = project.servers
    if warn:
        for one in servers.entries.values():
            if one.enabled and one.reason:
                _log.warning("the MCP server %s is not used: %s", one.name, one.reason)
        for warning in servers.warnings:
            _log.warning("%s", warning)
    if not servers.entries:
        yield None
        return
    from omium.clients.external.pins import PinBook
    from omium.clients.external.pool import ServerPool
    from omium.clients.external.tools import ExternalTools

    book = PinBook(store, project.id, clock)
    await book.read()
    async with ServerPool(servers.specs, clock) as pool:
        yield ExternalTools(pool, book, skipped=servers.skipped, could_allow=_could_allow)


def tool_executors(tools: ExternalTools | None) -> dict[str, Executor]:
    """For nodes of the kind `tool`; nothing without servers."""
    if tools is None:
        return {}
    from omium.clients.external.executor import ToolExecutor

    return {"tool": ToolExecutor(tools)}


async def _could_allow(attempt: Attempt, server: str, tool: str) -> bool:
    """What the version of the policy that the attempt's run keeps would ever say."""
    from omium.orchestration.engine.attempt import NodeAttempt

    assert isinstance(attempt, NodeAttempt)  # of an engine: nobody else calls tools
    policy = await attempt.engine.policies.of(attempt.run.policy)
    return policy.could_allow(server, tool)
