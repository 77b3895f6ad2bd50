"""Every example does what its README says."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from omium.server.scaffold import scaffold
from tests.cli.harness import PATIENCE_S, Ended
from tests.examples.play import EXAMPLES, copied, interpreter, lines_of, play
from tests.house.tree import files

GIT = ("git", "-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false")


def output(ended: Ended) -> Any:
    """The JSON value that `omium show` prints last."""
    return json.loads(ended.out[ended.out.index("{") :])


def test_every_example_is_listed_has_a_readme_and_is_played_here() -> None:
    here = {path.parts[1] for path in files("examples") if len(path.parts) > 2}
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    for example in here:
        assert f"({example}/README.md)" in listed
        assert lines_of(example), example
    known = {"release_notes", "fan_out_research", "safe_deploy", "embedded", "trip_desk", "editorial", "code_change",
             "guarded_tools", "frameworks", "epic"}  # fmt: skip
    assert here == known


def test_release_notes(tmp_path: Path) -> None:
    repository, outbox = tmp_path / "repository", tmp_path / "outbox"
    repository.mkdir()
    outbox.mkdir()
    subprocess.run([*GIT, "init", "--quiet"], cwd=repository, check=True)
    for subject in ("feat: share a list", "fix: umlauts"):
        subprocess.run([*GIT, "commit", "--quiet", "--allow-empty", "-m", subject], cwd=repository, check=True)
    with copied("release_notes", tmp_path) as place:
        values = {"a git repository": str(repository), "a directory": str(outbox)}
        done = play(place, "release_notes", values, {"run": 3})
        assert output(done[2])["page"] == "site/1.0.html"
        assert "draft" in done[4].out and "first divergence" in done[4].out
        calls = (outbox / "calls.jsonl").read_text().splitlines()
        assert len(calls) == 2  # none was made again in the branch
        assert json.loads((outbox / "announcements.jsonl").read_text()) == {"version": "1.0"}


def test_epic(tmp_path: Path) -> None:
    """Its tests fail once and are mended, two people's decisions are waited for, and the repository has the merge."""
    lines = lines_of("epic")
    codes = [0, 3, 0, 3, 0, 0, 0]  # making the repository, then Genie until its gates, and the decisions
    with copied("epic", tmp_path) as place:
        subprocess.run(interpreter(lines[0]), cwd=place.directory, check=True)
        for line, code in zip(lines[1:], codes[1:], strict=True):
            ended = place.omium(*line.split()[1:])
            assert ended.code == code, f"{line}: {ended.code} {ended.out}{ended.err}"
            place.settled()
        nodes = {node["id"]: node["status"] for node in place.json("show", "last")["nodes"]}
        assert nodes["test.loop[0].fix"] == "skipped" and nodes["test.loop[1].fix"] == "completed"
        log = [*GIT, "log", "--merges", "--format=%s"]
        told = subprocess.run(log, cwd=place.directory / "repository", capture_output=True, text=True, check=True)
        assert told.stdout.startswith("Merge epic/")
        assert (place.directory / "repository" / "slug.py").exists()


def test_the_epic_is_the_one_that_its_template_begins(tmp_path: Path) -> None:
    scaffold("epic", tmp_path, "epic")
    own = {"README.md", "omium.yaml", "epic.yaml"}  # where the code lies is the difference
    shared = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    shared = [path for path in shared if path.parts[0] not in own | {"code", "tests"}]
    assert len(shared) > 10
    for path in shared:
        assert (EXAMPLES / "epic" / path).read_text("utf-8") == (tmp_path / path).read_text("utf-8"), path


