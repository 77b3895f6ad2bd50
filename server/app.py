"""Putting Omium together: store, workspaces, executors, engine and core of one process."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Literal

import anyio
import anyio.to_thread

from omium.orchestration.errors import OmiumError
from omium.orchestration.ports import Clock, Executor, SystemClock
from omium.orchestration.service.core import Core
from omium.server.config import Config
from omium.server.hosting import hosted
from omium.server.upkeep import kept_up
from omium.server.wiring.agents import agents_of
from omium.server.wiring.external import external_tools, tool_executors
from omium.server.wiring.gates import budgets_of, gated, policies_of
from omium.server.wiring.notify import notifying
from omium.server.wiring.supervision import LiveSupervision
from omium.server.wiring.telemetry import tracing
from omium.storage.open import open_store

if TYPE_CHECKING:
    from omium.clients.executors import CommandExecutor, FunctionExecutor
    from omium.clients.external.tools import ExternalTools
    from omium.clients.workspaces import GitWorkspaces
    from omium.orchestration.engine.engine import Engine, EngineConfig
    from omium.orchestration.ports_agents import AgentSource

_log = logging.getLogger(__name__)

Leave = Literal["park", "detach"]

_MEMORY = "memory of commands"  # in MiB; no name of an operator's own
_POOL = "processes"  # the limit that functions in worker processes share


@asynccontextmanager
async def open_omium(
    config: Config,
    *,
    engine: bool = True,
    leave: Leave = "park",
    clock: Clock | None = None,
    supervision: LiveSupervision | None = None,
) -> AsyncIterator[Core]:
    """The core over this configuration's database, for the length of the block.

    engine: whether this process executes runs; without one it can only look and control, which takes no worker and no
    function's code. leave: what becomes of runs that still execute at the end of the block: `park` frees them in the
    database, where any later process finds them; `detach` has a background worker go on with them, unless
    `config.detach` is off. Their state is not changed by either, and no process of theirs is left. supervision: whoever
    keeps it can have the settings read anew meanwhile.
    Raises `storage_unavailable`, and what `Project.catalog` raises.
    """
    catalog = config.project.catalog(config.limits.resources)
    time = clock or SystemClock()
    async with AsyncExitStack() as stack:
        store = await open_store(
            config.database, clock=clock, chain_key=config.chain_key(), durability=config.durability
        )
        stack.push_async_callback(_to_the_end, store.close)
        workspaces = workspaces_of(config)
        core = Core(
            store,
            catalog,
            clock=time,
            policies=policies_of(config.project),
            agents=agents_of(config, catalog),
            budgets=budgets_of(config),
            longest_s=config.limits.run_time_s,
        )
        if engine:
            departure, live = None, supervision or LiveSupervision(config)
            if leave == "detach" and config.detach:
                from omium.server.detach import Departure

                departure = Departure(config, store)
                stack.push_async_callback(_to_the_end, departure.runs_are_free)
            await stack.enter_async_context(hosted(lambda: tracing(config, store)))
            await stack.enter_async_context(hosted(lambda: notifying(config, store, time)))
            running = await stack.enter_async_context(hosted(lambda: _engine(config, core, workspaces, time, live)))
            if departure is not None:
                stack.push_async_callback(_to_the_end, partial(departure.begins, running))
            await stack.enter_async_context(hosted(lambda: kept_up(config, store, workspaces)))
        yield core


async def _to_the_end(leave: Callable[[], Awaitable[object]]) -> None:
    """Whoever leaves is often cancelled, and this must be done all the same."""
    with anyio.CancelScope(shield=True):
        await leave()


@asynccontextmanager
async def _engine(
    config: Config, core: Core, workspaces: GitWorkspaces | None, clock: Clock, supervision: LiveSupervision
) -> AsyncIterator[Engine]:
    """The engine of this process, with everything that it runs nodes with."""
    from omium.clients.processes.liveness import marked
    from omium.orchestration.engine.engine import Engine

    async with AsyncExitStack() as stack:
        stack.enter_context(marked())
        tools = await stack.enter_async_context(external_tools(config.project, core.store, clock))
        engine = Engine(
            core.store,
            await _executors(stack, config, tools, supervision, core.agents),
            processes=supervision.processes(),
            create_child=core.create_child,
            check_names=core.check_names,
            workspaces=workspaces,
            specs=core.catalog.workspaces,
            config=_engine_config(config),
            clock=clock,
        )
        await stack.enter_async_context(gated(engine, config.project, core))
        core.bind(engine)  # before it claims anything: a run that it takes up may start others
        yield await stack.enter_async_context(engine)


def _engine_config(config: Config) -> EngineConfig:
    from omium.orchestration.engine.engine import EngineConfig

    limits = config.limits
    in_processes = [name for name, spec in config.project.functions.items() if spec.host == "process"]
    limited = {name: spec.memory_limit_bytes for name, spec in config.project.commands.items()}
    limited |= {name: cli.memory_limit_bytes for name, cli in config.project.coding.items()}
    return EngineConfig(
        slots=limits.slots,
        runs=limits.runs,
        resources={_POOL: limits.processes, **limits.resources, **_memory(limits.memory_bytes)},
        pools={f"function:{name}": _POOL for name in in_processes},
        weights={f"cli:{name}": _memory(size) for name, size in limited.items()},
        projects=(config.project.id,),
    )


def _memory(size: int | None) -> dict[str, int]:
    """So much memory, as slots of its limit; none where it is not limited."""
    return {} if size is None else {_MEMORY: max(1, math.ceil(size / 2**20))}


async def _executors(
    stack: AsyncExitStack,
    config: Config,
    tools: ExternalTools | None,
    supervision: LiveSupervision,
    hot: AgentSource | None,
) -> dict[str, Executor]:
    """How nodes are run, by kind. Worker processes are kept only if a function needs one."""
    from omium.clients.executors import FunctionExecutor
    from omium.clients.functions.host import FunctionPool
    from omium.clients.processes.environment import declared
    from omium.clients.workspaces.paths import node_dir
    from omium.server.wiring import agents, coding

    project = config.project
    handed_on = declared(project.pass_env, project.env)
    pool = None
    if any(spec.host == "process" for spec in project.functions.values()):
        pool = await stack.enter_async_context(
            FunctionPool(config.limits.processes, env=handed_on, cwd=project.directory)
        )
    functions = FunctionExecutor(
        project.functions,
        pool,
        callables=project.callables,
        path=project.path,
        scratch=partial(node_dir, config.home),
        handed_on=handed_on,
    )
    commands = await stack.enter_async_context(supervision.commands())
    await anyio.to_thread.run_sync(_read_code, functions, tuple(project.functions))
    await anyio.to_thread.run_sync(_read_code, commands, tuple(project.commands))
    cli = coding.cli_executor(project, commands, config.home)
    return {
        "function": functions,
        "cli": cli,
        **agents.executors(project, functions, pool, tools, hot),
        **tool_executors(tools),
    }


def _read_code(executor: FunctionExecutor | CommandExecutor, names: tuple[str, ...]) -> None:
    """Read the files behind every name once, so that no node waits for it. What cannot be read fails its node later."""
    for name in names:
        try:
            executor.digest(name)
        except OmiumError as error:
            _log.warning("the code of %s cannot be read: %s", name, error)


def workspaces_of(config: Config) -> GitWorkspaces | None:
    """Where the files of runs are; None, and a warning, without git."""
    if shutil.which("git") is None:
        _log.warning("git is not installed: nodes that use a workspace cannot run")
        return None
    from omium.clients.workspaces import GitWorkspaces

    return GitWorkspaces(config.home)
