"""`omium doctor` and `omium health` on installations that are well, and on those that are not."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest

from omium.clients.processes.identity import this_process
from omium.clients.processes.register import Entry, Register
from omium.server import doctor
from omium.server.cli import cli
from omium.server.doctor import Finding, Patient, examine
from omium.storage.sqlite.errors import translated
from omium.storage.sqlite.store import SqliteStore
from tests.cli.harness import Place

pytestmark = pytest.mark.anyio


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "user").mkdir()
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "GEMINI_CLI_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return Place.make(tmp_path / "project")


@pytest.fixture(scope="module")
def once_used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run that has completed."""
    made = Place.make(tmp_path_factory.mktemp("doctor") / "project")
    assert made.omium("run", "hello", "--input", "name=ada", env={"OMIUM_DETACH": "false"}).code == 0
    return made.directory


@pytest.fixture
def used(place: Place, once_used: Path) -> Place:
    shutil.rmtree(place.directory)
    shutil.copytree(once_used, place.directory)
    return place


def examined(place: Place, code: int) -> dict[str, dict[str, Any]]:
    done = place.call("doctor", "--json")
    assert done.exit_code == code, done.output
    return {one["name"]: one for one in json.loads(done.stdout)}


def database(place: Place) -> Path:
    return place.directory / "data" / "omium.db"


def test_what_is_well_is_well(used: Place) -> None:
    found = examined(used, 0)
    assert {one["status"] for one in found.values()} <= {"ok", "warning"}
    assert found["database"]["status"] == found["project"]["status"] == found["git"]["status"] == "ok"
    assert found["clients"]["fix"] == "omium mcp install claude-code"
    assert used.call("health").exit_code == 0
    assert used.call("health").stdout.startswith("healthy")


def test_looking_makes_nothing(place: Place) -> None:
    before = set(place.directory.rglob("*"))
    found = examined(place, 0)
    assert "will be made" in found["database"]["detail"]
    assert {path for path in place.directory.rglob("*") if "__pycache__" not in str(path)} == before


def test_a_stale_schema_names_the_command_that_mends_it(used: Place) -> None:
    for version, fix in (("0000", "omium upkeep"), ("9999", "pip install --upgrade omium-mcp")):
        with closing(sqlite3.connect(database(used))) as db:
            db.execute("UPDATE alembic_version SET version_num = ?", (version,))
            db.commit()
        found = examined(used, 1)["schema"]
        assert (found["status"], found["fix"]) == ("failed", fix)
        with closing(sqlite3.connect(database(used))) as db:
            assert db.execute("SELECT version_num FROM alembic_version").fetchall() == [(version,)]  # only looked at


def test_a_database_that_is_none(used: Place) -> None:
    for path in database(used).parent.glob("omium.db*"):
        path.unlink()
    database(used).write_bytes(b"this is no database at all, whatever its name says" * 50)
    database(used).chmod(0o600)
    found = examined(used, 1)["database"]
    assert found["status"] == "failed" and found["fix"]


def test_a_database_that_is_a_directory(used: Place) -> None:
    used.environment["OMIUM_DATABASE"] = str(used.directory)
    found = examined(used, 1)["database"]
    assert "is a directory" in found["detail"] and found["fix"] == f"Name a file, such as {used.directory}/omium.db."
    for command in (("runs",), ("verify",), ("health",), ("run", "hello", "--input", "name=ada")):
        refused = used.call(*command)
        assert refused.exit_code == 1 and "is a directory" in refused.stderr and found["fix"] in refused.stderr


def test_a_database_whose_beginning_is_damaged(used: Place) -> None:
    with database(used).open("r+b") as file:
        file.seek(44)
        file.write(b"\xff" * 4)
    refused = used.call("runs")
    assert "is damaged" in refused.stderr and "hint: Restore the last backup." in refused.stderr
    assert examined(used, 1)["database"]["fix"].startswith("omium restore")


