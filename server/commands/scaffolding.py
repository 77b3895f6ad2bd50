"""Beginning: `init`, and `completion` of what is typed."""

from __future__ import annotations

from pathlib import Path

import click

from omium.orchestration.errors import OmiumError
from omium.server.commands.base import Invocation, command
from omium.server.commands.console import safe

_TEMPLATES = ("release-notes", "research", "epic", "pipeline")  # importing them would slow the help down


@command("omium init", "omium init research --directory weather", "omium init pipeline --name orders", located=False)
@click.argument("template", default="release-notes", type=click.Choice(_TEMPLATES))
@click.option(
    "--directory",
    type=click.Path(path_type=Path, resolve_path=True, file_okay=False),
    default=".",
    metavar="DIR",
    help="Where; it is made if need be. Here, unless given.",
)
@click.option("--name", metavar="NAME", help="The project's name; that of the directory, unless given.")
async def init(invocation: Invocation, template: str, directory: Path, name: str | None) -> None:
    """Begin a project. It has what its workflows may use, a workflow that runs offline, its functions and their tests.

    Nothing is written over: when one of the files exists, nothing is written."""
    from omium.server.scaffold import TEMPLATES, scaffold

    made = scaffold(template, directory, name)
    console = invocation.console
    if console.json:
        console.view(
            {
                "directory": str(made.directory),
                "template": made.template,
                "project": made.project,
                "files": list(made.files),
            }
        )
        return
    for path in made.files:
        console.text(safe(path))
    console.note(f"{made.project}: {TEMPLATES[template]} README.md says what to type next.")


@command("omium completion bash", 'eval "$(omium completion zsh)"', located=False)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
async def completion(invocation: Invocation, shell: str) -> None:
    """Print what makes a shell complete `omium`. A shell's start-up file is the place for it, as in the example; for
    fish that is `omium completion fish | source`."""
    from click.shell_completion import ShellComplete, get_completion_class

    from omium.server.cli import cli

    known = get_completion_class(shell)
    if known is None:
        raise OmiumError("unsupported", f"{shell} cannot be completed for.")
    # Not `known.source`, which starts a shell of its own to see how old it is.
    source = "\n".join(
        ShellComplete.source(known(cli, {}, name, f"_{name.upper().replace('-', '_')}_COMPLETE")) for name in _NAMES
    )
    if invocation.console.json:
        invocation.console.view({"shell": shell, "source": source})
    else:
        click.echo(source)


_NAMES = ("omium", "omium-mcp")
