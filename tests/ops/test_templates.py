"""Every template begins a project that runs offline, as its README says, and whose own tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from omium.server.commands.scaffolding import _TEMPLATES
from omium.server.scaffold import TEMPLATES, scaffold
from tests.cli.harness import Place
from tests.docs.snippets import command_lines, snippets, words

WAITS = {"release-notes": 3, "epic": 3}
OUTPUTS: dict[str, Any] = {
    "release-notes": {"page": "1.0.md", "lines": 13},
    "research": {"answer": "yes", "votes": {"yes": 2, "no": 1}, "heard": ["almanac", "neighbour", "journal"]},
    "epic": {
        "into": "delivered",
        "files": ["shorten.py", "slug.py", "test_shorten.py", "test_slug.py", "test_titles.py", "titles.py"],
    },
    "pipeline": {"rows": 3, "loaded": 3, "refused": 1, "total": "114.75"},
}


def begun(template: str, directory: Path) -> Place:
    """`omium init` in an empty directory, by the command itself."""
    place = Place(directory / "begun")
    done = place.call("init", template, "--directory", str(place.directory))
    assert done.exit_code == 0, done.output
    return place


def test_the_command_knows_every_template() -> None:
    assert tuple(TEMPLATES) == _TEMPLATES
    assert set(OUTPUTS) == set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_runs_as_its_readme_says(template: str, tmp_path: Path) -> None:
    place = begun(template, tmp_path)
    lines = [line for one in snippets(place.directory / "README.md", "sh") for line in command_lines(one.text)]
    assert lines
    try:
        for number, line in enumerate(lines):
            program, *arguments = words(line)
            assert program == "omium", line
            ended = place.omium(*arguments)
            expected = WAITS.get(template, 0) if number == 0 else 0
            assert ended.code == expected, f"{line}: {ended.code}\n{ended.out}{ended.err}"
            place.settled()
        workflow = "release-notes" if template == "release-notes" else template
        runs = [run for run in place.json("runs", "--status", "completed")["runs"] if run["workflow"] == workflow]
        if template == "release-notes":  # its README ends with a rollback
            assert runs == []
            assert "retracted 1.0" in (place.directory / "published.txt").read_text()
        else:
            assert place.json("show", runs[-1]["id"])["output"] == OUTPUTS[template]
        if template == "research":
            assert place.json("show", runs[0]["id"])["output"]["answer"] == "no"  # the branch
    finally:
        place.end_workers()


@pytest.mark.parametrize("template", TEMPLATES)
def test_nothing_is_to_be_said_against_a_template(template: str, tmp_path: Path) -> None:
    """It is the first thing that somebody sees, and what they go by."""
    place = begun(template, tmp_path)
    (name,) = [path.stem for path in (place.directory / "workflows").iterdir()]
    seen = place.json("simulate", name, *(["--input", "goal=x"] if template == "epic" else []))
    assert seen["warnings"] == []
    assert "last last" not in (place.directory / "README.md").read_text()  # that is one and the same run


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_templates_own_tests_pass(template: str, tmp_path: Path) -> None:
    place = begun(template, tmp_path)
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=place.directory, capture_output=True, text=True, check=False, timeout=120,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_fits_the_formatter_and_the_linter(template: str, tmp_path: Path) -> None:
    place = begun(template, tmp_path)
    for arguments in (["check", "--select", "E,F,W,I,B"], ["format", "--check"]):
        told = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--isolated", "--line-length", "120", "."],
            cwd=place.directory, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert told.returncode == 0, told.stdout + told.stderr


def test_nothing_is_written_over(tmp_path: Path) -> None:
    place = begun("pipeline", tmp_path)
    before = {path: path.read_bytes() for path in place.directory.rglob("*") if path.is_file()}
    again = place.call("init", "research", "--directory", str(place.directory))
    assert again.exit_code == 5 and "README.md" in again.stderr
    assert {path: path.read_bytes() for path in place.directory.rglob("*") if path.is_file()} == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "steps.py").write_text("mine")
    assert place.call("init", "pipeline", "--directory", str(tmp_path / "other")).exit_code == 5
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["steps.py"]


def test_the_project_is_called_after_its_directory_or_as_told(tmp_path: Path) -> None:
    assert scaffold("pipeline", tmp_path / "My Orders!").project == "My-Orders"
    assert scaffold("pipeline", tmp_path / "...").project == "project"
    made = Place(tmp_path).call("init", "research", "--directory", str(tmp_path / "x"), "--name", "weather", "--json")
    assert '"project": "weather"' in made.stdout
    bad = Place(tmp_path).call("init", "research", "--directory", str(tmp_path / "y"), "--name", "a b\nc")
    assert bad.exit_code == 2 and not (tmp_path / "y").exists()


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = Place(tmp_path).call("init", "research", "--directory", str(tmp_path / "file" / "x"))
    assert done.exit_code == 1 and "cannot write" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_both_names(shell: str, tmp_path: Path) -> None:
    done = Place(tmp_path).call("completion", shell)
    assert done.exit_code == 0
    assert "_OMIUM_COMPLETE" in done.stdout and "_OMIUM_MCP_COMPLETE" in done.stdout


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """The very script, in the very shell."""
    place = Place(tmp_path)
    script = tmp_path / "completion.bash"
    script.write_text(place.call("completion", "bash").stdout)
    for typed, offered in (("omium compl", "completion"), ("omium backup --jso", "--json")):
        count = len(typed.split()) - 1
        ask = (
            f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={count}; _omium_completion omium;"
            ' printf "%s\\n" "${COMPREPLY[@]}"'
        )
        program = tmp_path / "omium"
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.argv[0] = 'omium'\nfrom omium.server.cli import main\nmain()\n"
        )
        program.chmod(0o755)
        told = subprocess.run(
            ["bash", "--norc", "-c", ask], capture_output=True, text=True, check=False, timeout=60,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert told.stdout.split() == [offered], told.stdout + told.stderr
