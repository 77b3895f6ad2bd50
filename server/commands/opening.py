"""Opening the project and its core for a command.

A command that only looks or controls opens no engine: it takes a fraction of a second, and steers what another process
executes. If nobody executes, it leaves a background worker behind.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omium.server.commands.base import Invocation
from omium.server.commands.console import safe

if TYPE_CHECKING:
    from omium.orchestration.errors import OmiumError
    from omium.orchestration.ports import WorkerRow
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import Caller
    from omium.server.config import Config

_FIRST: Final = (
    "The first run makes it: omium run WORKFLOW. If there was one, put it back, or a backup of it: omium restore."
)
_STARTED_WITHIN_S: Final = 3.0  # a background worker that somebody has just started has begun by then
_LOOK_S: Final = 5.0
_TAKEN_WITHIN_S: Final = 1.0  # a server that has room takes a run within a tenth of it


def configuration(invocation: Invocation, *, definitions: bool = True) -> Config:
    """The configuration that the options and the environment say. Without `definitions` a project file that cannot be
    loaded is warned about, if only its name and database can be told. Raises what `load_config` raises."""
    from omium.server.config import load_config

    environ = dict(os.environ)
    if invocation.database:
        environ["OMIUM_DATABASE"] = invocation.database
    broken = None if definitions else lambda error: invocation.console.note(_warning(error))
    return load_config(invocation.project, environ, broken=broken)


def _warning(error: OmiumError) -> str:
    first, *more = error.message.split("\n")
    others = f" (and {len(more)} more)" if more else ""
    return f"warning: {first}{others}\nUntil that is repaired, runs can only be looked at and steered."


def local_caller(config: Config, session: str | None = None) -> Caller:
    """The user of this machine who runs this process, so that everything of theirs sees the same runs."""
    import pwd

    from omium.orchestration.ids import Principal
    from omium.orchestration.service.views import Caller

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user without an entry
        name = str(os.getuid())
    return Caller(Principal(f"user:{name}"), config.project.id, session=session)


@asynccontextmanager
async def opened(
    invocation: Invocation,
    *,
    executes: bool = False,
    hands: bool = False,
    definitions: bool = False,
    lists: bool = False,
    makes: bool = False,
    waits: bool = False,
) -> AsyncIterator[tuple[Core, Caller]]:
    """The core of a process that executes no runs, and who calls.

    executes: the command may set a run going, so that afterwards somebody has to be there who executes it. hands: it
    needs what works on files and calls functions: to put files back, undo effects, or tell which code has changed.
    definitions: it needs what is registered. A command that needs neither works with a broken project file as well.
    makes: it may be the first one to use a database. Others make none: see `existing`. lists: where nothing has run yet
    it shows that there is nothing, as the commands with `definitions` show those. waits: it may go on for long, and
    sees to it that a worker which hangs meanwhile is noticed.
    """
    from omium.server.app import open_omium

    log_errors()
    config = configuration(invocation, definitions=definitions or hands)
    async with AsyncExitStack() as stack:
        if definitions or (lists and not invocation.database):
            if not makes:
                config = for_looking(stack, invocation, config, told=lists)
        elif not makes:
            existing(invocation, config)
        own = replace(config, limits=replace(config.limits, runs=0)) if hands else config
        core = await stack.enter_async_context(open_omium(own, engine=hands))
        if await _freed_from_the_dead(invocation, config, core) or await _lies_about(
            invocation, config, core, told=not executes
        ):
            await have_it_executed(invocation, config, core)
        relieved = await _is_relieved(invocation, config, core)
        if waits and not relieved:
            await stack.enter_async_context(_looking_again(invocation, config, core))
        yield core, local_caller(config)
        if executes:
            await have_it_executed(invocation, config, core)


def is_absent(config: Config) -> bool:
    """Whether there is no database yet."""
    return "://" not in config.database and not Path(config.database).exists()


def existing(invocation: Invocation, config: Config) -> None:
    """Raises `not_found` where there is no database: it was deleted, nothing has run yet, or `--database` has a slip of
    the keyboard. A new one in its place would look as if all were well, and as if nothing had ever run."""
    from omium.orchestration.errors import OmiumError

    if is_absent(config):
        hint = "Look at what --database says." if invocation.database else _FIRST
        raise OmiumError("not_found", f"there is no database at {config.database}.", hint)


def for_looking(stack: AsyncExitStack, invocation: Invocation, config: Config, *, told: bool) -> Config:
    """The configuration; where there is no database yet, with an empty one that is gone with the command. `told`: the
    user is told so."""
    from tempfile import TemporaryDirectory

    if not is_absent(config):
        return config
    if told:
        invocation.console.note(f"there is no database at {config.database}. {_FIRST}")
    directory = stack.enter_context(TemporaryDirectory(prefix="omium-empty-"))
    return replace(config, database=str(Path(directory) / "omium.db"))


def log_errors() -> None:
    """Errors only, a line each, without secrets. What a server logs with takes longer to load than such a command."""
    import logging

    from omium.server.logs import hidden

    class Harmless(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return safe(hidden(super().format(record)), lines=True)

    handler = logging.StreamHandler()
    handler.setFormatter(Harmless("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])


async def _freed_from_the_dead(invocation: Invocation, config: Config, core: Core) -> bool:
    """Free the runs of workers that were killed: whoever comes back and looks must find them going on. Whether any
    were."""
    import anyio

    from omium.clients.processes.liveness import HostProcesses
    from omium.orchestration.errors import OmiumError

    processes, freed = HostProcesses(), 0
    try:
        for worker in await core.store.workers():
            if config.project.id in worker.serving and processes.alive(worker) is False:
                await anyio.to_thread.run_sync(processes.kill, worker)  # what it had started must not go on beside
                freed += await core.store.retire(worker.id)
    except OmiumError as error:  # such as a database that this user may only read
        invocation.console.note(f"whether a worker has died cannot be settled: {error.message}")
    return freed > 0


async def _lies_about(invocation: Invocation, config: Config, core: Core, *, told: bool) -> bool:
    """Whether runs are due for which nobody is there: a process of another project, on the same database, may have
    freed them from the dead, and does not execute them. A server's database is left to its workers, wherever they are:
    that none is there is only said, if `told`."""
    from omium.server.detach import has_work

    if not await has_work(config, core.store, -_STARTED_WITHIN_S) or (await _others(config, core))[0]:
        return False
    if "://" not in config.database:
        return True
    if told:
        invocation.console.note("runs are due, and nobody executes them. Start somebody: omium worker")
    return False


async def _is_relieved(invocation: Invocation, config: Config, core: Core) -> bool:
    """Where a worker of this machine owns runs and has gone silent, and nobody is at work who would take them over: say
    so, and leave a background worker there, which watches for itself before it ends anybody. Whether it was so."""
    from omium.clients.processes.liveness import works_on
    from omium.orchestration.errors import OmiumError
    from omium.server.health import told_silent

    ours = "://" not in config.database  # a server's database is left to its workers, as above
    try:
        at_work, silent = await _others(config, core)
        found = [] if at_work else [one for one in silent if await core.store.claimed_by(one.id)]
    except OmiumError:  # the command will say it, or does not need to know
        return False
    found = [one for one in found if not ours or works_on(one, Path(config.database))]
    for one in found:
        invocation.console.note(f"{told_silent(one, one.beat)}: it hangs, or was stopped.")
    if not found:
        return False
    if ours and not config.broken and await _is_worker_started(invocation, config):
        invocation.console.note("a background worker watches it, and takes its runs over if it stays so for 30 s.")
    elif not ours or config.detach:
        invocation.console.note("Start somebody who takes its runs over: omium worker")
    return True


@asynccontextmanager
async def _looking_again(invocation: Invocation, config: Config, core: Core) -> AsyncIterator[None]:
    """Look for silent workers during the block, until there was one; not in the midst of it when the block ends."""
    import asyncio

    import anyio

    leave = anyio.Event()

    async def look() -> None:
        while not leave.is_set():
            with anyio.move_on_after(_LOOK_S):
                await leave.wait()
            if leave.is_set() or await _is_relieved(invocation, config, core):
                return

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        leave.set()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
    task.result()


async def _others(config: Config, core: Core) -> tuple[list[WorkerRow], list[WorkerRow]]:
    """Who serves the project besides this process: those that are at work, and those of this machine that have gone
    silent."""
    from omium.clients.processes.liveness import HostProcesses, silent_since

    alive, now = HostProcesses().alive, core.clock.now_us()
    at_work: list[WorkerRow] = []
    silent: list[WorkerRow] = []
    for worker in await core.store.workers():
        if config.project.id in worker.serving and worker.pid != os.getpid() and (lives := alive(worker)) is not False:
            (silent if lives and silent_since(worker, now) else at_work).append(worker)
    return at_work, silent


async def have_it_executed(invocation: Invocation, config: Config, core: Core) -> None:
    """Start a background worker when a run is due and nobody takes it."""
    import anyio

    from omium.server.detach import has_work

    with anyio.move_on_after(_TAKEN_WITHIN_S):
        while await has_work(config, core.store, 0.0) and await _somebody_serves(config, core):
            await anyio.sleep(0.02)
    if not await has_work(config, core.store, 0.0):
        return
    if config.broken:
        invocation.console.note("nobody executes it before the project is repaired.")
    else:
        await _is_worker_started(invocation, config)


async def _is_worker_started(invocation: Invocation, config: Config) -> bool:
    """Start a background worker, or say why there is none. False also when one holds its place already."""
    from omium.orchestration.errors import OmiumError
    from omium.server.detach import start_worker

    if not config.detach:
        invocation.console.note("nobody executes it now. Start somebody: omium worker")
        return False
    try:
        return await start_worker(config) is not None
    except OmiumError as error:
        invocation.console.note(f"no background worker could be started: {error.message} Start one: omium worker")
        return False


async def _somebody_serves(config: Config, core: Core) -> bool:
    from omium.clients.processes.liveness import HostProcesses

    alive = HostProcesses().alive
    return any(
        config.project.id in worker.serving and worker.pid != os.getpid() and alive(worker)
        for worker in await core.store.workers()
    )
