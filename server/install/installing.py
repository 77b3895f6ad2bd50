"""Installing this server in a client: the command that starts it, and what becomes of the client's file."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any, Literal

from omium.orchestration.errors import OmiumError
from omium.server.install.clients import CLIENTS, Client, Home, Scope
from omium.server.install.files import Change, changed, planned
from omium.server.install.json_text import position

State = Literal["installed", "other", "absent", "no_file", "unreadable"]


@dataclass(frozen=True, slots=True)
class Installation:
    """What was done, or with `dry_run` would be. `entry`: None when it is taken out."""

    client: str
    scope: Scope
    name: str
    change: Change
    entry: Mapping[str, Any] | None
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a client. `command`: what starts the entry of our name; `others`: the names of its other servers.
    `state`: `installed` when the command is one of Omium that exists; `other` when the name is used otherwise."""

    client: str
    scope: Scope
    file: str
    state: State
    command: Sequence[str] = ()
    others: Sequence[str] = ()
    problem: str = ""


def server_command() -> list[str]:
    """How this installation's server is started, whatever the client's working directory and PATH are."""
    program = "omium-mcp.exe" if sys.platform == "win32" else "omium-mcp"
    beside = Path(sys.executable).parent / program  # not resolved: a virtual environment's Python is a link
    for found in (str(beside), shutil.which("omium-mcp")):
        if found and os.access(found, os.X_OK):
            return [os.path.abspath(found)]  # noqa: PTH100  # Path.resolve would follow the links of pipx and uv
    return [os.path.abspath(sys.executable), "-m", "omium.server.cli"]  # noqa: PTH100


def is_temporary(command: Sequence[str]) -> bool:
    """Whether the program lies in a place that its package manager empties, as for `uvx`."""
    return any(part.startswith(("archive-v", "environments-v", "builds-v")) for part in Path(command[0]).parts)


def server_entry(
    client: Client,
    directory: Path,
    *,
    toolsets: Sequence[str] = (),
    read_only: bool = False,
    database: str | None = None,
) -> dict[str, Any]:
    """The entry for a project's directory. Raises `invalid_argument` for a toolset that there is not."""
    if toolsets:
        from omium.tools.toolsets import select

        select(toolsets, read_only=read_only)
    program, *args = server_command()
    args += ["serve", "--project", str(directory)]
    args += ["--database", database] if database else []
    args += ["--toolsets", ",".join(toolsets)] if toolsets else []
    args += ["--read-only"] if read_only else []
    return client.entry(program, args)


def install(
    client: Client,
    scope: Scope,
    home: Home,
    directory: Path,
    name: str,
    entry: Mapping[str, Any] | None,
    *,
    dry_run: bool = False,
) -> Installation:
    """Set the entry in the client's file, or take it out when it is None.

    Raises `unsupported` (no such scope), `invalid_argument` for a file that is malformed (with file, line and column),
    `forbidden`, `conflict`. Nothing is written then."""
    path = client.path(scope, home, directory)

    def edit(text: str) -> str:
        try:
            if entry is None:
                return client.format.without_entry(text, name)
            return client.format.with_entry(text, name, entry)
        except OmiumError as error:
            raise _located(error, path, text) from error

    change = planned(path, edit) if dry_run else changed(path, edit, private=scope == "user")
    return Installation(client.name, scope, name, change, entry, dry_run)


def listed(home: Home, directory: Path, name: str) -> list[Listed]:
    """Every file of every client, and what it says of our name."""
    found = []
    for client in CLIENTS.values():
        for scope in ("user", "project") if client.project is not None else ("user",):
            found.append(_listed(client, scope, home, directory, name))
    return found


def _listed(client: Client, scope: Scope, home: Home, directory: Path, name: str) -> Listed:
    path = client.path(scope, home, directory)
    servers: dict[str, Any] = {}

    def look(text: str) -> str:
        try:
            servers.update(client.format.servers(text))
        except OmiumError as error:
            raise _located(error, path, text) from error
        return text

    try:
        change = planned(path, look)
    except OmiumError as error:
        return Listed(client.name, scope, str(path), "unreadable", problem=error.message)
    others = [other for other in servers if other != name]
    if name not in servers:
        state: State = "absent" if change.before is not None else "no_file"
        return Listed(client.name, scope, str(path), state, others=others)
    command = _command(servers[name])
    return Listed(client.name, scope, str(path), "installed" if _starts_omium(command) else "other", command, others)


def _command(entry: Any) -> list[str]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("command"), str):
        return []
    args = entry.get("args")
    return [entry["command"], *(str(one) for one in (args if isinstance(args, list) else ()))]


def program_name(command: str) -> str:
    """The name of a program without its directory, and without what Windows puts behind it."""
    if PureWindowsPath(command).suffix.lower() == ".exe":
        return PureWindowsPath(command).stem.lower()
    return PurePath(command).name


def _starts_omium(command: Sequence[str]) -> bool:
    """Whether the command is one that `server_command` writes, or a person, and its program is there."""
    if not command or "serve" not in command:
        return False
    ours = program_name(command[0]) in ("omium", "omium-mcp") or list(command[1:3]) == ["-m", "omium.server.cli"]
    return ours and shutil.which(command[0]) is not None


def _located(error: OmiumError, path: Path, text: str) -> OmiumError:
    """The same error with the file, and with line and column where the format knows them."""
    at = error.data.get("at")
    where, data = str(path), {"file": str(path)}
    if at is not None:
        line, column = position(text, int(at))
        where = f"{path}:{line}:{column}"
        data |= {"line": line, "column": column}  # type: ignore[dict-item]
    hint = "Nothing was changed. Correct the file, or move it away." if error.code == "invalid_argument" else ""
    return OmiumError(error.code, f"{where}: {error.message}.", hint, **data)
