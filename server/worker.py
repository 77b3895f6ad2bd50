"""The worker: a process that only executes runs, in the foreground (`omium worker`) or left behind by another one."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio

from omium.clients.workspaces.locks import file_lock
from omium.orchestration.errors import OmiumError
from omium.orchestration.service.core import Core
from omium.server.app import open_omium
from omium.server.config import Config, load_config
from omium.server.declared.hot_project import ProjectStands
from omium.server.detach import HORIZON_S, IDLE_S, has_work, lock_path, start_worker
from omium.server.logs import set_up_logging
from omium.server.loop import run
from omium.server.memory import tune
from omium.server.signals import Signals
from omium.server.wiring.supervision import LiveSupervision

if TYPE_CHECKING:
    from omium.orchestration.engine.engine import Engine

_log = logging.getLogger(__name__)

_LOOK_S: Final = 1.0
_LOCK_WAIT_S: Final = 2.0  # whoever wants to know whether there is a worker holds the lock for a moment


async def run_worker(
    config: Config, idle_s: float | None = None, *, exclusive: bool = False, horizon_s: float = HORIZON_S
) -> None:
    """Execute the project's runs until SIGTERM or SIGINT, or until nothing was to be done for `idle_s` seconds (None:
    never). What still executes then is freed for other processes, within 10 s. At SIGHUP see `signals.Signals`.

    exclusive: hold the lock of the background worker, and end at once if another one does. horizon_s: a timer that is
    due within so many seconds counts as something to be done.
    """
    stands = ProjectStands(config)  # as it was loaded a moment ago
    supervision = LiveSupervision(config)
    signals = Signals(supervision)
    with signals.held():
        async with anyio.create_task_group() as tasks:

            def go(number: signal.Signals) -> None:
                _log.info("%s: runs are handed over", signal.Signals(number).name)
                tasks.cancel_scope.cancel()

            tasks.start_soon(signals.heed, go)
            async with open_omium(config, supervision=supervision) as core:
                if exclusive:
                    await _serve_alone(config, core, IDLE_S if idle_s is None else idle_s, horizon_s, stands)
                else:
                    await _until_idle(config, core, idle_s, horizon_s)
            tasks.cancel_scope.cancel()


async def _serve_alone(config: Config, core: Core, idle_s: float, horizon_s: float, stands: Callable[[], bool]) -> None:
    """Serve under the lock. It is given up before the last look for work, so that nobody relies on a worker that is
    about to end.

    Whoever changes the project's file has not started this worker, and knows nothing of it: it takes no more runs then,
    has another one started, and ends with the last of its own."""
    assert core.engine is not None
    core.engine.may_claim = stands
    while True:
        async with _only_one(config) as mine:
            if not mine:
                _log.info("another background worker serves %s", config.project.id)
                return
            await _until_idle(config, core, idle_s, horizon_s, stands)
        if not stands():
            await _give_way(config, core.engine)
            return
        if not await _is_busy(config, core, horizon_s):
            return


async def _give_way(config: Config, engine: Engine) -> None:
    """Have a worker started that knows the project as it is, and end with the last run that is in hand here."""
    _log.info("the project's file has changed: another worker goes on")
    engine.may_claim = lambda: False  # for good, should somebody take the change back
    try:
        await start_worker(config)
    except OmiumError as error:  # what is in hand here must not suffer for it
        _log.warning("no background worker could be started, runs wait for the next process: %s", error)
    while engine.busy > 0:
        await anyio.sleep(_LOOK_S / 4)


@asynccontextmanager
async def _only_one(config: Config) -> AsyncIterator[bool]:
    lock = file_lock(lock_path(config), wait_s=_LOCK_WAIT_S)
    try:
        await lock.__aenter__()
    except OmiumError as error:
        if error.code != "timeout":
            raise
        yield False
        return
    try:
        yield True
    finally:
        await lock.__aexit__(None, None, None)


async def _until_idle(
    config: Config, core: Core, idle_s: float | None, horizon_s: float, stands: Callable[[], bool] = lambda: True
) -> None:
    if idle_s is None:
        await anyio.sleep_forever()
        return
    idle_since = anyio.current_time()
    while stands() and anyio.current_time() - idle_since < idle_s:
        await anyio.sleep(min(_LOOK_S, idle_s / 4))
        if await _is_busy(config, core, horizon_s):
            idle_since = anyio.current_time()


async def _is_busy(config: Config, core: Core, horizon_s: float) -> bool:
    assert core.engine is not None
    try:
        # The database is asked first: nodes that wait for one that is gone keep the engine busy for good.
        return await has_work(config, core.store, horizon_s) or core.engine.busy > 0
    except OmiumError as error:
        if error.data.get("gone"):
            raise  # nothing that could be waited for: what it served is no longer there
        _log.warning("whether there is work cannot be seen now: %s", error)
        return True


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < 1e9:  # which is also what is no number
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def main() -> int:
    """`python -m omium.server.worker`: with the configuration of its environment."""
    parser = argparse.ArgumentParser(prog="omium worker", description="Execute runs.")
    parser.add_argument("--detached", action="store_true", help="be the one background worker, end if there is one")
    parser.add_argument("--idle", type=_seconds, default=None, help="seconds without work after which it ends")
    arguments = parser.parse_args()
    tune()
    set_up_logging()
    try:
        run(lambda: run_worker(load_config(), arguments.idle, exclusive=arguments.detached))
    except OmiumError as error:
        _log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
