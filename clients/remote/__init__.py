"""The Python client: Omium, as others talk to it, over MCP.

    async with OmiumClient.stdio("my-project") as omium:
        run = await omium.run_workflow("report", {"url": "https://example.org"})
        run = await omium.wait(run.run_id)

It knows the protocol and nothing of the server's insides, so it works with a server on this machine as with one far
away. Every failure is an `OmiumError`.
"""

from __future__ import annotations

from omium.clients.remote.answers import (
    Approval,
    Checkpoint,
    ClosedBranch,
    Comparison,
    Decision,
    Epic,
    Event,
    Memories,
    Memory,
    Operation,
    Phase,
    Plan,
    Question,
    Run,
    RunRef,
    Workflow,
)
from omium.clients.remote.client import OmiumClient

__all__ = [
    "Approval",
    "Checkpoint",
    "ClosedBranch",
    "Comparison",
    "Decision",
    "Epic",
    "Event",
    "Memories",
    "Memory",
    "OmiumClient",
    "Operation",
    "Phase",
    "Plan",
    "Question",
    "Run",
    "RunRef",
    "Workflow",
]
