"""`omium dashboard`: the pages of this project, for whoever sits at this machine."""

from __future__ import annotations

import webbrowser
from dataclasses import replace

import click

from omium.server.commands.base import Invocation, command
from omium.server.commands.opening import configuration, local_caller

USUAL_PORT = 8770


@command("omium dashboard", "omium dashboard --no-open --port 9000", "omium dashboard --read-only")
@click.option("--no-open", is_flag=True, help="Print the address, and open no browser.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    help=f"Where to listen, on 127.0.0.1; {USUAL_PORT} unless given, or a free one when that is taken.",
)
@click.option("--read-only", is_flag=True, help="Show only: nothing can be changed, and no run is executed here.")
@click.option("--auth", type=click.Choice(["tokens"]), help="Ask for a credential, though only this machine gets in.")
async def dashboard(invocation: Invocation, no_open: bool, port: int | None, read_only: bool, auth: str | None) -> None:
    """Open the dashboard of this project in a browser. When it is stopped, runs go on in the background."""
    import anyio

    from omium.server.app import open_omium
    from omium.server.http.app import HttpSettings
    from omium.server.http.serving import serve_core
    from omium.server.logs import set_up_logging
    from omium.server.signals import Signals
    from omium.server.wiring.supervision import LiveSupervision

    set_up_logging("warning")
    config = configuration(invocation)
    if auth is not None:
        config = replace(config, auth=replace(config.auth, open_loopback=False))
    settings = HttpSettings(issuers=[one.issuer for one, _ in config.auth.issuers], read_only=read_only)

    supervision = LiveSupervision(config)
    signals = Signals(supervision)
    async with anyio.create_task_group() as tasks:

        def ready(url: str) -> None:
            invocation.console.note(f"the dashboard is at {url}/ (Ctrl-C ends it)")
            if not no_open:
                tasks.start_soon(_open, invocation, f"{url}/")

        with signals.held():
            async with open_omium(config, engine=not read_only, leave="detach", supervision=supervision) as core:
                address, caller = ("127.0.0.1", _port(port)), local_caller(config)
                await serve_core(config, core, caller, address, settings, ready, signals, read_only=read_only)
        tasks.cancel_scope.cancel()


def _port(wanted: int | None) -> int:
    """The port that was asked for, or the usual one; 0, which is a free one, when somebody has that."""
    from omium.orchestration.errors import OmiumError
    from omium.server.http.serving import listen

    if wanted is not None:
        return wanted
    try:
        listen("127.0.0.1", USUAL_PORT).close()
    except OmiumError:
        return 0
    return USUAL_PORT


async def _open(invocation: Invocation, url: str) -> None:
    """Have a browser show it; where there is none, the address was printed."""
    import anyio

    try:
        shown = await anyio.to_thread.run_sync(webbrowser.open, url, abandon_on_cancel=True)
    except (OSError, webbrowser.Error):
        shown = False
    if not shown:
        invocation.console.note("no browser could be opened; open the address yourself.")
