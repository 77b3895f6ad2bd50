"""The list of controls counts what was done, and finds a log that was changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from tests.cli.harness import PROJECT, Place
from tests.cli.harness import place as made

SAID = "budgets: {all: {usd: 5}}\nretention: {after: 90d}\n"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with made(tmp_path / "project") as one:
        (one.directory / "omium.yaml").write_text(PROJECT + SAID)
        yield one


def test_what_was_done_is_counted(place: Place) -> None:
    before = {one["control"]: one for one in place.json("controls")}
    assert before["people decide about what is risky"]["state"] == "not used"
    assert place.omium("run", "asking").code == 3
    assert place.omium("approve", "last").code == 0
    place.settled()
    place.json("token", "create", "--role", "viewer", "--principal", "eve")
    place.json("raise-budget", "all", "--usd", "1")
    gone = place.omium("run", "hello", "--input", "name=ada").out.split()[0]
    place.end_workers()
    place.json("erase", gone, "--yes")
    found = {one["control"]: (one["state"], one["evidence"]) for one in place.json("controls")}
    state, chain = found["what happened cannot be changed unnoticed"]
    assert (state, chain["runs"], chain["chain"], chain["broken chains"]) == ("holds", 2, "sha256", 0)
    assert chain["events"] > 10
    state, people = found["people decide about what is risky"]
    assert (state, people["decided, elicited"], people["decided by others than the owner"]) == ("in use", 1, 0)
    assert found["callers have credentials and roles"][1]["tokens, active"] == 1
    assert found["spending is limited"][1] == {
        "budgets": 1, "times that one told how far it was": 0, "times that one was raised": 1,
    }  # fmt: skip
    assert found["data goes when its time is over"] == (
        "in use",
        {"retention": "contents after 90 days", "erased": 1, "dropped": 0},
    )
    assert found["releases are signed"] == ("not used", {"installed": 0})
    assert "chain\tsha256" in place.call("controls").stdout


def test_a_changed_log_is_found(place: Place) -> None:
    assert place.omium("run", "hello", "--input", "name=ada").code == 0
    place.end_workers()
    with closing(sqlite3.connect(place.directory / "data" / "omium.db")) as db, db:
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'events'"
        for (name,) in db.execute(triggers).fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE events SET actor = 'user:eve' WHERE seq = 2")
    told = place.call("controls", "--json")
    assert told.exit_code == 1 and orjson.loads(told.stdout)[0]["state"] == "broken"
