"""The demo runs to its end, and README shows what it prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.cli.harness import PROGRAM
from tests.docs.generate import with_demo
from tests.docs.snippets import snippets
from tests.house.tree import ROOT

FIGURE = re.compile(r"\b(run|apr)_[0-9A-Z]{26}\b|\d+(\.\d+)?")


def shape(line: str) -> str:
    """A line without ids and figures, which differ each time."""
    return FIGURE.sub("#", line.rstrip())


def test_the_output_goes_between_the_markers() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    written = with_demo(readme, "1. Start\n\nIn 1 s\n")
    assert "```text\n1. Start\n\nIn 1 s\n```\n" in written
    assert with_demo(written, snippets(ROOT / "README.md", "text")[0].text) == readme


def test_the_demo_holds_what_it_says_and_readme_shows_it(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format("omium"), "demo", "--directory", str(directory)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "NOT SO" not in done.stdout
    assert done.stdout.count("   ok  ") == sum(line.startswith("   ok  ") for line in done.stdout.splitlines())
    (shown,) = snippets(ROOT / "README.md", "text")
    assert [shape(line) for line in shown.text.splitlines()] == [shape(line) for line in done.stdout.splitlines()]
    assert {"project", "repository", "outbox", "home"} <= {path.name for path in directory.iterdir()}
