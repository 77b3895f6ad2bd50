"""Trying an agent of a project, as its tests do: a real run of one node, in a database that is thrown away."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omium.orchestration.definition.model import NodeDef, WorkflowDef
from omium.orchestration.errors import OmiumError
from omium.server.app import open_omium
from omium.server.commands.opening import local_caller
from omium.server.config import load_config

_WORKFLOW = "omium:try"


@dataclass(frozen=True, slots=True)
class Tried:
    """How the run stands, what the agent gave, and what that took. status `waiting_approval`: it stopped to ask."""

    status: str
    output: Any
    usage: Mapping[str, Any]


async def try_agent(project: Path, agent: str, inputs: Mapping[str, Any], *, wait_s: float = 60.0) -> Tried:
    """Run an agent of the project in this directory on `inputs` until it is done, or stops to ask.

    Policy and limits hold as in any run. Raises what loading the project raises, `timeout`, and `process_failed` when
    the agent fails."""
    with tempfile.TemporaryDirectory(prefix="omium-try-") as directory:
        home = Path(directory)
        config = load_config(project, {"OMIUM_HOME": directory})
        node = NodeDef("agent", "agent", use=agent, input="${{ inputs }}")
        config.project.workflow(WorkflowDef(_WORKFLOW, (node,), outputs="${{ nodes.agent.output }}"))
        own = replace(config, database=str(home / "try.db"), home=home, detach=False, notify=())
        async with open_omium(own) as core:
            caller = local_caller(own)
            run = await core.run_workflow(caller, _WORKFLOW, dict(inputs))
            view = await core.wait(caller, run.id, wait_s, detail=True)
            if view.status == "failed":
                error = view.error or {}
                raise OmiumError("process_failed", f"the agent {agent} failed: {error.get('message', '')}", **error)
            if view.status not in ("completed", "waiting_approval"):
                raise OmiumError("timeout", f"the agent {agent} is {view.status} after {wait_s:g} s.")
            nodes = view.nodes or ()
            usage = nodes[0].usage if nodes and nodes[0].usage else {}
            return Tried(view.status, view.output, usage)
