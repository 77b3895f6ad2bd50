"""The command line: `omium` and `omium-mcp` are this one group of commands.

The group knows each command's name, its line in the help and the module that defines it, and imports the module when
the command is used: `omium --help` loads click and nothing else.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from omium.server.memory import tune

_PACKAGE: Final = "omium.server.commands"
_UNPRINTED: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

# Section -> command -> (module, name in it, help). A test holds the lines against the commands themselves.
COMMANDS: Final[dict[str, dict[str, tuple[str, str, str]]]] = {
    "Start and watch": {
        "demo": ("services", "demo", "Watch a workflow run, die, resume, wait, branch and roll back."),
        "init": ("scaffolding", "init", "Begin a project."),
        "run": ("running", "run", "Run a workflow and follow it."),
        "runs": ("watching", "runs", "List runs, newest first."),
        "show": ("watching", "show", "Show a run: its state, nodes, questions and output."),
        "events": ("watching", "events", "Print a run's log; follow it as it grows."),
        "top": ("top", "top", "Watch and steer in the terminal."),
    },
    "Steer": {
        "pause": ("steering", "pause", "Start no new node of a run until it is resumed."),
        "resume": ("steering", "resume", "Go on with a paused run."),
        "cancel": ("steering", "cancel", "End a run and everything below it."),
        "signal": ("steering", "signal", "Send a signal to the nodes of a run that wait for it."),
    },
    "Decide": {
        "approvals": ("deciding", "approvals", "List what waits for a decision."),
        "approve": ("deciding", "approve", "Approve what waits for a decision, or choose another option."),
        "reject": ("deciding", "reject", "Reject what waits for a decision."),
    },
    "Go back, branch, compare": {
        "checkpoint": ("history", "checkpoint", "Give the present position of a run a name."),
        "checkpoints": ("history", "checkpoints", "List the positions that a run can go back to."),
        "rollback": ("history", "rollback", "Put a run and its files back to a position."),
        "branch": ("history", "branch", "Start a new run from a position of another."),
        "play-from": ("history", "play_from", "Run a node of a run and all that follows from it again."),
        "adopt": ("history", "adopt", "Close a branch as the one that was right."),
        "abandon": ("history", "abandon", "Close a branch as one that led nowhere."),
        "branch-tree": ("comparing", "branch_tree", "Show the tree of branches that a run belongs to."),
        "compare": ("comparing", "compare", "Compare two runs: inputs, nodes, outputs, files, costs and decisions."),
        "diff": ("comparing", "diff", "The same as compare."),
        "replay": ("comparing", "replay", "Feed a run's recorded results to its definition, without effects."),
    },
    "Workflows": {
        "workflows": ("workflows", "workflows", "List the registered workflows."),
        "workflow": ("workflows", "workflow", "Check workflow files."),
        "simulate": ("workflows", "simulate", "Show what a workflow would do; nothing is executed."),
        "agent": ("agents", "agent", "Make, list and show agents."),
        "genie": ("genie", "genie", "Have epics brought about, and see how they stand."),
        "policy": ("policy", "policy", "Check, test and explain what runs may do outside."),
        "decisions": ("gates", "decisions", "List what policy decided about calls."),
        "budgets": ("gates", "budgets", "List what calls have cost by budget."),
        "report": ("reporting", "report", "Report how runs ended, how long they took and what they cost."),
        "raise-budget": ("gates", "raise_budget", "Allow more of a budget."),
    },
    "Serve and look after": {
        "serve": ("services", "serve", "Serve MCP."),
        "dashboard": ("dashboard", "dashboard", "Open the dashboard of this project in a browser."),
        "worker": ("services", "worker", "Execute runs until it is stopped."),
        "mcp": ("mcp", "mcp", "Tell MCP clients of this server, and look after the servers that it is a client of."),
        "token": ("tokens", "token", "Make, list and revoke the tokens of callers."),
        "notify": ("notifying", "notify", "List, repeat and test what others are told of."),
        "deploy": ("deploying", "deploy", "Bundle a project, sign it, and install it where it runs."),
        "config": ("configuring", "config", "Show the settings that hold, and who says so."),
        "doctor": ("doctoring", "doctor", "Look for what is wrong, and name the command that mends it."),
        "health": ("doctoring", "health", "Say whether runs can go on: healthy, degraded or unhealthy."),
        "processes": ("processes", "processes", "List the supervised programs that run on this machine now."),
        "conversations": ("conversing", "conversations", "List the conversations of coding CLIs on this machine."),
        "wrap": ("wrap", "wrap", "Run a program and send heartbeats for it on standard error."),
        "verify": ("upkeep", "verify", "Check the logs, tables and contents of the database."),
        "audit": ("auditing", "audit", "Export what happened, with the proof that nothing of it was changed."),
        "export": ("exporting", "export", "Write a run's state, values and log as JSON files."),
        "controls": ("auditing", "controls", "List the controls of this project, and what shows that they work."),
        "backup": ("upkeep", "backup", "Copy the database and the captured files of its runs, while others work."),
        "restore": ("upkeep", "restore", "Put a backup in the place of a database that is gone."),
        "sweep": ("upkeep", "sweep", "Remove content that nothing refers to."),
        "erase": ("upkeep", "erase", "Erase what runs were given and gave, with their files."),
        "retain": ("upkeep", "retain", "Forget runs that ended long ago, or their contents."),
        "upkeep": ("upkeep", "upkeep", "Show when the database was last looked after, and what came of it."),
        "completion": ("scaffolding", "completion", "Print what makes a shell complete `omium`."),
    },
}
_HOMES: Final = {name: home for section in COMMANDS.values() for name, home in section.items()}

EPILOG: Final = """\
A RUN is an id, its unique beginning or end, or `last`. Exit codes: 0 done, 1 failed, 2 usage, 3 waiting for somebody,
4 not found, 5 conflict, 6 still under way. `omium COMMAND --help` has examples.
"""


class Commands(click.Group):
    """The group that imports a command's module when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _HOMES:
            return None
        module, name, _ = _HOMES[cmd_name]
        found: click.Command = getattr(import_module(f"{_PACKAGE}.{module}"), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            near = difflib.get_close_matches(args[0], list(_HOMES), n=2) if args else []
            if not near:
                raise
            meant = " or ".join(near)
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {meant}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl([(name, line) for name, (_, _, line) in commands.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_paragraph()
        formatter.write_text(EPILOG)

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run a command and leave the process with its exit code; errors go to standard error in one form."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, *rest, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            _report(error, as_json="--json" in arguments)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("aborted", err=True)
            sys.exit(130)
        except OSError as error:
            if error.filename is not None or error.errno not in _UNPRINTED:
                raise
            # What is left in the buffer goes nowhere: whoever read us has seen enough, or the disk is full.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if error.errno != errno.EPIPE:
                click.echo(f"error: what was asked for cannot be written: {error.strerror}.", err=True)
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def _report(error: click.ClickException, *, as_json: bool) -> None:
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and context is not None and context.parent is None:
        # What every command takes stands behind its name; the likeness of two options would lead astray here.
        said = f"No such option {error.option_name!r}."
        if error.option_name in ("--json", "--project", "--database"):
            said = f"{error.option_name} stands behind the command: omium COMMAND {error.option_name}"
        error = click.UsageError(said, context)
    hint = f"{context.command_path} --help" if isinstance(context, click.Context) else ""
    message = error.format_message()
    if as_json:
        import json

        body = {"code": "invalid_argument", "message": message, "hint": hint, "data": {}}
        click.echo(json.dumps({"error": body}), err=True)
        return
    # An argument may hold anything; what is printed is harmless.
    shown = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in message)
    click.echo(f"error: {shown}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"omium {version('omium-mcp')}")
        except PackageNotFoundError:
            click.echo("omium (not installed as a distribution)")
        ctx.exit()


@click.group(
    cls=Commands,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Omium: durable, reversible and accountable agent workflows. Git for agent runs, over MCP."""
    if ctx.invoked_subcommand is not None:
        return
    if ctx.info_name == "omium-mcp" and not sys.stdin.isatty():
        # An MCP host that was told nothing but the command's name wants the server.
        command = cli.get_command(ctx, "serve")
        assert command is not None
        with command.make_context("serve", [], parent=ctx) as below:
            command.invoke(below)
        return
    click.echo(ctx.get_help())


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its name as it is typed, those of groups too: what generated documentation lists."""
    context = click.Context(cli, info_name="omium")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", found) for below, found in command.commands.items())
        else:
            yield name, command


def main() -> NoReturn:
    """The console scripts."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape instead of an error.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    tune()
    cli.main()


if __name__ == "__main__":
    main()
