"""A project file that cannot be loaded stops what needs its definitions, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from omium.orchestration.errors import OmiumError
from omium.server.config import load_config
from omium.server.salvage import settings_of
from tests.cli.harness import PROJECT, Place

NO_YAML = PROJECT.replace("  shout:", "   shout:")
BROKEN = {
    "no YAML": (NO_YAML, "omium.yaml:6: "),
    "an unknown key": (f"{PROJECT}colour: blue\n", "omium.yaml:9: colour: unknown key 'colour'"),
    "no such module": (PROJECT.replace("steps:shout", "stops:shout"), "omium.yaml:6: functions.shout.ref: there is no"),
    "a name that is gone": (PROJECT.replace("shout:", "whisper:", 1), "the node 'shout' names the function 'shout'"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_runs_are_looked_at_and_steered_all_the_same(project: Place, how: str) -> None:
    text, problem = BROKEN[how]
    assert project.omium("run", "asking").code == 3
    asking = project.json("runs")["runs"][0]["id"]
    (approval,) = project.json("approvals", "--run", asking)
    (project.directory / "omium.yaml").write_text(text)
    warned = project.call("runs")
    assert (warned.exit_code, asking in warned.stdout) == (0, True)
    assert warned.stderr.startswith("warning: ") and problem in warned.stderr.splitlines()[0]
    assert warned.stderr.endswith("\nUntil that is repaired, runs can only be looked at and steered.\n")
    for arguments in (
        ("show", asking),
        ("events", asking),
        ("checkpoints", asking),
        ("approvals", "--run", asking),
        ("verify",),
        ("pause", asking),
        ("resume", asking),
    ):
        done = project.call(*arguments, "--json")
        assert (done.exit_code, done.stderr.count("warning: ")) == (0, 1), (arguments, done.output)
    approved = project.call("approve", approval["id"])
    assert approved.exit_code == 0, approved.output
    assert "nobody executes it before the project is repaired." in approved.stderr
    assert project.call("cancel", asking).exit_code == 0
    assert project.json("show", asking)["status"] == "cancelled"
    for arguments in (
        ("run", "hello"),
        ("run", "hello", "--detach"),
        ("workflows",),
        ("simulate", "hello"),
        ("rollback", asking, "start", "--yes"),
        ("worker", "--idle", "0.1"),
    ):
        refused = project.call(*arguments)
        assert (refused.exit_code, problem in refused.stderr) == (2, True), (arguments, refused.output)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("project: a\ndatabase: x.db\n  bad: [", {"project": "a", "database": "x.db"}),
        ('"project": "a"\nchain_key_file: \'k\'\nx: [', {"project": "a", "chain_key_file": "k"}),
        ("durability: normal # for now\nproject: a\nfunctions: {a: b", {"project": "a", "durability": "normal"}),
        ("project: a\nproject: b\nx: [", None),  # which one?
        ("project: a\ndatabase:\n  x.db\nx: [", None),  # in the line below
        ("project: a\ndatabase: [x.db]\nx: [", None),
        ("project: ../a\nx: [", None),
        ("database: x.db\nx: [", None),
        ("project: a\ndatabase: 'x.db\nx: [", None),
        ("- project: a", None),
        ("", None),
        ("project: a\ndatabase: 5\nfunctions: {}\n", None),  # it is read, and makes no sense
        ("project: a\nworkflows: none\n", {"project": "a"}),
    ],
)
def test_what_is_not_clear_is_not_guessed(tmp_path: Path, text: str, settings: dict[str, str] | None) -> None:
    (tmp_path / "omium.yaml").write_text(text)
    assert settings_of(tmp_path / "omium.yaml") == settings


def test_where_nothing_is_clear_the_error_stands(tmp_path: Path) -> None:
    (tmp_path / "omium.yaml").write_text("project: [\n")
    told: list[OmiumError] = []
    with pytest.raises(OmiumError) as refused:
        load_config(tmp_path, {}, broken=told.append)
    assert (refused.value.code, told) == ("invalid_definition", [])


def test_a_broken_project_has_the_place_of_its_runs_and_nothing_registered(tmp_path: Path) -> None:
    (tmp_path / "omium.yaml").write_text("project: a\ndatabase: x.db\ncolour: blue\n")
    told: list[OmiumError] = []
    config = load_config(tmp_path, {}, broken=told.append)
    assert (config.broken, config.project.id, config.database) == (True, "a", str(tmp_path / "x.db"))
    assert config.project.catalog().workflows == {}
    assert [error.code for error in told] == ["invalid_definition"]
    with pytest.raises(OmiumError, match="unknown key 'colour'"):
        load_config(tmp_path, {})