def test_fan_out_research(tmp_path: Path) -> None:
    with copied("fan_out_research", tmp_path) as place:
        done = play(place, "fan_out_research", {}, {})
        neutral, sceptical = json.loads(done[1].out), json.loads(done[3].out)
        assert neutral == {
            "votes": {"yes": 3, "no": 1},
            "counted": ["almanac", "farmer", "journal", "neighbour"],
            "missing": 1,
        }
        assert sceptical == {"votes": {"yes": 2, "no": 1}, "counted": ["almanac", "farmer", "journal"], "missing": 1}
        nodes = {node["id"]: node for node in place.json("show", done[0].out.strip())["nodes"]}
        assert (nodes["read[journal]"]["attempt"], nodes["read[journal]"]["status"]) == (2, "completed")
        assert nodes["read[archive]"]["error"]["category"] == "permission_error"
        again = {event["data"]["node"] for event in events(place.omium("events", "last", "--json"))}
        assert again == {"summary"}


def events(ended: Ended) -> list[dict[str, Any]]:
    """The starts of nodes in a log as it is printed."""
    found = [json.loads(line) for line in ended.out.splitlines()]
    return [one for one in found if one["type"] == "node.started"]


def test_safe_deploy(tmp_path: Path) -> None:
    with copied("safe_deploy", tmp_path) as place:
        live: list[str] = []

        def look(_: int, __: Ended) -> None:
            current = place.directory / "live" / "current"
            live.append(current.read_text() if current.exists() else "")

        done = play(place, "safe_deploy", {}, {"run": 3}, look)
        assert live == ["", "1.0", "1.0", "", ""]  # asked, approved, shown, rolled back, shown
        assert output(done[2]) == {"live": "1.0", "before": None}
        assert "withdraw" in done[3].out
        assert "status\tpaused" in done[4].out
        page = place.directory / "live" / "releases" / "1.0" / "index.html"
        assert "Recipes 1.0" in page.read_text()


def test_embedded(tmp_path: Path) -> None:
    with copied("embedded", tmp_path) as place:
        (line,) = lines_of("embedded")
        said = []
        for _ in range(2):  # the second time the run is there already
            done = subprocess.run(
                interpreter(line),
                cwd=place.directory,
                env={**os.environ, **place.environment},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            said.append(done.stdout.splitlines())
        assert said[0][0] == "Add them up? yes"
        assert said[0][1].endswith("completed: {'words': 9}")
        assert said[1] == said[0][1:]


def test_trip_desk(tmp_path: Path) -> None:
    with copied("trip_desk", tmp_path) as place:
        done = play(place, "trip_desk", {}, {"run": 3})
        shown = json.loads(done[2].out)
        assert shown["summary"] == "Booked the night train." and json.loads(shown["answer"])["number"] == 1
        assert (place.directory / "bookings.txt").read_text() == "night train 89\n"
        assert "clerk@1 (default)" in done[3].out


def test_editorial(tmp_path: Path) -> None:
    with copied("editorial", tmp_path) as place:
        done = play(place, "editorial", {}, {})
        assert json.loads(done[1].out) == {"headline": "Stone outlasts us all", "publish": True}
        assert "reader.strict" in done[2].out


def test_guarded_tools(tmp_path: Path) -> None:
    with copied("guarded_tools", tmp_path) as place:
        done = play(place, "guarded_tools", {}, {"run": 3})
        assert "take the umbrella" in done[1].out and "write-notes" in done[1].out
        assert json.loads(done[3].out) == {"said": "I left a note."}
        assert "no-secrets-in-notes" in done[4].out and "delete_all" not in done[4].out
        assert "shady/weather\tpinned" in done[5].out
        assert (place.directory / "notes.txt").read_text() == "Rain in Bergen: take the umbrella\n"
        for database in place.directory.parent.rglob("omium.db*"):
            content = database.read_bytes()
            assert b"ghp_" not in content and b"root@shady.example" not in content


def test_code_change(tmp_path: Path) -> None:
    with copied("code_change", tmp_path) as place:
        done = play(place, "code_change", {}, {"run": 3})
        assert "code wants to call Write" in done[1].out
        told = output(done[3])
        assert told["said"] == "soup.html is written."
        assert [one["tool"] for one in told["denied"]] == ["Bash"]
