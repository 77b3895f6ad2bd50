"""What every tool call is given: the core, who calls, and how long a call may hold.

The server's lifespan yields one `Desk`; a tool reaches it through the request's context, so tools are plain functions
that know neither transport nor identity provider.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio
from mcp.server.mcpserver import Context

from omium.orchestration.ids import RunId, is_id
from omium.orchestration.service.views import Caller

if TYPE_CHECKING:
    from omium.orchestration.ports import Damage
    from omium.orchestration.service.core import Core

MAX_WAIT_S = 45  # hosts stop a call after 60 s, and some do not count progress

# How long a call that may wait holds its request, whatever it was asked for: less where the waiting goes on elsewhere.
PATIENCE_S: ContextVar[float] = ContextVar("PATIENCE_S", default=MAX_WAIT_S)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Desk:
    """`identify` says who makes a request; it never reads the tool's arguments, which the model writes. `verify` checks
    the log, the tables and the contents of a run and changes none of them; None: there is nothing here that can."""

    core: Core
    identify: Callable[[Context[Any, Any]], Caller]
    verify: Callable[[RunId], Awaitable[Sequence[Damage]]] | None = None


Ctx: TypeAlias = Context[Desk, Any]


def desk_of(ctx: Ctx) -> tuple[Core, Caller]:
    """The core and the caller of this request."""
    desk = ctx.request_context.lifespan_context
    return desk.core, desk.identify(ctx)


async def committed(work: Awaitable[T]) -> T:
    """Finish what changes something although the client has gone or has given up: it is short, and half of it is worse
    than either all or nothing."""
    with anyio.CancelScope(shield=True):
        done = await work
    return done


async def the_run(core: Core, caller: Caller, text: str) -> RunId:
    """The run that an argument means: a whole id, or a unique part of one. Raises `not_found`."""
    return RunId(text) if is_id(text, "run") else await core.find_run(caller, text)
