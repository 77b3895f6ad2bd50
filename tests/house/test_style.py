"""Ruff's checks and format hold over the tree, and its configuration is in force."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.house.tree import ROOT, run_in

RUFF = [sys.executable, "-m", "ruff"]
FINDINGS = {
    "E501": "x = 1  # " + "long " * 30,
    "F401": "import json",
    "B006": "def f(x: list[int] = []) -> None: ...",
    "S602": "import subprocess\n\nsubprocess.run('ls', shell=True)",
    "T201": "print('x')",
    "TID252": "from . import storage",
    "DTZ005": "import datetime\n\ndatetime.datetime.now()",
    "ASYNC251": "import time\n\n\nasync def f() -> None:\n    time.sleep(1)",
    "D100": "",
}


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_the_tree_is_clean(command: str) -> None:
    result = run_in(ROOT, [*RUFF, *command.split(), "--no-cache", "--output-format", "concise", "."])
    if result.returncode != 0:
        pytest.fail(result.stdout + result.stderr, pytrace=False)


@pytest.mark.parametrize(("code", "source"), FINDINGS.items(), ids=FINDINGS)
def test_a_planted_finding_is_reported(tmp_path: Path, code: str, source: str) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(source + "\nx = 1\n")
    config = str(ROOT / "pyproject.toml")
    result = run_in(
        ROOT, [*RUFF, "check", "--no-cache", "--config", config, "--output-format", "concise", str(planted)]
    )
    assert result.returncode == 1, result.stderr
    assert f" {code} " in result.stdout


def test_a_badly_formatted_file_is_reported(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text("x = {'a':1}\n")
    assert run_in(ROOT, [*RUFF, "format", "--check", "--no-cache", str(planted)]).returncode == 1
