"""What holds, and who says so: `config`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from omium.server.commands.base import Invocation, command
from omium.server.commands.console import safe
from omium.server.commands.opening import configuration

if TYPE_CHECKING:
    from omium.server.config import Config
    from omium.server.project_file import ProjectFile


@command("omium config", "omium config supervision --json")
@click.argument("key", required=False)
@click.option("--changed", is_flag=True, help="Only what the file or a variable says.")
async def config(invocation: Invocation, key: str | None, changed: bool) -> None:
    """Show the settings that hold, and who says so. With KEY only those that begin with it.

    It reads the whole project file, so it is also the check of it: exits with 2 and names file, line and what was
    expected when something is wrong."""
    from omium.server.effective import DEFAULT, settings_of
    from omium.storage.open import check

    environ = dict(os.environ)
    if invocation.database:
        environ["OMIUM_DATABASE"] = invocation.database
    found = configuration(invocation)
    check(found.database)
    settings = [
        one
        for one in settings_of(found, _file_of(found), environ)
        if (key is None or one.key == key or one.key.startswith(f"{key}.")) and not (changed and one.source == DEFAULT)
    ]
    console = invocation.console
    if console.json:
        console.view(settings)
        return
    shown = [(one.key, "-" if one.value is None else safe(_plain(one.value)), one.source) for one in settings]
    console.table(("setting", "value", "said by"), shown)
    if not shown:
        console.note("there is no such setting." if key else "nothing is changed.")


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _file_of(found: Config) -> ProjectFile | None:
    if found.start is None or not found.start.is_file():
        return None
    from omium.server.project_file import load_project

    return load_project(found.start).file
