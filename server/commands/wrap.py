"""Heartbeats for a program that sends none: `wrap`."""

from __future__ import annotations

from pathlib import PurePath

import click

from omium.server.commands.base import Number, OmiumCommand


@click.command("wrap", cls=OmiumCommand, context_settings={"ignore_unknown_options": True})
@click.option("--tool", metavar="NAME", help="What the heartbeats call it; the program's name unless given.")
@click.option(
    "--interval",
    type=Number(min=0.05, max=86_400),
    default=30.0,
    show_default=True,
    help="Seconds between two heartbeats.",
)
@click.option(
    "--grace",
    type=Number(min=0.05, max=864_000),
    default=90.0,
    show_default=True,
    help="Seconds without one after which a reader may worry.",
)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def wrap(tool: str | None, interval: float, grace: float, argv: tuple[str, ...]) -> None:
    """Run a program and send heartbeats for it on standard error.

    Its streams, signals and exit code go through unchanged.
    """
    from omium.clients.processes.wrap import wrap as run

    name = tool or PurePath(argv[0]).name
    click.get_current_context().exit(run(argv, tool=name, interval_s=interval, grace_s=grace))


wrap.examples = ("omium wrap -- make -j4", "omium wrap --tool build --interval 10 -- ./build.sh")
