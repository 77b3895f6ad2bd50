"""Steering a run: `pause`, `resume`, `cancel`, `signal`. Whoever executes the run obeys within a moment."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from omium.server.commands.arguments import literal
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import safe, short
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.orchestration.definition.model import NodeDef
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import RunView

_reason = click.option("--reason", metavar="TEXT", help="Why; it stands in the log.")
_key = click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key changes nothing.")


@command("omium pause last --reason 'the numbers look wrong'")
@click.argument("run")
@_reason
@click.option("--interrupt", is_flag=True, help="Also stop the nodes in flight, where their definition allows it.")
@_key
async def pause(
    invocation: Invocation, run: str, reason: str | None, interrupt: bool, idempotency_key: str | None
) -> None:
    """Start no new node of a run until it is resumed. A node in flight finishes."""
    async with opened(invocation) as (core, caller):
        run_id = await core.find_run(caller, run)
        view = await core.pause(caller, run_id, reason=reason, interrupt=interrupt, idempotency_key=idempotency_key)
        finishing = await _finishing(core, view) if interrupt else list(view.current)
    _said(invocation, view)
    if finishing:
        why = " (on_pause: finish, as functions do unless they say otherwise)" if interrupt else ""
        invocation.console.note(f"in flight, and going on to its end: {', '.join(finishing[:10])}{why}")


async def _finishing(core: Core, view: RunView) -> list[str]:
    """The nodes in flight that an interruption leaves alone, as their definitions say."""
    structure = await core.structure(await core.store.state(view.id))
    return [one for one in view.current if structure.node_def(one).on_pause == "finish"]


@command("omium resume last")
@click.argument("run")
@_reason
@_key
async def resume(invocation: Invocation, run: str, reason: str | None, idempotency_key: str | None) -> None:
    """Go on with a paused run. A draft is started."""
    async with opened(invocation, executes=True) as (core, caller):
        run_id = await core.find_run(caller, run)
        view = await core.resume(caller, run_id, reason=reason, idempotency_key=idempotency_key)
    _said(invocation, view)


@command("omium cancel last --reason 'wrong branch'")
@click.argument("run")
@_reason
@_key
async def cancel(invocation: Invocation, run: str, reason: str | None, idempotency_key: str | None) -> None:
    """End a run and everything below it. Nodes in flight are killed, questions withdrawn, child runs cancelled."""
    async with opened(invocation) as (core, caller):
        run_id = await core.find_run(caller, run)
        view = await core.cancel(caller, run_id, reason=reason, idempotency_key=idempotency_key)
    _said(invocation, view)


@command('omium signal last deployed --payload \'{"version": "1.4"}\'')
@click.argument("run")
@click.argument("name")
@click.option("--payload", metavar="VALUE", help="What the waiting node gets: JSON, or text.")
async def signal(invocation: Invocation, run: str, name: str, payload: str | None) -> None:
    """Send a signal to the nodes of a run that wait for it. One signal wakes one node, now or when it comes to wait."""
    async with opened(invocation, executes=True) as (core, caller):
        run_id = await core.find_run(caller, run)
        view = await core.signal(caller, run_id, name, None if payload is None else literal(payload))
        known = _signals((await core.structure(await core.store.state(run_id))).workflow.nodes)
    _said(invocation, view)
    if name not in known:
        there = f" It has: {', '.join(sorted(known))}." if known else ""
        invocation.console.note(f"warning: no node of the workflow waits for a signal {name!r}.{there}")


def _signals(nodes: Iterable[NodeDef]) -> set[str]:
    """The names of the signals that nodes, and those inside of them, wait for."""
    found: set[str] = set()
    for node in nodes:
        if node.wait is not None and node.wait.signal is not None:
            found.add(node.wait.signal)
        found |= _signals(node.body)
    return found


def _said(invocation: Invocation, view: RunView) -> None:
    console = invocation.console
    if console.json:
        console.view(view)
    elif console.terminal:
        console.text(f"{short(view.id)} is {console.status(view.status)}")
    else:
        console.text(f"{safe(view.id)}\t{view.status}")
