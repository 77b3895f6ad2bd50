"""A run as files for others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cli.harness import Place


def read(directory: Path) -> dict[str, Any]:
    """Every file by its name: JSON, or a list of it line by line."""
    found: dict[str, Any] = {}
    for path in sorted(one for one in directory.rglob("*") if one.is_file()):
        text = path.read_text()
        lines = path.suffix == ".jsonl"
        found[str(path.relative_to(directory))] = (
            [json.loads(one) for one in text.splitlines()] if lines else json.loads(text)
        )
    return found


def test_state_values_and_log_are_written_and_never_read_back(project: Place, tmp_path: Path) -> None:
    run = project.omium("run", "hello", "-i", "name=ada").out.strip()
    project.json("checkpoint", run, "greeted", "--at", "node:greet")
    out = tmp_path / "out"
    told = project.json("export", run, "--output", str(out))
    files = read(out)
    assert (told["run"], told["files"]) == (run, len(files))
    assert (files["run.json"]["id"], files["run.json"]["status"], files["run.json"]["nodes"]) == (run, "completed", 2)
    assert files["run.json"]["format"] == "omium-run/1"
    assert files["inputs.json"] == {"value": {"name": "ada"}}
    assert files["output.json"] == {"value": {"text": "HELLO ADA"}}
    assert files["definition.json"]["value"]["name"] == "hello"
    assert {one["id"]: one["value"] for name, one in files.items() if name.startswith("nodes/")} == {
        "greet": {"text": "hello ada"},
        "shout": "HELLO ADA",
    }
    assert "greeted" in {one["label"] for one in files["checkpoints.json"]}
    assert [one["seq"] for one in files["events.jsonl"]] == list(range(1, files["run.json"]["seq"] + 1))
    assert {path.stat().st_mode & 0o077 for path in out.rglob("*")} == {0}
    (out / "nodes" / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    (out / "nodes" / "00001.json").write_text("{}")
    assert project.json("rollback", run, "greeted", "--yes")["run"]["status"] == "paused"
    assert project.call("export", run, "--output", str(out)).exit_code == 5


def test_a_run_is_written_as_it_stood(project: Place, tmp_path: Path) -> None:
    run = project.omium("run", "hello", "-i", "name=ada").out.strip()
    project.json("export", run, "--output", str(tmp_path / "then"), "--at", "node:greet")
    files = read(tmp_path / "then")
    assert files["run.json"]["status"] == "executing" and "output.json" not in files
    values = {one["id"]: one.get("value") for name, one in files.items() if name.startswith("nodes/")}
    assert values == {"greet": {"text": "hello ada"}, "shout": None}
    assert files["events.jsonl"][-1]["seq"] == files["run.json"]["seq"]


def test_what_cannot_be_written_leaves_nothing(project: Place, tmp_path: Path) -> None:
    run = project.omium("run", "hello", "-i", "name=ada").out.strip()
    (tmp_path / "file").write_text("")
    assert project.call("export", run, "--output", str(tmp_path / "file" / "x")).exit_code == 2
    assert project.call("export", "nothing", "--output", str(tmp_path / "none")).exit_code == 4
    assert project.call("export", run, "--output", str(tmp_path / "bad"), "--at", "9999").exit_code == 4
    assert [
        one.name for one in tmp_path.iterdir() if "none" in one.name or "bad" in one.name or "partial" in one.name
    ] == []
