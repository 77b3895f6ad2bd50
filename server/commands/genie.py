"""Genie: `genie run`, `genie status`, `genie memory`. All of them are clients of a server, as anybody's program is."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import DONE, FAILED, STILL, WAITING, Invocation, Number, command
from omium.server.commands.console import Console, money, safe
from omium.server.commands.opening import configuration, existing, for_looking, is_absent

if TYPE_CHECKING:
    from omium.clients.genie.report import Report
    from omium.clients.remote import Memory, OmiumClient

_CODES: Final = {
    "completed": DONE,
    "waiting": WAITING,
    "paused": WAITING,
    "needs_person": WAITING,
    "running": STILL,
}
_TOKEN: Final = "OMIUM_TOKEN"  # noqa: S105 - the variable's name
_LEAST_PATIENCE_S: Final = 10.0  # a server of one's own takes some seconds to start
_Command = Callable[..., Any]


def _connected(body: _Command) -> _Command:
    """The options that say which server."""
    told = "A server that runs, such as http://127.0.0.1:8765/mcp; one of its own for the project otherwise."
    url = click.option("--url", metavar="URL", help=told)
    token = click.option("--token-env", metavar="NAME", help=f"With --url: the variable with the token; {_TOKEN}.")
    return url(token(body))


@click.group()
def genie() -> None:
    """Have epics brought about, and see how they stand."""


@command("omium genie run epic.yaml", "omium genie run epic.yaml --follow --wait 3600", name="run")
@click.argument("epic", type=click.Path(path_type=Path))
@click.option("--follow", is_flag=True, help="Go on watching while a person is waited for.")
@click.option("--wait", type=Number(min=0), metavar="SECONDS", help="Watch for so long at most.")
@click.option("--again", is_flag=True, help="Begin an epic that has ended once more.")
@_connected
async def run(
    invocation: Invocation,
    epic: Path,
    follow: bool,
    wait: float | None,
    again: bool,
    url: str | None,
    token_env: str | None,
) -> int:
    """Take an epic on from where it is, until it is done or a person has to decide. Killed, or called again, it goes on
    where it was."""
    from omium.clients.genie import Genie, load_epic

    spec = load_epic(epic)
    console = invocation.console
    tell = (lambda _: None) if console.json else lambda line: console.note(safe(line))
    async with _client(invocation, url, token_env, wait) as client:
        report = await Genie(client, spec, tell=tell).drive(wait_for_people=follow, seconds=wait, again=again)
    if console.json:
        console.view(_as_dict(report))
    else:
        _show(console, report)
    return _CODES.get(report.standing, FAILED)


@command("omium genie status", "omium genie status page-titles")
@click.argument("name", required=False)
@_connected
async def status(invocation: Invocation, name: str | None, url: str | None, token_env: str | None) -> None:
    """List the epics that Genie knows of, or show one: its runs, what was tried, what was decided."""
    from omium.clients.genie.memory import STATE
    from omium.clients.genie.state import state_of

    async with _looking(invocation, url, token_env) as client:
        scope = f"epic:{name}" if name is not None else None
        known = await client.recall(scope=scope, key=STATE, kind="state", limit=50)
        if name is not None and not known.memories:
            raise OmiumError("not_found", f"Genie knows of no epic {name!r}.", "List them: omium genie status")
        rows = []
        for one in known.memories:
            whole = (await client.recall(scope=one.scope, key=STATE)).memories
            state = state_of(whole[0].text.whole)
            run = await client.get_run(state.run) if state.run else None
            rows.append((one.scope.removeprefix("epic:"), state, run))
        told = await client.recall(scope=scope, limit=50) if scope is not None else None
    console = invocation.console
    if console.json:
        console.view(
            [
                {
                    "epic": epic, "round": state.round, "ended": state.ended or None, "runs": state.runs,
                    "status": run.status if run is not None else None,
                    "tried": [{"kind": one.kind, "phase": one.phase, "run": one.run, "outcome": one.outcome}
                              for one in state.tried],
                }
                for epic, state, run in rows
            ]
        )  # fmt: skip
        return
    console.table(
        ("epic", "round", "run", "status", "ended", "runs", "tried"),
        [
            (epic, state.round, state.run, run.status if run is not None else "", state.ended, len(state.runs),
             ", ".join(f"{one.kind} for {one.phase} ({one.outcome or 'open'})" for one in state.tried))
            for epic, state, run in rows
        ],
    )  # fmt: skip
    if told is not None:
        console.text()
        _list(console, [one for one in told.memories if one.key != STATE])


@command("omium genie memory", "omium genie memory slug --kind remedy", "omium genie memory --forget page-titles")
@click.argument("text", required=False)
@click.option("--epic", metavar="NAME", help="Only what this epic has left.")
@click.option(
    "--kind",
    type=click.Choice(["note", "decision", "failure", "remedy", "session", "state"]),
    help="Only decisions, failures, what was tried against them, or runs.",
)
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only with this, such as phase:test; several: with all."
)
@click.option("--forget", metavar="EPIC", help="Delete what is remembered of this epic. Its runs stay.")
@_connected
async def memory(
    invocation: Invocation,
    text: str | None,
    epic: str | None,
    kind: str | None,
    tags: tuple[str, ...],
    forget: str | None,
    url: str | None,
    token_env: str | None,
) -> None:
    """Search what is remembered: decisions, failures, and how often what was tried against them has worked."""
    console = invocation.console
    async with _looking(invocation, url, token_env) as client:
        if forget is not None:
            gone = await client.forget(f"epic:{forget}")
            if console.json:
                console.view({"forgotten": gone})
            else:
                console.text(f"{gone} forgotten")
            return
        found = await client.recall(
            text, scope=f"epic:{epic}" if epic is not None else None, kind=kind, tags=tags, limit=50
        )
    if console.json:
        console.view(found.model_dump(mode="json"))
        return
    # What Genie goes on from is no memory that anybody looks for, unless asked for.
    _list(console, [one for one in found.memories if kind is not None or one.kind != "state"])
    if found.success_rate is not None:
        console.note(f"{found.worked} of {found.worked + found.failed} worked ({found.success_rate:.0%})")


@asynccontextmanager
async def _looking(invocation: Invocation, url: str | None, token_env: str | None) -> AsyncIterator[OmiumClient]:
    """The client of a command that makes no database."""
    async with AsyncExitStack() as stack:
        database = None
        if url is None:
            config = configuration(invocation)
            if invocation.database:
                existing(invocation, config)
            if is_absent(config):
                database = for_looking(stack, invocation, config, told=True).database
        yield await stack.enter_async_context(_client(invocation, url, token_env, database=database))


def _client(
    invocation: Invocation,
    url: str | None,
    token_env: str | None,
    wait: float | None = None,
    database: str | None = None,
) -> OmiumClient:
    """`wait`: for how many seconds a server is tried to be reached, if it is less than a client's own patience.
    `database`: what a server of its own uses, if not what is configured."""
    from omium.clients.genie import TOOLSETS
    from omium.clients.remote import OmiumClient
    from omium.clients.remote.connection import PATIENCE_S

    patience_s = PATIENCE_S if wait is None else min(PATIENCE_S, max(wait, _LEAST_PATIENCE_S))
    tell = invocation.console.note
    if url is not None:
        token = os.environ.get(token_env or _TOKEN)
        if token_env is not None and not token:
            raise OmiumError("unauthenticated", f"the environment variable {token_env} is not set.")
        return OmiumClient.http(url, token=token, patience_s=patience_s, tell=tell)
    if token_env is not None:
        raise click.UsageError("--token-env goes with --url.")
    config = configuration(invocation)
    database = database or invocation.database
    environment = {**os.environ, **({"OMIUM_DATABASE": database} if database else {})}
    directory = config.project.directory
    return OmiumClient.stdio(directory, toolsets=TOOLSETS, environment=environment, patience_s=patience_s, tell=tell)


def _show(console: Console, report: Report) -> None:
    from omium.server.commands.wire import json_text

    console.fields(
        [
            ("epic", report.epic),
            ("standing", report.standing.replace("_", " ")),
            ("reason", report.reason),
            ("run", report.run_id),
            ("runs", len(report.runs)),
            ("tried", ", ".join(f"{one.kind} for {one.phase} ({one.outcome or 'open'})" for one in report.tried)),
            ("cost", money(report.cost_usd)),
            ("tokens", report.tokens),
        ]
    )
    console.text()
    console.table(
        ("phase", "status", "seconds", "tokens", "cost"),
        [(one.id, one.status, one.seconds, one.tokens, money(one.cost_usd)) for one in report.phases],
    )
    for approval in report.approvals:
        console.note(f"next: omium approve {approval.approval_id}    # {safe(approval.question)}")
    if report.output is not None:
        console.text()
        console.text(json_text(report.output))


def _list(console: Console, memories: list[Memory]) -> None:
    console.table(
        ("at", "scope", "kind", "outcome", "text"),
        [
            (one.at or "", one.scope, one.kind, one.outcome or "", str(one.text.value or one.text.text).splitlines()[0])
            for one in memories
        ],
    )


def _as_dict(report: Report) -> Mapping[str, Any]:
    return {
        "epic": report.epic,
        "standing": report.standing,
        "reason": report.reason or None,
        "run": report.run_id,
        "runs": list(report.runs),
        "phases": [one.model_dump(mode="json") for one in report.phases],
        "tried": [
            {"kind": one.kind, "node": one.node, "phase": one.phase, "category": one.category, "run": one.run,
             "outcome": one.outcome}
            for one in report.tried
        ],
        "approvals": [one.model_dump(mode="json") for one in report.approvals],
        "cost_usd": report.cost_usd,
        "tokens": report.tokens,
        "output": report.output,
    }  # fmt: skip


for _command in (run, status, memory):
    genie.add_command(_command)
