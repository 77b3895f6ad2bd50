"""The CI script is what it says: executable, valid, and the same test command that people type."""

from __future__ import annotations

import os
import subprocess
import tomllib

from tests.house.tree import ROOT

SCRIPT = ROOT / ".ci" / "run"
TEST_COMMAND = ".venv/bin/python -m pytest"


def test_the_script_runs() -> None:
    assert os.access(SCRIPT, os.X_OK)
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


def test_the_script_runs_the_documented_test_command() -> None:
    assert TEST_COMMAND in SCRIPT.read_text("utf-8")
    assert TEST_COMMAND in (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_a_warning_is_an_error() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    assert settings["filterwarnings"][0] == "error"
    assert settings["strict"] is True
