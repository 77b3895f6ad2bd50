"""What help says, and how little it loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from omium.server.cli import COMMANDS, cli, commands
from omium.server.commands.base import OmiumCommand

ALL = dict(commands())
# What only a command that works may load; click itself and the standard library are all that help needs.
HEAVY = (
    "anyio",
    "cel",
    "jsonschema",
    "mcp",
    "networkx",
    "orjson",
    "psutil",
    "pydantic",
    "rich",
    "sqlalchemy",
    "structlog",
    "yaml",
)


def loaded(*arguments: str) -> set[str]:
    """The top-level names of what `omium ARGUMENTS` imports, and our own modules in full."""
    program = "import sys; sys.argv[0] = 'omium'; from omium.server.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    names = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {name if name.startswith("omium.") else name.partition(".")[0] for name in names}


def test_help_loads_click_and_nothing_slow() -> None:
    names = loaded("--help")
    assert names.isdisjoint(HEAVY)
    assert {name for name in names if name.startswith("omium.")} <= {
        "omium.server",
        "omium.server.cli",
        "omium.server.memory",
    }


@pytest.mark.parametrize("command", ["run", "rollback", "compare"])
def test_the_help_of_a_command_loads_nothing_slow(command: str) -> None:
    names = loaded(command, "--help")
    assert names.isdisjoint(HEAVY)
    assert "omium.orchestration.service.core" not in names


def test_a_slow_import_would_be_seen(tmp_path: Path) -> None:
    assert {"pydantic", "omium.server.config"} <= loaded(
        "workflows", "--project", str(tmp_path), "--database", str(tmp_path / "o.db")
    )


def test_the_lines_of_the_help_are_the_commands_own() -> None:
    context = click.Context(cli)
    lines = {name: line for section in COMMANDS.values() for name, (_, _, line) in section.items()}
    for name, line in lines.items():
        command = cli.get_command(context, name)
        assert command is not None
        own = " ".join((command.help or "").split())
        assert own.startswith(line) or name == "diff", (name, own)


@pytest.mark.parametrize("name", ALL)
def test_every_command_takes_json_and_shows_an_example_that_parses(name: str) -> None:
    command = ALL[name]
    assert isinstance(command, OmiumCommand)
    # What `wrap` prints is the wrapped program's own.
    assert any(parameter.name == "json" for parameter in command.params) or name == "wrap"
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), parameter.name
    done = CliRunner().invoke(cli, [*name.split(), "--help"], prog_name="omium")
    assert done.exit_code == 0
    assert "Example" in done.output
    mine = [example for example in command.examples if example.startswith(f"omium {name}")]
    assert mine
    import shlex

    for example in mine:
        assert f"  {example}\n" in done.output
        words = shlex.split(example)[1 + len(name.split()) :]
        context = command.make_context(name, list(words), resilient_parsing=False)
        assert not context.args


@pytest.mark.parametrize("name", ALL)
def test_no_number_in_a_range_can_be_infinite_or_none(name: str) -> None:
    """Neither is a time to wait for, nor an amount of money."""
    for parameter in ALL[name].params:
        if isinstance(parameter.type, click.FloatRange):
            for text in ("nan", "inf"):
                with pytest.raises(click.BadParameter):
                    parameter.type.convert(text, parameter, None)


def test_every_command_but_local_ones_can_be_pointed_at_a_project() -> None:
    local = {name for name, command in ALL.items() if not any(p.name == "project" for p in command.params)}
    assert local == {
        "demo",
        "workflow validate",
        "mcp bundle",
        "init",
        "completion",
        "deploy key",
        "deploy verify",
        "deploy list",
        "mcp import",
        "policy templates",
        "policy test",
        "wrap",
    }


def test_a_misspelt_command_is_a_usage_error_that_names_the_nearest() -> None:
    done = CliRunner().invoke(cli, ["rolback", "last"], prog_name="omium")
    assert done.exit_code == 2
    assert "rollback" in done.stderr


def test_without_arguments_there_is_help() -> None:
    done = CliRunner().invoke(cli, [], prog_name="omium")
    assert done.exit_code == 0
    assert "Start and watch" in done.output


def test_the_version_is_printed() -> None:
    done = CliRunner().invoke(cli, ["--version"], prog_name="omium")
    assert done.exit_code == 0
    assert done.output.startswith("omium ")
