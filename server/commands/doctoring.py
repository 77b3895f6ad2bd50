"""Whether everything is as it should be: `doctor`, `health`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from omium.server.commands.base import DONE, FAILED, Invocation, Number, command
from omium.server.commands.console import safe
from omium.server.commands.opening import opened


@command("omium doctor", "omium doctor --json")
async def doctor(invocation: Invocation) -> int:
    """Look for what is wrong, and name the command that mends it. Nothing is changed. Exits with 1 when something has
    failed; a warning is none."""
    from omium.server.doctor import Patient, examine

    environ = dict(os.environ)
    if invocation.database:
        environ["OMIUM_DATABASE"] = invocation.database
    found = await examine(Patient(invocation.project, environ, Path.home()))
    console = invocation.console
    if console.json:
        console.view(found)
    else:
        console.table(
            ("", "what", "found", "mend it with"), [(one.status, one.name, one.detail, one.fix) for one in found]
        )
    return FAILED if any(one.status == "failed" for one in found) else DONE


@command("omium health", "omium health --within 5")
@click.option(
    "--within",
    type=Number(min=0.1, max=60),
    default=2.0,
    show_default=True,
    help="How many seconds the database may take.",
)
async def health(invocation: Invocation, within: float) -> int:
    """Say whether runs can go on: healthy, degraded or unhealthy. Exits with 1 unless it is healthy. A server says the
    same at /readyz."""
    from dataclasses import replace

    from omium.clients.processes.listing import listed
    from omium.clients.processes.liveness import HostProcesses
    from omium.clients.processes.register import Register
    from omium.server.config import home_of
    from omium.server.health import health_of

    async with opened(invocation) as (core, caller):
        told = await health_of(core.store, caller.project, HostProcesses(), core.clock.now_us(), within)
    programs = listed(Register(home_of(os.environ) / "processes"))
    told = replace(told, stalled=sum(one.state == "stalled" for one in programs))
    console = invocation.console
    if console.json:
        console.view(told)
    else:
        console.text(told.status)
        console.fields(
            [
                *((name, safe(text)) for name, text in told.checks.items()),
                ("runs that execute", told.active),
                ("questions that wait", told.pending),
                ("runs that wait", told.queued),
                ("programs that stall", told.stalled),
            ]
        )
        for hint in told.hints.values():
            console.note(f"hint: {hint}")
    return DONE if told.status == "healthy" else FAILED
