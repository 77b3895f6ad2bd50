"""`run`: start a workflow and follow it.

The run's id is printed first. The run never depends on this process: whoever interrupts it, or closes the terminal,
leaves the run to a background worker.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.arguments import document, pairs, undeclared
from omium.server.commands.base import DONE, INTERRUPTED, RUN_EXIT_CODES, Invocation, command
from omium.server.commands.console import duration, short
from omium.server.commands.opening import configuration, for_looking, is_absent, local_caller, log_errors, opened

if TYPE_CHECKING:
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import Caller, RunView
    from omium.server.config import Config


@command(
    "omium run release --input repository=. --title 'first try'",
    "omium run release --inputs inputs.yaml --detach",
)
@click.argument("workflow")
@click.option(
    "--input",
    "-i",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="An input: text, or JSON where the workflow expects no text.",
)
@click.option("--inputs", "path", metavar="FILE", help="Inputs in a YAML or JSON file; - reads standard input.")
@click.option("--title", default="", metavar="TEXT", help="One line that tells this run from others.")
@click.option("--workspace", metavar="NAME", help="The declared workspace that the run works in.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher goes first.")
@click.option("--deadline", type=float, metavar="SECONDS", help="Fail the run when it has not ended by then.")
@click.option("--session", metavar="NAME", help="A label for the conversation that it belongs to.")
@click.option(
    "--follow/--detach",
    default=None,
    help="Follow until it has ended, or leave it to a background worker at once. With neither it is followed, and "
    "where there is no terminal only until it needs a decision.",
)
@click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key gives the same run.")
async def run(
    invocation: Invocation,
    workflow: str,
    given: tuple[str, ...],
    path: str | None,
    follow: bool | None,
    session: str | None,
    **options: Any,
) -> int:
    """Run a workflow and follow it. Prints the run's id first; progress goes to standard error.

    Ends with 0 when the run has completed, 1 when it has failed or was cancelled, 3 when it waits for a decision or is
    paused.
    At a terminal its questions can be answered right there, with what `omium approve` is worth without a credential.
    Ctrl-C only ends the following: the run goes on in the background.
    """
    values = document(path) if path else {}
    options["deadline_s"] = options.pop("deadline")
    if follow is False:
        log_errors()
    else:
        from omium.server.logs import set_up_logging

        set_up_logging("error")
        _tell_of_storage(invocation)
    config = configuration(invocation)
    start = partial(_start, invocation, workflow=workflow, values=values, given=given, session=session, options=options)
    is_tried = await _tried(invocation, config, start)
    if follow is False:
        async with opened(invocation, executes=True, definitions=True, makes=True) as (core, caller):
            view = await start(core, caller, warns=not is_tried)
            _announce(invocation, view)
        if invocation.console.json:
            invocation.console.view(view)
        return DONE
    from omium.server.app import open_omium

    caller = local_caller(config, session)
    async with open_omium(config, leave="detach") as core:
        view = await start(core, caller, warns=not is_tried)
        _announce(invocation, view)
        to_the_end = follow or (follow is None and sys.stderr.isatty())
        console = invocation.console
        asks = console.interactive and console.terminal and not console.json
        ended = await _follow(core, caller, view, to_the_end=to_the_end, asks=asks)
        view = await core.get_run(caller, view.id, detail=True)
    return _farewell(invocation, view, ended)


async def _tried(invocation: Invocation, config: Config, start: Callable[..., Awaitable[RunView]]) -> bool:
    """Where there is no database yet, look first whether the run would be refused: nobody's slip makes one. Whether
    there was none."""
    from omium.server.app import open_omium

    if not is_absent(config):
        return False
    async with AsyncExitStack() as stack:
        empty = for_looking(stack, invocation, config, told=False)
        core = await stack.enter_async_context(open_omium(empty, engine=False))
        await start(core, local_caller(config), draft=True)
    return True


async def _start(
    invocation: Invocation,
    core: Core,
    caller: Caller,
    *,
    workflow: str,
    values: dict[str, Any],
    given: tuple[str, ...],
    session: str | None,
    options: dict[str, Any],
    warns: bool = True,
    draft: bool = False,
) -> RunView:
    from dataclasses import replace

    found, _ = await core.get_workflow(caller, workflow)
    inputs = {**values, **pairs(given, found.inputs)}
    for warning in undeclared(inputs, found.inputs) if warns else ():
        invocation.console.note(warning)
    return await core.run_workflow(replace(caller, session=session), workflow, inputs, start=not draft, **options)


def _tell_of_storage(invocation: Invocation) -> None:
    """Say once, in a line, that the database is full or away. The engine waits for it, and what it logs meanwhile would
    say the same again and again, or nothing."""
    told: set[str] = set()

    def heard(record: logging.LogRecord) -> bool:
        for one in record.args if isinstance(record.args, tuple) else ():
            if isinstance(one, OmiumError) and one.code == "storage_unavailable":
                if one.message not in told:
                    told.add(one.message)
                    invocation.console.note(f"waiting: {one.message} {one.hint}".rstrip())
                return False
        return record.levelno >= logging.ERROR

    for name in ("execution", "engine"):
        logger = logging.getLogger(f"omium.orchestration.engine.{name}")
        logger.setLevel(logging.WARNING)
        logger.addFilter(heard)


def _announce(invocation: Invocation, view: RunView) -> None:
    """The id as soon as there is one: whatever happens next, the run can be found."""
    if not invocation.console.json:
        click.echo(view.id)
        sys.stdout.flush()
    elif invocation.console.interactive:
        invocation.console.note(view.id)


async def _follow(core: Core, caller: Caller, view: RunView, *, to_the_end: bool, asks: bool) -> bool:
    """Show what happens until the run has ended, or (unless `to_the_end`) waits for somebody. False when this process
    was told to go. asks: whoever sits here may decide what the run asks."""
    import anyio

    from omium.server.commands.asking import Asking
    from omium.server.commands.live import progress

    told_to_go = False
    last, shown_upto = float("inf"), 0  # the position at which it had settled, and how far it was shown
    async with anyio.create_task_group() as tasks:

        async def until_signal() -> None:
            nonlocal told_to_go
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                async for _ in signals:
                    told_to_go = True
                    tasks.cancel_scope.cancel()
                    return

        async def until_settled() -> None:
            nonlocal last
            last = (await core.wait(caller, view.id, float("inf"))).seq
            if shown_upto >= last:
                tasks.cancel_scope.cancel()

        tasks.start_soon(until_signal)
        if not to_the_end:
            tasks.start_soon(until_settled)
        with progress(view) as shown:
            asking = Asking(core, caller, shown, tasks) if asks else None
            async for event in core.follow(caller, view.id):
                shown.event(event)
                if asking is not None:
                    asking.hear(event)
                shown_upto = event.seq
                if shown_upto >= last:
                    break
        tasks.cancel_scope.cancel()
    return not told_to_go


def _farewell(invocation: Invocation, view: RunView, ended: bool) -> int:
    from omium.server.commands.render import next_step, problem

    console = invocation.console
    if console.json:
        console.view(view)
    if not ended and view.ended_at is None:
        console.note(f"the run goes on. Follow it: omium events {short(view.id)} --follow")
        return INTERRUPTED
    began = view.started_at
    took = f" in {duration((view.ended_at - began) / 1000)}" if view.ended_at is not None and began is not None else ""
    console.note(f"{short(view.id)} {view.status}{took}")
    if view.error:
        console.note(f"error: {problem(view.error)}")
    if next_step(view):
        console.note(f"next: {next_step(view)}")
    elif view.status == "completed":
        console.note(f"next: omium show {short(view.id)}")
    return RUN_EXIT_CODES.get(view.status, DONE)
