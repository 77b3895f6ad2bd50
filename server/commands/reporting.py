"""What runs came to: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import safe
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.orchestration.service.figures_view import ReportView


@command("omium report", "omium report --by model --since 7d", "omium report --by day --format html --output week.html")
@click.option(
    "--by",
    type=click.Choice(["workflow", "session", "owner", "day", "hour", "agent", "model"]),
    default="workflow",
    show_default=True,
    help="What makes a line. Days and hours are those of UTC.",
)
@click.option("--since", metavar="DURATION", default="30d", show_default=True, help="Runs created within this time.")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv", "html"]),
    default="text",
    show_default=True,
    help="CSV has every figure as it is.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="A new file, instead of printing it.")
async def report(
    invocation: Invocation, by: str, since: str, workflow: str | None, form: str, output: Path | None
) -> None:
    """Report how runs ended, how long they took and what they cost. Runs that other runs have started are counted too.

    Every amount stands in one line only, so the lines add up whatever makes one. A run that several agents or models
    have worked for is one run of each."""
    from omium.orchestration.definition.schema import duration_seconds

    try:
        seconds = duration_seconds(since)
    except ValueError as error:
        raise OmiumError("invalid_argument", f"--since: {error}.") from None
    if output is not None and form == "text":
        raise OmiumError("invalid_argument", "a file is written as csv or html.", "Say --format.")
    async with opened(invocation, lists=True) as (core, caller):
        begin = max(0, core.clock.now_us() - int(seconds * 1e6))
        found = await core.report(caller, by=by, since=begin, workflow=workflow)
    console = invocation.console
    if form == "text":
        _show(invocation, found)
        return
    from omium.server.reporting.writing import csv_of, html_of

    content = csv_of(found) if form == "csv" else html_of(found, caller.project).encode()
    if output is None:
        click.echo(content, nl=False)
    else:
        _write(output, content)
        console.note(f"{len(found.groups)} lines in {output}")
    if not found.whole:
        console.note(_PARTIAL)


_HINTS = 10
_PARTIAL = "there were more runs than are counted: the oldest are left out. Take a shorter --since."


def _show(invocation: Invocation, found: ReportView) -> None:
    console = invocation.console
    if console.json:
        console.view(found)
        return
    from omium.server.reporting.writing import HEADS, shown

    lines = [(one.key, *shown(one)) for one in found.groups]
    if len(lines) > 1:
        lines.append(("total", *shown(found.total)))
    console.table((found.by, *HEADS), lines)
    if not lines:
        console.note("there were no runs in this time.")
    elif not found.whole:
        console.note(_PARTIAL)
    for hint in found.hints[:_HINTS]:
        console.note(f"hint: {safe(hint)}")


def _write(path: Path, content: bytes) -> None:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise OmiumError("conflict", f"{str(path)!r} exists.", "Name a file that does not.") from None
    except OSError as error:
        raise OmiumError("invalid_argument", f"cannot write {str(path)!r}: {error.strerror}.") from error
