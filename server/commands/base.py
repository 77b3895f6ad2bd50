"""What every command has: its options, its exit codes, how its errors look, and how it runs.

Exit codes are a contract: 0 done, 1 failed, 2 usage, 3 waiting for somebody, 4 not found, 5 conflict (the state does
not allow it, somebody was first, or it has to be previewed), 6 still under way when the time to wait was over, 130
interrupted.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from omium.orchestration.errors import ErrorCode, OmiumError
from omium.server.commands.console import Console, safe

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
WAITING: Final = 3
NOT_FOUND: Final = 4
CONFLICT: Final = 5
STILL: Final = 6
INTERRUPTED: Final = 130

EXIT_CODES: Final[dict[ErrorCode, int]] = {
    "invalid_argument": USAGE,
    "invalid_definition": USAGE,
    "invalid_value": USAGE,
    "expression_error": USAGE,
    "not_registered": USAGE,
    "not_found": NOT_FOUND,
    "not_allowed": CONFLICT,
    "conflict": CONFLICT,
    "already_decided": CONFLICT,
    "fenced": CONFLICT,
    "plan_required": CONFLICT,
    "plan_expired": CONFLICT,
}
_LISTING: Final = {
    "List the runs": "omium runs",
    "List the checkpoints": "omium checkpoints RUN",
    "List the approvals": "omium approvals",
    "List the agents": "omium agent list",
    "List the workflows": "omium workflows",
}
RUN_EXIT_CODES: Final = {
    "completed": DONE,
    "failed": FAILED,
    "cancelled": FAILED,
    "waiting_approval": WAITING,
    "paused": WAITING,
}


class Number(click.FloatRange):
    """A number in a range. Infinity, and what is no number, are in none: neither is a time to wait for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not -_LARGEST < found < _LARGEST:
            self.fail(f"{value} is no number that can be used here.", param, ctx)
        return found


_LARGEST: Final = 10 * 366 * 86_400.0  # ten years of seconds


@dataclass(frozen=True, slots=True)
class Invocation:
    """What the common options said. `project`: a directory, or None for the nearest one; `database`: a URL, or None for
    what the project says."""

    console: Console
    project: Path | None = None
    database: str | None = None


class OmiumCommand(click.Command):
    """A command that ends its help with examples."""

    examples: tuple[str, ...] = ()

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Example" if len(self.examples) == 1 else "Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))


Body = Callable[..., Awaitable[int | None]]


def command(*examples: str, name: str | None = None, located: bool = True) -> Callable[[Body], OmiumCommand]:
    """Make an async function `body(invocation, **parameters)`, which gives an exit code (None: 0), a command.

    located: whether it takes `--project` and `--database`. Errors become one message with a hint on standard error, or
    with `--json` one JSON object, and an exit code.
    """

    def make(body: Body) -> OmiumCommand:
        @functools.wraps(body)
        def call(json: bool, project: Path | None = None, database: str | None = None, **parameters: Any) -> None:
            invocation = Invocation(Console(json=json), project, database)
            ready = functools.partial(body, invocation, **parameters)
            click.get_current_context().exit(_run(invocation, ready, located and project is None))

        made = click.command(name or body.__name__.replace("_", "-"), cls=OmiumCommand)(call)
        made.params += [*_LOCATION, _JSON] if located else [_JSON]
        made.examples = examples
        return made

    return make


_LOCATION: Final = (
    click.Option(
        ["--project"],
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The project's directory (or OMIUM_PROJECT); the nearest one with an omium.yaml otherwise.",
    ),
    click.Option(
        ["--database"],
        metavar="URL",
        help="A path, sqlite:///path or postgresql://... (or OMIUM_DATABASE); the project's otherwise.",
    ),
)
_JSON: Final = click.Option(["--json"], is_flag=True, help="Print JSON, in a stable shape.")


def _run(invocation: Invocation, body: Callable[[], Awaitable[int | None]], located: bool) -> int:
    from omium.server.loop import run

    try:
        return run(body) or DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        anticipated = [leaf for leaf in leaves if isinstance(leaf, OmiumError)]
        if len(anticipated) == len(leaves):
            return report(invocation.console, _explained(anticipated[0], located))
        if all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
            return INTERRUPTED
        if all(isinstance(leaf, BrokenPipeError) for leaf in leaves):
            raise leaves[0] from None
        raise
    except OmiumError as error:
        return report(invocation.console, _explained(error, located))


def _explained(error: OmiumError, located: bool) -> OmiumError:
    """An error about something that is not there, with its most frequent reason: that there is no project either.
    located: whether the command looked for one from here."""
    if located and error.code == "not_found" and error.hint.startswith(("List the runs", "List the workflows")):
        from omium.server.config import FILE_NAME, is_without_project

        if is_without_project():
            error.hint += f"\nNo {FILE_NAME} was found from here; --project names its directory."
    return error


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from _leaves(inner)
        else:
            yield inner


def report(console: Console, error: OmiumError) -> int:
    """Print an error on standard error; its exit code."""
    if console.json:
        from omium.server.commands.wire import as_json, json_text

        click.echo(json_text({"error": as_json(error.as_dict())}, indent=None), err=True)
    else:
        lines = safe(error.message, lines=True).split("\n")
        if len(lines) > 1:  # a report, whose lines begin with the place that an editor can go to
            click.echo(f"error: {error.code.replace('_', ' ')}", err=True)
            click.echo("\n".join(lines), err=True)
        else:
            click.echo(f"error: {lines[0]}", err=True)
        if error.hint:
            click.echo(f"hint: {safe(_with_command(error.hint), lines=True)}", err=True)
    return EXIT_CODES.get(error.code, FAILED)


def _with_command(hint: str) -> str:
    """A hint of the core, which knows no commands, with the one that does it."""
    first, end, more = hint.partition("\n")
    for beginning, command in _LISTING.items():
        if first.startswith(beginning) and first.endswith("."):
            return f"{first[:-1]}: {command}{end}{more}"
    return hint
