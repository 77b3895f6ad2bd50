"""Notifications of a process that executes runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omium.orchestration.ports import Clock, Store
    from omium.server.config import Config
    from omium.server.notify.carrier import Carrier


def carrier_of(config: Config, store: Store, clock: Clock) -> Carrier:
    """Who serves the endpoints that the configuration names."""
    from omium.server.notify.carrier import Carrier
    from omium.server.notify.notifiers import notifier_of

    return Carrier(store, config.project.id, config.notify, partial(notifier_of, clock=clock), clock)


@asynccontextmanager
async def notifying(config: Config, store: Store, clock: Clock) -> AsyncIterator[None]:
    """Tell the endpoints what happens, for the length of the block. With none it costs nothing."""
    if not config.notify:
        yield
        return
    from omium.server.notify.carrier import carrying

    async with carrying(carrier_of(config, store, clock)):
        yield
