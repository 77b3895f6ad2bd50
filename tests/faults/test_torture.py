"""Workers of the real product are killed, again and again, over concurrent runs on both stores.

A few kills run with every test run; `--torture` makes it hundreds. Shown at the end: no acknowledged event is lost, no
effect of the ledger is made twice within a generation, no completed node is repeated, and no run is stuck (one that
asks about an unknown outcome is not stuck).
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from omium.orchestration.ids import Principal, ProjectId, RunId, Seq
from omium.orchestration.log.events import Event
from omium.orchestration.service.core import Core
from omium.orchestration.service.views import Caller
from omium.server.app import open_omium
from omium.server.config import load_config
from omium.storage.maintenance import keeper, verify
from tests.faults.victims import environment, examine, trace, write_victims

CALLER = Caller(Principal("user:torture"), ProjectId("victims"))
ENDS = ("completed", "waiting_approval")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "torture.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


@contextmanager
def worker(directory: Path, database: str, crash_at: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the product, killed at the end if it still lives."""
    log = (directory / "worker.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "omium.server.worker", "--idle", "600"],
        env={**environment(directory, database), "OMIUM_CRASH_AT": crash_at},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


class Witness:
    """Reads the logs while workers die, and remembers what was acknowledged."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._seen: dict[RunId, dict[Seq, bytes]] = {}

    async def look(self) -> None:
        for run in (await self._core.list_runs(CALLER, children=True, limit=500)).runs:
            seen = self._seen.setdefault(run.id, {})
            for event in await self._core.store.events(run.id, Seq(max(seen, default=0)), 10_000):
                seen[event.seq] = event.hash

    async def logs(self) -> dict[RunId, list[Event]]:
        return {run_id: await self._core.store.events(run_id, Seq(0), 100_000) for run_id in self._seen}

    def lost(self, logs: dict[RunId, list[Event]]) -> list[str]:
        """Events that were read once and are not in the log any more, or are others."""
        return [
            f"{run_id}@{seq}"
            for run_id, seen in self._seen.items()
            for seq, digest in seen.items()
            if len(logs[run_id]) < seq or logs[run_id][seq - 1].hash != digest
        ]


async def settle(core: Core, directory: Path, database: str, runs: list[RunId], witness: Witness) -> None:
    """A last worker that nobody kills: every run must come to an end or to a question."""
    with worker(directory, database), anyio.fail_after(120):
        for run_id in runs:
            ended = await core.wait(CALLER, run_id, 120)
            if ended.status not in ENDS:
                pytest.fail(
                    f"{run_id} is {ended.status}: {ended.error}\n{(directory / 'worker.log').read_text()[-3000:]}"
                )
    await witness.look()


async def conclude(core: Core, directory: Path, witness: Witness) -> None:
    logs = await witness.logs()
    assert witness.lost(logs) == []
    findings = examine(trace(directory), logs)
    assert not findings, findings
    assert await verify(keeper(core.store)) == []


@pytest.mark.anyio
async def test_random_kills(tmp_path: Path, database: str, request: pytest.FixtureRequest) -> None:
    """SIGKILL at random moments, while a dozen runs execute."""
    kills = 200 if request.config.getoption("--torture") else 6
    rng = random.Random(7)
    directory = write_victims(tmp_path / "project")
    config = load_config(directory, environment(directory, database))
    async with open_omium(config, engine=False) as core:
        witness = Witness(core)
        runs = []
        for number in range(kills):
            if number % 3 == 0:
                for workflow in ("steady", "stubborn", "asking"):
                    runs.append((await core.run_workflow(CALLER, workflow)).id)
            with worker(directory, database) as process:
                # Long enough to take runs up, on a machine of any speed: the kill comes after some new events.
                await some_events(core, runs, rng.randrange(1, 60), process)
                process.send_signal(signal.SIGKILL)
                process.wait()
            await witness.look()
        await settle(core, directory, database, runs, witness)
        await conclude(core, directory, witness)


async def some_events(core: Core, runs: list[RunId], count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until `count` events were added, or everything that can be done is done."""
    before = sum((await core.store.heads(runs)).values())
    with anyio.move_on_after(20):
        while sum((await core.store.heads(runs)).values()) < before + count and process.poll() is None:
            if all(row.status in ENDS for row in (await core.list_runs(CALLER, children=True, limit=500)).runs):
                return
            await anyio.sleep(0.01)  # real time: another process works meanwhile, and has no other way to tell


@pytest.mark.anyio
async def test_a_kill_between_a_rollback_and_its_undoing(tmp_path: Path, database: str) -> None:
    """A person takes back a run that works; whoever owns it next undoes, once, what the dead owner had not."""
    directory = write_victims(tmp_path / "project")
    config = load_config(directory, environment(directory, database))
    async with open_omium(config, engine=False) as core:
        witness = Witness(core)
        run_id = (await core.run_workflow(CALLER, "busy")).id
        with worker(directory, database, "rollback.written:1") as process, anyio.fail_after(60):
            while not any(line["node"] == "linger" for line in trace(directory)):
                await anyio.sleep(0.01)  # real time: as below
            plan = await core.preview_rollback(CALLER, run_id, "start")
            await core.rollback(CALLER, run_id, "start", plan_token=plan.plan_token)
            while process.poll() is None:
                await anyio.sleep(0.01)
        assert process.returncode == -signal.SIGKILL
        await witness.look()
        assert (await core.store.state(run_id)).undoing is not None
        with worker(directory, database), anyio.fail_after(60):
            while (await core.store.state(run_id)).undoing is not None:
                await anyio.sleep(0.01)
        await witness.look()
        assert [line["what"] for line in trace(directory)].count("undone") == 1
        assert (await core.get_run(CALLER, run_id)).status == "paused"
        await conclude(core, directory, witness)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "point",
    [
        *("commit.before", "commit.after", "effect.intended", "effect.made", "child.named", "workspace.captured"),
        *("setback.noted", "setback.undone", "restore.started", "restore.done"),
    ],
)
async def test_a_kill_at_every_commit_point(tmp_path: Path, database: str, point: str) -> None:
    """The worker dies at its first, second, ... hit of the point, until a worker gets through without one."""
    directory = write_victims(tmp_path / "project")
    config = load_config(directory, environment(directory, database))
    died = 0
    async with open_omium(config, engine=False) as core:
        witness = Witness(core)
        runs = [(await core.run_workflow(CALLER, workflow)).id for workflow in ("steady", "asking", "stubborn")]
        for hit in (1, 2, 3):
            with worker(directory, database, f"{point}:{hit}") as process, anyio.move_on_after(30):
                while process.poll() is None:
                    rows = (await core.list_runs(CALLER, children=True)).runs
                    if all(row.status in ENDS for row in rows):
                        break
                    await anyio.sleep(0.01)  # real time: as above
            died += process.returncode == -signal.SIGKILL and process.poll() is not None
            await witness.look()
        await settle(core, directory, database, runs, witness)
        await conclude(core, directory, witness)
    assert died >= 1
