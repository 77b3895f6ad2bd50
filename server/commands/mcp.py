"""Telling MCP clients of this server: `mcp install`, `mcp list`, `mcp bundle`.

What is asked of the servers that this one is a client of stands in `external`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands import external
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import safe

if TYPE_CHECKING:
    from omium.server.install.clients import Home, Scope
    from omium.server.install.installing import Installation

_CLIENTS = ("claude-code", "claude-desktop", "cursor", "codex", "gemini")
_NAME = click.option(
    "--name", default="omium", show_default=True, metavar="NAME", help="What the client calls the server."
)


@click.group()
def mcp() -> None:
    """Tell MCP clients of this server, and look after the servers that it is a client of."""


@command(
    "omium mcp install claude-code",
    "omium mcp install claude-desktop --project ~/work/hello --dry-run",
    "omium mcp install codex --scope project --toolsets default,replay --read-only",
    "omium mcp install cursor --uninstall",
    name="install",
)
@click.argument("client", type=click.Choice(_CLIENTS))
@click.option(
    "--scope", type=click.Choice(["user", "project"]), default="user", show_default=True,
    help="For all that this user does with the client, or for this project's directory only.",
)  # fmt: skip
@click.option("--toolsets", metavar="NAMES", help="The groups of tools to offer, separated by commas.")
@click.option("--read-only", is_flag=True, help="Offer only what changes nothing.")
@_NAME
@click.option("--dry-run", is_flag=True, help="Show what would change, and write nothing.")
@click.option("--uninstall", is_flag=True, help="Take the entry out again.")
async def install(
    invocation: Invocation,
    client: str,
    scope: Scope,
    toolsets: str | None,
    read_only: bool,
    name: str,
    dry_run: bool,
    uninstall: bool,
) -> None:
    """Write this project's server into a client's configuration. Only our entry is touched; the file is backed up
    beside itself, and replaced at once. Doing it again changes nothing."""
    from omium.server.config import FILE_NAME
    from omium.server.install import installing
    from omium.server.install.clients import CLIENTS

    _check_name(name)
    directory = _directory(invocation, needed=not uninstall)
    chosen = CLIENTS[client]
    entry = None
    if not uninstall:
        entry = installing.server_entry(
            chosen,
            directory,
            toolsets=[one.strip() for one in (toolsets or "").split(",") if one.strip()],
            read_only=read_only,
            database=_database(invocation),
        )
    done = installing.install(chosen, scope, _home(), directory, name, entry, dry_run=dry_run)
    _show(invocation, done, chosen.title, chosen.then)
    if entry is not None and installing.is_temporary([entry["command"]]):
        invocation.console.note(
            "this Omium lies in a temporary place: install it (pip, pipx or uv tool install) first."
        )
    if entry is not None and not (directory / FILE_NAME).is_file():
        invocation.console.note(
            f"there is no {FILE_NAME} in {safe(str(directory))}, so the server offers no workflows: omium init."
        )


def _show(invocation: Invocation, done: Installation, title: str, then: str) -> None:
    console, change = invocation.console, done.change
    if console.json:
        console.view(
            {
                "client": done.client,
                "scope": done.scope,
                "name": done.name,
                "file": str(change.file),
                "changed": change.changes and not done.dry_run,
                "would_change": change.changes,
                "backup": str(change.backup) if change.backup else None,
                "entry": done.entry,
            }
        )
        return
    file = safe(str(change.file))
    if not change.changes:
        console.text(f"{file}: {'nothing to change' if done.entry is not None else 'there is no such entry'}")
        return
    if done.dry_run:  # only our entry: what stands around it may be somebody's secret
        console.text(f"{file}: {safe(done.name)} would be {'taken out' if done.entry is None else 'this:'}")
        if done.entry is not None:
            console.view(done.entry)
        console.note("nothing was written.")
        return
    console.text(f"{file}: {safe(done.name)} {'is in' if done.entry is not None else 'is taken out'}")
    if change.backup is not None:
        console.note(f"the file as it was: {safe(str(change.backup))}")
    console.note(f"{title}: {then}")
    if done.scope == "project" and done.entry is not None:
        console.note("the entry has paths of this machine: others who share the directory install it themselves.")


@command("omium mcp list", "omium mcp list --json", name="list")
@_NAME
async def list_clients(invocation: Invocation, name: str) -> None:
    """List the clients that this knows, their configuration files, and whether this server is in them."""
    from omium.server.install.installing import listed

    found = listed(_home(), _directory(invocation, needed=False), name)
    if invocation.console.json:
        invocation.console.view(found)
        return
    invocation.console.table(
        ("client", "scope", "state", "file", "command"),
        [(one.client, one.scope, one.state, one.file, one.problem or " ".join(one.command)) for one in found],
    )


@command("omium mcp bundle --output omium.mcpb", name="bundle", located=False)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), default="omium.mcpb", show_default=True,
    metavar="FILE", help="The bundle; an existing file is replaced.",
)  # fmt: skip
async def bundle(invocation: Invocation, output: Path) -> None:
    """Make a bundle (MCPB) of this Omium, which Claude Desktop installs with a double click. It asks for the project's
    directory; uv on the user's machine gets Python and what the server needs."""
    from omium.server.install.bundle import write_bundle

    made = write_bundle(output)
    if invocation.console.json:
        invocation.console.view({"file": str(made.file), "bytes": made.size, "files": made.files})
    else:
        invocation.console.text(f"{safe(str(made.file))}: {made.files} files, {made.size // 1024} KB")


def _home() -> Home:
    from omium.server.install.clients import Home

    return Home(Path.home(), os.environ)


def _directory(invocation: Invocation, *, needed: bool) -> Path:
    """The project's directory; the current one when nothing says that it is a project. With `needed`, the project has
    to be one that a server can load."""
    from omium.server.commands.opening import configuration

    try:
        return configuration(invocation).project.directory
    except OmiumError:
        if needed:
            raise
        return (invocation.project or Path.cwd()).resolve()


def _database(invocation: Invocation) -> str | None:
    """The database that was named for this command, as the server will find it from anywhere."""
    if not invocation.database:
        return None
    from omium.server.config import resolve_database

    return resolve_database(invocation.database, Path.cwd())


def _check_name(name: str) -> None:
    """Clients make tool names of it."""
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 40:
        raise OmiumError("invalid_argument", f"{name!r} cannot be a server's name.", "Letters, digits, - and _ only.")


_COMMANDS: tuple[Any, ...] = (install, list_clients, bundle, *external.COMMANDS)
for _command in _COMMANDS:
    mcp.add_command(_command)
