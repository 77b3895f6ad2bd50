"""Forgetting old runs, and what the database's upkeep has done."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from omium.server.app import open_omium
from omium.server.commands.upkeep import dump_command
from omium.server.config import load_config
from omium.storage.maintenance import keeper
from omium.storage.maintenance.upkeep import last_times
from tests.cli.harness import PROJECT, Place

YEAR_US = 365 * 86_400 * 1_000_000


def age(place: Place) -> None:
    """Make every run a year old."""
    import sqlite3

    with sqlite3.connect(place.directory / "data/omium.db") as db:
        db.execute("UPDATE runs SET updated_at = updated_at - ?", (YEAR_US,))
    db.close()


def test_old_runs_are_forgotten_when_that_is_confirmed(project: Place) -> None:
    for _ in range(2):
        assert project.omium("run", "hello", "--input", "name=ada").code == 0
    newer, older = (run["id"] for run in project.json("runs")["runs"])
    project.json("checkpoint", older, "keep-me")
    nothing = project.call("retain", "--older-than", "90d")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "nothing is that old.\n")
    age(project)
    seen = project.json("retain", "--older-than", "90d", "--forget", "runs", "--preview")
    assert seen == {
        "preview": True, "dropped": [newer], "erased": [], "kept": {older: f"{older} has the label 'keep-me'"},
        "shared": 0, "origins": [],
    }  # fmt: skip
    refused = project.call("retain", "--older-than", "90d", "--forget", "runs")
    assert (refused.exit_code, len(project.json("runs")["runs"])) == (5, 2)
    assert project.json("retain", "--older-than", "90d", "--forget", "runs", "--yes")["dropped"] == [newer]
    assert [run["id"] for run in project.json("runs")["runs"]] == [older]
    assert project.call("retain", "--older-than", "soon").exit_code == 2


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:secret@db.example:5433/omium", "postgresql://ada@db.example:5433/omium"),
        ("postgresql+asyncpg://db/omium?password=x&sslmode=require", "'postgresql://db/omium?sslmode=require'"),
    ],
)
def test_a_postgresql_database_is_backed_up_by_its_own_program(url: str, shown: str) -> None:
    told = dump_command(url, Path("/backups/of may"))
    assert told == f"pg_dump --format=custom --no-owner --file='/backups/of may'.dump {shown}"


def test_a_postgresql_database_is_not_restored_here(project: Place) -> None:
    done = project.call("restore", "b", "--database", "postgresql://ada:secret@db/omium")
    assert done.exit_code == 1 and "secret" not in done.output
    assert "pg_restore --exit-on-error --no-owner --dbname=postgresql://ada@db/omium /" in done.stderr
    assert "psql --set=ON_ERROR_STOP=1 --dbname=postgresql://ada@db/omium --command='UPDATE budgets" in done.stderr


def test_the_configured_upkeep_is_done_at_once_and_shown(project: Place) -> None:
    (project.directory / "omium.yaml").write_text(f"{PROJECT}retention: {{after: 90d, forget: runs}}\n")
    assert project.omium("run", "hello", "--input", "name=ada").code == 0
    assert project.call("upkeep").stderr.startswith("never. ")
    age(project)
    assert project.call("upkeep", "--now").exit_code == 0
    retained, swept = project.json("upkeep")
    assert (retained["name"], retained["outcome"]) == ("retention of greetings", {"dropped": 1, "erased": 0, "kept": 0})
    assert (swept["name"], swept["outcome"]["files"]) == ("sweep", 0)
    assert "\tdropped 1, erased 0, kept 0\n" in project.call("upkeep").stdout
    assert project.json("runs")["runs"] == []


@pytest.mark.anyio
async def test_a_process_that_executes_does_it_in_the_background(
    project: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    import anyio

    monkeypatch.setattr("omium.storage.maintenance.upkeep.FIRST_S", 0.0)
    for text, found in ((PROJECT, ["sweep"]), (f"{PROJECT}upkeep: {{enabled: false}}\n", ["sweep"])):
        (project.directory / "omium.yaml").write_text(text)
        before = time.time_ns() // 1000
        async with open_omium(load_config(project.directory, {})) as core:
            with anyio.fail_after(20):
                while not (told := await last_times(keeper(core.store))):
                    await anyio.sleep(0.01)  # real time: another task's work
        assert [one.name for one in told] == found
        assert (told[0].started_at >= before) == (text == PROJECT)
