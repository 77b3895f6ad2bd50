"""Registered commands: what becomes of the input, of the output and of every way to end."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.clients.commands import CommandSpec, build_argv, run_command
from omium.clients.processes.protocol import Answer, parse_json
from omium.orchestration.errors import OmiumError
from omium.orchestration.values import Value

pytestmark = pytest.mark.anyio

MARKER = {"run_id": "run_1", "node_id": "build", "attempt": "1"}


def python(code: str, **options: Any) -> CommandSpec:
    return CommandSpec("tool", (sys.executable, "-c", code), **options)


async def run(spec: CommandSpec, input: Value, workspace: Path | None, **options: Any) -> Value:
    with anyio.fail_after(20):
        return await run_command(spec, input, workspace=workspace, marker=MARKER, **options)


async def failure(spec: CommandSpec, input: Value, workspace: Path | None) -> OmiumError:
    with pytest.raises(OmiumError) as caught:
        await run(spec, input, workspace)
    return caught.value


# --- arguments ---


@pytest.mark.parametrize(
    ("template", "input", "expected"),
    [
        (("git", "log"), None, ["git", "log"]),
        (("echo", "{input}"), "plain", ["echo", "plain"]),
        (("echo", "{input.a.b}"), {"a": {"b": "x y; z"}}, ["echo", "x y; z"]),
        (("echo", "--n={input.n}"), {"n": -5}, ["echo", "--n=-5"]),
        (("echo", "-n={input.n}"), {"n": ""}, ["echo", "-n="]),
        (("rm", "--", "{input.files}"), {"files": ["-rf", "b"]}, ["rm", "--", "-rf", "b"]),
        (("rm", "{input.files}"), {"files": []}, ["rm"]),
        (("echo", "{input.a}", "{input.b}"), {"a": True, "b": 1.5}, ["echo", "true", "1.5"]),
        (("echo", "{input}"), Decimal("1.50"), ["echo", "1.50"]),
        (("echo", "{input}"), datetime(2026, 1, 2, tzinfo=UTC), ["echo", "2026-01-02T00:00:00+00:00"]),
        (("awk", "{print $1}"), None, ["awk", "{print $1}"]),
    ],
)
def test_values_become_arguments(template: tuple[str, ...], input: Value, expected: list[str]) -> None:
    assert list(build_argv(CommandSpec("c", template), input)) == expected


@pytest.mark.parametrize(
    ("template", "input"),
    [
        (("git", "{input.ref}"), {"ref": "--upload-pack=evil"}),
        (("git", "{input.ref}"), {"ref": "-"}),
        (("git", "{input.n}"), {"n": -1}),
        (("git", "{input.refs}"), {"refs": ["good", "-bad"]}),
        (("git", "{input.refs}", "--"), {"refs": "-before-the-dashes"}),
        (("git", "--ref={input.refs}"), {"refs": ["a"]}),
        (("git", "{input.ref}"), {"ref": "a\0b"}),
        (("git", "{input.ref}"), {"ref": None}),
        (("git", "{input.ref}"), {"ref": {"a": 1}}),
        (("git", "{input.ref}"), {"ref": [["a"]]}),
        (("git", "{input.ref}"), {"ref": b"x"}),
        (("git", "{input.ref}"), {}),
        (("git", "{input.ref}"), "text"),
        (("git", "{input.ref.x}"), {"ref": "text"}),
    ],
)
def test_values_that_cannot_be_arguments_are_refused(template: tuple[str, ...], input: Value) -> None:
    with pytest.raises(OmiumError) as caught:
        list(build_argv(CommandSpec("c", template), input))
    assert caught.value.code == "invalid_argument"


@given(st.text(), st.lists(st.text(), max_size=4))
def test_a_value_never_becomes_an_option_or_another_argument(one: str, many: list[str]) -> None:
    spec = CommandSpec("c", ("tool", "{input.one}", "--flag={input.one}", "{input.many}"))
    try:
        argv = list(build_argv(spec, {"one": one, "many": list[Value](many)}))
    except OmiumError:
        assert "\0" in one + "".join(many) or any(text.startswith("-") for text in (one, *many))
        return
    assert argv == ["tool", one, f"--flag={one}", *many]
    assert not any(text.startswith("-") for text in (argv[1], *argv[3:]))


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("",),
        ("{input.program}",),
        ("echo", "prefix {input.x}"),
        ("echo", "{input.x}{input.y}"),
        ("echo", "--flag={input.x}-suffix"),
        ("echo", "--{input.x}=1"),
        ("echo", "{input[x]}"),
        ("sh", "-c", "{input.script}"),
        ("/bin/bash", "-ec", "{input.script}"),
        ("env", "A=1", "bash", "-lc", "{input.script}"),
        ("python3.11", "-I", "-c", "{input.code}"),
        ("node", "--eval={input.code}"),
    ],
)
def test_templates_that_would_let_a_value_be_more_than_a_value_are_refused(argv: tuple[str, ...]) -> None:
    with pytest.raises(OmiumError) as caught:
        CommandSpec("c", argv)
    assert caught.value.code == "invalid_definition"


@pytest.mark.parametrize(
    "argv",
    [
        ("sh", "-c", 'echo "$1"', "sh", "{input.x}"),
        ("python", "tool.py", "-c", "{input.config}"),
        ("grep", "-e", "{input.pattern}"),
    ],
)
def test_templates_that_hand_a_value_over_are_accepted(argv: tuple[str, ...]) -> None:
    assert list(build_argv(CommandSpec("c", argv), {"x": "v", "config": "v", "pattern": "v"}))[-1] == "v"


@pytest.mark.parametrize(
    "options",
    [
        {"success_codes": (0, 90)},
        {"cwd": Path("relative")},
        {"env": {"LD_PRELOAD": "x"}},
        {"pass_env": ("PYTHONPATH",)},
    ],
)
def test_specifications_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OmiumError) as caught:
        CommandSpec("c", ("true",), **options)
    assert caught.value.code == "invalid_definition"


# --- input and output ---


@pytest.mark.parametrize(
    ("stdin", "input", "expected"),
    [
        ("json", {"b": [1, None, "ü"], "a": 2**70}, '{"b": [1, null, "ü"], "a": 1180591620717411303424}'),
        ("text", "hello\n", "hello\n"),
        ("text", {"text": "hello"}, "hello"),
        ("none", {"x": 1}, ""),
    ],
)
async def test_the_input_arrives_on_stdin(tmp_path: Path, stdin: Any, input: Value, expected: str) -> None:
    spec = CommandSpec("cat", ("cat",), stdin=stdin, output="text")
    assert await run(spec, input, tmp_path) == expected


@pytest.mark.parametrize(("stdin", "input"), [("json", b"x"), ("text", 5), ("text", {"x": "y"})])
async def test_an_input_that_cannot_be_written_is_refused(tmp_path: Path, stdin: Any, input: Value) -> None:
    assert (await failure(CommandSpec("c", ("cat",), stdin=stdin), input, tmp_path)).code == "invalid_argument"


@pytest.mark.parametrize(
    ("output", "text", "expected"),
    [
        ("json", '{"a": [1]}', {"a": [1]}),
        ("json", '{\n "a": 1\n}\n', {"a": 1}),
        ("json", "compiling...\nlinking...\n[1, 2]\n", [1, 2]),
        ("json", "12345678901234567890123", 12345678901234567890123),
        ("text", "a\nb\n", "a\nb\n"),
        ("lines", "a\nb\n", ["a", "b"]),
        ("lines", "", []),
    ],
)
async def test_the_output_becomes_a_value(tmp_path: Path, output: Any, text: str, expected: Value) -> None:
    assert await run(CommandSpec("cat", ("cat",), stdin="text", output=output), text, tmp_path) == expected


@pytest.mark.parametrize("text", ["", "done", "NaN", '{"a": Infinity}', "1e999", "[" * 100_000])
async def test_output_that_is_not_json_fails(tmp_path: Path, text: str) -> None:
    error = await failure(CommandSpec("cat", ("cat",), stdin="text"), text, tmp_path)
    assert (error.code, error.data["reason"]) == ("process_failed", "invalid_output")


def test_strict_json_keeps_every_digit() -> None:
    assert parse_json("18446744073709551617") == 18446744073709551617
    with pytest.raises(ValueError, match="NaN"):
        parse_json("[NaN]")


async def test_lines_are_seen_as_they_come(tmp_path: Path) -> None:
    lines: list[tuple[str, str]] = []
    spec = python("print('step'); print('5')")
    assert await run(spec, None, tmp_path, on_line=lambda stream, line: lines.append((stream, line))) == 5
    assert lines == [("stdout", "step"), ("stdout", "5")]


# --- surroundings ---


async def test_it_runs_in_the_workspace_or_where_it_is_fixed(tmp_path: Path) -> None:
    (tmp_path / "fixed").mkdir()
    code = "import os, json; print(json.dumps(os.getcwd()))"
    assert await run(python(code), None, tmp_path) == str(tmp_path)
    assert await run(python(code, cwd=tmp_path / "fixed"), None, None) == str(tmp_path / "fixed")
    assert (await failure(python(code), None, None)).code == "workspace"


async def test_its_environment_has_what_was_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "k")
    monkeypatch.setenv("NOT_DECLARED", "canary")
    spec = python("import os, json; print(json.dumps(dict(os.environ)))", pass_env=("API_KEY",), env={"MODE": "fast"})
    environment = await run(spec, None, tmp_path, answers=[Answer("apr_1", "approve", "sha256:0")])
    assert isinstance(environment, dict)
    assert (environment["API_KEY"], environment["MODE"], environment["OMIUM_NODE_ID"]) == ("k", "fast", "build")
    assert "NOT_DECLARED" not in environment
    assert json.loads(str(environment["OMIUM_DECISION"])) == {
        "schema_version": 1,
        "approval": "apr_1",
        "choice": "approve",
        "question_hash": "sha256:0",
    }


# --- the ways to end ---


async def test_a_failing_program_is_reported_with_the_end_of_its_stderr(tmp_path: Path) -> None:
    code = (
        "import sys; print('x' * 100_000, file=sys.stderr); print('{\"event\": \"heartbeat\"}', file=sys.stderr);"
        "print('no such table', file=sys.stderr); sys.exit(3)"
    )
    error = await failure(python(code), None, tmp_path)
    assert (error.code, error.data["reason"], error.data["exit_code"]) == ("process_failed", "exit_code", 3)
    assert error.data["stderr"].endswith("x\nno such table")
    assert len(error.data["stderr"]) <= 4096


async def test_other_codes_can_be_successes(tmp_path: Path) -> None:
    assert await run(python("print(1); raise SystemExit(1)", success_codes=(0, 1)), None, tmp_path) == 1


async def test_a_signal_is_reported(tmp_path: Path) -> None:
    error = await failure(python("import os; os.abort()"), None, tmp_path)
    assert (error.data["reason"], error.data["signal"], error.data["exit_code"]) == ("signal", 6, None)


@pytest.mark.parametrize(("limit", "reason"), [("hard_timeout_s", "hard_timeout"), ("idle_timeout_s", "idle_timeout")])
async def test_timeouts_have_a_code_of_their_own(tmp_path: Path, limit: str, reason: str) -> None:
    error = await failure(CommandSpec("c", ("sleep", "600"), **{limit: 0.2}), None, tmp_path)  # type: ignore[arg-type]
    assert (error.code, error.data["reason"], error.data["limit_s"]) == ("timeout", reason, 0.2)


async def test_too_much_output_fails(tmp_path: Path) -> None:
    error = await failure(CommandSpec("c", ("yes",), output_limit_bytes=1000, stdin="none"), None, tmp_path)
    assert (error.code, error.data["reason"]) == ("process_failed", "output")
    assert "bytes of output" in error.message


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    error = await failure(CommandSpec("c", ("no-such-program-anywhere",)), None, tmp_path)
    assert (error.code, error.data["reason"]) == ("process_failed", "not_started")