def test_a_database_that_cannot_be_written_is_not_sent_round_in_a_circle(
    used: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lease(store: SqliteStore, *_: object) -> None:
        raise translated(sqlite3.OperationalError("attempt to write a readonly database"), store.path)

    monkeypatch.setattr(SqliteStore, "lease", lease)
    found = examined(used, 1)["writes"]
    assert (found["detail"], found["fix"]) == (
        "the database omium.db cannot be written.",
        "Check the permissions of the file and of its directory.",
    )
    assert f"hint: {found['fix']}" in used.call("health").stderr


def test_a_database_that_others_can_read(used: Place) -> None:
    database(used).chmod(0o644)
    found = examined(used, 1)["permissions"]
    assert found["fix"] == f"chmod 600 {database(used)}"
    database(used).chmod(0o600)
    examined(used, 0)


def test_a_project_that_does_not_load(used: Place) -> None:
    with (used.directory / "omium.yaml").open("a") as file:
        file.write("colour: red\n")
    found = examined(used, 1)
    assert "colour" in found["project"]["detail"] and "omium.yaml" in found["project"]["fix"]
    assert found["database"]["status"] == "ok"  # the rest is looked at all the same


def test_no_project_at_all(tmp_path: Path, place: Place) -> None:
    (tmp_path / "empty").mkdir()
    place.environment["OMIUM_PROJECT"] = str(tmp_path / "empty")
    found = examined(place, 0)["project"]
    assert (found["status"], found["fix"]) == ("warning", "omium init --directory my-project")


def test_a_chain_key_that_others_can_read(used: Place, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 40)
    key.chmod(0o644)
    used.environment["OMIUM_CHAIN_KEY_FILE"] = str(key)
    assert examined(used, 1)["chain key"]["fix"] == f"chmod 600 {key}"


def test_a_secret_of_an_endpoint_that_is_not_there(used: Place) -> None:
    with (used.directory / "omium.yaml").open("a") as file:
        file.write("notify:\n- {name: chat, kind: slack, url_env: NOT_SET_ANYWHERE}\n")
    found = examined(used, 0)["notify chat"]
    assert found["status"] == "warning" and "NOT_SET_ANYWHERE" in found["detail"]
    assert found["fix"] == "omium notify test chat"


def test_configurations_of_clients(used: Place, tmp_path: Path) -> None:
    file = tmp_path / "user" / ".claude.json"
    file.write_text('{"mcpServers": {"omium": {"command": "/nowhere/omium-mcp", "args": ["serve"]}}}')
    assert examined(used, 1)["client claude-code"]["fix"] == "omium mcp install claude-code"
    file.write_text("{")
    assert "$EDITOR" in examined(used, 1)["client claude-code"]["fix"]
    file.unlink()
    assert used.call("mcp", "install", "claude-code").exit_code == 0
    assert examined(used, 0)["client claude-code"]["status"] == "ok"


def test_a_full_disk(used: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5 * 1024 * 1024

    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Usage)
    assert "retain" in examined(used, 1)["disk"]["fix"]


def test_no_git(used: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert examined(used, 1)["git"]["fix"] == "apt-get install git"


def test_a_question_that_waits_is_a_warning(used: Place) -> None:
    assert used.omium("run", "asking", env={"OMIUM_DETACH": "false"}).code == 3
    assert examined(used, 0)["approvals"]["fix"] == "omium approvals"


async def test_postgres_that_is_not_there(place: Place) -> None:
    environ = {**place.environment, "OMIUM_DATABASE": "postgresql://nobody:secret@127.0.0.1:1/x"}
    found = {one.name: one for one in await examine(Patient(place.directory, environ, place.directory))}
    assert found["database"].status == "failed"
    assert "secret" not in str(found)


async def test_postgres(place: Place, postgres_url: str) -> None:
    environ = {**place.environment, "OMIUM_DATABASE": postgres_url}
    patient = Patient(place.directory, environ, place.directory)
    found = {one.name: one for one in await examine(patient)}
    assert found["database"] == Finding("database", "ok", "PostgreSQL will be made when it is first needed")
    assert "workers" not in found


def test_every_fix_is_a_command_that_there_is(used: Place) -> None:
    """Those of Omium itself, wherever they stand in the source."""
    import re

    source = Path(doctor.__file__).read_text("utf-8")
    named = set(re.findall(r'"omium ([a-z]+)', source))
    assert {"init", "upkeep", "worker", "approvals", "notify", "runs"} <= named
    context = click.Context(cli)
    for name in named:
        assert cli.get_command(context, name) is not None, name


def test_health_of_a_locked_database(used: Place) -> None:
    with closing(sqlite3.connect(database(used), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        done = used.call("health", "--within", "0.2", "--json")
        other.execute("ROLLBACK")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["status"] == "degraded" and "--within" in told["hints"]["writes"]


def test_health_counts_the_programs_that_stall(used: Place) -> None:
    register = Register(Path(used.environment["OMIUM_HOME"]) / "processes")
    me = this_process()
    for token, stalled in (("t1", True), ("t2", False)):
        entry = Entry(
            token=token, run="run_1", node="n", attempt=1, command="build", argv=("make",), cwd="/", env=(), leader=me,
            owner=me, started_at=1.0, hard_timeout_s=None, seen_at=1.0, stalled=stalled,
        )  # fmt: skip
        register.put(entry)
    try:
        assert used.json("health")["stalled"] == 1
        assert "programs that stall\t1" in used.call("health").stdout
    finally:
        register.drop("t1")
        register.drop("t2")
    assert used.json("health")["stalled"] == 0


# --- what the project needs -------------------------------------------------------------------------------------------

NEEDY = """
coding:
  claude: {kind: claude, api_key_env: MY_CLAUDE_KEY}
  mine: {kind: codex, program: /no/such/codex}
  boxed: {kind: claude, wrap: [/no/such/box, "{workspace}"]}
agents:
- {name: clerk, model: {provider: openai, name: gpt-5-mini}}
- {name: poet, model: {provider: anthropic, name: m, api_key_env: POET_KEY}}
- {name: local, model: {provider: openai, name: m, base_url: "http://127.0.0.1:9/v1"}}
- {name: parrot, model: {provider: scripted, script: parrot.json}}
"""


def test_what_the_project_needs_and_lacks_is_named(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "POET_KEY", "MY_CLAUDE_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    (place.directory / "parrot.json").write_text('{"turns": [{"text": "hello"}]}')
    with (place.directory / "omium.yaml").open("a") as file:
        file.write(NEEDY)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(binaries))
    found = examined(place, 1)
    assert found["coding claude"]["status"] == found["coding mine"]["status"] == "failed"
    assert found["coding claude"]["fix"] == "npm install -g @anthropic-ai/claude-code"
    assert "/no/such/codex" in found["coding mine"]["detail"] and "omium.yaml" in found["coding mine"]["fix"]
    assert "/no/such/box" in found["coding boxed wrap"]["detail"]
    keys = {name: one for name, one in found.items() if name.startswith("key ")}
    assert set(keys) == {"key OPENAI_API_KEY", "key POET_KEY", "key MY_CLAUDE_KEY"}
    assert {one["status"] for one in keys.values()} == {"warning"}
    assert keys["key POET_KEY"]["fix"] == "export POET_KEY=..." and "poet" in keys["key POET_KEY"]["detail"]

    for name in ("OPENAI_API_KEY", "POET_KEY", "MY_CLAUDE_KEY"):
        monkeypatch.setenv(name, "canary-of-a-key")
    (binaries / "claude").write_text("#!/bin/sh\n")
    (binaries / "claude").chmod(0o755)
    found = examined(place, 1)
    assert found["coding claude"]["status"] == found["key POET_KEY"]["status"] == "ok"
    assert "canary" not in json.dumps(found)


def test_code_that_cannot_be_read_is_named(used: Place) -> None:
    with (used.directory / "steps.py").open("a") as file:
        file.write("\ndef broken(:\n")
    found = examined(used, 1)["code steps.py"]
    assert found["status"] == "failed" and "steps.py:" in found["detail"] and "greet" in found["detail"]
    assert found["fix"] == f"$EDITOR {used.directory / 'steps.py'}"


def test_what_the_project_does_not_use_is_not_asked_for(used: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert not [name for name in examined(used, 0) if name.startswith(("key ", "coding ", "plugin "))]
