"""`omium top`: approvals, runs, processes, alerts and the log on one screen of a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import Console
from omium.server.commands.opening import configuration, have_it_executed, opened

if TYPE_CHECKING:
    from omium.server.terminal.app import Top

_LIGHT: Final = ("7", "9", "10", "11", "12", "13", "14", "15")


@command("omium top", "omium top --theme light")
@click.option(
    "--theme",
    type=click.Choice(["auto", "dark", "light"]),
    default="auto",
    show_default=True,
    help="Colours for this background; auto asks COLORFGBG, and takes dark without it. The key t changes it.",
)
async def top(invocation: Invocation, theme: str) -> None:
    """Watch and steer in the terminal. Shows what waits for a decision, runs, processes, alerts and the log, live; the
    key ? lists all keys. Needs the extra `tui`: pip install 'omium-mcp[tui]'."""
    try:
        from omium.server.terminal.app import Top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        told = "this installation has no terminal view."
        raise OmiumError("unsupported", told, "Run: pip install 'omium-mcp[tui]'") from error
    if invocation.console.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        what = "it prints no JSON" if invocation.console.json else "this is no terminal"
        raise OmiumError("unsupported", f"top fills a terminal: {what}.", "Use: omium runs, omium approvals")
    from omium.clients.processes.listing import listed
    from omium.server.terminal.board import Board
    from omium.server.wiring.supervision import register_of

    config = configuration(invocation, definitions=False)
    register = register_of(config)
    async with opened(invocation, executes=True, makes=True) as (core, caller):

        async def executed() -> None:
            await have_it_executed(replace(invocation, console=_Said(app)), config, core)

        app = Top(Board(core, caller, lambda: listed(register)), executed, dark=is_dark(theme, os.environ))
        with _logged_on(app):
            await app.run_async()


def is_dark(theme: str, environ: Mapping[str, str]) -> bool:
    """What the user said, or what the terminal says of itself: `COLORFGBG` ends with the background's number, of which
    7 and 9 to 15 are light."""
    if theme != "auto":
        return theme == "dark"
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    return background not in _LIGHT


class _Said(Console):
    """Notes go on the screen: standard error is behind it."""

    def __init__(self, app: Top) -> None:
        super().__init__()
        self._app = app

    def note(self, text: str) -> None:
        self._app.say(text)


@contextmanager
def _logged_on(app: Top) -> Iterator[None]:
    import logging

    from omium.server.terminal.app import Said

    root = logging.getLogger()
    before, root.handlers = root.handlers, [Said(app)]
    try:
        yield
    finally:
        root.handlers = before
