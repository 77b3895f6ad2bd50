"""Errors: one form, stable exit codes, no traceback for what was to be expected."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import get_args

import click
import pytest
from click.testing import CliRunner, Result

from omium.orchestration.errors import ErrorCode, OmiumError
from omium.server.cli import Commands
from omium.server.commands.base import EXIT_CODES, FAILED, Invocation, command
from tests.cli.harness import HOSTILE


def run(error: BaseException, *arguments: str, located: bool = False) -> Result:
    @command("omium broken", name="broken", located=located)
    async def broken(invocation: Invocation) -> None:
        """Raise."""
        raise error

    group = Commands("omium")
    group.get_command = lambda ctx, name: broken  # type: ignore[method-assign,assignment]
    return CliRunner().invoke(group, ["broken", *arguments], prog_name="omium")


@pytest.mark.parametrize("code", get_args(ErrorCode))
def test_every_code_has_its_exit_code(code: ErrorCode) -> None:
    done = run(OmiumError(code, "what was wrong.", "What to do."))
    assert done.exit_code == EXIT_CODES.get(code, FAILED) != 0
    assert done.stderr == "error: what was wrong.\nhint: What to do.\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("List the runs to see their ids.", "List the runs to see their ids: omium runs"),
        ("List the checkpoints.", "List the checkpoints: omium checkpoints RUN"),
        ("Look at the list of runs.", "Look at the list of runs."),
    ],
)
def test_a_hint_to_list_something_names_the_command(hint: str, told: str) -> None:
    assert run(OmiumError("not_found", "there is none.", hint)).stderr == f"error: there is none.\nhint: {told}\n"


def test_where_no_project_is_what_is_not_found_is_said_to_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(hint: str, *arguments: str) -> str:
        return run(OmiumError("not_found", "there is none.", hint), *arguments, located=True).stderr

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMIUM_PROJECT", raising=False)
    hint, more = "List the runs to see their ids.", "No omium.yaml was found from here; --project names its directory."
    assert told(hint) == f"error: there is none.\nhint: List the runs to see their ids: omium runs\n{more}\n"
    assert json.loads(told(hint, "--json"))["error"]["hint"] == f"{hint}\n{more}"
    assert more not in told("Look at the run.")
    assert more not in told(hint, "--project", str(tmp_path))
    (tmp_path / "omium.yaml").write_text("project: here\n")
    assert more not in told(hint)


def test_the_exit_codes_are_the_contract() -> None:
    codes: dict[int, set[str]] = {}
    for code in get_args(ErrorCode):
        codes.setdefault(EXIT_CODES.get(code, FAILED), set()).add(code)
    assert codes[4] == {"not_found"}
    assert codes[5] == {"not_allowed", "conflict", "already_decided", "fenced", "plan_required", "plan_expired"}
    assert {"invalid_argument", "invalid_definition", "not_registered"} <= codes[2]
    assert set(codes) == {1, 2, 4, 5}


def test_with_json_an_error_is_one_object() -> None:
    done = run(OmiumError("not_allowed", "no.", "Yes.", allowed=["resume"]), "--json")
    assert json.loads(done.stderr) == {
        "error": {"code": "not_allowed", "message": "no.", "hint": "Yes.", "data": {"allowed": ["resume"]}}
    }


def test_a_usage_error_has_the_same_two_forms() -> None:
    assert run(ValueError(), "--nonsense").stderr.startswith("error: No such option")
    told = json.loads(run(ValueError(), "--nonsense", "--json").stderr)["error"]
    assert (told["code"], run(ValueError(), "--nonsense").exit_code) == ("invalid_argument", 2)


def test_a_report_of_several_lines_keeps_them_whole() -> None:
    done = run(OmiumError("invalid_definition", "a.yaml:1: x\na.yaml:2: y"))
    assert done.stderr.splitlines() == ["error: invalid definition", "a.yaml:1: x", "a.yaml:2: y"]


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_hostile_text_in_an_error_is_harmless(arguments: tuple[str, ...]) -> None:
    done = run(OmiumError("not_found", HOSTILE, HOSTILE, name=HOSTILE), *arguments)
    assert done.stderr.replace("\n", "").isprintable()


def test_errors_of_a_task_group_are_unwrapped() -> None:
    group = BaseExceptionGroup("", [BaseExceptionGroup("", [OmiumError("not_found", "gone.")])])
    assert (run(group).exit_code, run(group).stderr) == (4, "error: gone.\n")


def test_a_bug_is_not_dressed_up() -> None:
    assert isinstance(run(ValueError("a bug")).exception, ValueError)
    mixed = BaseExceptionGroup("", [OmiumError("not_found", "gone."), ValueError("a bug")])
    assert run(mixed).exception is mixed


def test_an_interrupt_has_its_own_code() -> None:
    assert run(click.Abort()).exit_code == 130
    assert run(OSError(errno.ENOENT, "no")).exit_code == 1
