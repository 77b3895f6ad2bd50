"""Where the configuration of a process comes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omium.orchestration.errors import OmiumError
from omium.server import config as config_module
from omium.server.config import Limits, load_config, resolve_database


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    (directory / "below" / "deep").mkdir(parents=True)
    (directory / "omium.yaml").write_text(
        "project: mine\ndatabase: db/o.db\ndurability: normal\nlimits: {slots: 8, resources: {gpu: 2}}\n"
    )
    return directory


def env(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"OMIUM_HOME": str(tmp_path / "home"), **more}


def test_without_a_file_there_is_an_empty_project(tmp_path: Path) -> None:
    config = load_config(tmp_path, env(tmp_path))
    assert (config.project.id, config.project.workflows) == ("default", {})
    assert config.database == str(tmp_path / "home" / "omium.db")
    assert (config.durability, config.limits, config.detach) == ("full", Limits(), True)
    assert config.start == tmp_path
    assert not (tmp_path / "home").exists()


def test_the_file_says_how(tmp_path: Path, project: Path) -> None:
    config = load_config(project, env(tmp_path))
    assert config.project.id == "mine"
    assert config.database == str(project / "db" / "o.db")
    assert (config.durability, config.limits.slots, dict(config.limits.resources)) == ("normal", 8, {"gpu": 2})
    assert config.start == project / "omium.yaml"


def test_the_environment_goes_first(tmp_path: Path, project: Path) -> None:
    told = {
        "OMIUM_PROJECT": str(project),
        "OMIUM_DATABASE": "postgresql://ada@localhost/omium",
        "OMIUM_DURABILITY": "full",
        "OMIUM_SLOTS": "3",
        "OMIUM_RUNS": "4",
        "OMIUM_PROCESSES": "5",
        "OMIUM_RUN_TIME": "90m",
        "OMIUM_MEMORY": "2GB",
        "OMIUM_DETACH": "no",
    }
    config = load_config(environ=env(tmp_path, **told))
    assert config.project.id == "mine"
    assert config.database == "postgresql://ada@localhost/omium"
    assert (config.durability, config.detach) == ("full", False)
    assert (config.limits.slots, config.limits.runs, config.limits.processes) == (3, 4, 5)
    assert (config.limits.run_time_s, config.limits.memory_bytes) == (5_400, 2_000_000_000)


def test_another_process_gets_the_same_from_its_environment(tmp_path: Path, project: Path) -> None:
    told = {"OMIUM_SLOTS": "3", "OMIUM_DETACH": "off", "OMIUM_RUN_TIME": "1h", "OMIUM_MEMORY": "3000"}
    config = load_config(project, env(tmp_path, **told))
    again = load_config(environ={name: value for name, value in config.environment().items() if value is not None})
    assert (again.database, again.home, again.limits, again.detach, again.start) == (
        config.database,
        config.home,
        config.limits,
        config.detach,
        config.start,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMIUM_SLOTS", "abc"),
        ("OMIUM_SLOTS", "0"),
        ("OMIUM_RUNS", "-1"),
        ("OMIUM_PROCESSES", "1.5"),
        ("OMIUM_DURABILITY", "fast"),
        ("OMIUM_RUN_TIME", "soon"),
        ("OMIUM_MEMORY", "much"),
        ("OMIUM_MEMORY", "0"),
        ("OMIUM_RUN_TIME", "0"),
        ("OMIUM_RUN_TIME", "-5"),
        ("OMIUM_DETACH", "maybe"),
    ],
)
def test_a_variable_without_a_valid_value_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(OmiumError) as refused:
        load_config(tmp_path, env(tmp_path, **{name: value}))
    assert (refused.value.code, refused.value.data["variable"]) == ("invalid_argument", name)
    assert value in refused.value.message
    assert refused.value.hint


def test_the_file_is_looked_for_upwards(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "below" / "deep")
    assert load_config(environ=env(tmp_path)).start == project / "omium.yaml"


def test_a_file_above_that_belongs_to_somebody_else_is_refused(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project / "below")
    owner = (project / "omium.yaml").stat().st_uid
    monkeypatch.setattr(config_module.os, "getuid", lambda: owner + 1)
    if owner == 0:  # what root owns is trusted
        os.chown(project / "omium.yaml", 12345, -1)
    with pytest.raises(OmiumError) as refused:
        load_config(environ=env(tmp_path))
    assert refused.value.code == "forbidden"
    assert load_config(environ=env(tmp_path, OMIUM_PROJECT=str(project))).project.id == "mine"


def test_a_project_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OmiumError) as refused:
        load_config(environ=env(tmp_path, OMIUM_PROJECT=str(tmp_path / "nowhere")))
    assert refused.value.code == "not_found"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("o.db", "/base/o.db"),
        ("/abs/o.db", "/abs/o.db"),
        ("sqlite:///o.db", "/base/o.db"),
        ("sqlite:////abs/o.db", "/abs/o.db"),
        ("postgresql://h/n", "postgresql://h/n"),
    ],
)
def test_databases(text: str, expected: str) -> None:
    assert resolve_database(text, Path("/base")) == expected


def test_the_key_of_the_chain_is_read_from_a_private_file(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_bytes(b"k" * 32 + b"\n")
    config = load_config(tmp_path, env(tmp_path, OMIUM_CHAIN_KEY_FILE=str(key)))
    assert config.chain_key() == b"k" * 32
    key.chmod(0o640)
    with pytest.raises(OmiumError, match="others than its owner"):
        config.chain_key()
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(OmiumError, match="5 bytes"):
        config.chain_key()
    assert load_config(tmp_path, env(tmp_path)).chain_key() is None
