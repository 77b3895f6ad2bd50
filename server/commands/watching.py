"""Looking at runs: `runs`, `show`, `events`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import RunId
from omium.server.commands.base import DONE, RUN_EXIT_CODES, STILL, Invocation, Number, command
from omium.server.commands.console import Console, safe
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.orchestration.service.views import NodeView
    from omium.orchestration.values import Value


@command("omium runs --status waiting_approval --status paused", "omium runs --workflow release --json")
@click.option(
    "--status", "statuses", multiple=True, metavar="STATUS", help="Only runs of this status; may be repeated."
)
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--text", help="Only runs with this in id, workflow or title.")
@click.option("--branches-of", "parent", metavar="RUN", help="Only branches of this run.")
@click.option("--session", help="Only runs of this session.")
@click.option("--children", is_flag=True, help="Also the runs that other runs have started.")
@click.option("--before", metavar="RUN", help="Only runs older than this one: the next page.")
@click.option("--limit", type=int, default=30, show_default=True, help="At most so many, 1 to 500.")
async def runs(
    invocation: Invocation,
    statuses: tuple[str, ...],
    workflow: str | None,
    text: str | None,
    parent: str | None,
    session: str | None,
    children: bool,
    before: str | None,
    limit: int,
) -> None:
    """List runs, newest first."""
    from omium.server.commands.render import run_table

    async with opened(invocation, lists=True) as (core, caller):
        page = await core.list_runs(
            caller,
            statuses=statuses,
            workflow=workflow,
            text=text,
            parent=await core.find_run(caller, parent) if parent else None,
            session=session,
            children=children,
            before=await core.find_run(caller, before) if before else None,
            limit=limit,
        )
    console = invocation.console
    if console.json:
        console.view(page)
        return
    if page.runs:
        run_table(console, page.runs)
    elif page.hidden:
        console.note("only runs that other runs have started. Show them: omium runs --children")
    elif statuses or workflow or text or parent or session or before:
        console.note("no such runs. Without options all are listed: omium runs")
    else:
        console.note("no runs. Start one: omium run WORKFLOW")
    if page.next:
        console.note(f"more: omium runs{' --children' if children else ''} --before {page.next}")


@command(
    "omium show last",
    "omium show 7Q2XKD3M --node draft --output",
    "omium show last --wait 60 --exit-status",
    "omium show last --resumable",
)
@click.argument("run")
@click.option("--node", metavar="NODE", help="Show this node, with its output.")
@click.option("--output", is_flag=True, help="Print nothing but the output of the run, or of the node.")
@click.option(
    "--wait",
    "seconds",
    type=Number(min=0),
    metavar="SECONDS",
    help="Wait first until it has ended, waits for a decision or is paused, at most so long.",
)
@click.option(
    "--exit-status",
    is_flag=True,
    help="Exit with 1 when the run has failed or was cancelled, with 3 when it waits for a decision or is paused, with "
    "6 when --wait was given and it is still under way.",
)
@click.option("--resumable", is_flag=True, help="Show from which nodes it can be played again, and what that repeats.")
@click.option("--retries", is_flag=True, help="Show what was tried again, and what came of it.")
@click.option("--failures", is_flag=True, help="Show what failed, what became of it, and what mended such before.")
@click.option("--history", is_flag=True, help="Show what was done to it: decisions, rollbacks, replays, branches.")
@click.option("--rollbacks", is_flag=True, help="Show how often it went back: who, why, how far, and how that ended.")
async def show(
    invocation: Invocation,
    run: str,
    node: str | None,
    output: bool,
    seconds: float | None,
    exit_status: bool,
    **aspects: bool,
) -> int:
    """Show a run: its state, nodes, questions and output. Of a node also what it has printed, where that is kept on
    this machine: commands, and functions in worker processes (host: process)."""
    wanted = [name for name, given in aspects.items() if given]
    if wanted:
        if len(wanted) > 1 or node is not None or output:
            every = ", ".join(f"--{name}" for name in sorted(aspects))
            raise OmiumError("invalid_argument", f"one of {every} is shown at a time, and of the run as a whole.")
        return await _show_aspect(invocation, run, wanted[0])
    from omium.orchestration.service.reading import or_why
    from omium.server.commands.render import next_step, show_node, show_run, show_value

    console = invocation.console
    async with opened(invocation, waits=seconds is not None) as (core, caller):
        run_id = await core.find_run(caller, run)
        if seconds is not None:
            await core.wait(caller, run_id, seconds)
        view = await core.get_run(caller, run_id, detail=True)
        value, missing = view.output, view.no_output
        if node is not None:
            found = next((one for one in view.nodes if one.id == node), None)
            if found is None:
                raise _no_node(run_id, node, [one.id for one in view.nodes])
            value, missing = None, None
            if output:
                value = await core.node_output(caller, run_id, node)
            elif found.output is not None:
                value, missing = await or_why(core.node_output(caller, run_id, node))
        elif output:
            if view.output_digest is None:
                raise OmiumError("not_found", f"run {run_id} has no output: it is {view.status}.", next_step(view))
            value = await core.run_output(caller, run_id)
    code = RUN_EXIT_CODES.get(view.status, DONE if seconds is None else STILL) if exit_status else DONE
    printed = {} if node is None or output or found is None else _printed(invocation, run_id, found)
    if output:
        show_value(console, value)
    elif node is not None and found is not None:
        if console.json:
            from omium.server.commands.wire import as_json, json_text, value_as_json

            told = {"value": value_as_json(value), "no_value": missing, "printed": printed}
            console.text(json_text({**as_json(found), **told}))
        else:
            show_node(console, found)
            if found.output is not None:
                console.text()
                _show_output(console, value, missing)
            for stream, text in printed.items():
                console.text()
                console.text(console.paint(stream, bold=True))
                console.text(safe(text, lines=True).rstrip("\n") if console.terminal else text.rstrip("\n"))
    elif console.json:
        console.view(view)
    else:
        show_run(console, view, _files(run_id))
        if view.output_digest is not None:
            console.text()
            _show_output(console, value, missing)
        if next_step(view):
            console.note(f"next: {next_step(view)}")
    return code


def _show_output(console: Console, value: Value, missing: str | None) -> None:
    from omium.server.commands.render import show_value

    if missing is None:
        show_value(console, value)
    else:
        console.note(missing)


def _files(run_id: RunId) -> Path | None:
    """Where the files of a run lie on this machine, if there are any."""
    from omium.clients.workspaces.paths import tree_path
    from omium.server.config import home_of

    directory = tree_path(home_of(os.environ), run_id)
    try:
        return directory if any(directory.iterdir()) else None
    except OSError:  # it ran elsewhere, or its files are gone
        return None


def _printed(invocation: Invocation, run_id: RunId, node: NodeView) -> dict[str, str]:
    """What the last attempt of a node has written to stdout and stderr, as far as it lies on this machine."""
    from omium.clients.functions.printed import kept
    from omium.clients.workspaces.paths import node_path
    from omium.server.config import home_of

    if not node.attempt or node.started_at is None:
        return {}
    try:
        directory = node_path(home_of(os.environ), run_id, node.id, node.attempt)
    except OmiumError:  # an id that is too long for a directory has none
        return {}
    return {str(stream): text for stream, text in kept(directory, node.started_at).items()}


async def _show_aspect(invocation: Invocation, run: str, what: str) -> int:
    from omium.server.commands.render import failures_told, rollback_table, when
    from omium.server.commands.wire import as_json, rfc3339

    console = invocation.console
    async with opened(invocation) as (core, caller):
        run_id = await core.find_run(caller, run)
        if what in ("failures", "rollbacks"):
            failures = await core.failures(caller, run_id) if what == "failures" else []
            rollbacks = await core.rollbacks(caller, run_id) if what == "rollbacks" else []
            if console.json:
                console.view(failures if what == "failures" else rollbacks)
            elif what == "failures":
                failures_told(console, failures)
            else:
                rollback_table(console, rollbacks)
            return DONE
        if what == "retries":
            stats = await core.retry_stats(caller, run_id)
            if console.json:
                console.view(stats)
                return DONE
            kinds = ", ".join(f"{name} {count}" for name, count in stats.categories.items())
            counts = ("attempts", "failed", "retried", "recovered", "exhausted")
            console.fields([*((name, getattr(stats, name)) for name in counts), ("by category", kinds)])
            return DONE
        if what == "resumable":
            nodes = await core.resumable(caller, run_id)
            if console.json:
                console.view(nodes)
                return DONE
            console.table(
                ("node", "status", "playable", "checkpoint", "runs again", "calls again"),
                [
                    (one.node, one.status, one.reason or "yes", one.checkpoint, one.reruns, one.repeats or "")
                    for one in nodes
                ],
            )
            return DONE
        deeds = (await core.audit(caller, run_id)).deeds
    if console.json:
        console.view(
            [{"seq": e.seq, "at": rfc3339(e.at), "type": e.kind, "actor": e.actor, "data": e.data} for e in deeds]
        )
        return DONE
    rows = []
    for one in deeds:
        said = {name: item for name, item in as_json(one.data).items() if not isinstance(item, dict | list)}
        told = ", ".join(f"{name} {said[name]}" for name in _TOLD if said.get(name) not in (None, ""))
        rows.append((one.seq, when(console, one.at), one.kind, one.actor, told))
    console.table(("at", "age", "what", "who", ""), rows)
    return DONE


_TOLD = ("node", "decision", "outcome", "to", "label", "name", "child", "count", "generation", "reason")


def _no_node(run_id: RunId, node: str, known: list[str]) -> OmiumError:
    import difflib

    near = difflib.get_close_matches(node, known, n=3) or known[:10]
    return OmiumError(
        "not_found", f"run {run_id} has no node {node!r}.", f"Did you mean {', '.join(near)}?" if near else ""
    )


@command("omium events last", "omium events last --follow --json")
@click.argument("run")
@click.option("--follow", "-f", is_flag=True, help="Go on as the log grows, until the run has ended.")
@click.option(
    "--after", type=click.IntRange(0, 2**53), default=0, metavar="SEQ", help="Only events after this position."
)
async def events(invocation: Invocation, run: str, follow: bool, after: int) -> None:
    """Print a run's log; follow it as it grows. With --json a line for each event."""
    console = invocation.console
    async with opened(invocation, waits=follow) as (core, caller):
        run_id = await core.find_run(caller, run)
        if follow:
            async for event in core.follow(caller, run_id, after=after):
                _print_event(console, event)
            return
        while page := await core.events(caller, run_id, after=after):
            for event in page:
                _print_event(console, event)
            after = page[-1].seq


def _print_event(console: Console, event: object) -> None:
    from omium.orchestration.service.views import EventView
    from omium.server.commands.render import event_row

    assert isinstance(event, EventView)
    if console.json:
        console.view(event, line=True)
        return
    cells = [safe(cell) for cell in event_row(console, event)]
    if not console.terminal:
        console.text("\t".join(cells))
        return
    seq, at, kind, node, actor, rest = cells
    line = f"{seq:>5}  {at}  {kind:<22}  {node:<16}  {actor:<14}  {rest}"
    console.text(line[: max(40, shutil.get_terminal_size().columns)].rstrip())


__all__ = ["events", "runs", "show"]
