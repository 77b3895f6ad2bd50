"""Erasing what belongs to a run, a session or a caller: contents, rows and files of theirs, and of nobody else."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import orjson

from tests.cli.harness import Place

SECRET = "ada-lovelace-was-here"
STEPS = """

def told(name: str) -> dict:
    print(name)
    return {"told": name}
"""
FUNCTIONS = '  told: "steps:told"\n'
WORKFLOW = """
name: told
inputs: {type: object, properties: {name: {type: string}}}
outputs: {text: "${{ nodes.told.output.told }}"}
nodes:
- {id: told, kind: function, use: told, with: {name: "${{ inputs.name }}"}}
"""
OUTER = """
name: outer
inputs: {type: object, properties: {name: {type: string}}}
nodes:
- {id: inner, kind: workflow, use: told, with: {name: "${{ inputs.name }}"}}
"""


PART = """
name: part
inputs: {type: object, properties: {name: {type: string}}}
nodes:
- {id: inner, kind: workflow, use: told, with: {name: "${{ inputs.name }}"}}
- {id: gate, kind: approval, needs: inner, approval: {prompt: "Go on?"}}
"""


def talking(place: Place) -> Place:
    steps, project = place.directory / "steps.py", place.directory / "omium.yaml"
    steps.write_text(steps.read_text() + STEPS)
    project.write_text(project.read_text() + FUNCTIONS)
    for name, text in (("told", WORKFLOW), ("outer", OUTER)):
        (place.directory / "workflows" / f"{name}.yaml").write_text(text)
    return place


def started(place: Place, workflow: str, *arguments: str) -> str:
    ended = place.omium("run", workflow, *arguments)
    assert ended.code in (0, 3), ended
    place.end_workers()
    return ended.out.split()[0]


def left(place: Place, home: Path) -> dict[str, set[str]]:
    """Which runs have rows, and which have directories."""
    with sqlite3.connect(place.directory / "data/omium.db") as db:
        rows = {one for (one,) in db.execute("SELECT DISTINCT run_id FROM events")}
    db.close()
    directories = {path.name for path in (home / "runs").iterdir() if path.name.startswith("run_")}
    return {"rows": rows, "directories": directories}


def home_of(place: Place) -> Path:
    return Path(place.environment["OMIUM_HOME"])


def anywhere(*roots: Path) -> list[str]:
    files = [
        path for root in roots for path in root.rglob("*") if path.is_file() and path.suffix not in (".py", ".yaml")
    ]
    return [str(path) for path in files if SECRET.encode() in path.read_bytes()]


def test_a_session_goes_and_another_stays(project: Place) -> None:
    place, home = talking(project), home_of(project)
    gone = [started(place, "told", "--session", "demo", "--input", f"name={SECRET}") for _ in range(2)]
    other = started(place, "told", "--session", "other", "--input", "name=bo")
    place.json("checkpoint", gone[0], "a-label")
    assert left(place, home)["directories"] == {*gone, other}
    seen = place.json("erase", "--session", "demo", "--forget", "runs", "--preview")
    assert (seen["preview"], sorted(seen["dropped"]), seen["kept"]) == (True, sorted(gone), {})
    refused = place.call("erase", "--session", "demo", "--forget", "runs")
    assert (refused.exit_code, left(place, home)["rows"]) == (5, {*gone, other})
    assert place.json("erase", "--session", "demo", "--forget", "runs", "--yes")["dropped"] == seen["dropped"]
    assert left(place, home) == {"rows": {other}, "directories": {other}}
    assert anywhere(place.directory / "data", home) == []
    assert place.call("verify").exit_code == 0
    assert place.json("show", other)["output"] == {"text": "bo"}
    nothing = place.call("erase", "--session", "demo", "--yes")
    assert (nothing.exit_code, nothing.stderr) == (0, "there are no such runs.\n")


def test_contents_go_while_the_logs_stay_and_verify(project: Place) -> None:
    place, home = talking(project), home_of(project)
    run = started(place, "outer", "--input", f"name={SECRET}")
    inner = next(one["id"] for one in place.json("runs", "--children")["runs"] if one["id"] != run)
    assert anywhere(place.directory / "data", home)
    alone = place.call("erase", inner, "--yes", "--json")
    assert (alone.exit_code, orjson.loads(alone.stdout)["kept"]) == (5, {inner: f"{inner} is a part of {run}"})
    done = place.json("erase", run, "--yes", "--reason", "ticket 7")
    assert (sorted(done["erased"]), done["dropped"]) == (sorted([run, inner]), [])
    assert anywhere(place.directory / "data", home) == []
    assert left(place, home) == {"rows": {run, inner}, "directories": set()}
    assert place.call("verify").exit_code == 0
    events = [orjson.loads(line) for line in place.call("events", inner, "--json").stdout.splitlines()]
    (erased,) = [event for event in events if event["type"] == "erased"]
    assert erased["data"]["reason"] == "ticket 7"
    assert place.json("erase", run, "--yes")["erased"] == done["erased"]  # a repeat finishes what was interrupted
    out = place.directory / "out"
    assert place.json("export", inner, "--output", str(out))["erased"] > 0
    assert "because they were erased: " in place.call("export", inner, "--output", f"{out}-2").stderr
    shown = place.json("show", inner)
    assert (shown["status"], shown["output"], "was erased" in shown["no_output"]) == ("completed", None, True)
    node = place.json("show", inner, "--node", "told")
    assert (node["status"], node["value"], "was erased" in node["no_value"]) == ("completed", None, True)
    for asked in ((), ("--node", "told")):
        seen = place.call("show", inner, *asked)
        assert (seen.exit_code, "null" in seen.stdout, "was erased" in seen.stderr) == (0, False, True)
        refused = place.call("show", inner, *asked, "--output")
        assert (refused.exit_code, refused.stdout, "was erased" in refused.stderr) == (4, "", True)
    copy = place.directory / "data" / "omium.db.before-0005.bak"
    copy.write_text("as it was")
    again = place.call("erase", run, "--forget", "runs", "--yes")
    assert (again.exit_code, f"until you delete that: {copy}" in again.stderr.replace("\n", "")) == (0, True)


def test_what_goes_on_or_was_branched_stays_and_says_so(project: Place) -> None:
    place = talking(project)
    waiting = started(place, "asking")
    told = place.call("erase", "last", "--yes")
    assert (told.exit_code, f"{waiting} has not ended" in told.stdout) == (5, True)
    parent = started(place, "told", "--input", "name=ada")
    assert place.omium("branch", parent, "before:told", "--name", "b", "--yes").code == 0
    place.settled()
    place.end_workers()
    branch = place.json("runs", "--limit", "1")["runs"][0]["id"]
    told = place.call("erase", parent, "--forget", "runs", "--yes")
    assert (told.exit_code, f"is where branch {branch} came from" in told.stdout) == (5, True)
    assert sorted(place.json("erase", parent, branch, "--forget", "runs", "--yes")["dropped"]) == sorted(
        [parent, branch]
    )


def test_what_branches_took_over_stays_until_they_are_erased_as_well(project: Place) -> None:
    place, home = talking(project), home_of(project)
    parent = started(place, "told", "--session", "demo", "--input", f"name={SECRET}")
    assert place.omium("branch", parent, "before:told", "--name", "b", "--yes").code == 0
    place.settled()
    place.end_workers()
    branch = place.json("runs", "--limit", "1")["runs"][0]["id"]
    for asked in ((parent, "--preview"), (parent, "--yes"), ("--session", "demo", "--yes")):
        told = place.call("erase", *asked, "--json")
        kept = orjson.loads(told.stdout)["kept"]
        assert (told.exit_code, f"for branches b ({branch})" in kept[parent]) == (5, True), told
    assert place.json("erase", parent, branch, "--preview")["kept"] == {}
    alone = place.call("erase", branch, "--yes")
    assert (alone.exit_code, f"erase that too: {parent}" in alone.stderr.replace("\n", " ")) == (0, True), alone
    assert place.call("erase", parent, "--yes").exit_code == 0
    assert anywhere(place.directory / "data", home) == []
    assert place.call("verify").exit_code == 0


def test_what_is_asked_wrongly_is_refused(project: Place) -> None:
    assert project.call("erase", "--yes").exit_code == 2
    assert project.call("erase", "run_00000000000000000000000000", "--yes").exit_code == 4
    assert project.call("erase", "--session", "s", "--reason", "two\nlines").exit_code == 2


def test_nothing_of_a_run_goes_before_all_of_it_has_ended(project: Place) -> None:
    place = talking(project)
    (place.directory / "workflows" / "part.yaml").write_text(PART)
    run = started(place, "part", "--input", "name=ada")
    told = place.call("erase", run, "--yes")
    assert (told.exit_code, f"{run} has not ended" in told.stdout) == (5, True)
    inner = next(one["id"] for one in place.json("runs", "--children")["runs"] if one["id"] != run)
    assert place.json("show", inner)["output"] == {"text": "ada"}


def test_what_others_share_stays_and_is_counted(project: Place) -> None:
    place = talking(project)
    one, two = (started(place, "told", "--input", "name=ada") for _ in range(2))
    seen = place.call("erase", one, "--preview")
    assert f"would be erased\t{one}" in seen.stdout
    told = place.call("erase", one, "--yes")
    assert "contents stay: other runs were given or gave the same" in told.stderr
    assert place.json("erase", two, "--yes")["shared"] == 0
    assert place.call("show", one, "--output").exit_code == 4


def test_a_number_is_a_duration_of_seconds(project: Place) -> None:
    assert project.call("run", "hello", "-i", "name=bo", "--detach").exit_code == 0
    assert project.call("retain", "--older-than", "3600", "--preview").exit_code == 0
    assert project.call("retain", "--older-than", "3600x", "--preview").exit_code == 2


def test_nothing_is_branched_off_what_is_erased(project: Place) -> None:
    place = talking(project)
    run = started(place, "told", "--input", "name=ada")
    place.json("erase", run, "--yes")
    refused = place.call("branch", run, "start", "--name", "b", "--yes")
    assert (refused.exit_code != 0, "cannot go on" in refused.stderr) == (True, True)
    assert place.call("verify").exit_code == 0
