"""The conversations of coding CLIs: `conversations`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from omium.orchestration.ids import is_id
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import money
from omium.server.commands.opening import configuration, opened

if TYPE_CHECKING:
    from omium.clients.coding.register import Entry
    from omium.server.config import Config


@command("omium conversations", "omium conversations --agent claude --json", "omium conversations --run last")
@click.option("--agent", metavar="NAME", help="Only those of this CLI.")
@click.option("--run", metavar="RUN", help="Only those that this run took part in.")
@click.option("--state", type=click.Choice(["open", "ended", "expired", "corrupted"]), help="Only these.")
async def conversations(invocation: Invocation, agent: str | None, run: str | None, state: str | None) -> None:
    """List the conversations of coding CLIs on this machine. It tells how each of this project's stands, in which runs
    it was, and what it took and cost, the latest first.

    Nobody goes on with one that has expired or that its CLI could not read: a node that asks for it begins another with
    its last words. See `session_ttl` of `coding`."""
    from omium.clients.coding.register import Conversations

    if run is not None and not is_id(run, "run"):  # a whole id need not be of a run that is still here
        async with opened(invocation) as (core, caller):
            run = await core.find_run(caller, run)
    config = configuration(invocation, definitions=False)
    known = Conversations(config.home)
    now = known.wall()
    found = [
        _shown(config, entry, now)
        for entry in known.entries()
        if entry.project == config.project.id
        and (agent is None or entry.agent == agent)
        and (run is None or run in entry.runs)
    ]
    found = [one for one in found if state is None or one["state"] == state]
    console = invocation.console
    if console.json:
        from omium.server.commands.wire import rfc3339

        times = ("began_at", "used_at")
        console.view([{**one, **{name: rfc3339(round(one[name] * 1e6)) for name in times}} for one in found])
        return
    if not found:
        console.note("there is no such conversation here.")
        return
    console.table(
        ("conversation", "cli", "state", "runs", "turns", "tokens", "cost", "last used"),
        [
            (
                *(one["id"], one["agent"], one["state"], len(one["runs"]), one["turns"], one["tokens"]),
                "?" if one["cost_usd"] is None else money(one["cost_usd"]),
                time.strftime("%Y-%m-%d %H:%M", time.localtime(one["used_at"])),
            )
            for one in found
        ],
    )


def _shown(config: Config, entry: Entry, now: float) -> dict[str, Any]:
    """With the state that it has by the time to live of today: what has expired may not be swept yet."""
    from omium.clients.coding.spec import SESSION_TTL_S

    spec = config.project.coding.get(entry.agent)
    ttl_s = SESSION_TTL_S if spec is None else spec.session_ttl_s
    over = entry.standing in ("open", "ended") and entry.is_over(now, ttl_s)
    return {
        **{name: getattr(entry, name) for name in ("id", "agent", "kind", "cwd")},
        "state": "expired" if over else entry.standing,
        **{name: getattr(entry, name) for name in ("began_at", "used_at", "follows", "turns", "tokens", "cost_usd")},
        "runs": list(entry.runs),
        "nodes": [
            {"run": one.run, "node": one.node, "generation": one.generation, "turns": one.turns, "tokens": one.tokens,
             "cost_usd": one.cost_usd}
            for one in entry.shares
        ],
    }  # fmt: skip
