"""What holds, and who says so."""

from __future__ import annotations

from typing import Any

from omium.server.commands.upkeep import without_password
from omium.server.config import Limits
from omium.server.effective import _VARIABLES
from omium.server.project_file import LimitsFile
from tests.cli.harness import PROJECT, Place
from tests.house.tree import ROOT

SAID = """
commands:
  deploy: {argv: ["true"], timeout: 3s}
  build.all: {argv: ["true"]}
limits: {slots: 12, resources: {gpu.big: 2}}
retention: {after: 90d}
supervision:
  timeouts: {idle: 10s}
  commands: {build.all: {hard: 2h}}
"""
VARIABLES = {
    "OMIUM_READS": "5",
    "OMIUM_SUPERVISION_TIMEOUTS_STALL": "none",
    "OMIUM_DATABASE": "postgresql://ada:lovelace@db/omium",
}


def shown(place: Place, *arguments: str) -> dict[str, tuple[Any, str]]:
    return {one["key"]: (one["value"], one["source"]) for one in place.json("config", *arguments)}


def test_each_setting_says_its_value_and_who_says_so(project: Place) -> None:
    (project.directory / "omium.yaml").write_text(PROJECT + SAID)
    project.environment |= VARIABLES
    found = shown(project)
    assert found["project"] == ("greetings", "omium.yaml")
    assert found["database"] == ("postgresql://ada@db/omium", "OMIUM_DATABASE")
    assert found["limits.slots"] == (12, "omium.yaml")
    assert found["limits.resources.gpu.big"] == (2, "omium.yaml")
    assert found["limits.requests.reads"] == (5, "OMIUM_READS")
    assert found["limits.runs"] == (Limits().runs, "default")
    assert found["retention.after"] == (90 * 86_400, "omium.yaml")
    assert found["supervision.timeouts.idle"] == (10, "omium.yaml")
    assert found["commands.deploy.hard"] == (3, "omium.yaml (commands.deploy.timeout)")
    assert found["commands.build.all.hard"] == (7_200, "omium.yaml (supervision.commands.build.all.hard)")
    assert found["commands.deploy.idle"] == (10, "omium.yaml (supervision.timeouts.idle)")
    assert found["commands.deploy.stall"] == (None, "OMIUM_SUPERVISION_TIMEOUTS_STALL")
    assert found["commands.deploy.max_resumes"] == (3, "default")


def test_part_of_it(project: Place) -> None:
    (project.directory / "omium.yaml").write_text(PROJECT + SAID)
    assert set(shown(project, "limits.requests")) == {
        f"limits.requests.{name}" for name in ("reads", "changes", "starts", "concurrent", "failures")
    }
    changed = shown(project, "--changed")
    assert "default" not in {source for _, source in changed.values()} and "limits.slots" in changed
    assert project.call("config", "limits.slots").stdout == "limits.slots\t12\tomium.yaml\n"
    assert project.call("config", "nonsense").stderr == "there is no such setting.\n"


def test_what_is_wrong_with_the_file_is_told_with_its_line(project: Place) -> None:
    (project.directory / "omium.yaml").write_text(f"{PROJECT}supervision:\n  timeouts: {{idel: 10s}}\n")
    told = project.call("config")
    assert told.exit_code == 2 and "idel" in told.stderr and "omium.yaml:" in told.stderr
    project.environment["OMIUM_SLOTS"] = "many"
    (project.directory / "omium.yaml").write_text(PROJECT)
    told = project.call("config")
    assert told.exit_code == 2 and "OMIUM_SLOTS" in told.stderr


def test_every_limit_of_the_file_is_there(project: Place) -> None:
    keys = set(shown(project, "limits"))
    assert {f"limits.{name}" for name in LimitsFile.model_fields} - {"limits.resources", "limits.requests"} <= keys


def test_every_variable_that_it_names_is_documented() -> None:
    documented = (ROOT / "docs" / "workflows.md").read_text("utf-8")
    assert [name for name in _VARIABLES.values() if f"`{name}`" not in documented] == []


def test_a_database_that_nobody_serves_is_refused_as_the_commands_refuse_it(project: Place) -> None:
    project.environment["OMIUM_DATABASE"] = "mysql://ada:lovelace@db/omium"
    refused = project.call("config")
    assert (refused.exit_code, refused.stdout) == (2, "") and "'mysql'" in refused.stderr
    assert (refused.stderr, refused.exit_code) == (project.call("runs").stderr, project.call("runs").exit_code)


def test_an_address_is_shown_as_it_is_without_its_passwords(project: Place) -> None:
    project.environment["OMIUM_DATABASE"] = "postgres://ada:lovelace@db/omium?sslpassword=byron&sslmode=require"
    assert shown(project)["database"][0] == "postgres://ada@db/omium?sslmode=require"
    assert without_password("mysql+x://ada:lovelace@db:1/o") == "mysql+x://ada@db:1/o"
