"""Going back and branching off: `checkpoint`, `checkpoints`, `rollback`, `branch`, `play-from`.

What may destroy or repeat work is shown first: on a terminal the plan is printed and a yes is waited for; elsewhere
`--preview` prints the plan and `--plan TOKEN` does exactly that, or `--yes` does it unseen. Without any of them the
core refuses what would repeat calls that have happened, or undo some.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import click

from omium.orchestration.errors import OmiumError
from omium.orchestration.ids import PlanToken
from omium.server.commands.arguments import overrides, undeclared
from omium.server.commands.base import DONE, INTERRUPTED, Invocation, command
from omium.server.commands.console import short
from omium.server.commands.opening import opened

if TYPE_CHECKING:
    from omium.orchestration.ids import RunId
    from omium.orchestration.service.core import Core
    from omium.orchestration.service.views import HistoryResult, PlanView

_preview = click.option("--preview", is_flag=True, help="Only show what it would do, with a plan to execute.")
_plan = click.option("--plan", metavar="TOKEN", help="Do exactly what was previewed.")
_yes = click.option("--yes", "-y", is_flag=True, help="Do not ask.")
_reason = click.option("--reason", metavar="TEXT", help="Why; it stands in the log.")
_key = click.option("--idempotency-key", metavar="KEY", help="A repeat with the same key changes nothing.")
_inputs = click.option("--input", "inputs", multiple=True, metavar="NAME=VALUE", help="Change an input of the run.")
_with = click.option(
    "--with", "parameters", multiple=True, metavar="NODE.NAME=VALUE", help="Change what a node is given."
)
_outputs = click.option(
    "--output", "outputs", multiple=True, metavar="NODE=VALUE", help="Take this for a node's output."
)
_file = click.option(
    "--overrides", "path", metavar="FILE", help="All changes in a YAML or JSON file; - reads standard input."
)

_TRIES = 20  # plans that nobody has to look at

Preview: TypeAlias = "Callable[[], Awaitable[PlanView]]"
Execute: TypeAlias = "Callable[[PlanToken | None], Awaitable[HistoryResult]]"


@command("omium checkpoint last before-review", "omium checkpoint last good --at node:draft --note 'the best draft'")
@click.argument("run")
@click.argument("label")
@click.option("--at", metavar="AT", help="Name this position instead of the present one.")
@click.option("--note", metavar="TEXT", help="What is worth knowing about it.")
@click.option("--requires", multiple=True, metavar="CONDITION", help="Record nothing unless this holds.")
@click.option("--expects", multiple=True, metavar="CONDITION", help="Mark it as not valid unless this holds.")
@_key
async def checkpoint(
    invocation: Invocation,
    run: str,
    label: str,
    at: str | None,
    note: str | None,
    requires: tuple[str, ...],
    expects: tuple[str, ...],
    idempotency_key: str | None,
) -> None:
    """Give the present position of a run a name. With --at another position gets it."""
    console = invocation.console
    async with opened(invocation) as (core, caller):
        run_id = await core.find_run(caller, run)
        made = await core.checkpoint(
            caller,
            run_id,
            label,
            at=at,
            note=note,
            requires=requires,
            expects=expects,
            idempotency_key=idempotency_key,
        )
    if console.json:
        console.view(made)
    else:
        console.fields([("checkpoint", made.label), ("position", made.position)])


@command("omium checkpoints last")
@click.argument("run")
@click.option(
    "--before", type=click.IntRange(min=1), metavar="SEQ", help="Only positions before this one: the next page."
)
@click.option("--limit", type=int, default=50, show_default=True, help="At most so many.")
async def checkpoints(invocation: Invocation, run: str, before: int | None, limit: int) -> None:
    """List the positions that a run can go back to. The newest comes first."""
    from omium.server.commands.render import when

    console = invocation.console
    async with opened(invocation) as (core, caller):
        run_id = await core.find_run(caller, run)
        page = await core.list_checkpoints(caller, run_id, before=before, limit=limit)
    if console.json:
        console.view(page)
        return
    if not page.checkpoints:
        console.note("no checkpoints yet: a node that ends is one, and so is what you name: omium checkpoint RUN LABEL")
        return
    console.table(
        ("at", "age", "event", "node", "status", "label", "note"),
        [
            (
                one.seq,
                when(console, one.at),
                one.kind,
                one.node,
                "invalid" if not one.valid else "superseded" if one.superseded else "valid",
                one.label,
                one.note,
            )
            for one in page.checkpoints
        ],
    )
    if page.next:
        console.note(f"more: omium checkpoints {short(run_id)} --before {page.next}")


@command(
    "omium rollback last node:draft", "omium rollback last before-review --preview", "omium rollback last 12 --yes"
)
@click.argument("run")
@click.argument("at")
@_reason
@_preview
@_plan
@_yes
@_key
async def rollback(
    invocation: Invocation,
    run: str,
    at: str,
    reason: str | None,
    preview: bool,
    plan: str | None,
    yes: bool,
    idempotency_key: str | None,
) -> int:
    """Put a run and its files back to a position. There it pauses, and nothing is lost: going forward again is a
    rollback to a later position. AT is a number of the log, a label, start, or node:NAME (when it had completed)."""
    async with opened(invocation, hands=True) as (core, caller):
        run_id = await core.find_run(caller, run)

        async def execute(token: PlanToken | None) -> HistoryResult:
            return await core.rollback(
                caller, run_id, at, reason=reason, plan_token=token, idempotency_key=idempotency_key
            )

        async def plan_it() -> PlanView:
            return await core.preview_rollback(caller, run_id, at)

        return await _perform(invocation, plan_it, execute, preview=preview, plan=plan, yes=yes)


@command(
    "omium branch last before:draft --name terse --with draft.tone=terse",
    "omium branch last 12 --name may --input month=2026-05 --hypothesis 'May was different'",
)
@click.argument("run")
@click.argument("at", required=False)
@click.option("--name", required=True, help="The name of the branch.")
@click.option("--hypothesis", metavar="TEXT", help="What it is to find out.")
@_inputs
@_with
@_outputs
@_file
@click.option("--no-start", is_flag=True, help="Leave the branch a draft; omium resume starts it.")
@_preview
@_plan
@_yes
@_key
async def branch(
    invocation: Invocation,
    run: str,
    at: str | None,
    name: str,
    hypothesis: str | None,
    inputs: tuple[str, ...],
    parameters: tuple[str, ...],
    outputs: tuple[str, ...],
    path: str | None,
    no_start: bool,
    preview: bool,
    plan: str | None,
    yes: bool,
    idempotency_key: str | None,
) -> int:
    """Start a new run from a position of another. That one stays as it is. AT is a number of the log, a label, start,
    node:NAME (when it had completed) or before:NAME (it and what follows run again); the present unless given."""
    async with opened(invocation, executes=not no_start, hands=True) as (core, caller):
        run_id = await core.find_run(caller, run)
        changes = await _changes(invocation, core, run_id, path, inputs, parameters, outputs)

        async def execute(token: PlanToken | None) -> HistoryResult:
            return await core.branch(
                caller,
                run_id,
                at,
                name=name,
                hypothesis=hypothesis,
                overrides=changes,
                start=not no_start,
                plan_token=token,
                idempotency_key=idempotency_key,
            )

        async def plan_it() -> PlanView:
            return await core.preview_branch(caller, run_id, at, changes)

        return await _perform(invocation, plan_it, execute, preview=preview, plan=plan, yes=yes)


@command("omium play-from last draft --with draft.tone=terse", "omium play-from last draft --reuse unchanged --preview")
@click.argument("run")
@click.argument("node")
@click.option(
    "--reuse",
    type=click.Choice(["none", "unchanged"]),
    default="none",
    show_default=True,
    help="Whether nodes whose key is unchanged keep their results.",
)
@_inputs
@_with
@_outputs
@_file
@_reason
@_preview
@_plan
@_yes
@_key
async def play_from(
    invocation: Invocation,
    run: str,
    node: str,
    reuse: Any,
    inputs: tuple[str, ...],
    parameters: tuple[str, ...],
    outputs: tuple[str, ...],
    path: str | None,
    reason: str | None,
    preview: bool,
    plan: str | None,
    yes: bool,
    idempotency_key: str | None,
) -> int:
    """Run a node of a run and all that follows from it again. A completed or cancelled run gets a child run for it."""
    async with opened(invocation, executes=True, hands=True) as (core, caller):
        run_id = await core.find_run(caller, run)
        changes = await _changes(invocation, core, run_id, path, inputs, parameters, outputs)

        async def execute(token: PlanToken | None) -> HistoryResult:
            return await core.play_from_node(
                caller,
                run_id,
                node,
                overrides=changes,
                reuse=reuse,
                reason=reason,
                plan_token=token,
                idempotency_key=idempotency_key,
            )

        async def plan_it() -> PlanView:
            return await core.preview_play_from(caller, run_id, node, changes, reuse)

        return await _perform(invocation, plan_it, execute, preview=preview, plan=plan, yes=yes)


@command("omium adopt last --reason 'the terse notes read better'")
@click.argument("run")
@_reason
@_key
async def adopt(invocation: Invocation, run: str, reason: str | None, idempotency_key: str | None) -> None:
    """Close a branch as the one that was right. It must have completed. Its parent's log takes over what it gave, and
    the parent's workspace gets its files; what was there before keeps a checkpoint. A parent that works is paused
    first."""
    await _close(invocation, run, "adopted", reason, idempotency_key)


@command("omium abandon last --reason 'no better'")
@click.argument("run")
@_reason
@_key
async def abandon(invocation: Invocation, run: str, reason: str | None, idempotency_key: str | None) -> None:
    """Close a branch as one that led nowhere. If it goes on, it is cancelled; what it found stays."""
    await _close(invocation, run, "abandoned", reason, idempotency_key)


async def _close(
    invocation: Invocation,
    run: str,
    how: Literal["adopted", "abandoned"],
    reason: str | None,
    idempotency_key: str | None,
) -> None:
    from omium.server.commands.wire import as_json

    console = invocation.console
    async with opened(invocation, hands=how == "adopted") as (core, caller):
        run_id = await core.find_run(caller, run)
        closed = await core.close_branch(caller, run_id, how, reason, idempotency_key=idempotency_key)
    branch = closed.run
    if console.json:
        more = {"files": list(closed.files), "back_to": closed.back_to, "notes": list(closed.notes)}
        console.view({**as_json(branch), **more})
        return
    console.fields([("run", branch.id), ("branch", branch.branch), ("closed", branch.closed)])
    if closed.files:
        rows = [(one["status"], one["path"], one["old_size"], one["new_size"]) for one in closed.files]
        console.text("Files of the parent:")
        console.table(("change", "file", "bytes before", "now"), rows)
    for note in closed.notes:
        console.note(note)
    if closed.back_to is not None and branch.parent_run is not None:
        console.note(f"back to the files before: omium rollback {short(branch.parent_run)} {closed.back_to}")


async def _changes(
    invocation: Invocation,
    core: Core,
    run_id: RunId,
    path: str | None,
    inputs: Sequence[str],
    parameters: Sequence[str],
    outputs: Sequence[str],
) -> dict[str, Any] | None:
    """What is changed, by the schema of the run's own inputs; says which of them nothing reads."""
    workflow = (await core.structure(await core.store.state(run_id))).workflow
    changes = overrides(path, inputs, parameters, outputs, workflow.inputs)
    for warning in undeclared((changes or {}).get("inputs", {}), workflow.inputs):
        invocation.console.note(warning)
    return changes


