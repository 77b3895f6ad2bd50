"""The executors of agents and of votes among them, put together for one process."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread

from omium.clients.agents.adapter import Adapter
from omium.clients.agents.toolbox import Described
from omium.orchestration.errors import OmiumError
from omium.server.plugins import ADAPTERS_GROUP, left_out, offered_adapter, points

if TYPE_CHECKING:
    from omium.clients.agents.executor import AgentExecutor
    from omium.clients.executors import FunctionExecutor
    from omium.clients.functions.host import FunctionPool
    from omium.orchestration.ports import Executor
    from omium.orchestration.ports_agents import AgentSource
    from omium.orchestration.ports_calls import Tools
    from omium.orchestration.service.catalog import Catalog
    from omium.server.config import Config
    from omium.server.project import Project


def adapters(path: Sequence[Path] = ()) -> dict[str, Adapter]:
    """Every framework that agents may name: ours, and those of installed packages (entry points of the group
    `omium.agent_adapters`, each an `Adapter` or what makes one). None imports its framework here. path: where the
    project's own modules are, for frameworks that import some."""
    from omium.clients.agents.ag2_adapter.adapter import Ag2Adapter
    from omium.clients.agents.agent_framework_adapter import AgentFrameworkAdapter
    from omium.clients.agents.openai_agents_adapter import OpenAiAgentsAdapter
    from omium.clients.agents.pydantic_ai_adapter import PydanticAiAdapter
    from omium.clients.agents.worker_adapter.adapter import WorkerAdapter
    from omium.clients.langgraph.adapter import LanggraphAdapter

    ours: tuple[Adapter, ...] = (
        Ag2Adapter(),
        AgentFrameworkAdapter(),
        LanggraphAdapter(path),
        OpenAiAgentsAdapter(),
        PydanticAiAdapter(),
        WorkerAdapter(),
    )
    found = {one.framework: one for one in ours}
    for point in points(ADAPTERS_GROUP):
        if point.name in found:
            raise OmiumError("invalid_definition", f"the framework {point.name!r} is offered twice.")
        try:
            found[point.name] = offered_adapter(point)
        except OmiumError as error:
            left_out(error)
    return found


def executors(
    project: Project,
    functions: FunctionExecutor,
    pool: FunctionPool | None,
    external: Tools | None = None,
    source: AgentSource | None = None,
) -> dict[str, Executor]:
    """For the kinds `agent` and `consensus`; nothing if the project has no agents. source: where the present ones are
    told, if they may change; then there may be some later."""
    present = getattr(source, "present", None)
    if present is None and not project.agents:
        return {}
    from omium.clients.agents.consensus import ConsensusExecutor
    from omium.clients.agents.executor import AgentExecutor

    pins = getattr(external, "pins", None)
    agents: AgentExecutor = AgentExecutor(
        present or project.agents.by_use(),
        adapters(project.path),
        functions=functions,
        describe=describer(project, pool),
        external=external,
        pins=pins,
    )
    return {"agent": agents, "consensus": ConsensusExecutor(agents)}


def agents_of(config: Config, catalog: Catalog) -> AgentSource | None:
    """Where the core gets the agents that a new run keeps; None where no file says which there are."""
    if config.start is None or not config.start.is_file() or config.broken:
        return None
    from omium.server.declared.hot_agents import HotAgents

    return HotAgents(config.project, config.start, catalog)


def describer(project: Project, pool: FunctionPool | None) -> Callable[[str], Awaitable[Described]]:
    """What models are told of functions: what the declaration says, and where it says nothing, the signature, read
    where the function runs."""
    known: dict[str, Described] = {}

    async def signature(name: str) -> Mapping[str, Any]:
        from omium.clients.agents import describe

        spec = project.functions[name]
        held = project.callables.get(name)
        if held is not None:
            return describe.describe_function(held)
        if spec.host == "process" and pool is not None:
            told: Any = await pool.call(f"{describe.__name__}:describe", {"ref": spec.ref}, sys_path=_path(project))
            return dict(told)
        for entry in reversed(_path(project)):  # as when the function itself is imported
            if entry not in sys.path:
                sys.path.insert(0, entry)
        return await anyio.to_thread.run_sync(describe.describe, spec.ref)

    async def described(name: str) -> Described:
        spec = project.functions[name]
        if spec.input_schema is not None:
            return Described(spec.description, spec.input_schema)
        found = known.get(name)
        if found is None:
            told = await signature(name)
            found = Described(spec.description or told["description"], told["parameters"])
            if spec.host != "process":  # the code of a worker process may change while this process lives
                known[name] = found
        return found

    return described


def _path(project: Project) -> tuple[str, ...]:
    return tuple(str(entry) for entry in project.path)
