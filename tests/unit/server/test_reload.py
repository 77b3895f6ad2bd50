"""Settings of supervision that are read anew while commands run."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from omium.clients.processes.identity import ProcessIdentity, this_process
from omium.server.app import open_omium
from omium.server.config import Config, load_config
from omium.server.effective import settings_of as shown_settings
from omium.server.held import held_of, hold
from omium.server.signals import Signals
from omium.server.wiring.supervision import LiveSupervision
from tests.project_help import caller

pytestmark = pytest.mark.anyio

FILE = """
project: demo
database: db/omium.db
commands: {{c: {{argv: [sh, -c, "echo said; test ! -e slow || sleep 30"], output: text, stdin: none, cwd: project}}}}
supervision: {0}
workflows:
- {{name: w, nodes: [{{id: n, kind: cli, use: c, workspace: none}}]}}
"""
HANG_UP = signal.SIGHUP


def write(directory: Path, said: str, project: str = "demo") -> Config:
    (directory / "omium.yaml").write_text(FILE.format(said).replace("project: demo", f"project: {project}", 1))
    return load_config(directory / "omium.yaml", {"OMIUM_HOME": str(directory / "home")})


async def test_what_starts_afterwards_has_the_new_settings(tmp_path: Path) -> None:
    config = write(tmp_path, "{logging: {enabled: false}}")
    live = LiveSupervision(config)
    log = tmp_path / "home" / "logs" / "commands.jsonl"
    async with open_omium(config, supervision=live) as core:
        with anyio.fail_after(60):
            me = caller(config)
            before = await core.wait(me, (await core.run_workflow(me, "w")).id, 40)
            assert before.status == "completed" and not log.exists()
            (tmp_path / "slow").touch()
            write(tmp_path, "{logging: {output: true}, commands: {c: {hard: 0.3}}}")
            assert await live.reload()
            after = await core.wait(me, (await core.run_workflow(me, "w")).id, 40)
    assert after.status == "failed" and "0.3 s" in str(after.error)
    assert {"tool_status_change", "tool_output"} <= {json.loads(one)["event"] for one in log.read_text().splitlines()}


@pytest.mark.parametrize(
    ("said", "project", "problem"),
    [
        ("{timeouts: {hard: soon}}", "demo", "supervision.timeouts.hard"),
        ("{timeouts: {harder: 1h}}", "demo", "harder"),
        ("{commands: {other: {hard: 1h}}}", "demo", "there is no command 'other'"),
        ("{timeouts: {hard: 1h}}", "another", "serves 'demo'"),
        ("{{{", "demo", "omium.yaml"),
        (None, "demo", "omium.yaml"),
    ],
)
async def test_a_file_with_which_nothing_could_start_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: str | None, project: str, problem: str
) -> None:
    live = LiveSupervision(write(tmp_path, "{timeouts: {hard: 7s}}"))
    if said is None:
        (tmp_path / "omium.yaml").unlink()
    else:
        (tmp_path / "omium.yaml").write_text(FILE.format(said).replace("project: demo", f"project: {project}", 1))
    assert not await live.reload()
    assert live.settings.timeouts.hard == 7
    assert "stay as they are" in caplog.text and problem in caplog.text


async def test_a_variable_still_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMIUM_SUPERVISION_TIMEOUTS_HARD", "9s")
    live = LiveSupervision(write(tmp_path, "{timeouts: {hard: 7s, idle: 7s}}"))
    write(tmp_path, "{timeouts: {hard: 8s, idle: 8s}}")
    assert await live.reload()
    assert (live.settings.timeouts.hard, live.settings.timeouts.idle) == (9, 8)


async def test_what_becomes_of_orphans_is_as_it_was_said_last(tmp_path: Path) -> None:
    config = write(tmp_path, "{reconciliation: {every: 1h}}")
    live, looked = LiveSupervision(config), anyio.Event()
    look = live.reconciler.look

    async def seen() -> list[object]:
        if live.settings.reconciliation.orphans == "adopt":
            looked.set()
        return [*await look()]

    live.reconciler.look = seen  # type: ignore[method-assign, assignment]
    async with live.commands():
        await anyio.wait_all_tasks_blocked()
        write(tmp_path, "{reconciliation: {every: 1h, orphans: adopt}}")
        assert await live.reload()
        with anyio.fail_after(5):
            await looked.wait()  # at once, and not in an hour
        assert live.reconciler._orphans == "adopt"


# --- what is shown ------------------------------------------------------------------------------------------------


def test_only_living_processes_of_this_project_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path, "{timeouts: {hard: 7s}, commands: {c: {idle: 3s}}}")
    live = LiveSupervision(config)
    hold(config, live.settings)
    mine = this_process()
    dead = ProcessIdentity(mine.boot_id, 2**22 - 1, 1.0)
    monkeypatch.setattr("omium.server.held.this_process", lambda: dead)
    hold(config, live.settings)
    monkeypatch.undo()
    folder = tmp_path / "home" / "held"
    (folder / "broken.json").write_text("{")
    assert len(list(folder.iterdir())) == 3
    assert [one.pid for one in held_of(config)] == [mine.pid]
    assert len(list(folder.iterdir())) == 2 and folder.stat().st_mode & 0o077 == 0
    now = write(tmp_path, "{timeouts: {hard: 8s}, commands: {c: {idle: 3s}}}")
    told = {one.key: one.value for one in shown_settings(now, None, {}) if str(mine.pid) in one.source}
    assert told == {"supervision.timeouts.hard": 7, "commands.c.hard": 7}


# --- signals ------------------------------------------------------------------------------------------------------


class Heard:
    """Settings that are read anew, and a terminal, without either."""

    def __init__(self, *, reloads: bool = True, terminal: bool = False) -> None:
        self.reloads, self.there, self.times = reloads, terminal, 0
        self.closes = False

    async def reload(self) -> bool:
        self.times += 1
        self.there = self.there and not self.closes
        return True

    def signals(self) -> Signals:
        return Signals(self, lambda: self.there)  # type: ignore[arg-type]  # what it uses of it


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = signal.getsignal(HANG_UP)
    yield
    signal.signal(HANG_UP, before)


@pytest.mark.parametrize(
    ("heard", "hangs_up", "goes", "reads"),
    [
        (Heard(), False, False, 1),
        (Heard(terminal=True), False, False, 1),
        (Heard(terminal=True), True, True, 0),
        (Heard(reloads=False), False, True, 0),
        (Heard(reloads=False, terminal=True), True, True, 0),
    ],
    ids=["sent", "sent at a terminal", "hung up", "no file", "no file, hung up"],
)
async def test_only_the_terminal_tells_what_a_hang_up_means(
    heard: Heard, hangs_up: bool, goes: bool, reads: int
) -> None:
    signals = heard.signals()
    heard.there = heard.there and not hangs_up
    assert (await signals._is_hung_up(), heard.times) == (goes, reads)


async def test_a_terminal_that_goes_a_moment_later_has_hung_up() -> None:
    heard = Heard(terminal=True)
    heard.closes = True
    assert await heard.signals()._is_hung_up()


@pytest.mark.parametrize("reloads", [True, False])
async def test_under_nohup_a_terminal_may_close(reloads: bool) -> None:
    signal.signal(HANG_UP, signal.SIG_IGN)
    heard = Heard(reloads=reloads, terminal=True)
    signals = heard.signals()
    heard.there = False
    assert not await signals._is_hung_up() and heard.times == int(reloads)
    with signals.held():
        assert signal.getsignal(HANG_UP) is signal.SIG_IGN


async def test_before_and_after_it_listens_a_hang_up_ends_nothing() -> None:
    heard = Heard()
    signals = heard.signals()
    before = signal.getsignal(HANG_UP)
    with signals.held():
        signal.raise_signal(HANG_UP)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(signals.heed, lambda _: tasks.cancel_scope.cancel())
            await anyio.wait_all_tasks_blocked()
            assert heard.times == 1  # for the one that came too early
            signal.raise_signal(HANG_UP)
            while heard.times < 2:
                await anyio.lowlevel.checkpoint()
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(HANG_UP)
    assert heard.times == 2 and signal.getsignal(HANG_UP) is before


def test_what_is_said_of_it_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    live = LiveSupervision(write(tmp_path, "{timeouts: {hard: 7s}}"))
    write(tmp_path, "{timeouts: {hard: null}, commands: {c: {progress: output}}}")
    assert anyio.run(live.reload)
    assert "timeouts.hard 7.0 -> None" in caplog.text and "commands.c.progress None -> output" in caplog.text