async def _perform(
    invocation: Invocation, plan_it: Preview, execute: Execute, *, preview: bool, plan: str | None, yes: bool
) -> int:
    """Show, ask and do: what of it is wanted follows from the options and from whether somebody is there."""
    from omium.server.commands.render import show_plan

    console = invocation.console
    if preview and (plan or yes):
        raise OmiumError("invalid_argument", "--preview only shows; it goes with neither --plan nor --yes.")
    token: PlanToken | None = None if plan is None else PlanToken(plan)
    if preview:
        found = await plan_it()
        if console.json:
            console.view(found)
        else:
            show_plan(console, found)
        return DONE
    if token is None and yes:
        _said(invocation, await _unseen(plan_it, execute))
        return DONE
    if token is None and console.interactive and console.terminal and not console.json:
        found = await plan_it()
        show_plan(console, found)
        if not await _confirmed("Do it?"):
            console.note("nothing was changed.")
            return INTERRUPTED
        token = found.plan_token
    try:
        done = await execute(token)
    except OmiumError as error:
        if error.code == "plan_required":
            raise _shown_first(error) from None
        raise
    _said(invocation, done)
    return DONE


async def _unseen(plan_it: Preview, execute: Execute) -> HistoryResult:
    """Do it by a plan that nobody has looked at: one that a run which works has outdated meanwhile is made anew. Raises
    `conflict` when the run is faster every time."""
    from omium.orchestration.log.courses import is_overtaken

    for _ in range(_TRIES):
        try:
            return await execute((await plan_it()).plan_token)
        except OmiumError as error:
            if error.code != "plan_expired" and not is_overtaken(error):
                raise
            last = error
    raise OmiumError(
        "conflict",
        f"the run is too busy: this was planned {_TRIES} times, and each time the run had gone on meanwhile.",
        "Pause it first (omium pause), then do it again.",
    ) from last


