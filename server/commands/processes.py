"""The programs that Omium supervises: `processes`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from omium.orchestration.ids import RunId
from omium.server.commands.base import Invocation, command
from omium.server.commands.opening import configuration, opened

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core


@command("omium processes", "omium processes --run last --json", "omium processes --run last --all")
@click.option("--run", metavar="RUN", help="Only those of this run.")
@click.option("--all", "history", is_flag=True, help="With --run: also the commands that have ended, from its ledger.")
async def processes(invocation: Invocation, run: str | None, history: bool) -> None:
    """List the supervised programs that run on this machine now."""
    from omium.clients.processes.listing import listed
    from omium.server.wiring.supervision import register_of

    if history and run is None:
        raise click.UsageError("--all needs --run: the ledger is a run's.")
    console = invocation.console
    config = configuration(invocation, definitions=False)
    wanted: RunId | None = None
    if run is not None:
        async with opened(invocation) as (core, caller):
            wanted = await core.find_run(caller, run)
            if history:
                await _ledger(invocation, core, wanted)
                return
    found = listed(register_of(config), wanted)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("no supervised program runs here now.")
        return
    now = time.time_ns() // 1000
    console.table(
        ("run", "node", "command", "pid", "status", "age", "quiet", "cpu", "memory"),
        [
            (
                *(one.run, one.node, one.command, one.pid, one.state),
                *(_seconds((now - at) / 1e6) for at in (one.started_at, one.last_output_at or one.started_at)),
                *("" if one.cpu_percent is None else f"{one.cpu_percent:g}%", _megabytes(one.rss)),
            )
            for one in found
        ],
    )


async def _ledger(invocation: Invocation, core: Core, run: RunId) -> None:
    from omium.server.toolruns import tool_runs

    console = invocation.console
    found = await tool_runs(core.store, run)
    if console.json:
        console.view(found)
        return
    if not found:
        console.note("this run has started no command.")
        return
    console.table(
        ("node", "attempt", "command", "status", "started", "ended", "error"),
        [
            (
                *(one.node, one.attempt, one.tool, one.outcome),
                _at(one.started_at),
                _at(one.completed_at),
                one.last_error,
            )
            for one in found
        ],
    )


def _at(us: int | None) -> str:
    return "" if us is None else time.strftime("%H:%M:%S", time.localtime(us / 1e6))


def _seconds(seconds: float) -> str:
    whole = max(0, int(seconds))
    return f"{whole}s" if whole < 120 else f"{whole // 60}m" if whole < 7200 else f"{whole // 3600}h"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f}MB"
