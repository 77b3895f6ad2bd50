"""The audit trail as files: complete, checkable without the database, and harmless to whoever opens them."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omium.orchestration.errors import OmiumError
from omium.orchestration.log.chain import Chain
from omium.server.audit.checking import check
from omium.server.audit.records import Proof, Record
from omium.server.audit.report import pdf
from omium.server.audit.writing import csv_rows, jsonl
from tests.cli.harness import HOSTILE, Place


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("audit") / "project")
    assert place.call("run", "hello", "--input", f"name={HOSTILE}", "--title", "=HYPERLINK(1)").exit_code == 0
    assert place.call("run", "asking").exit_code == 3
    assert place.call("approve", "last").exit_code == 0
    assert place.call("token", "create", "--role", "viewer").exit_code == 0
    return place


def exported(place: Place, tmp_path: Path, form: str, *what: str) -> Path:
    path = tmp_path / f"audit.{form}"
    done = place.call("audit", *what, "--format", form, "--output", str(path))
    assert done.exit_code == 0, done.output
    assert path.stat().st_mode & 0o077 == 0
    return path


def test_jsonl_holds_every_event_and_checks_without_the_database(place: Place, tmp_path: Path) -> None:
    path = exported(place, tmp_path, "jsonl", "--all")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["algorithm"] == "sha256" and lines[-1]["record"] == "end"
    proofs = {line["log"]: line for line in lines if line["record"] == "proof"}
    assert f"project:{place.json('runs')['runs'][0]['project']}" in proofs
    for run in place.json("runs")["runs"]:
        events = [json.loads(line) for line in place.call("events", run["id"], "--json").stdout.splitlines()]
        mine = [line for line in lines if line["record"] == "event" and line["log"] == run["id"]]
        assert [line["hash"] for line in mine] == [event["hash"] for event in events]
        assert proofs[run["id"]]["head"] == events[-1]["hash"]
    assert place.call("audit", "--check", str(path)).exit_code == 0
    told = place.json("audit", "--check", str(path))
    assert told["sound"] and told["logs"] == len(proofs)


def tampered(path: Path, old: str, new: str) -> bytes:
    text = path.read_text()
    assert old in text
    return text.replace(old, new, 1).encode()


def test_whatever_is_changed_shows(place: Place, tmp_path: Path) -> None:
    path = exported(place, tmp_path, "jsonl", "--all")
    whole = path.read_bytes().splitlines(keepends=True)
    assert check(whole, Chain()).problems == ()
    for changed in (
        whole[:-1],  # cut off
        whole[:3] + whole[4:],  # one left out
        [whole[0], whole[2], whole[1], *whole[3:]],  # two changed places
        [*whole, whole[1]],  # one more
        tampered(path, '"actor":"', '"actor":"mallory').splitlines(keepends=True),
        tampered(path, "approve", "reject ").splitlines(keepends=True),
        [b"nonsense\n", *whole[1:]],
        [],
    ):
        assert check(changed, Chain()).problems
    assert check(whole, Chain(b"k" * 32)).problems  # another key
    (tmp_path / "bad.jsonl").write_bytes(b"".join(whole[:-1]))
    assert place.call("audit", "--check", str(tmp_path / "bad.jsonl")).exit_code == 1


@given(st.data())
def test_a_changed_byte_is_found(data: st.DataObject) -> None:
    found = [Record("run_1", 1, "run.created", 5, "user:ada", b'{"a":1}', *_linked(), None)]
    lines = list(jsonl([*found, Proof("run_1", 1, found[0].hash)], False))
    text = bytearray(b"".join(lines))
    place = data.draw(st.integers(0, len(text) - 2))
    value = data.draw(st.integers(32, 126).filter(lambda one: one != text[place]))
    text[place] = value
    assert check(bytes(text).splitlines(keepends=True), Chain()).problems


def _linked() -> tuple[str, str]:
    _, digest = Chain().link(bytes(32), "run_1", 1, "run.created", 5, "user:ada", {"a": 1})
    return bytes(32).hex(), digest.hex()


def test_a_damaged_database_is_told_with_its_place(place: Place, tmp_path: Path) -> None:
    import shutil

    other = Place(tmp_path / "copy")
    shutil.copytree(place.directory, other.directory)
    with closing(sqlite3.connect(other.directory / "data" / "omium.db")) as db:
        db.execute("DROP TRIGGER events_no_update")
        db.execute("UPDATE events SET actor = 'user:mallory' WHERE type = 'approval.decided'")
        db.commit()
    path = tmp_path / "audit.jsonl"
    done = other.call("audit", "--all", "--output", str(path))
    assert done.exit_code == 1 and "does not match its hash" in done.stderr
    assert other.call("audit", "--check", str(path)).exit_code == 1
    assert other.call("audit", "--all", "--format", "pdf", "--output", str(tmp_path / "a.pdf")).exit_code == 1


def test_csv_is_read_by_others_and_starts_no_formula(place: Place, tmp_path: Path) -> None:
    path = exported(place, tmp_path, "csv", "--all")
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
    assert {row["record"] for row in rows} == {"event", "proof"}
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    evil = Record("=1+1", 1, "@x", 5, "-2", b'{"a": 1}', "", "", None)
    assert b"'=1+1" in b"".join(csv_rows([evil]))


def test_a_report_is_a_pdf_that_says_what_happened(place: Place, tmp_path: Path) -> None:
    path = exported(place, tmp_path, "pdf", "last")
    assert path.read_bytes().startswith(b"%PDF-")
    made = pdf([Record("run_1", 1, HOSTILE, 5, "アダ " + "x" * 2_000, b'{"a":1}', *_linked(), None),
                Proof("run_1", 1, "ab", ["run_1@1: broken"])], HOSTILE, "now", True)  # fmt: skip
    assert made.startswith(b"%PDF-")


def test_what_is_asked_wrongly(place: Place, tmp_path: Path) -> None:
    for code, arguments in (
        (2, ["audit"]),
        (2, ["audit", "last", "--all"]),
        (2, ["audit", "last", "--format", "pdf"]),
        (2, ["audit", "last", "--check", "x"]),
        (4, ["audit", "nonsense"]),
        (4, ["audit", "--check", str(tmp_path / "none")]),
    ):
        assert place.call(*arguments).exit_code == code, arguments
    path = exported(place, tmp_path, "csv", "last")
    again = place.call("audit", "last", "--format", "csv", "--output", str(path))
    assert again.exit_code == 5
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_without_an_output_it_goes_to_standard_output(place: Place) -> None:
    done = place.call("audit", "last")
    assert done.exit_code == 0
    assert json.loads(done.stdout.splitlines()[-1])["record"] == "end"


def test_without_the_library_a_pdf_is_refused_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fpdf", None)
    with pytest.raises(OmiumError) as refusal:
        pdf([], "t", "now", False)
    assert refusal.value.code == "unsupported" and "omium-mcp[pdf]" in refusal.value.hint