def _shown_first(error: OmiumError) -> OmiumError:
    """The refusal with the ways on from here, of which the plan's is the surest."""
    token = error.data["plan"]["plan_token"]
    hint = f"Look at it with --preview. Then add --plan {token} to do exactly that, or --yes to do it unseen."
    return OmiumError(error.code, error.message, hint, **error.data)


async def _confirmed(question: str) -> bool:
    import anyio

    def ask() -> bool:
        return click.confirm(question, default=False, err=True)

    return await anyio.to_thread.run_sync(ask, abandon_on_cancel=True)


def _said(invocation: Invocation, result: HistoryResult) -> None:
    from omium.server.commands.render import effect_table

    console = invocation.console
    if console.json:
        console.view(result)
        return
    run = result.run
    console.fields(
        [
            ("run", run.id),
            ("status", run.status),
            ("branch", run.branch),
            ("position", f"{run.id}@{run.seq}"),
            (
                "reset",
                ", ".join(result.reset[:12])
                + (f" and {len(result.reset) - 12} more" if len(result.reset) > 12 else ""),
            ),
            ("files", _files(result)),
        ]
    )
    for title, effects in (("Undone:", result.undone), ("Not to be undone:", result.not_undone)):
        if effects:
            console.text(title)
            effect_table(console, effects)
    if run.status in ("paused", "draft"):
        console.note(f"next: omium resume {short(run.id)}")
    elif run.status not in ("completed", "failed", "cancelled"):
        console.note(f"next: omium events {short(run.id)} --follow")


def _files(result: HistoryResult) -> str:
    counts = ((result.files_changed, "changed"), (result.files_removed, "removed"), (result.files_added, "added"))
    return ", ".join(f"{count} {word}" for count, word in counts if count)
