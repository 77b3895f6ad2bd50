"""Long-running commands: `serve`, `worker`, `demo`."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import click

from omium.server.commands.base import DONE, Invocation, command
from omium.server.commands.console import safe
from omium.server.commands.opening import configuration, local_caller


@command("claude mcp add omium -- omium-mcp serve", "omium serve --toolsets default --read-only")
@click.option(
    "--transport", type=click.Choice(["stdio"]), default="stdio", show_default=True, help="How clients connect."
)
@click.option("--toolsets", metavar="NAMES", help="The groups of tools to offer, separated by commas.")
@click.option("--read-only", is_flag=True, help="Offer only what changes nothing, and execute nothing.")
@click.option(
    "--no-detach", is_flag=True, help="When the client goes, park its runs instead of leaving a worker behind."
)
@click.option("--session", metavar="NAME", help="A label for the runs that are started through this server.")
async def serve(
    invocation: Invocation, transport: str, toolsets: str | None, read_only: bool, no_detach: bool, session: str | None
) -> None:
    """Serve MCP. On stdio until the client closes the input; runs then go on in the background."""
    import anyio

    from omium.server.app import open_omium
    from omium.server.logs import set_up_logging
    from omium.server.mcp import serve_stdio

    set_up_logging("warning")
    config = configuration(invocation)
    if no_detach:
        config = replace(config, detach=False)
    chosen = {} if toolsets is None else {"toolsets": [name.strip() for name in toolsets.split(",") if name.strip()]}
    async with (
        open_omium(config, engine=not read_only, leave="detach") as core,
        anyio.create_task_group() as tasks,
    ):

        async def until_signal() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                async for _ in signals:
                    tasks.cancel_scope.cancel()
                    return

        tasks.start_soon(until_signal)
        await serve_stdio(core, local_caller(config, session), read_only=read_only, **chosen)
        tasks.cancel_scope.cancel()


@command("omium worker", "omium worker --idle 300")
@click.option(
    "--idle",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End after so long without work; never, unless given.",
)
async def worker(invocation: Invocation, idle: float | None) -> None:
    """Execute runs until it is stopped. Several may work on one database; Ctrl-C hands the runs over."""
    from omium.server.logs import set_up_logging
    from omium.server.worker import run_worker

    set_up_logging("info")
    await run_worker(configuration(invocation), idle)


@command("omium demo", "omium demo --directory omium-demo", located=False)
@click.option(
    "--directory",
    type=click.Path(path_type=Path, resolve_path=True),
    metavar="DIR",
    help="Play it in this empty directory and leave everything there; a temporary one otherwise.",
)
async def demo(invocation: Invocation, directory: Path | None) -> int:
    """Watch a workflow run, die, resume, wait, branch and roll back. Offline, in under a minute."""
    from omium.server.demo import run_demo

    console = invocation.console
    if not console.json:
        return await run_demo(directory, say=lambda line: console.text(safe(line, lines=True)))
    said: list[str] = []
    code = await run_demo(directory, say=said.append)
    console.view({"held": code == DONE, "said": said})
    return code
