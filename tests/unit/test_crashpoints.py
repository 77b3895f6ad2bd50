"""Crash points: the registry and the code name the same places, and a misspelt name never passes silently."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import omium.orchestration.crashpoints as crashpoints
from omium.orchestration.crashpoints import CRASH_POINTS, crash_point

ROOMS = ("orchestration", "storage", "clients", "tools", "server")


def named_in_code() -> dict[str, list[str]]:
    """Every literal given to `crash_point(...)` in the product, with the files that name it."""
    root = Path(crashpoints.__file__).resolve().parent.parent
    found: dict[str, list[str]] = {}
    for path in (path for room in ROOMS for path in (root / room).rglob("*.py")):
        text = path.read_text()
        if "crash_point(" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "crash_point":
                (name,) = node.args
                assert isinstance(name, ast.Constant), f"{path.name}: the name must be a literal"
                found.setdefault(name.value, []).append(path.name)
    return found


def run(program: str, crash_at: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"from omium.orchestration.crashpoints import crash_point\n{program}"],
        env={**os.environ, "OMIUM_CRASH_AT": crash_at},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_every_declared_point_is_in_the_code_and_every_one_in_the_code_is_declared() -> None:
    assert set(named_in_code()) == CRASH_POINTS


def test_nothing_happens_unless_armed() -> None:
    for name in CRASH_POINTS:
        crash_point(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("crash_at", ["blob.file.typo", "blob.file.synced:0", "blob.file.synced:x", ":1"])
def test_arming_what_does_not_exist_fails_at_once(crash_at: str) -> None:
    done = run("print('survived')", crash_at)
    assert done.returncode == 1
    assert "ValueError" in done.stderr


def test_an_undeclared_point_is_an_error_in_an_armed_process() -> None:
    done = run("crash_point('blob.file.typo')", "blob.file.synced")
    assert done.returncode == 1
    assert "not declared" in done.stderr


def test_the_armed_hit_kills_and_only_that_one() -> None:
    program = "crash_point('blob.file.written')\ncrash_point('blob.file.synced')\nprint('once', flush=True)\n" * 2
    assert run(program, "blob.file.synced:2").stdout == "once\n"
    assert run(program, "blob.file.synced:2").returncode == -signal.SIGKILL
    assert run(program, "blob.file.synced:3").stdout == "once\nonce\n"
