"""The chores of this project's database: contents that nothing refers to, and runs that have served their time."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.server.config import Config, Retention

if TYPE_CHECKING:
    from omium.orchestration.ports import Store
    from omium.orchestration.ports_workspace import Workspaces
    from omium.storage.maintenance import Beside, Keeper, Policy, Retained
    from omium.storage.maintenance.upkeep import Chore


def chores(config: Config, store: Store, workspaces: Workspaces | None) -> list[Chore]:
    """What the configuration wants done, each with how often. The sweep comes last: it takes what retention left."""
    from omium.storage.maintenance import keeper
    from omium.storage.maintenance.upkeep import Chore

    keeping, every = keeper(store), config.upkeep.every_s
    found = [Chore("sweep", every, partial(_sweep, keeping, partial(remove_files, config.home, workspaces)))]
    if config.retention is not None:
        work = partial(_retain, keeping, policy_of(config, config.retention), workspaces, config.home)
        found.insert(0, Chore(f"retention of {config.project.id}", every, work))
    if config.project.coding:  # they lie on this machine, so each machine looks after its own
        place = f"conversations of {config.project.id} on {socket.gethostname()}"
        found.insert(0, Chore(place, every, partial(_expire, config)))
    return found


def policy_of(config: Config, retention: Retention) -> Policy:
    from omium.storage.maintenance import Policy

    return Policy(retention.after_s, "runs" if retention.forget == "runs" else "blobs", (config.project.id,))


async def forget(
    keeping: Keeper, policy: Policy, workspaces: Workspaces | None, home: Path, *, preview: bool = False
) -> Retained:
    """Apply the policy; the files of runs that are dropped go with them, and what attempts have written with contents
    too."""
    from omium.storage.maintenance import retain

    beside = partial(remove_files, home, workspaces)
    return await retain(keeping, policy, keeping.clock.now_us(), preview=preview, beside=beside)


async def remove_files(home: Path, workspaces: Workspaces | None, gone: Sequence[RunId], trees: bool) -> None:
    """Remove what attempts of these runs have left on the disk, conversations of coding CLIs that were of these runs
    only, and with `trees` their workspaces. Raises `workspace`."""
    from omium.clients.coding.register import Conversations
    from omium.clients.workspaces.scratch import remove_scratch

    if workspaces is not None and trees and gone:
        await workspaces.drop(gone)
    try:
        if gone:
            await anyio.to_thread.run_sync(remove_scratch, home, gone)
            await anyio.to_thread.run_sync(Conversations(home).forget, set(gone))
    except OSError as error:
        raise OmiumError("workspace", f"the files of runs cannot be removed: {error}.") from error


@asynccontextmanager
async def kept_up(config: Config, store: Store, workspaces: Workspaces | None) -> AsyncIterator[None]:
    """Have the chores done in the background, for the length of the block, unless they are turned off."""
    if not config.upkeep.enabled:
        yield
        return
    from omium.storage.maintenance import keeper
    from omium.storage.maintenance.upkeep import keep_up

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_up, keeper(store), chores(config, store, workspaces))
        yield
        tasks.cancel_scope.cancel()


async def _sweep(keeping: Keeper, beside: Beside) -> Mapping[str, Any]:
    from omium.storage.maintenance import sweep

    gone = await sweep(keeping, keeping.clock.now_us(), beside=beside)
    return {"contents": gone.blobs, "files": gone.orphans + gone.temporaries, "erasures": gone.erasures}


async def _expire(config: Config) -> Mapping[str, Any]:
    from omium.clients.coding.register import Conversations
    from omium.clients.coding.spec import SESSION_TTL_S

    expire = Conversations(config.home).expire
    return await anyio.to_thread.run_sync(expire, config.project.id, config.project.coding, SESSION_TTL_S)


async def _retain(keeping: Keeper, policy: Policy, workspaces: Workspaces | None, home: Path) -> Mapping[str, Any]:
    found = await forget(keeping, policy, workspaces, home)
    return {"dropped": len(found.dropped), "erased": len(found.erased), "kept": len(found.kept)}
