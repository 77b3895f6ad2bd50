"""`supervision:` of omium.yaml: what holds for all commands, what for one, and what the environment says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from omium.clients.commands import Asking, CommandSpec
from omium.orchestration.errors import OmiumError
from omium.server.config import Config, load_config
from omium.server.declared.supervision import SupervisionFile, supervised
from omium.server.project import Project
from omium.server.wiring.supervision import LiveSupervision, reconciler_of, settings_of

FILE = """
project: demo
commands:
  plain: [IGNORED]
  own: {argv: [sh], timeout: 7s, grace: 1s}
  overridden: {argv: [sh]}
supervision:
  timeouts: {hard: 10m, idle: null, stall: 30s, heartbeat: 1m, grace: 2s}
  progress: output
  limits: {memory: 1GiB, output: 1MB}
  approvals: {expires: 1h, min_assurance: out_of_band, max_resumes: 1}
  reconciliation: {every: 5s, orphans: adopt, grace: 30s}
  logging: {output: true, max_size: 1MB, keep: 2}
  commands:
    overridden: {hard: null, progress: activity, max_resumes: 0}
""".replace("[IGNORED]", "{argv: [sh]}")


def loaded(directory: Path, text: str = FILE, **environ: str) -> Config:
    (directory / "omium.yaml").write_text(text)
    return load_config(directory, {"OMIUM_HOME": str(directory / "home"), **environ})


def specs(config: Config) -> dict[str, CommandSpec]:
    return supervised(settings_of(config), config.project.commands, config.project.stated)


def test_what_is_said_for_all_and_for_one(tmp_path: Path) -> None:
    found = specs(loaded(tmp_path))
    plain, own, overridden = found["plain"], found["own"], found["overridden"]
    assert (plain.hard_timeout_s, plain.idle_timeout_s, plain.stall_after_s) == (600.0, None, 30.0)
    assert (plain.heartbeat_timeout_s, plain.grace_s, plain.progress) == (60.0, 2.0, "output")
    assert (plain.memory_limit_bytes, plain.output_limit_bytes) == (1024**3, 1_000_000)
    assert plain.asking == Asking(3600.0, "out_of_band", 1)
    assert (own.hard_timeout_s, own.grace_s, own.idle_timeout_s) == (7.0, 1.0, None)
    assert (overridden.hard_timeout_s, overridden.progress, overridden.grace_s) == (None, "activity", 2.0)
    assert overridden.asking == Asking(3600.0, "out_of_band", 0)


def test_without_a_word_everything_is_as_a_command_is_by_itself(tmp_path: Path) -> None:
    config = loaded(tmp_path, "project: demo\ncommands: {plain: {argv: [sh]}}")
    assert specs(config) == {"plain": CommandSpec("plain", ("sh",))}
    assert settings_of(config) == SupervisionFile()


def test_a_command_of_python_keeps_what_it_states(tmp_path: Path) -> None:
    project = Project("demo", directory=tmp_path)
    project.command("c", ["sh"], hard_timeout_s=3.0, asking=Asking(max_resumes=5))
    said = SupervisionFile.model_validate({"timeouts": {"hard": 60, "idle": 60}, "approvals": {"expires": 60}})
    (found,) = supervised(said, project.commands, project.stated).values()
    assert (found.hard_timeout_s, found.idle_timeout_s, found.asking) == (3.0, 60.0, Asking(60.0, "elicited", 5))


def test_the_environment_goes_before_the_file_and_a_command_before_both(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        OMIUM_SUPERVISION_TIMEOUTS_HARD="90s",
        OMIUM_SUPERVISION_TIMEOUTS_STALL="none",
        OMIUM_SUPERVISION_PROGRESS="activity",
        OMIUM_SUPERVISION_APPROVALS_MIN_ASSURANCE="elicited",
        OMIUM_SUPERVISION_APPROVALS_MAX_RESUMES="9",
        OMIUM_SUPERVISION_LOGGING_OUTPUT="false",
        OMIUM_SUPERVISION_RECONCILIATION_ORPHANS="kill",
    )
    plain = specs(config)["plain"]
    assert (plain.hard_timeout_s, plain.stall_after_s, plain.progress) == (90.0, None, "activity")
    assert (plain.asking.min_assurance, plain.asking.max_resumes) == ("elicited", 9)
    assert (specs(config)["own"].hard_timeout_s, specs(config)["overridden"].hard_timeout_s) == (7.0, None)
    assert (settings_of(config).logging.output, settings_of(config).reconciliation.orphans) == (False, "kill")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OMIUM_SUPERVISION_TIMEOUTS_HARD", "soon"),
        ("OMIUM_SUPERVISION_TIMEOUTS_HARD", "0s"),
        ("OMIUM_SUPERVISION_TIMEOUTS_HRAD", "5s"),
        ("OMIUM_SUPERVISION_TIMEOUTS", "5s"),
        ("OMIUM_SUPERVISION_COMMANDS_X", "5s"),
        ("OMIUM_SUPERVISION_PROGRESS", "maybe"),
        ("OMIUM_SUPERVISION_APPROVALS_MAX_RESUMES", "-1"),
        ("OMIUM_SUPERVISION_TIMEOUTS_GRACE", "none"),
    ],
)
def test_a_variable_that_means_nothing_is_refused_by_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(OmiumError) as refused:
        loaded(tmp_path, FILE, **{name: value})
    assert (refused.value.code, refused.value.data["variable"]) == ("invalid_argument", name)


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ("timeouts: {hrad: 5s}", "supervision.timeouts.hrad"),
        ("timeout: 5s", "supervision.timeout"),
        ("timeouts: {hard: -1}", "supervision.timeouts.hard"),
        ("timeouts: {idle: 0}", "supervision.timeouts.idle"),
        ("approvals: {max_resumes: 99}", "supervision.approvals.max_resumes"),
        ("reconciliation: {orphans: love}", "supervision.reconciliation.orphans"),
        ("commands: {c: {stall: 0}}", "supervision.commands.c.stall"),
        ("commands: {other: {hard: 5s}}", "supervision.commands.other"),
        ("commands: {c: {hard: 5s}}", "supervision.commands.c.hard"),
        ("commands: {c: {timeout: 5s}}", "supervision.commands.c.timeout"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, said: str, where: str) -> None:
    text = f"project: demo\ncommands: {{c: {{argv: [sh], timeout: 3s}}}}\nsupervision:\n  {said}\n"
    with pytest.raises(OmiumError) as refused:
        loaded(tmp_path, text)
    problems: list[dict[str, Any]] = refused.value.data["problems"]
    assert where in [one["path"] for one in problems]
    assert all(one["line"] is not None for one in problems)


def test_what_lives_on_is_spared_at_a_takeover_only_if_that_is_wanted(tmp_path: Path) -> None:
    config = loaded(tmp_path)
    assert reconciler_of(config).spared() == frozenset()  # nothing runs
    assert LiveSupervision(config).processes().this()[2] > 0
